"""Rows of training tokens: every row begins with BOS, no token is wasted, the order comes from the seed.

Pure: arrays in, rows out. Documents are cut into pieces of at most one row, the pieces of a shard are shuffled, and
short ones are packed best-fit; when nothing fits a gap, the shortest piece is cut and its rest goes back. Serving
rows and keeping time are `feed.py`'s business.
"""

import bisect
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.manifest import Shard

BUFFER_PIECES = 256  # candidates for best fit; upstream's 1000 packs no better on pieces this uniform


def cut_rows(documents: Sequence[np.ndarray], row_tokens: int, bos_id: int) -> np.ndarray:
    """(n, row_tokens) uint16: the documents' whole pieces in order, each after a BOS. Shorter ends are left out.

    For validation: each row is consecutive text of one document, so no target is ever a BOS.
    """
    text = row_tokens - 1
    pieces = [document[: len(document) // text * text].reshape(-1, text) for document in documents]
    body = np.concatenate(pieces) if pieces else np.empty((0, text), np.uint16)
    return np.concatenate([np.full((len(body), 1), bos_id), body], axis=1).astype("<u2")


def seeded_order(count: int, *key: object) -> np.ndarray:
    """A permutation of `count` things that depends on `key` alone.

    Sorts the raw output of PCG64, whose stream numpy guarantees; `Generator.permutation` may change between releases.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(count)
    return np.argsort(raw, kind="stable")


class Packer:
    """An endless stream of rows over all shards, reshuffled every epoch."""

    def __init__(self, shards: Sequence[Shard], *, row_tokens: int, bos_id: int, seed: int) -> None:
        self._row_tokens = row_tokens
        self._bos_id = bos_id
        self._buffer: list[tuple[int, int, int]] = []  # (length, shard, first token), kept sorted
        self._shards = shards
        self._pieces = self._stream(seed)

    def batch(self, rows: int) -> np.ndarray:
        """(rows, row_tokens) uint16: the next rows. Consecutive calls never repeat a piece within an epoch."""
        out = np.full((rows, self._row_tokens), self._bos_id, dtype="<u2")
        for row in out:
            self._fill(row)
        return out

    def _fill(self, row: np.ndarray) -> None:
        at = 0
        while len(row) - at > 1:  # room for a BOS and at least one token of text
            length, shard, first = self._take(len(row) - at - 1)
            row[at + 1 : at + 1 + length] = self._shards[shard].tokens[first : first + length]
            at += 1 + length

    def _take(self, room: int) -> tuple[int, int, int]:
        """The longest buffered piece that fits, or else the beginning of the shortest."""
        while len(self._buffer) < BUFFER_PIECES:
            bisect.insort(self._buffer, next(self._pieces))
        fits = bisect.bisect_right(self._buffer, (room, len(self._shards), 0))
        if fits:
            return self._buffer.pop(fits - 1)
        length, shard, first = self._buffer.pop(0)
        bisect.insort(self._buffer, (length - room, shard, first + room))
        return room, shard, first

    def _stream(self, seed: int) -> Iterator[tuple[int, int, int]]:
        epoch = 0
        while True:
            for shard in seeded_order(len(self._shards), seed, epoch, "shards").tolist():
                lengths, firsts = _pieces(self._shards[shard].offsets, self._row_tokens - 1)
                for piece in seeded_order(len(lengths), seed, epoch, shard).tolist():
                    yield int(lengths[piece]), shard, int(firsts[piece])
            epoch += 1


def _pieces(offsets: np.ndarray, text: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and first tokens of all pieces of at most `text` tokens, in the documents' order."""
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    counts = -(-(ends - starts) // text)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    firsts = np.repeat(starts, counts) + within * text
    return np.minimum(np.repeat(ends, counts) - firsts, text), firsts
