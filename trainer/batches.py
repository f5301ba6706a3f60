"""What was served to one trial, batch by batch: how many rows, and which share of the budget was spent by then.

With source, seed and data this is all that a training run takes in, so serving it again is a replay. Pure: values in,
bytes out. The file it is kept in is `record.py`'s business.
"""

import hashlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

# 12 bytes each: 48 MiB at most, held by the trial's parent. A day of batches of 20 ms.
MAX_BATCHES = 1 << 22

_SHARE = np.dtype("<f8")  # as served: a schedule that gets another last digit gives other weights
_ROWS = np.dtype("<u4")
BYTES_PER_BATCH = _SHARE.itemsize + _ROWS.itemsize


class BatchLog:
    """Rows and shares in the order of serving."""

    def __init__(self) -> None:
        self._shares = array("d")
        self._rows = array("I")

    def __len__(self) -> int:
        return len(self._shares)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """(rows, share) of each batch."""
        return zip(self._rows, self._shares, strict=True)

    def __getitem__(self, index: int) -> tuple[int, float]:
        return self._rows[index], self._shares[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BatchLog) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # it grows

    @property
    def shares(self) -> Sequence[float]:
        return self._shares

    @property
    def is_full(self) -> bool:
        return len(self) >= MAX_BATCHES

    def add(self, rows: int, share: float) -> None:
        self._rows.append(rows)
        self._shares.append(share)

    def sha256(self) -> str:
        """Names what was served: equal logs have equal digests, on every machine."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """All shares as little-endian float64, then all rows as little-endian uint32."""
        return np.asarray(self._shares, _SHARE).tobytes() + np.asarray(self._rows, _ROWS).tobytes()


def from_bytes(content: bytes) -> BatchLog:
    """The log that `to_bytes` made.

    Raises:
        ValueError: these bytes are none.
    """
    count, rest = divmod(len(content), BYTES_PER_BATCH)
    if rest or not 0 < count <= MAX_BATCHES:
        raise ValueError(f"{len(content)} bytes are no list of 1 to {MAX_BATCHES} batches")
    shares = np.frombuffer(content, _SHARE, count)
    rows = np.frombuffer(content, _ROWS, count, _SHARE.itemsize * count)
    if not np.isfinite(shares).all() or shares.min() < 0 or shares.max() > 1 or (np.diff(shares) < 0).any():
        raise ValueError("the shares of the budget do not rise from 0 to 1")
    if rows.min() < 1:
        raise ValueError("a batch has no rows")
    log = BatchLog()
    for count_of_rows, share in zip(rows.tolist(), shares.tolist(), strict=True):
        log.add(count_of_rows, share)
    return log
