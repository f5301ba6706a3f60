"""Looks for secrets in its environment, its command line and the kernel's lists of processes.

outcome: CRASHED
reason: SystemExit: reached []
unprotected: parent
run: long
"""

from honest import *

reached = [key for key, value in os.environ.items() if "SECRET" in key + value]
try:
    numbers = [name for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    numbers = range(1, 200)
for number in numbers:
    for name in ("environ", "cmdline"):
        attempt(
            reached, name, lambda: TARGETS["secret"] in open(f"/proc/{number}/{name}", "rb").read().decode("latin-1")
        )
attempt(reached, "parent", lambda: open(f"/proc/{TARGETS['parent']}/environ", "rb").read(1))
give_up(sorted(set(reached)))
