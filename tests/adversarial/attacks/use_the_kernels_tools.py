"""Tries what the kernel offers to programs that mean harm: io_uring, bpf, mounts, keys, namespaces.

outcome: CRASHED
reason: SystemExit: reached []
run: long
"""

from honest import *

import ctypes
import platform

libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
CALLS = dict(
    io_uring_setup=(425, 425),
    bpf=(321, 280),
    perf_event_open=(298, 241),
    userfaultfd=(323, 282),
    keyctl=(250, 219),
    add_key=(248, 217),
    mount=(165, 40),
    unshare=(272, 97),
    setns=(308, 268),
    clone3=(435, 435),
    setuid=(105, 146),
    memfd_create=(319, 279),
    inotify_init1=(294, 26),
    fanotify_init=(300, 262),
    shmget=(29, 194),
    mincore=(27, 232),
    open_by_handle_at=(304, 265),
    pidfd_open=(434, 434),
    process_madvise=(440, 440),
)
reached = []
for name, numbers in CALLS.items():
    attempt(reached, name, lambda: libc.syscall(numbers[0 if x86 else 1], 0, 0, 0, 0, 0, 0) >= 0)
    if ctypes.get_errno() not in (1, 38):  # neither refused nor unknown: the kernel looked at what it was given
        reached.append(f"{name}: {os.strerror(ctypes.get_errno())}")
give_up(reached)
