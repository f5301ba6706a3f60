"""The data set `tiny`: four novels to train on, Persuasion to be examined on, Northanger Abbey in reserve.

Everything is made in memory from the text the package ships; nothing is downloaded.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from trainer.corpus import RESERVE_BOOK, TRAIN_BOOKS, VAL_BOOK, chapters, read_books
from trainer.dataset import TINY
from trainer.manifest import MANIFEST_NAME, RESERVE_NAME, TOKENIZER_NAME, VAL_NAME, manifest_bytes
from trainer.packing import cut_rows
from trainer.progress import PrepareProgress, Report
from trainer.tokenizer import Tokenizer, train_tokenizer

VOCAB_SIZE: Final = 1024  # BOS included: 2.8 bytes a token, and small enough for a useful model after 10 s on one core
SEQUENCE_LEN: Final = 128  # tokens a model sees at once
EXAM_ROWS: Final = 256  # of Persuasion's ~1300: 92 kB of text, read in half a second on one core
NEEDED_BYTES: Final = 8_000_000


def tiny_files(report: Report) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of the data set, the manifest last.

    Raises:
        DataDamagedError: the shipped text is not what it should be.
    """
    report(PrepareProgress("reading the text", 0.0))
    books = read_books()
    train = [chapter for name in TRAIN_BOOKS for chapter in chapters(books[name])]
    report(PrepareProgress("training the tokenizer", 0.1))
    tokenizer = train_tokenizer(train, VOCAB_SIZE)
    report(PrepareProgress("tokenising", 0.5))
    files = dict(_files(tokenizer, train, books))
    report(PrepareProgress("writing", 0.9))
    yield from files.items()
    yield MANIFEST_NAME, _manifest(tokenizer, files)


def _files(tokenizer: Tokenizer, train: list[str], books: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    encode = tokenizer.encoding().encode_ordinary
    documents = [np.array(encode(chapter), dtype="<u2") for chapter in train]
    offsets = np.cumsum([0, *map(len, documents)], dtype="<u8")
    yield TOKENIZER_NAME, tokenizer.to_json()
    yield "train_000.bin", np.concatenate(documents).tobytes()
    yield "train_000.idx", offsets.tobytes()
    for name, book in ((VAL_NAME, VAL_BOOK), (RESERVE_NAME, RESERVE_BOOK)):
        held_out = [np.array(encode(chapter), dtype="<u2") for chapter in chapters(books[book])]
        yield name, cut_rows(held_out, SEQUENCE_LEN + 1, tokenizer.bos_id).tobytes()


def _manifest(tokenizer: Tokenizer, files: Mapping[str, bytes]) -> bytes:
    return manifest_bytes(
        {
            "dataset": TINY,
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "sequence_len": SEQUENCE_LEN,
            "exam_rows": EXAM_ROWS,
            "train_shards": ["train_000"],
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
    )
