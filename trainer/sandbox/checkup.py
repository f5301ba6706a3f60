"""Says what this machine's sandbox does not protect, by trying it for real with harmless programs.

A volunteer runs it when it starts. It knows nothing of how the sandbox works, so it is as good a judge of a kernel, a
container or a macOS nobody has tried. Leaves out whether to go on: `volunteer`.
"""

import ctypes
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from trainer.sandbox.paths import home, python_read_paths
from trainer.sandbox.policy import Policy, SandboxedProcess, SandboxError
from trainer.sandbox.runner import launch, unavailable

_PROBE = Path(__file__).with_name("probe.py")
_MIB = 1 << 20
_MEMORY_BYTES = 128 * _MIB
_FILE_BYTES = 8 * _MIB
_TIME_S = 60.0
_GONE_S = 2.0
_SECRET = b"a secret in the parent's memory"

# Twice forked, in a session of its own, its parent gone: what a daemon does. It holds standard output open.
_DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("daemon", flush=True)
        time.sleep(3600)
    os._exit(0)
os.wait()
time.sleep(3600 if sys.argv[1] == "stay" else 0)
"""
_MEMORY_BOMB = "hold = [bytearray(16 << 20) for _ in range(64)]; print(len(hold), flush=True)"


def self_test(scratch: Path, kind: str = "auto") -> tuple[str, ...]:
    """One line for each thing that is not protected; empty when all is.

    scratch: a folder that may be written; left as it was. Takes about a second.
    """
    reason = unavailable()
    if kind == "auto" and reason is not None:
        return (f"nothing is protected: {reason}",)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="sandbox-test-") as folder:
        try:
            return (*_reached(Path(folder), kind), *_memory(Path(folder), kind), *_survivors(Path(folder), kind))
        except (SandboxError, TimeoutError) as error:
            return (f"nothing is protected: {error}",)


def _reached(folder: Path, kind: str) -> tuple[str, ...]:
    """What a candidate can reach that it must not."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "canary").write_bytes(b"outside")
    secret = ctypes.create_string_buffer(_SECRET)
    with _services() as (port, path), (outside / "canary").open("rb") as leaked:
        os.set_inheritable(leaked.fileno(), True)
        facts = {"home": str(home()), "outside": str(outside), "parent": os.getpid(), "tcp_port": port}
        facts |= {"unix_path": path, "leaked": leaked.fileno(), "file_bytes": _FILE_BYTES}
        facts |= {"secret_at": ctypes.addressof(secret), "secret_bytes": len(_SECRET)}
        status, output = _run(["-I", "-S", str(_PROBE), json.dumps(facts)], folder, kind)
    if status != 0:
        return (f"nothing could be tried: the probe ended with {status}: {output[-300:]}",)
    return tuple(f"a patch can {line}" for line in output.splitlines())


def _memory(folder: Path, kind: str) -> tuple[str, ...]:
    _, output = _run(["-I", "-S", "-c", _MEMORY_BOMB], folder, kind)
    return (f"a patch can use more than {_MEMORY_BYTES // _MIB} MiB when it may not",) if output == "64\n" else ()


def _survivors(folder: Path, kind: str) -> tuple[str, ...]:
    """A daemon must be gone when the candidate is killed, and when it ends by itself."""
    alive = [how for how in ("stay", "leave") if _daemon_lives(folder, kind, how)]
    return ("a patch's daemon can outlive the trial",) if alive else ()


def _daemon_lives(folder: Path, kind: str, how: str) -> bool:
    with _started(["-I", "-S", "-c", _DAEMON, how], folder, kind, processes=4) as (candidate, output):
        _read_until(output, b"daemon\n")
        if how == "leave":
            candidate.wait(_TIME_S)
        candidate.kill_tree()
        # Nobody holds the other end of the pipe once every process is gone.
        return not select.select([output], [], [], _GONE_S)[0] or os.read(output, 1) != b""


def _run(arguments: list[str], folder: Path, kind: str) -> tuple[int, str]:
    """The exit status and the output of a Python program in the sandbox."""
    with _started(arguments, folder, kind, processes=1) as (candidate, output):
        data = _read_until(output, None)
        return candidate.wait(_TIME_S), data.decode(errors="replace")


@contextmanager
def _started(
    arguments: list[str], folder: Path, kind: str, *, processes: int
) -> Iterator[tuple[SandboxedProcess, int]]:
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    policy = Policy((*python_read_paths(), _PROBE), inside, _MEMORY_BYTES, _FILE_BYTES, processes, int(_TIME_S))
    reading, writing = os.pipe()
    try:
        argv = [sys.executable, *arguments]
        candidate = launch(argv, policy, env={}, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, kind=kind)
    except SandboxError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        yield candidate, reading
    finally:
        candidate.kill_tree()
        os.close(reading)


def _read_until(descriptor: int, mark: bytes | None) -> bytes:
    """What comes up to the mark, or to the end. Raises TimeoutError."""
    data = b""
    until_s = time.monotonic() + _TIME_S
    while mark is None or mark not in data:
        if not select.select([descriptor], [], [], max(0.0, until_s - time.monotonic()))[0]:
            raise TimeoutError(f"a harmless program did not answer within {_TIME_S:g} s in the sandbox")
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        data += piece
    return data


@contextmanager
def _services() -> Iterator[tuple[int, str]]:
    """Something to connect to: a TCP port, and a name both as a unix socket's file and as an abstract socket."""
    with (
        tempfile.TemporaryDirectory(prefix="sb-") as short,  # a socket's path has room for about 100 characters
        socket.create_server(("127.0.0.1", 0)) as tcp,
        _unix_server(f"{short}/s"),
        _unix_server(f"\0{short}/s") if sys.platform == "linux" else nullcontext(),
    ):
        yield tcp.getsockname()[1], f"{short}/s"


def _unix_server(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(address)
    server.listen()
    return server
