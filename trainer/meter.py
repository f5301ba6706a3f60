"""The share of a preparation that is done: bytes fetched, and bytes worked through, of those there are."""

import threading
from collections.abc import Iterable

from trainer.answers import RemoteFile
from trainer.progress import PrepareProgress, Report


class Meter:
    """Reports from several threads, one report at a time, never going back."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._stage = ""
        self._sizes: dict[str, int] = {}
        self._fetched: dict[str, int] = {}
        self._worked: dict[str, float] = {}
        self._share = 0.0

    def expect(self, files: Iterable[RemoteFile]) -> None:
        """What there is to fetch and to work through."""
        with self._lock:
            self._sizes |= {remote.path: remote.size_bytes for remote in files}

    def enter(self, stage: str) -> None:
        """What is being done from now on."""
        with self._lock:
            self._stage = stage
            self._tell()

    def fetched(self, remote: RemoteFile, have_bytes: int) -> None:
        """How much of a file is here."""
        with self._lock:
            self._fetched[remote.path] = have_bytes
            self._tell()

    def worked(self, remote: RemoteFile, share: float) -> None:
        """How much of a file has been used."""
        with self._lock:
            self._fetched[remote.path] = remote.size_bytes
            self._worked[remote.path] = share
            self._tell()

    def _tell(self) -> None:
        total = sum(self._sizes.values())
        have = sum(self._fetched.values())
        worked = sum(self._sizes.get(path, 0) * share for path, share in self._worked.items())
        if total:
            self._share = max(self._share, min(0.99, (have + worked) / (2 * total)))
        detail = f"{have / 1e6:.0f} of {total / 1e6:.0f} MB are here" if have < total else ""
        self._report(PrepareProgress(self._stage, self._share, detail))
