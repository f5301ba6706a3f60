"""Looks through its open descriptors and mapped files for anything but pipes and libraries.

outcome: CRASHED
reason: SystemExit: reached []
run: long
"""

from honest import *

reached = []
for number in os.listdir("/proc/self/fd"):
    try:
        target = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        continue
    if not target.startswith(("pipe:", "/dev/null", "/proc/", "anon_inode:")):
        reached.append(target)
for line in open("/proc/self/maps"):
    if line.rstrip().endswith((".bin", ".idx", ".json", ".xz", ".safetensors")):
        reached.append(line.split()[-1])
give_up(reached)
