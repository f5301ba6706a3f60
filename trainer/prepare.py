"""Prepares a data set once: tokenizer, tokenised shards, validation rows, and the manifest that pins them all.

    python prepare.py [--data-dir DIR]          the same as `python -m trainer prepare`

Fixed: a patch cannot change it, and a machine whose prepared data differs from the challenge's manifest gets no work.
The same input gives the same bytes on every machine. Nothing is downloaded for `tiny`: the text comes with the
package. Verifying and reading is `manifest.py`'s business.
"""

import contextlib
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.corpus import RESERVE_BOOK, TRAIN_BOOKS, VAL_BOOK, chapters, read_books
from trainer.errors import DataDamagedError, DataMissingError, MachineError, UnknownDatasetError
from trainer.folder import check_space
from trainer.manifest import (
    MANIFEST_NAME,
    RESERVE_NAME,
    TOKENIZER_NAME,
    VAL_NAME,
    Manifest,
    file_sha256,
    load_manifest,
    manifest_bytes,
)
from trainer.packing import cut_rows
from trainer.tokenizer import Tokenizer, train_tokenizer

__all__ = ["DATASETS", "Manifest", "PrepareProgress", "load_manifest", "prepare"]

# ---------------------------------------------------------------------------------------------------------------------
# tiny: four novels to train on, Persuasion to be examined on, Northanger Abbey in reserve

TINY_VOCAB_SIZE = (
    1024  # ids, BOS included: 2.8 bytes a token, and small enough for a useful model after 10 s on one core
)
TINY_SEQUENCE_LEN = 128  # tokens a model sees at once
TINY_EXAM_ROWS = 256  # of Persuasion's ~1300: 92 kB of text, read in half a second on one core
TINY_NEEDED_BYTES = 8_000_000


@dataclass(frozen=True)
class PrepareProgress:
    """What is being done, and what share of the whole is behind us (0 to 1)."""

    stage: str
    share: float


def prepare(
    dataset: str, data_dir: Path, *, on_progress: Callable[[PrepareProgress], None] = lambda _progress: None
) -> Manifest:
    """Make `data_dir` hold the prepared data set, and return its verified manifest.

    Does nothing when it is there and sound; builds what is missing or damaged otherwise. Every file appears whole or
    not at all and the manifest comes last, so that an interrupted run is simply run again. Two runs at once take
    turns.

    Raises:
        UnknownDatasetError: no such data set.
        NoSpaceError: the disk is too full.
        MachineError: the folder cannot be written.
        DataDamagedError: the shipped text is not what it should be.
    """
    if dataset not in DATASETS:
        raise UnknownDatasetError(dataset, tuple(DATASETS))
    try:
        with _locked(data_dir):
            return _prepare_locked(dataset, data_dir, on_progress)
    except OSError as error:
        raise MachineError(
            f"cannot write {data_dir} ({error.strerror}): choose another folder with --data-dir"
        ) from error


def _prepare_locked(dataset: str, data_dir: Path, report: Callable[[PrepareProgress], None]) -> Manifest:
    try:
        manifest = load_manifest(data_dir)
        if manifest.dataset == dataset:
            report(PrepareProgress("ready", 1.0))
            return manifest
    except (DataMissingError, DataDamagedError):
        pass  # built below; files that are still right are kept
    check_space(data_dir, TINY_NEEDED_BYTES)
    for name, content in DATASETS[dataset](report):
        _write(data_dir / name, content)
    report(PrepareProgress("ready", 1.0))
    return load_manifest(data_dir)


def _tiny(report: Callable[[PrepareProgress], None]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of the data set, the manifest last."""
    report(PrepareProgress("reading the text", 0.0))
    books = read_books()
    train = [chapter for name in TRAIN_BOOKS for chapter in chapters(books[name])]
    report(PrepareProgress("training the tokenizer", 0.1))
    tokenizer = train_tokenizer(train, TINY_VOCAB_SIZE)
    report(PrepareProgress("tokenising", 0.5))
    files = dict(_tiny_files(tokenizer, train, books))
    report(PrepareProgress("writing", 0.9))
    yield from files.items()
    yield MANIFEST_NAME, _tiny_manifest(tokenizer, files)


def _tiny_files(tokenizer: Tokenizer, train: list[str], books: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    encode = tokenizer.encoding().encode_ordinary
    documents = [np.array(encode(chapter), dtype="<u2") for chapter in train]
    offsets = np.cumsum([0, *map(len, documents)], dtype="<u8")
    yield TOKENIZER_NAME, tokenizer.to_json()
    yield "train_000.bin", np.concatenate(documents).tobytes()
    yield "train_000.idx", offsets.tobytes()
    for name, book in ((VAL_NAME, VAL_BOOK), (RESERVE_NAME, RESERVE_BOOK)):
        held_out = [np.array(encode(chapter), dtype="<u2") for chapter in chapters(books[book])]
        yield name, cut_rows(held_out, TINY_SEQUENCE_LEN + 1, tokenizer.bos_id).tobytes()


def _tiny_manifest(tokenizer: Tokenizer, files: Mapping[str, bytes]) -> bytes:
    return manifest_bytes(
        {
            "dataset": "tiny",
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "sequence_len": TINY_SEQUENCE_LEN,
            "exam_rows": TINY_EXAM_ROWS,
            "train_shards": ["train_000"],
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
    )


DATASETS: dict[str, Callable[[Callable[[PrepareProgress], None]], Iterator[tuple[str, bytes]]]] = {"tiny": _tiny}

# ---------------------------------------------------------------------------------------------------------------------
# files


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, content: bytes) -> None:
    """Replace `path` in one step, and only when it differs. Whoever holds the lock is the only writer."""
    with contextlib.suppress(OSError):
        if file_sha256(path) == hashlib.sha256(content).hexdigest():
            return
    partial = path.with_name(f".partial-{path.name}")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "trainer", "prepare", *sys.argv[1:]])  # noqa: S606  (ourselves)
