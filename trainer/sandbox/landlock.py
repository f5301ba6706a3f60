"""Landlock: the kernel's own file-system, TCP and signal fence, which needs no privilege and cannot be taken off.

Leaves out what Landlock does not mediate (stat, chmod, sockets other than TCP, process limits): `seccomp.py` covers it.
"""

import ctypes
import os
import struct

from trainer.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

READ = READ_FILE | READ_DIR
READ_AND_EXECUTE = READ | EXECUTE
# No FIFO, socket, device or symbolic link can be made: whoever reads the folder later meets plain files only.
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | REFER | TRUNCATE
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def abi() -> int:
    """The kernel's Landlock version; 0 where it has none or it is switched off."""
    try:
        return kernel.syscall(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def scopes_signals(version: int) -> bool:
    """Whether this version of Landlock stops signals to processes outside (Linux 6.12)."""
    return version >= 6


def restrict(rules: list[tuple[str, int]], version: int) -> None:
    """Fence this process and all it starts in: a rule is a path and the rights beneath it; all else is denied.

    version: what to use, at most the kernel's own. Raises OSError where a path is missing or the kernel refuses. Needs
    no_new_privs set.
    """
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    ruleset = _create(version, handled)
    for path, rights in rules:
        _allow(ruleset, path, rights & handled)
    kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _create(version: int, handled: int) -> int:
    if version < 1:
        raise OSError(f"this kernel has no Landlock (abi {version})")
    tcp_bind_and_connect = 3
    abstract_sockets_and_signals = 3
    attributes = struct.pack("=QQQ", handled, tcp_bind_and_connect, abstract_sockets_and_signals)
    size = 8 if version < 4 else 16 if version < 6 else 24
    return kernel.syscall(_CREATE_RULESET, ctypes.create_string_buffer(attributes[:size], size), size, 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(f"/proc/self/fd/{target}"):
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, target), 12)
        kernel.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(target)
