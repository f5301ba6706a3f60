"""Prints without end.

outcome: TIMED_OUT
reason: did not ask for its first batch within 8 s
limits: startup_s=8
run: long
"""

from honest import *

line = "x" * 65_000
while True:
    print(line)
