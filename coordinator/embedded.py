"""Looks after a private store server in the data folder: starts it, starts it again when it dies, ends it in order.

For a coordinator that was given no store address. One coordinator per data folder: a second one is refused; a server
left behind by a killed coordinator is ended and replaced, its data stays. Says nothing about what is stored.
"""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from coordinator.embedded_server import POLL_S, Server, StoreFolder, ask, find_binary, take_over, try_lock
from coordinator.errors import OperatorError

START_S: Final = 600.0  # a store of many gigabytes loads for minutes
_SOCKET_NAME_BYTES: Final = 100  # Linux allows 107, macOS 103
_RETRY_MIN_S: Final = 0.1
_RETRY_MAX_S: Final = 30.0
_CALM_POLLS: Final = 600  # so many good looks (about half a minute) and a death counts as the first again


def _ignore(_: str) -> None:
    """For a caller that does not care."""


class EmbeddedStore:
    """A private Valkey or Redis server whose data lies in `data_dir/store`. Used once: start, then stop.

    `tell` hears one line for the operator, from another thread, whenever the server died.
    """

    def __init__(self, data_dir: Path, tell: Callable[[str], None] = _ignore) -> None:
        self._folder = StoreFolder(data_dir.absolute() / "store")
        self._tell = tell
        self._reach = self._folder.socket
        self._ready: Future[None] = Future()
        self._ending = threading.Event()
        self._stopping = threading.Lock()
        self._thread: threading.Thread | None = None
        self._lock: int | None = None
        self._calm_polls = 0

    def start(self, timeout_s: float = START_S) -> str:
        """Starts the server and waits until it has loaded its data.

        Returns:
            The store's address for redis-py, unix:///...

        Raises:
            OperatorError: no server program, the folder is another coordinator's or cannot be used, the server ended
                (full disk, damaged file), or it was not ready in time.
            RuntimeError: started or stopped before.
        """
        if self._thread is not None or self._ending.is_set():
            raise RuntimeError("an EmbeddedStore is used once: make another")
        binary = find_binary()
        self._folder.prepare()
        self._lock = _claim(self._folder)
        try:
            self._reach = _short_name(self._folder)
            self._thread = threading.Thread(target=self._supervise, args=(binary,), name="embedded-store", daemon=True)
            self._thread.start()
            self._ready.result(timeout_s)
        except TimeoutError:
            self.stop()
            raise OperatorError(self._late(timeout_s)) from None
        except OSError as error:
            self.stop()
            raise OperatorError(f"cannot keep the store in {self._folder.path}: {error.strerror or error}") from error
        except BaseException:
            self.stop()
            raise
        return "unix://" + quote(os.fspath(self._reach))

    def stop(self) -> None:
        """Ends the server in order and gives the folder free. May be called at any time, from any thread, and again."""
        self._ending.set()
        with self._stopping:
            if self._thread is not None:
                self._thread.join()
            if self._lock is not None:
                _forget_short_name(self._folder)
                os.close(self._lock)
                self._lock = None

    def running(self) -> bool:
        """Whether the server answers now."""
        return ask(self._reach, b"PING").startswith(b"+PONG")

    async def __aenter__(self) -> str:
        starting = asyncio.create_task(asyncio.to_thread(self.start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:  # Ctrl-C while it loads: the thread must not keep the program, nor the folder
            self._ending.set()
            await asyncio.wait({starting})
            await asyncio.to_thread(self.stop)
            starting.exception()  # looked at: nobody else will, and the cancellation is what is told
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def _supervise(self, binary: Path) -> None:
        """Runs in a thread of its own, which lives as long as the server may (see `Server`)."""
        retry_s = _RETRY_MIN_S
        while not self._ending.is_set():
            try:
                self._run(binary)
            except (OperatorError, OSError) as error:
                if not self._ready.done():
                    self._ready.set_exception(error)
                    return
                retry_s = _RETRY_MIN_S if self._calm_polls > _CALM_POLLS else min(2 * retry_s, _RETRY_MAX_S)
                with suppress(Exception):  # a listener that is gone must not end the supervision
                    self._tell(f"{error}; starting it again in {retry_s:.1f} s")
                self._ending.wait(retry_s)
        if not self._ready.done():
            self._ready.set_exception(OperatorError("the embedded store was stopped before it was ready"))

    def _run(self, binary: Path) -> None:
        """One life of the server.

        Raises:
            OperatorError: it ended, and nobody had asked it to.
        """
        self._calm_polls = 0
        lock = take_over(self._folder, self._reach, self._ending.wait)
        if lock is None:
            return
        server = Server(self._folder, binary, lock)
        try:
            while server.alive and not self._ending.wait(POLL_S):
                self._look()
        finally:
            died = not server.alive
            server.end()
        if died and not self._ending.is_set():
            raise OperatorError(f"the embedded store ended: {server.why_ended()}")

    def _look(self) -> None:
        if not self._ready.done():
            if self.running():
                self._ready.set_result(None)
            return
        self._calm_polls += 1
        if self._reach != self._folder.socket:
            with suppress(OSError):  # a cleaner of temporary folders may have been there; tried again at the next look
                _link(self._reach.parent, self._folder)

    def _late(self, timeout_s: float) -> str:
        return (
            f"the store in {self._folder.path} was not ready after {timeout_s:.0f} s: it still loads, or an earlier "
            f"server does not end. See its store.log; end the process named in its valkey.pid; start again"
        )


def _claim(folder: StoreFolder) -> int:
    """The coordinator's lock, with our process id in it for the next one's error message."""
    lock = try_lock(folder.coordinator_lock)
    if lock is None:
        owner = folder.coordinator_lock.read_text().strip()
        raise OperatorError(
            f"another coordinator (process {owner}) uses {folder.path.parent}: stop it, or give this one another folder"
        )
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _short_name(folder: StoreFolder) -> Path:
    """The socket's path, through a link in a private temporary folder where the real one is too long for a socket."""
    if len(os.fsencode(folder.socket)) <= _SOCKET_NAME_BYTES:
        return folder.socket
    _forget_short_name(folder)
    private = Path(tempfile.mkdtemp(prefix="autoresearch-"))
    (folder.path / "short-name").write_text(os.fspath(private))
    _link(private / "s", folder)
    return private / "s" / folder.socket.name


def _link(link: Path, folder: StoreFolder) -> None:
    link.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(folder.path, target_is_directory=True)


def _forget_short_name(folder: StoreFolder) -> None:
    """Removes the link that this or a killed coordinator made."""
    record = folder.path / "short-name"
    with suppress(OSError):
        private = Path(record.read_text())
        if (private / "s").readlink() == folder.path:
            (private / "s").unlink()
            private.rmdir()
    record.unlink(missing_ok=True)
