"""Takes memory that is counted nowhere: shared and anonymous.

outcome: OUT_OF_MEMORY
reason: used more memory than a trial may
limits: memory_bytes=1500000000
run: long
"""

from honest import *

import mmap

hold = mmap.mmap(-1, 6 << 30)
for page in range(0, len(hold), 4096):
    hold[page] = 1
raise SystemExit("took six gigabytes")
