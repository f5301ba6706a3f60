"""How long a trial is fed: by the clock while it is live, by what was recorded when it is replayed.

Pure but for the clock it is given. What is fed is `feed.py`'s business; who waits how long, `training.py`'s.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable
from typing import Protocol

from trainer.batches import BatchLog
from trainer.result import Outcome, TrialEnded

_RECENT_STEPS = 5
# How far a last step may outlast the budget: a step is not cut short. With what handing over may take beside
# (`TrialLimits.overtime_s`), 300 s stay within 0.5 %.
_OVERRUN_SHARE = 0.004
_OVERRUN_S = 0.1  # where that is more


def longest_overrun_s(budget_s: float) -> float:
    return max(_OVERRUN_S, _OVERRUN_SHARE * budget_s)


class Pace(Protocol):
    """When the next batch may be served, and as which share of the budget. All instants are the budget clock's."""

    started_at: float | None  # when the first batch was served
    spent_at: float | None  # when the first batch was refused

    @property
    def deadline_at(self) -> float:
        """From when on a child must be handing over; infinitely far while that is not known."""

    def share(self) -> float:
        """Of the budget that is spent now, 0 to 1."""

    def charge(self, spent_s: float) -> None:
        """Count what was spent before the first batch as part of the budget; nothing when it is not positive."""

    def next(self, rows: int, finished: int) -> float | None:
        """The share that a batch of `rows` rows carries, or None when there is none any more.

        finished: batches that the candidate says it is done with. To say more makes it hand over late, to say less ends
        its training early: neither gains anything.
        """


class LivePace:
    """The budget by the clock. It starts with the first batch."""

    def __init__(self, budget_s: float, clock: Callable[[], float]) -> None:
        self.started_at: float | None = None
        self.spent_at: float | None = None
        self._budget_s = budget_s
        self._clock = clock
        self._charged_s = 0.0
        self._served = 0
        self._finished = 0
        self._finished_at = 0.0
        self._steps_s: deque[float] = deque(maxlen=_RECENT_STEPS)

    @property
    def deadline_at(self) -> float:
        return math.inf if self.started_at is None else self.started_at + self._budget_s

    def share(self) -> float:
        if self.started_at is None:
            return 0.0
        return min(1.0, (self._clock() - self.started_at) / self._budget_s)

    def charge(self, spent_s: float) -> None:
        self._charged_s = max(0.0, spent_s)

    def next(self, rows: int, finished: int) -> float | None:  # noqa: ARG002  (a replay looks at the rows)
        now = self._clock()
        if self.started_at is not None:
            self._note_finished(finished, now)
        if self._is_spent(now):
            self.spent_at = self.spent_at or now
            return None
        if self.started_at is None:
            self.started_at = now - self._charged_s
            self._finished_at = now
        self._served += 1
        return (now - self.started_at) / self._budget_s

    def _note_finished(self, finished: int, now: float) -> None:
        more = min(finished, self._served) - self._finished
        if more > 0:
            self._steps_s.append((now - self._finished_at) / more)
            self._finished += more
            self._finished_at = now

    def _is_spent(self, now: float) -> bool:
        """Whether this batch, and those in flight before it, would be finished too late.

        Steps are not cut short, so the last one may overrun by half of itself, within `longest_overrun_s`: on average
        a run ends when its budget does.
        """
        if self.started_at is None:
            return self._charged_s >= self._budget_s
        step_s = statistics.median(self._steps_s) if self._steps_s else 0.0
        ends_at = now + (self._served - self._finished + 1) * step_s
        allowed_s = min(step_s / 2, longest_overrun_s(self._budget_s))
        return self.spent_at is not None or ends_at > self.deadline_at + allowed_s


class ReplayedPace:
    """The shares of a record, whatever the time; its end comes at the same batch."""

    def __init__(self, log: BatchLog, clock: Callable[[], float]) -> None:
        self.started_at: float | None = None
        self.spent_at: float | None = None
        self._log = log
        self._clock = clock
        self._served = 0

    @property
    def deadline_at(self) -> float:
        return math.inf if self.spent_at is None else self.spent_at

    def share(self) -> float:
        return self._log[self._served - 1][1] if self._served else 0.0

    def charge(self, spent_s: float) -> None:
        """The record holds what was charged."""

    def next(self, rows: int, finished: int) -> float | None:  # noqa: ARG002  (it goes by no clock)
        """Raises TrialEnded when other rows are asked for than in the record: then it is another run."""
        now = self._clock()
        if self._served == len(self._log):
            self.spent_at = self.spent_at or now
            return None
        recorded, share = self._log[self._served]
        if rows != recorded:
            raise TrialEnded(
                Outcome.CRASHED,
                f"asked for {rows} rows as batch {self._served + 1} where {recorded} were recorded: it does not follow "
                "its seed alone, or is another source",
            )
        self.started_at = now if self.started_at is None else self.started_at
        self._served += 1
        return share
