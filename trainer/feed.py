"""The clock and the data are one thing: training tokens for as long as the budget lasts, and no longer.

Answers the candidate's requests; does no I/O. Each batch carries the share of the budget spent so far, which is
recorded: serving the same shares again is a replay. The count of tokens is kept here and nobody else's is believed.
How long there is something to serve is `pace.py`'s business; pipes and deadlines are `training.py`'s.
"""

import math

from trainer.batches import MAX_BATCHES, BatchLog
from trainer.pace import Pace
from trainer.packing import Packer
from trainer.result import CURVE_POINTS, Outcome, TrialEnded
from trainer.wire import Frame


class Feed:
    """One trial's supply of training tokens.

    Request: {"kind": "want", "rows": n, "step": s, "loss": x or null, "finished": b}.
    Answer: {"kind": "batch", "share": f} and (n, row_tokens) uint16, or {"kind": "spent"}.
    """

    def __init__(self, packer: Packer, *, row_tokens: int, max_rows: int, pace: Pace) -> None:
        self.pace = pace
        self.log = BatchLog()
        self.rows_served = 0
        self.steps = 0
        self.loss: float | None = None
        self._packer = packer
        self._row_tokens = row_tokens
        self._max_rows = max_rows
        self._packed: tuple[int, bytes] = (0, b"")
        self._curve: list[tuple[float, float]] = []

    @property
    def tokens_served(self) -> int:
        return self.rows_served * (self._row_tokens - 1)

    def curve(self) -> tuple[tuple[float, float], ...]:
        """At most 64 points of (share, loss), evenly picked."""
        step = max(1, math.ceil(len(self._curve) / CURVE_POINTS))
        return tuple(self._curve[::-step][::-1])

    def answer(self, request: Frame) -> Frame:
        """Serve one batch, or say that the budget is spent.

        Raises:
            TrialEnded: the request is none that a session makes.
        """
        rows = request.header.get("rows")
        if request.kind != "want" or type(rows) is not int or not 1 <= rows <= self._max_rows:
            raise TrialEnded(
                Outcome.CRASHED, f"asked for a batch of {rows!r} rows; between 1 and {self._max_rows} can be served"
            )
        if self.log.is_full:
            raise TrialEnded(Outcome.CRASHED, f"asked for more than {MAX_BATCHES} batches: ask for larger ones")
        batch = self._packed[1] if self._packed[0] == rows else b""
        batch = batch or self._pack(rows)  # before the clock is read
        self._note(request)
        share = self.pace.next(rows, self._finished(request))
        if share is None:
            return Frame({"kind": "spent"})
        self.log.add(rows, share)
        self.rows_served += rows
        self._packed = (rows, b"")
        return Frame({"kind": "batch", "share": share}, batch)

    def pack_ahead(self) -> None:
        """Pack the next batch while the candidate computes, guessing that it will want as many rows again."""
        rows = self._packed[0]
        if rows and not self._packed[1]:
            self._packed = (rows, self._pack(rows))

    def _pack(self, rows: int) -> bytes:
        return self._packer.batch(rows).tobytes()

    def _finished(self, request: Frame) -> int:
        """Batches that the candidate says it is done with; all, where it says nothing that could be."""
        said = request.header.get("finished")
        return said if type(said) is int and said >= 0 else len(self.log)

    def _note(self, request: Frame) -> None:
        """Record what the candidate says of itself. Clamped, shown to people, and deciding nothing."""
        if self.pace.started_at is None:
            return
        step, loss = request.header.get("step"), request.header.get("loss")
        if type(step) is int:
            self.steps = max(0, min(step, len(self.log)))
        if isinstance(loss, float) and math.isfinite(loss):
            self.loss = loss
            self._add_point(self.pace.share(), loss)

    def _add_point(self, share: float, loss: float) -> None:
        """Keep the curve short however many steps there are: points closer than 1/128 of the budget are dropped."""
        if not self._curve or share - self._curve[-1][0] >= 1 / (2 * CURVE_POINTS):
            self._curve.append((round(share, 4), loss))
