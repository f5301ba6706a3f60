"""One file on its way here: continues what is there of it, and gives it its name only when it is the right one.

What is there lies in a file named after the content that is expected, so that no other content ever continues it. How
often to try is not decided here.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trainer.answers import (
    IN_BETWEEN,
    PARTIAL_CONTENT,
    RANGE_NOT_SATISFIABLE,
    RemoteFile,
    TryAgainError,
    announced_length,
    check_status,
    host_of,
    is_page,
    ranges_from,
)
from trainer.errors import DownloadError, PreparationStoppedError
from trainer.files import PARTIAL, file_sha256, flush_folder

if TYPE_CHECKING:
    import requests

CHUNK_BYTES: Final = 1 << 18
SLOWEST_BYTES_PER_S: Final = 1000  # over a whole window: less is a connection that only pretends to live

Ask = Callable[[int], AbstractContextManager["requests.Response"]]  # from which byte on


class Transfer:
    """Brings one remote file into `folder`. Each `attempt` is one request."""

    def __init__(
        self,
        remote: RemoteFile,
        folder: Path,
        ask: Ask,
        *,
        clock: Callable[[], float],
        window_s: float,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._remote = remote
        self._partial = folder / f"{PARTIAL}{remote.sha256[:16]}-{Path(remote.path).name}"
        self._ask = ask
        self._clock = clock
        self._window_s = window_s
        self._on_bytes = on_bytes
        self.furthest_byte = 0  # that any attempt reached; a server that starts again every time makes no progress

    def attempt(self, stop: threading.Event) -> None:
        """Fetch what is missing.

        Raises:
            TryAgainError: not all of it came.
            DownloadError: it never will.
            PreparationStoppedError: `stop` was set.
        """
        have = self._have()
        if have < self._remote.size_bytes:
            with self._ask(have) as response:
                self._take(response, self._beginning(response, have), stop)

    def finish(self, target: Path) -> bool:
        """Give the file its name if it is the right one; else remove it and say so."""
        if file_sha256(self._partial) != self._remote.sha256:
            self._partial.unlink()
            self._on_bytes(0)
            return False
        self._partial.replace(target)
        flush_folder(target.parent)
        return True

    def _take(self, response: "requests.Response", have: int, stop: threading.Event) -> None:
        size, where = self._remote.size_bytes, host_of(response.url)
        with self._partial.open("r+b" if have else "wb") as stream:
            stream.seek(have)
            try:
                for chunk in self._chunks(response, stop):
                    have += len(chunk)
                    if have > size:
                        break
                    stream.write(chunk)
                    self.furthest_byte = max(self.furthest_byte, have)
                    self._on_bytes(have)
            finally:
                stream.flush()
                os.fsync(stream.fileno())
        if have > size:
            self._partial.unlink()
            raise TryAgainError(f"is longer at {where} than the announced {size} bytes")
        if have < size:
            raise TryAgainError(f"breaks off after {have} of {size} bytes from {where}")

    def _chunks(self, response: "requests.Response", stop: threading.Event) -> Iterator[bytes]:
        """The body as it comes."""
        ends_at, in_window = self._clock() + self._window_s, 0
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
            if stop.is_set():
                raise PreparationStoppedError
            yield chunk
            in_window += len(chunk)
            if self._clock() >= ends_at:
                if in_window < SLOWEST_BYTES_PER_S * self._window_s:
                    raise TryAgainError(
                        f"comes from {host_of(response.url)} at less than {SLOWEST_BYTES_PER_S} bytes/s"
                    )
                ends_at, in_window = self._clock() + self._window_s, 0

    def _have(self) -> int:
        try:
            have = self._partial.stat().st_size
        except FileNotFoundError:
            return 0
        if have > self._remote.size_bytes:
            self._partial.unlink()
            return 0
        return have

    def _beginning(self, response: "requests.Response", have: int) -> int:
        """Where in the file the body begins: where it was asked for, or 0 when the server sends all of it again."""
        where, size = host_of(response.url), self._remote.size_bytes
        status = response.status_code
        if status == RANGE_NOT_SATISFIABLE or (
            status == PARTIAL_CONTENT and not ranges_from(response.headers, have, size)
        ):
            self._partial.unlink(missing_ok=True)
            raise TryAgainError(f"cannot be continued from byte {have} at {where}")
        check_status(response, self._remote.path, where, has_token=False)
        if is_page(response.headers):
            raise DownloadError(self._remote.path, f"is a web page at {where}, no file", IN_BETWEEN)
        if status == PARTIAL_CONTENT:
            return have
        length = announced_length(response.headers)
        if length is not None and length != size:
            raise TryAgainError(f"has {length} bytes at {where}, {size} are announced")
        return 0


def is_whole(path: Path, remote: RemoteFile) -> bool:
    """Whether the file is there, as the hub describes it."""
    try:
        return path.stat().st_size == remote.size_bytes and file_sha256(path) == remote.sha256
    except FileNotFoundError:
        return False
