"""Stops itself, so that nobody answers.

outcome: TIMED_OUT
reason: did not ask for its first batch within 8 s
limits: startup_s=8
run: long
"""

from honest import *

import signal

os.kill(os.getpid(), signal.SIGSTOP)
