"""Signals, suspends, slows and starves the parent and the supervisor.

outcome: CRASHED
reason: SystemExit: reached []
"""

from honest import *

import resource
import signal

reached = []
for number in (TARGETS["parent"], os.getppid(), -TARGETS["parent"]):
    if number in (0, 1):
        continue
    for which in (0, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1):
        attempt(reached, f"signal {which} to {number}", lambda: os.kill(number, which))
pid = TARGETS["parent"]
attempt(reached, "priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
attempt(reached, "limits", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
attempt(reached, "affinity", lambda: os.sched_setaffinity(pid, {0}))
attempt(reached, "pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGSTOP))
give_up(reached)
