"""Tries, from inside the sandbox, what it must prevent; prints one line for each thing that worked.

Runs as a script of its own with nothing but Python. Its one argument is a JSON object: `home`, `outside` (a folder with
a file `canary`), `parent` (a process number), `secret_at` and `secret_bytes` (where in the parent's memory), `leaked`
(a descriptor the parent holds), `tcp_port`, `unix_path`, `file_bytes`. Harmless where it succeeds: what it creates lies
in `outside`. Leaves out the bounds on memory and survivors: `checkup.py` sees those from outside.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17


def main() -> None:
    """Run every attempt that fits this system."""
    facts = json.loads(sys.argv[1])
    for words, attempt in _attempts(facts):
        try:
            worked = attempt()
        except (OSError, ValueError, AttributeError):
            continue
        if worked is not False:
            print(words)  # noqa: T201 - its only way to tell


def _attempts(facts: dict[str, str]) -> list[tuple[str, Callable[[], object]]]:
    outside, parent = Path(facts["outside"]), int(facts["parent"])
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("open a TCP connection (IPv4)", lambda: _connect(socket.AF_INET, ("127.0.0.1", int(facts["tcp_port"])))),
        ("open a network socket (IPv6)", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)),
        ("send datagrams (IPv4)", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
        ("listen for connections", lambda: socket.create_server(("127.0.0.1", 0))),
        ("speak to a local service (unix socket)", lambda: _connect(socket.AF_UNIX, facts["unix_path"])),
        ("resolve names", lambda: socket.getaddrinfo("localhost", 80)),
        ("list the home folder", lambda: list(Path(facts["home"]).iterdir())),
        ("read a file outside", (outside / "canary").read_bytes),
        ("write a file outside", lambda: (outside / "canary").write_bytes(b"written")),
        ("make a file outside", (outside / "made").touch),
        ("rename a file outside", lambda: (outside / "canary").rename(outside / "moved")),
        ("empty a file outside", lambda: os.truncate(outside / "canary", 0)),
        ("change the mode of a file outside", lambda: _chmod(outside / "canary")),
        ("link to a file outside", lambda: Path("linked").hardlink_to(outside / "canary")),
        ("make a symbolic link for the parent to follow", lambda: Path("link").symlink_to(outside / "canary")),
        ("write to /tmp or /dev/shm", _write_shared),
        ("read the parent's environment", lambda: Path(f"/proc/{parent}/environ").read_bytes()),
        ("read the parent's command line", lambda: Path(f"/proc/{parent}/cmdline").read_bytes()),
        ("read an inherited file", lambda: os.read(int(facts["leaked"]), 1)),
        ("signal the parent", lambda: os.kill(parent, 0)),
        ("signal its own supervisor", _signal_supervisor),
        ("start another process", _fork),
        ("fill the disk with one file", lambda: _write_large(int(facts["file_bytes"]))),
    ]
    if sys.platform == "linux":
        secret = int(facts["secret_at"]), int(facts["secret_bytes"])
        attempts += [
            ("trace the parent (ptrace)", lambda: _ptrace(parent)),
            ("read the parent's memory", lambda: _read_memory(parent, *secret)),
            ("speak over an abstract socket", lambda: _connect(socket.AF_UNIX, b"\0" + facts["unix_path"].encode())),
            ("speak to the kernel (netlink)", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
            ("limit the parent's resources", lambda: _prlimit(parent)),
        ]
    return attempts


def _connect(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.connect(address)  # type: ignore[arg-type] # one call, addresses of three families


def _chmod(path: Path) -> bool:
    """The call itself may pretend; what counts is the file."""
    wanted = 0o640
    path.chmod(wanted)
    return path.stat().st_mode & 0o777 == wanted


def _write_shared() -> None:
    for folder in ("/dev/shm", "/tmp", "/var/tmp"):  # noqa: S108 - to find that it cannot be written
        try:
            path = Path(folder) / f"autoresearch-probe-{os.getpid()}"
            path.touch()
        except OSError:
            continue
        path.unlink()
        return
    raise PermissionError("none of them")


def _signal_supervisor() -> None:
    above = os.getppid()
    if above in {0, 1}:
        raise PermissionError("the namespace's first process takes no signals from inside")
    os.kill(above, 0)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _write_large(bound_bytes: int) -> None:
    """Sparse, so that where it works it takes no space."""
    with Path("large").open("wb") as file:
        file.truncate(4 * bound_bytes)
    Path("large").unlink()


def _ptrace(pid: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.ptrace(_PTRACE_ATTACH, pid, 0, 0) != 0:
        raise PermissionError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0)
    library.ptrace(_PTRACE_DETACH, pid, 0, 0)


def _read_memory(pid: int, address: int, size: int) -> bool:
    """By /proc, then by process_vm_readv."""
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            return bool(memory.read(size))
    except OSError:
        pass
    there = (ctypes.c_size_t * 2)(address, size)
    buffer = ctypes.create_string_buffer(size)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), size)
    library = ctypes.CDLL(None, use_errno=True)
    return int(library.process_vm_readv(pid, here, 1, there, 1, 0)) > 0


def _prlimit(pid: int) -> None:
    import resource  # noqa: PLC0415 - has the call on Linux only

    resource.prlimit(pid, resource.RLIMIT_CORE)


if __name__ == "__main__":
    main()
