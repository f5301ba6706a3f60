"""The manifest of a prepared data set: what the files are, and whether they still are that.

Reads and verifies; `prepare.py` writes. A challenge pins a manifest by the sha256 of its file, and the manifest pins
every other file, so two machines with the same pin train and examine on the same bytes.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer.errors import DataDamagedError, DataMissingError, WrongDataError
from trainer.files import file_sha256
from trainer.shard import OpenFiles, StoredShard
from trainer.tokenizer import MAX_VOCAB, Tokenizer, tokenizer_from_json

MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
VAL_NAME = "val.bin"
RESERVE_NAME = "reserve.bin"
FORMAT = 1
MAX_MANIFEST_BYTES = 4_000_000  # 6542 shards make 1.8 MB
MAX_SEQUENCE_LEN = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """A verified data set. `sha256` is that of the manifest file itself, the name by which a challenge pins it."""

    data_dir: Path
    sha256: str
    dataset: str
    vocab_size: int
    bos_id: int
    sequence_len: int  # tokens a model sees at once; a stored row has one more
    exam_rows: int  # how many rows of the validation file every exam uses, evenly spread
    train_shards: tuple[str, ...]  # stems: NAME.bin holds tokens, NAME.idx document offsets
    files: Mapping[str, str] = field(repr=False)  # file name -> sha256

    @property
    def row_tokens(self) -> int:
        return self.sequence_len + 1

    def is_possible(self) -> bool:
        """Whether the numbers fit each other and the form in which tokens are stored."""
        stems = {f"{stem}.{kind}" for stem in self.train_shards for kind in ("bin", "idx")}
        return (
            2 <= self.vocab_size <= MAX_VOCAB
            and 0 <= self.bos_id < self.vocab_size
            and 1 <= self.sequence_len <= MAX_SEQUENCE_LEN
            and self.exam_rows >= 1
            and bool(stems)
            and stems | {TOKENIZER_NAME, VAL_NAME, RESERVE_NAME} <= self.files.keys()
        )

    def tokenizer(self) -> Tokenizer:
        return tokenizer_from_json((self.data_dir / TOKENIZER_NAME).read_bytes())

    def shards(self) -> tuple[StoredShard, ...]:
        files = OpenFiles()
        return tuple(
            StoredShard(self.data_dir / f"{stem}.bin", self.data_dir / f"{stem}.idx", files)
            for stem in self.train_shards
        )

    def val_rows(self) -> np.ndarray:
        """(exam_rows, row_tokens) uint16: the fixed rows of every exam, each BOS and then consecutive text."""
        rows = self._rows(VAL_NAME)
        return rows[np.arange(self.exam_rows) * len(rows) // self.exam_rows]

    def reserve_rows(self) -> np.ndarray:
        """(n, row_tokens) uint16: rows of a book that no exam of a candidate uses."""
        return self._rows(RESERVE_NAME)

    def _rows(self, name: str) -> np.ndarray:
        return np.memmap(self.data_dir / name, dtype="<u2", mode="r").reshape(-1, self.row_tokens)


def load_manifest(
    data_dir: Path,
    expected_sha256: str | None = None,
    *,
    on_check: Callable[[int, int], None] = lambda _done_bytes, _all_bytes: None,
) -> Manifest:
    """Read the manifest of `data_dir` and check every file it names.

    A file once checked is not read again by this process while its inode, size and modification time stay the same.
    Nothing is read when a file is missing. `on_check` is told how much was read of what there is to read: a gigabyte
    takes seconds, from a disk a quarter of a minute.

    Raises:
        DataMissingError: there is no manifest, or a file it names is not there.
        DataDamagedError: a file differs from its sha256, or the manifest cannot be understood.
        WrongDataError: `expected_sha256` names another manifest.
    """
    manifest = read_manifest(data_dir, expected_sha256)
    unchecked = _unchecked(manifest)
    all_bytes, done_bytes = sum(size for _, _, (_, size, _) in unchecked), 0

    def note(count: int) -> None:
        nonlocal done_bytes
        done_bytes += count
        on_check(done_bytes, all_bytes)

    for path, sha256, stamp in unchecked:
        _check_file(path, sha256, stamp, note)
    return manifest


def read_manifest(data_dir: Path, expected_sha256: str | None = None) -> Manifest:
    """The manifest alone: nothing is said of the files that it names.

    Raises:
        DataMissingError, DataDamagedError, WrongDataError: as `load_manifest`, for this file.
    """
    content = _read_bounded(data_dir / MANIFEST_NAME, MAX_MANIFEST_BYTES)
    found = hashlib.sha256(content).hexdigest()
    if expected_sha256 is not None and found != expected_sha256:
        raise WrongDataError(data_dir, expected_sha256, found)
    return _parse(data_dir, found, content)


def manifest_bytes(fields: Mapping[str, object]) -> bytes:
    """The one way a manifest is written: the same fields give the same bytes."""
    return (json.dumps({"format": FORMAT, **fields}, ensure_ascii=True, indent=1, sort_keys=True) + "\n").encode(
        "ascii"
    )


def _parse(data_dir: Path, sha256: str, content: bytes) -> Manifest:
    path = data_dir / MANIFEST_NAME
    try:
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            raise DataDamagedError(path, f"has format {fields['format']!r}, not {FORMAT}")
        files = {str(name): str(digest) for name, digest in fields["files"].items()}
        manifest = Manifest(
            data_dir=data_dir,
            sha256=sha256,
            dataset=str(fields["dataset"]),
            vocab_size=int(fields["vocab_size"]),
            bos_id=int(fields["bos_id"]),
            sequence_len=int(fields["sequence_len"]),
            exam_rows=int(fields["exam_rows"]),
            train_shards=tuple(str(stem) for stem in fields["train_shards"]),
            files=files,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataDamagedError(path, f"is not a manifest ({type(error).__name__})") from error
    if any(Path(name).name != name for name in files):
        raise DataDamagedError(path, "names a file outside its folder")
    if not manifest.is_possible():
        raise DataDamagedError(path, "holds numbers that cannot be")
    return manifest


def _read_bounded(path: Path, limit_bytes: int) -> bytes:
    with _reading(path), path.open("rb") as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise DataDamagedError(path, f"is larger than {limit_bytes} bytes")
    return content


_Stamp = tuple[int, int, int]  # inode, size in bytes, time of the last change in ns

_verified: dict[tuple[str, str], _Stamp] = {}
_verified_lock = threading.Lock()


def _unchecked(manifest: Manifest) -> list[tuple[Path, str, _Stamp]]:
    """The files that this process has not read as they are now, and what the manifest says of each."""
    found = []
    for name, sha256 in manifest.files.items():
        path = manifest.data_dir / name
        with _reading(path):
            status = path.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        with _verified_lock:
            if _verified.get((str(path), sha256)) != stamp:
                found.append((path, sha256, stamp))
    return found


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataMissingError(path.parent, path.name) from None
    except OSError as error:
        raise DataDamagedError(path, f"cannot be read ({error.strerror})") from error


def _check_file(path: Path, sha256: str, stamp: _Stamp, on_read: Callable[[int], None]) -> None:
    with _reading(path):
        found = file_sha256(path, on_read)
    if found != sha256:
        raise DataDamagedError(path, "is not what the manifest says")
    with _verified_lock:
        _verified[str(path), sha256] = stamp
