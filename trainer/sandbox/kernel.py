"""Linux system calls that Python's library does not offer, through ctypes.

Imports little, because it is loaded on the way to every trial. Leaves out what the calls are for.
"""

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SIGKILL = 9

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: object) -> int:
    """Make a system call; numbers travel as C longs, pointers as ctypes makes them. Raises OSError."""
    widened = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *widened))
    if result < 0:
        raise _error()
    return result


def prctl(option: int, argument: int = 0) -> None:
    """Set one attribute of this process. Raises OSError."""
    rest = [ctypes.c_ulong(value) for value in (argument, 0, 0, 0)]
    if libc.prctl(ctypes.c_int(option), *rest) != 0:
        raise _error()


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`. Raises OSError where the kernel or its policy forbids it."""
    if libc.unshare(ctypes.c_int(flags)) != 0:
        raise _error()


def text(value: str | None) -> "ctypes.c_char_p":
    """A string as the kernel takes it; None is no string."""
    return ctypes.c_char_p(None if value is None else value.encode())


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """See mount(2). Raises OSError."""
    if libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data)) != 0:
        raise _error(target)


def umount(target: str, flags: int) -> None:
    """See umount2(2). Raises OSError."""
    if libc.umount2(text(target), ctypes.c_int(flags)) != 0:
        raise _error(target)


def drop_capabilities(capset_number: int) -> None:
    """Give up every privilege for good: root becomes an ordinary owner of its own files. Raises OSError."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # EPERM: an ordinary user has none to drop; EINVAL: past the kernel's last one
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    syscall(capset_number, ctypes.byref(header), ctypes.byref(nothing))
    prctl_ambient_clear()


def prctl_ambient_clear() -> None:
    """Empty the ambient set, which would otherwise survive an exec."""
    if libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), *[ctypes.c_ulong(0)] * 3) != 0:
        raise _error()


def default_signals() -> None:
    """Undo what Python's start-up ignores, so that the program started next finds signals as usual."""
    for number in (13, 25):  # SIGPIPE, SIGXFSZ
        libc.signal(ctypes.c_int(number), ctypes.c_void_p(0))


def _error(what: str | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
