"""The clock and the data are one thing: training tokens for as long as the budget lasts, and no longer.

Answers the candidate's requests; does no I/O. `clock` is the budget's: seconds on a GPU, processor seconds per thread
on a CPU. The clock starts when the first batch is served. Each batch carries the share of the budget spent so far,
which is recorded: serving the same shares again is a replay. The count of tokens is kept here and nobody else's is
believed. Pipes and deadlines are `training.py`'s business.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable

from trainer.packing import Packer
from trainer.result import CURVE_POINTS, Outcome, TrialEnded
from trainer.wire import Frame

_RECENT_STEPS = 5
_MAX_OVERRUN_S = 0.1


class Feed:
    """One trial's supply of training tokens.

    Request: {"kind": "want", "rows": n, "step": s, "loss": x or null}.
    Answer: {"kind": "batch", "share": f} and (n, row_tokens) uint16, or {"kind": "spent"}.
    """

    def __init__(
        self, packer: Packer, *, row_tokens: int, budget_s: float, max_rows: int, clock: Callable[[], float]
    ) -> None:
        self._packer = packer
        self._row_tokens = row_tokens
        self._budget_s = budget_s
        self._max_rows = max_rows
        self._clock = clock
        self._packed: tuple[int, bytes] = (0, b"")
        self._intervals: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._served_at = 0.0
        self._charged_s = 0.0
        self._curve: list[tuple[float, float]] = []
        self.shares: list[float] = []  # one a batch
        self.rows_served = 0
        self.steps = 0
        self.loss: float | None = None
        self.started_at: float | None = None
        self.spent_at: float | None = None

    @property
    def tokens_served(self) -> int:
        return self.rows_served * (self._row_tokens - 1)

    @property
    def deadline_at(self) -> float:
        """When the budget is spent; infinitely far until the clock has started."""
        return math.inf if self.started_at is None else self.started_at + self._budget_s

    def share(self) -> float:
        if self.started_at is None:
            return 0.0
        return min(1.0, (self._clock() - self.started_at) / self._budget_s)

    def curve(self) -> tuple[tuple[float, float], ...]:
        """At most 64 points of (share, loss), evenly picked."""
        step = max(1, math.ceil(len(self._curve) / CURVE_POINTS))
        return tuple(self._curve[::-step][::-1])

    def charge(self, spent_s: float) -> None:
        """Count what was spent before the first batch as part of the budget; nothing when it is not positive."""
        self._charged_s = max(0.0, spent_s)

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
        batch = self._packed[1] if self._packed[0] == rows else self._pack(rows)
        now = self._clock()
        self._note(request, now)
        if self._is_spent(now):
            self.spent_at = self.spent_at or now
            return Frame({"kind": "spent"})
        return self._serve(rows, batch, now)

    def pack_ahead(self) -> None:
        """Pack the next batch while the candidate computes, guessing that it will want as many rows again."""
        rows = self._packed[0]
        if rows and not self._packed[1]:
            self._packed = (rows, self._pack(rows))

    def _serve(self, rows: int, batch: bytes, now: float) -> Frame:
        self.started_at = now - self._charged_s if self.started_at is None else self.started_at
        share = (now - self.started_at) / self._budget_s
        self.shares.append(share)
        self.rows_served += rows
        self._served_at = now
        self._packed = (rows, b"")
        return Frame({"kind": "batch", "share": share}, batch)

    def _pack(self, rows: int) -> bytes:
        return self._packer.batch(rows).tobytes()

    def _is_spent(self, now: float) -> bool:
        """Whether the next step would end too late.

        Steps are not cut short, so the last one is allowed to overrun by half of itself, at most 0.1 s: on average a
        run ends when its budget does.
        """
        if self.started_at is None:
            return self._charged_s >= self._budget_s
        step_s = statistics.median(self._intervals) if self._intervals else 0.0
        return self.spent_at is not None or now + step_s > self.deadline_at + min(step_s / 2, _MAX_OVERRUN_S)

    def _note(self, request: Frame, now: float) -> None:
        """Record what the candidate says of itself. Clamped, shown to people, and deciding nothing."""
        if self.started_at is None:
            return
        self._intervals.append(now - self._served_at)
        step, loss = request.header.get("step"), request.header.get("loss")
        if type(step) is int:
            self.steps = max(0, min(step, len(self.shares)))
        if isinstance(loss, float) and math.isfinite(loss):
            self.loss = loss
            self._add_point(min(1.0, (now - self.started_at) / self._budget_s), loss)

    def _add_point(self, share: float, loss: float) -> None:
        """Keep the curve short however many steps there are: points closer than 1/128 of the budget are dropped."""
        if not self._curve or share - self._curve[-1][0] >= 1 / (2 * CURVE_POINTS):
            self._curve.append((round(share, 4), loss))
