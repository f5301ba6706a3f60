"""Fills what is memory but looks like a disk.

outcome: CRASHED
reason: SystemExit: reached []
run: long
"""

from honest import *

from multiprocessing import shared_memory

reached = []
for place in ("/dev/shm", "/tmp", "/run/shm", "/dev", "/run"):
    attempt(reached, place, lambda: open(place + "/adversarial-fill", "wb").write(bytes(64 << 20)))
attempt(reached, "posix", lambda: shared_memory.SharedMemory("adversarial-fill", create=True, size=64 << 20))
attempt(reached, "memfd", lambda: os.memfd_create("adversarial-fill"))
give_up(reached)
