"""Forks without end.

outcome: CRASHED
reason: SystemExit: reached []
"""

from honest import *

reached = []
for _ in range(9):  # 512 processes at most, should the sandbox be broken
    attempt(reached, "fork", os.fork)
give_up(reached)
