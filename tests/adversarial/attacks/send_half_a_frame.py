"""Begins a message and never ends it.

outcome: TIMED_OUT
reason: did not ask for its first batch within 8 s
limits: startup_s=8
run: long
"""

from honest import *


def main(session):
    os.write(session._write_fd, (6).to_bytes(4, "big"))
    import threading

    threading.Event().wait()
