"""The training stage: serves one child batches until the budget is spent, and sees that it stops then.

The feed says what to answer; this module keeps the deadlines. What happens to the weights is `weights.py`'s business.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.conversation import Conversation
from trainer.feed import Feed
from trainer.process import Child
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialProgress
from trainer.wire import Frame

_PROGRESS_EVERY_S = 0.2


@dataclass
class Training:
    """What is known of a training stage, complete or not. Instants by the parent's clock, None until they came."""

    launched_at: float
    cpu_at_start_s: float = 0.0
    cpu_at_deadline_s: float | None = None
    cpu_at_end_s: float = 0.0
    handed_over_at: float | None = None


class Trainer:
    """Drives one child from its orders to its weights."""

    def __init__(
        self,
        child: Child,
        feed: Feed,
        limits: TrialLimits,
        *,
        on_cpu: bool,
        clock: Callable[[], float],
        stop: threading.Event,
        on_progress: Callable[[TrialProgress], None],
    ) -> None:
        self.feed = feed
        self.training = Training(launched_at=clock())
        self._child = child
        self._limits = limits
        self._on_cpu = on_cpu
        self._clock = clock
        self._conversation = Conversation(child, clock=clock, stop=stop)
        self._on_progress = on_progress
        self._progress_at = 0.0

    def run(self, orders: Frame) -> None:
        """Serve until the child says that its weights are written.

        Raises:
            TrialEnded: it crashed, came late or was stopped.
        """
        self._child.send(orders)
        self._on_progress(TrialProgress("starting", 0.0))
        while (frame := self._next()).kind != "weights":
            self._answer(frame)
        self.training.handed_over_at = self._clock()
        self.training.cpu_at_end_s = self._child.usage().cpu_s
        if self.feed.started_at is None:
            raise TrialEnded(Outcome.CRASHED, "handed over weights without asking for a single batch")

    def check_overtime(self, weights_bytes: int) -> None:
        """Whether it went on training after its budget: time that writing the weights does not explain.

        Raises:
            TrialEnded: it did.
        """
        allowed_s = self._limits.overtime_s + weights_bytes / self._limits.save_bytes_per_s
        assert self.training.handed_over_at is not None
        over_s = self.training.handed_over_at - self.feed.deadline_at
        if self._on_cpu and self.training.cpu_at_deadline_s is not None:
            over_s = min(over_s, self.training.cpu_at_end_s - self.training.cpu_at_deadline_s)
        if over_s > allowed_s:
            raise TrialEnded(
                Outcome.TIMED_OUT,
                f"worked on for {over_s:.2f} s after its budget was spent, {allowed_s:.2f} s is allowed: "
                "return the model as soon as session.batches() ends",
            )

    def _next(self) -> Frame:
        while True:
            deadline_at, late = self._deadline()
            frame = self._conversation.frame(deadline_at)
            if frame is not None:
                return frame
            if late is not None:
                raise TrialEnded(Outcome.TIMED_OUT, late)
            self.training.cpu_at_deadline_s = self._child.usage().cpu_s

    def _deadline(self) -> tuple[float, str | None]:
        """When to look up next, and what it means to have heard nothing by then (None: only the budget's end)."""
        if self.feed.started_at is None:
            late = f"did not ask for its first batch within {self._limits.startup_s:.0f} s of start-up"
            return self.training.launched_at + self._limits.startup_s, late
        if self.training.cpu_at_deadline_s is None:
            return self.feed.deadline_at, None
        late = f"did not hand over its weights within {self._limits.grace_s:.0f} s after its budget"
        return self.feed.deadline_at + self._limits.grace_s, late

    def _answer(self, frame: Frame) -> None:
        is_first = self.feed.started_at is None
        if self._child.is_clogged:
            raise TrialEnded(Outcome.CRASHED, "asks for batches without reading them")
        self._child.send(self.feed.answer(frame))
        if is_first:
            self.training.cpu_at_start_s = self._child.usage().cpu_s
        self.feed.pack_ahead()
        self._report()

    def _report(self) -> None:
        now = self._clock()
        if self.feed.spent_at is not None:
            self._on_progress(TrialProgress("weights", 0.0, self.feed.steps, self.feed.loss, self.feed.tokens_served))
        elif now - self._progress_at >= _PROGRESS_EVERY_S:
            self._progress_at = now
            share = self.feed.share()
            self._on_progress(
                TrialProgress("training", share, self.feed.steps, self.feed.loss, self.feed.tokens_served)
            )


def orders_for(fields: dict[str, object], source: Path, weights: Path) -> Frame:
    """The first frame any child is sent."""
    return Frame({"kind": "orders", "source": str(source), "weights": str(weights), **fields})
