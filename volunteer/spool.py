"""Keeps signed results on disk until the coordinator has decided about them, across crashes and restarts.

One file per result envelope, written whole and synced before the trial counts as finished. A file that is not a result
of this identity is set aside, never delivered and never deleted. Left out: when to deliver (`session.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from autoresearch import envelope, limits
from autoresearch.digest import is_sha256, sha256_hex
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.trial_pb2 import Result
from volunteer import durable
from volunteer.errors import DiskError, HomeError

MOST_RESULTS: Final = 500  # weeks of five-minute trials without a coordinator are not possible: leases need one
_FILE_BYTES: Final = limits.ENVELOPE_BYTES + 1024  # the payload, its type and one signature
_SUFFIX: Final = ".result"


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that waits for delivery."""

    # sha256 of the envelope's payload.
    sha256: str
    lease_id: str


class Spool:
    """The undelivered results of one identity for one swarm."""

    def __init__(self, folder: Path, key_id: str, swarm_id: str) -> None:
        """`key_id`: of the key that the identity signs with."""
        self._folder = durable.make_folder(folder)
        self._key_id = key_id
        self._swarm_id = swarm_id
        # What was found wrong when it was opened, one line each.
        self.complaints: list[str] = []
        self._kept = self._scan()

    @property
    def kept(self) -> tuple[Kept, ...]:
        """What waits for delivery, oldest first."""
        return tuple(self._kept.values())

    def keep(self, result: Envelope) -> Kept:
        """Puts a result of this identity on disk.

        Raises:
            DiskError: it cannot be written.
            HomeError: too many wait already.
        """
        sha256 = sha256_hex(result.payload)
        if len(self._kept) >= MOST_RESULTS:
            raise HomeError(f"{MOST_RESULTS} results wait for delivery already: wait until the coordinator takes them")
        durable.replace(self._path(sha256), result.SerializeToString())
        kept = Kept(sha256, Result.FromString(result.payload).lease_id)
        self._kept[sha256] = kept
        return kept

    def get(self, sha256: str) -> Envelope | None:
        """The kept result of that digest; None when its file is gone or damaged."""
        data = _read(self._path(sha256))
        return None if data is None else _parse(data)

    def forget(self, sha256: str) -> None:
        """Removes a result that the coordinator decided about.

        Raises:
            DiskError: it cannot be removed; it will be delivered once more, which changes nothing.
        """
        self._kept.pop(sha256, None)
        durable.remove(self._path(sha256))

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{_SUFFIX}"

    def _scan(self) -> dict[str, Kept]:
        for part in self._folder.glob(".*.part"):
            durable.remove(part)  # left by a crash in the middle of a write: its trial did not count
        kept = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}"), key=lambda path: (path.lstat().st_mtime, path.name)):
            try:
                kept[path.stem] = self._check(path)
            except (envelope.EnvelopeError, ValueError) as error:
                self._set_aside(path, str(error))
        return kept

    def _check(self, path: Path) -> Kept:
        data = _read(path)
        signed = None if data is None else _parse(data)
        if signed is None:
            raise ValueError("not a signed result")
        result, verified = envelope.open_as(signed, envelope.RESULT, Result)
        if not is_sha256(path.stem) or sha256_hex(verified.payload) != path.stem:
            raise ValueError("its content is not what its name says")
        if verified.signer_id != self._key_id or result.swarm_id != self._swarm_id:
            raise ValueError("made by another identity or for another swarm")
        return Kept(path.stem, result.lease_id)

    def _set_aside(self, path: Path, problem: str) -> None:
        aside = durable.make_folder(self._folder / "damaged") / path.name
        try:
            path.replace(aside)
        except OSError as error:
            raise DiskError(aside, error.strerror or str(error)) from error
        self.complaints.append(f"an undelivered result was damaged ({problem}) and set aside as {aside}")


def _read(path: Path) -> bytes | None:
    """The file's bytes; None when there is no such plain file or it is larger than a result can be."""
    try:
        if path.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= _FILE_BYTES else None


def _parse(data: bytes) -> Envelope | None:
    try:
        return Envelope.FromString(data)
    except DecodeError:
        return None
