"""Takes all the memory it can get.

outcome: OUT_OF_MEMORY
reason: memory
limits: memory_bytes=2147483648
"""

from honest import *

hold = []
for _ in range(64):
    hold.append(torch.ones(2**28 // 4))
raise SystemExit("took sixteen gigabytes")
