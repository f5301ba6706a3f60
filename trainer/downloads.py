"""Several files fetched at a time, some way ahead of whoever uses them.

Never more than a few unused files lie on the disk. The threads are daemons: a person who interrupts the program does
not wait for a silent server, and what was received is continued next time.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from trainer.answers import RemoteFile
from trainer.errors import PreparationStoppedError
from trainer.hub import Hub

AT_ONCE: Final = 4  # connections: one rarely fills a line, more than a few annoy the server
AHEAD: Final = 6  # files


class Downloads:
    """Fetches `files` in order into `folder`. Use as a context manager; ask for each with `get`, then `drop` it."""

    def __init__(
        self,
        hub: Hub,
        repository: str,
        files: Sequence[RemoteFile],
        folder: Path,
        on_bytes: Callable[[RemoteFile, int], None],
    ) -> None:
        self._hub = hub
        self._repository = repository
        self._folder = folder
        self._on_bytes = on_bytes
        self._stop = threading.Event()
        self._room = threading.Semaphore(AHEAD)
        self._futures: dict[str, Future[Path]] = {remote.path: Future() for remote in files}
        self._queue: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
        for remote in files:
            self._queue.put(remote)
        count = min(AT_ONCE, len(files))
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"download-{number}") for number in range(count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for _ in self._threads:
            self._room.release()
        if error is None or isinstance(error, Exception):  # two threads must never write one file
            for thread in self._threads:
                thread.join()

    def get(self, remote: RemoteFile) -> Path:
        """The file, waited for.

        Raises:
            TrainerError, OSError: it could not be fetched.
        """
        return self._futures[remote.path].result()

    def drop(self, remote: RemoteFile) -> None:
        """Remove a file that is not needed any more, and make room for the next one."""
        self.get(remote).unlink(missing_ok=True)
        self._room.release()

    def _work(self) -> None:
        while True:
            self._room.acquire()
            try:
                remote = self._queue.get_nowait()
            except queue.Empty:
                return
            future = self._futures[remote.path]
            try:
                if self._stop.is_set():
                    raise PreparationStoppedError
                future.set_result(self._fetch(remote))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the file
                future.set_exception(error)

    def _fetch(self, remote: RemoteFile) -> Path:
        return self._hub.fetch(
            self._repository,
            remote,
            self._folder,
            on_bytes=lambda have: self._on_bytes(remote, have),
            stop=self._stop,
        )
