"""Text made into flat arrays of tokens, a batch of documents at a time: memory stays small however large a shard is.

Threads share the work of one batch: tiktoken leaves Python's lock while it encodes. Each document's tokens depend on
nothing but its text and the tokenizer, so the bytes are the same for any number of threads, on every machine.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from trainer.files import writing
from trainer.tokenizer import Tokenizer

_DOCUMENTS_PER_TASK: Final = 32


class Encoder:
    """Encodes batches of documents with several threads. Use as a context manager."""

    def __init__(self, tokenizer: Tokenizer, threads: int) -> None:
        self._encoding = tokenizer.encoding()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tokenise")

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def documents(self, batches: Iterable[list[str]]) -> Iterator[np.ndarray]:
        """(n,) uint16 tokens of every document, in order. What looks like a special token is text like any other."""
        for texts in batches:
            parts = [texts[at : at + _DOCUMENTS_PER_TASK] for at in range(0, len(texts), _DOCUMENTS_PER_TASK)]
            for encoded in self._threads.map(self._encode, parts):
                yield from encoded

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        return [self._encoding.encode_to_numpy(text, disallowed_special=()).astype("<u2") for text in texts]


def write_shard(documents: Iterable[np.ndarray], tokens_path: Path, offsets_path: Path) -> int:
    """Write both files of a shard, each in one step. Returns the number of tokens."""
    count = 0
    with writing(tokens_path) as tokens, writing(offsets_path) as offsets:
        offsets.write(np.uint64(0).astype("<u8").tobytes())
        for document in documents:
            count += len(document)
            tokens.write(document.tobytes())
            offsets.write(np.uint64(count).astype("<u8").tobytes())
    return count


def write_rows(rows: Iterable[np.ndarray], path: Path) -> int:
    """Write (row_tokens,) uint16 rows one after the other. Returns how many there were."""
    count = 0
    with writing(path) as stream:
        for row in rows:
            stream.write(row.astype("<u2").tobytes())
            count += 1
    return count
