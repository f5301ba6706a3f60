"""Reads the parent's memory: by /proc, by process_vm_readv, by tracing it.

outcome: CRASHED
reason: SystemExit: reached []
unprotected: process_vm_readv
"""

from honest import *

import ctypes

reached, parent = [], TARGETS["parent"]
libc = ctypes.CDLL(None, use_errno=True)


def vm_read():
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(TARGETS["secret_at"], 8)
    return libc.process_vm_readv(parent, here, 1, there, 1, 0) > 0


for name in ("mem", "maps", "environ", "cmdline", "stat", "status", "auxv", "stack", "syscall"):
    attempt(reached, name, lambda: open(f"/proc/{parent}/{name}", "rb").read(1))
attempt(reached, "fd", lambda: os.listdir(f"/proc/{parent}/fd"))
attempt(reached, "process_vm_readv", vm_read)
attempt(reached, "ptrace seize", lambda: libc.ptrace(0x4206, parent, 0, 0) == 0)  # unlike attaching, does not stop it
give_up(reached)
