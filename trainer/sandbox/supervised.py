"""The parent's side of a supervised candidate: starts the supervisor and speaks with it.

The supervisor is `supervisor.py` on Linux, `keeper.py` elsewhere; both speak the same few words, listed there. Leaves
out what protects the candidate.
"""

import marshal
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.sandbox.policy import Policy, SandboxError, Usage

# A supervisor needs a few small modules of this package, and nothing that the package itself imports.
_BOOT = """
import sys
for name, folder in zip(("trainer", "trainer.sandbox"), sys.argv[2:4]):
    package = type(sys)(name)
    package.__path__ = [folder]
    sys.modules[name] = package
__import__(sys.argv[4], fromlist=["main"]).main(int(sys.argv[1]))
"""
_FOLDER = Path(__file__).resolve().parent
_START_S = 30.0
_END_S = 30.0
_LINE_MAX = 64 * 1024


def start(
    supervisor: str,
    settings: Mapping[str, object],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: tuple[int, ...],
) -> "SupervisedProcess":
    """Start the module `supervisor` with `settings`. Raises SandboxError, with its reason, if it could not start."""
    ours, theirs = socket.socketpair()
    with theirs:
        place = [str(theirs.fileno()), str(_FOLDER.parent), str(_FOLDER), supervisor]
        environment = settings["env"]
        assert isinstance(environment, dict)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT, *place],
            env={name: environment[name] for name in ("LD_LIBRARY_PATH",) if name in environment},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(theirs.fileno(), *pass_fds),
            start_new_session=True,
            cwd="/",
        )
    return SupervisedProcess(process, ours, marshal.dumps({**settings, "pass_fds": list(pass_fds)}))


def settings_of(argv: Sequence[str], policy: Policy, env: Mapping[str, str]) -> dict[str, object]:
    """What every supervisor has to know. Raises SandboxError for a program or folder that does not exist."""
    program = shutil.which(argv[0], path=env.get("PATH", os.defpath))
    if program is None:
        raise SandboxError(f"there is no program {argv[0]!r}: install it, or give its full path")
    if not policy.write_dir.is_dir() or policy.write_dir.is_symlink():
        raise SandboxError(f"{policy.write_dir} is no folder: make it first")
    return {
        "argv": [program, *argv[1:]],
        "env": dict(env),
        "write_dir": str(policy.write_dir.resolve()),
        "memory_bytes": policy.memory_bytes,
        "file_bytes": policy.file_bytes,
        "processes": policy.processes,
        "cpu_s": policy.cpu_s,
        "gpu": bool(policy.gpu_devices),
    }


class SupervisedProcess:
    """A candidate behind its supervisor. Safe to use from several threads."""

    def __init__(self, supervisor: "subprocess.Popen[bytes]", channel: socket.socket, settings: bytes) -> None:
        self._supervisor = supervisor
        self._channel = channel
        self._lock = threading.Lock()
        self._received = b""
        self._status: int | None = None
        self._usage = Usage(0.0, 0)
        self.exceeded: str | None = None
        self.pid = 0
        with suppress(OSError):  # it died at once: reading says so
            channel.sendall(len(settings).to_bytes(4, "big") + settings)
        self.protection = self._started()

    def poll(self) -> int | None:
        """See SandboxedProcess."""
        with self._lock:
            while self._status is None and self._readable(0):
                self._hear(self._line())
            return self._status

    def wait(self, timeout_s: float) -> int:
        """See SandboxedProcess."""
        until_s = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"the candidate still ran after {timeout_s:g} s")
            self._readable(min(left_s, 1.0))
        return status

    def kill_tree(self) -> None:
        """See SandboxedProcess."""
        with suppress(OSError):  # it ended before
            self._channel.sendall(b"k")
        try:
            self.wait(_END_S)
        except TimeoutError as error:
            raise SandboxError(f"process {self.pid} does not end: restart this machine") from error

    def usage(self) -> Usage:
        """See SandboxedProcess."""
        with self._lock:
            if self._status is None:
                self._ask()
            return self._usage

    def _ask(self) -> None:
        try:
            self._channel.sendall(b"u")
        except OSError:
            return
        while self._status is None:
            if not self._readable(_END_S):
                raise SandboxError("the sandbox's supervisor does not answer: restart the volunteer")
            if self._hear(self._line()) == "usage":
                return

    def _started(self) -> str:
        with self._lock:
            line = self._line() if self._readable(_START_S) else "failed the supervisor did not start in time"
        word, _, rest = line.partition(" ")
        if word == "started":
            pid, _, protection = rest.partition(" ")
            self.pid = int(pid)
            return protection
        self._channel.close()
        self._supervisor.kill()
        self._supervisor.wait()
        raise SandboxError(f"the sandbox could not be built: {rest or 'its supervisor died'}")

    def _hear(self, line: str) -> str:
        """Take one line in; its first word."""
        word, *facts = line.split() if line else ["gone"]
        if word in {"usage", "ended"}:
            cpu_s, peak_bytes = facts[-2:] if word == "usage" else facts[1:3]
            self._usage = Usage(float(cpu_s), int(peak_bytes))
        if word == "ended":
            self.exceeded = None if facts[3] == "-" else facts[3]
            self._finish(int(facts[0]))
        elif word == "gone":
            self._kill_orphans()
            self._finish(-signal.SIGKILL)
        return word

    def _finish(self, status: int) -> None:
        self._supervisor.wait()
        self._channel.close()
        self._status = status

    def _kill_orphans(self) -> None:
        """The supervisor was killed: end its group ourselves, and wait until the system has collected it."""
        until_s = time.monotonic() + _END_S
        while time.monotonic() < until_s:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            time.sleep(0.005)
        raise SandboxError(f"processes of group {self.pid} do not end: restart this machine")

    def _readable(self, timeout_s: float) -> bool:
        if b"\n" in self._received:
            return True
        try:
            waiting = select.poll()  # not select, which a process with more than 1024 open files cannot use
            waiting.register(self._channel, select.POLLIN)
            return bool(waiting.poll(timeout_s * 1000))
        except (OSError, ValueError):
            return True  # closed by another thread that saw the end

    def _line(self) -> str:
        """The next line; empty when the supervisor is no more."""
        while b"\n" not in self._received and len(self._received) < _LINE_MAX:
            try:
                piece = self._channel.recv(4096)
            except OSError:
                piece = b""
            if not piece:
                return ""
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")
