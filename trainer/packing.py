"""Rows of training tokens: every row begins with BOS, no token is wasted, the order comes from the seed.

Pure: arrays in, rows out. Documents are cut into pieces of at most one row, the pieces of a shard are shuffled, and
short ones are packed best-fit; when nothing fits a gap, the shortest piece is cut and its rest goes back. Serving
rows and keeping time are `feed.py`'s business.
"""

import bisect
import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from trainer.shard import Shard

BUFFER_PIECES = 256  # candidates for best fit; upstream's 1000 packs no better on pieces this uniform

_Piece = tuple[int, int, int, int]  # length, minus its arrival, shard, first token


def cut_rows(documents: Sequence[np.ndarray], row_tokens: int, bos_id: int) -> np.ndarray:
    """(n, row_tokens) uint16: the documents' whole pieces in order, each after a BOS. Shorter ends are left out.

    For validation: each row is consecutive text of one document, so no target is ever a BOS.
    """
    text = row_tokens - 1
    pieces = [document[: len(document) // text * text].reshape(-1, text) for document in documents]
    body = np.concatenate(pieces) if pieces else np.empty((0, text), np.uint16)
    return np.concatenate([np.full((len(body), 1), bos_id), body], axis=1).astype("<u2")


def pack_documents(documents: Iterable[np.ndarray], row_tokens: int, bos_id: int) -> Iterator[np.ndarray]:
    """Rows of (row_tokens,) uint16 that show documents from their beginnings, each after a BOS, until they run out.

    For validation on documents of all lengths: a row begins with the document that has waited longest, its gaps are
    filled best-fit, and what a row has no room for is left out, as upstream does. The last, unfinished row is dropped.
    """
    source, arrivals = iter(documents), itertools.count()
    waiting: dict[int, np.ndarray] = {}  # by arrival, the oldest first
    by_length: list[tuple[int, int]] = []  # length, minus arrival
    while True:
        row = np.full(row_tokens, bos_id, dtype="<u2")
        at = 0
        while (room := row_tokens - at - 1) > 0:
            for document in itertools.islice(source, BUFFER_PIECES - len(waiting)):
                arrival = next(arrivals)
                waiting[arrival] = document
                bisect.insort(by_length, (len(document), -arrival))
            if not waiting:
                return
            if at == 0:
                oldest = next(iter(waiting))
                index = bisect.bisect_left(by_length, (len(waiting[oldest]), -oldest))
            else:
                index = max(0, bisect.bisect_right(by_length, (room, 1)) - 1)
            text = waiting.pop(-by_length.pop(index)[1])[:room]
            row[at + 1 : at + 1 + len(text)] = text
            at += 1 + len(text)
        yield row


def seeded_order(count: int, *key: object) -> np.ndarray:
    """A permutation of `count` things that depends on `key` alone.

    Sorts the raw output of PCG64, whose stream numpy guarantees; `Generator.permutation` may change between releases.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    raw = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(count)
    return np.argsort(raw, kind="stable")


class Packer:
    """An endless stream of rows over all shards, reshuffled every epoch.

    A row begins with the piece that has waited longest, so none starves; its gaps are filled best-fit from the rest.
    """

    def __init__(self, shards: Sequence[Shard], *, row_tokens: int, bos_id: int, seed: int) -> None:
        self._row_tokens = row_tokens
        self._bos_id = bos_id
        self._shards = shards
        self._pieces = self._stream(seed)
        self._arrivals = itertools.count()
        self._by_length: list[_Piece] = []  # sorted: by length, and among equals the oldest last
        self._by_age: deque[_Piece] = deque()  # the oldest first; some are gone already
        self._waiting: set[_Piece] = set()

    def batch(self, rows: int) -> np.ndarray:
        """(rows, row_tokens) uint16: the next rows."""
        out = np.full((rows, self._row_tokens), self._bos_id, dtype="<u2")
        for row in out:
            self._fill(row)
        return out

    def _fill(self, row: np.ndarray) -> None:
        self._refill()
        at, piece = 0, self._oldest()
        while True:
            length, _, shard, first = piece
            self._shards[shard].copy(first, row[at + 1 : at + 1 + length])
            at += 1 + length
            room = len(row) - at - 1  # after another BOS
            if room < 1:
                return
            piece = self._best_fit(room)

    def _refill(self) -> None:
        while len(self._waiting) < BUFFER_PIECES:
            self._add(*next(self._pieces))

    def _add(self, length: int, shard: int, first: int) -> None:
        piece = (length, -next(self._arrivals), shard, first)
        bisect.insort(self._by_length, piece)
        self._by_age.append(piece)
        self._waiting.add(piece)

    def _oldest(self) -> _Piece:
        while (piece := self._by_age.popleft()) not in self._waiting:
            pass
        return self._take(bisect.bisect_left(self._by_length, piece))

    def _best_fit(self, room: int) -> _Piece:
        """The longest waiting piece that fits, or else the beginning of the shortest; its rest waits on."""
        self._refill()
        fits = bisect.bisect_right(self._by_length, (room, 1, 0, 0))
        if fits:
            return self._take(fits - 1)
        length, age, shard, first = self._take(0)
        self._add(length - room, shard, first + room)
        return room, age, shard, first

    def _take(self, index: int) -> _Piece:
        piece = self._by_length.pop(index)
        self._waiting.remove(piece)
        return piece

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
