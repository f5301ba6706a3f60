"""The training stage: serves one child batches until the budget is spent, and sees that it stops then.

The feed says what to answer; this module keeps the deadlines. What happens to the weights is `weights.py`'s business.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from trainer.conversation import Conversation
from trainer.errors import MachineError
from trainer.feed import Feed
from trainer.log import one_line
from trainer.manifest import Manifest
from trainer.pace import longest_overrun_s
from trainer.process import Child
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialProgress, TrialSpec
from trainer.wire import Frame

_PROGRESS_EVERY_S = 0.2
_SHORTEST_WAIT_S = 0.02
_LONGEST_WAIT_S = 1.0
_MOST_BYTES = 1 << 50
_MOST_FLOPS = 1e15  # of one token
# What writing weights may take of the budget. A file of any size can be written in no time, being empty.
_SAVING_SHARE = 0.005


class Trainer:
    """Drives one child from its orders to its weights: `warm_up`, then `serve`, from one thread at a time.

    Three clocks: `clock` is the wall's; `budget_clock` is the one the budget is spent by (the feed's): the wall's on a
    GPU, processor seconds per thread on a CPU. The latter makes a trial on a busy machine longer, not worse, and more
    threads than ordered no help. `warmup_clock` runs with what training would take: processor seconds on a CPU, on a
    GPU the time for which it is used. What the candidate's own code spends of it before its first batch, beyond
    `free_warmup_s`, is charged to the budget: else it could train on whatever text it brings or finds, or on none.
    `on_wait` is called at least once a second while the child works.
    """

    def __init__(
        self,
        child: Child,
        feed: Feed,
        limits: TrialLimits,
        *,
        budget_s: float,
        threads: int,
        clock: Callable[[], float],
        budget_clock: Callable[[], float],
        warmup_clock: Callable[[], float],
        free_warmup_s: float,
        longest_saving_s: float,
        on_wait: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        self.launched_at = clock()
        self.ready_at: float | None = None  # when it asked for its first batch; all instants by the wall
        self.started_at: float | None = None  # when it was given that
        self.ended_at: float | None = None
        self.spent_s = 0.0  # of the budget's clock, from the first batch to the last word
        self.processor_s = 0.0  # likewise
        self.lost_share = 0.0  # of the time from the first batch to the last word: how much the child waited for
        self.peak_vram_bytes = 0  # the candidate's own word
        self.flops_per_token = 0.0  # likewise
        self._feed = feed
        self._child = child
        self._limits = limits
        self._budget_s = budget_s
        self._clock = clock
        self._budget_clock = budget_clock
        self._warmup_clock = warmup_clock
        self._free_warmup_s = free_warmup_s
        self._longest_saving_s = max(longest_saving_s, _SAVING_SHARE * budget_s)
        self._on_wait = on_wait
        self._conversation = Conversation(child, clock=clock, stop=stop)
        self._first = Frame({})
        self._threads = threads
        self._progress_at = 0.0
        self._processor_at_start_s = 0.0
        self._waited_at_start_s = 0.0

    @property
    def startup_s(self) -> float:
        """From the launch until the first batch was asked for."""
        return (self.ready_at or self._clock()) - self.launched_at

    @property
    def cpu_share(self) -> float | None:
        """Processor time of the child while training / (wall time x threads); None while it has not trained."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.processor_s / (max(1e-9, self.ended_at - self.started_at) * self._threads)

    def warm_up(self, orders: Frame) -> None:
        """Give the orders and wait until the child asks for its first batch.

        Raises:
            TrialEnded: it crashed, came late or was stopped.
            MachineError: torch cannot use the device.
        """
        self._child.send(orders)
        said = self._next()
        if said.kind == "unusable":  # so far only our own code ran there
            raise MachineError(
                f"torch cannot use the device ({one_line(str(said.header.get('reason')))}): mend its driver, or choose "
                "another with --device"
            )
        if said.kind != "loaded":
            raise TrialEnded(Outcome.DISQUALIFIED, "spoke on the harness's pipe before its source was loaded")
        loaded_s = self._warmup_clock()
        self._first = self._next()
        self.ready_at = self._clock()
        self._feed.pace.charge(self._warmup_clock() - loaded_s - self._free_warmup_s)

    def serve(self, on_progress: Callable[[TrialProgress], None]) -> None:
        """Serve until the child says that its weights are written.

        Raises:
            TrialEnded: it crashed, came late or was stopped.
        """
        frame = self._first
        try:
            while frame.kind != "weights":
                self._answer(frame)
                self._report(on_progress)
                frame = self._next()
        finally:
            self._note_end()
        self.peak_vram_bytes = _bytes(frame.header.get("peak_vram_bytes"))
        self.flops_per_token = _flops(frame.header.get("flops_per_token"))
        if not self._feed.tokens_served:
            used_up = self.started_at is not None
            why = "spent its whole budget before its first batch" if used_up else "handed over weights without training"
            raise TrialEnded(Outcome.CRASHED, why)

    def check_overtime(self, weights_bytes: int) -> None:
        """Whether it went on training after its budget: time that writing the weights does not explain.

        Raises:
            TrialEnded: it did.
        """
        saving_s = min(self._longest_saving_s, weights_bytes / self._limits.save_bytes_per_s)
        allowed_s = longest_overrun_s(self._budget_s) + self._limits.overtime_s + saving_s
        over_s = self.spent_s - self._budget_s
        if over_s > allowed_s:
            raise TrialEnded(
                Outcome.TIMED_OUT,
                f"worked on for {over_s:.2f} s after its budget was spent, {allowed_s:.2f} s is allowed: return the "
                f"model as soon as session.batches() ends, and make it small ({weights_bytes / 1e6:.0f} MB)",
            )

    def _next(self) -> Frame:
        """The child's next word.

        Raises:
            TrialEnded: it does not come in time.
        """
        while True:
            self._on_wait()
            wall_deadline_at, late = self._wall_deadline()
            budget_left_s = self._feed.pace.deadline_at + self._limits.grace_s - self._budget_clock()
            wait_until = self._clock() + max(_SHORTEST_WAIT_S, min(budget_left_s, _LONGEST_WAIT_S))
            frame = self._conversation.frame(min(wall_deadline_at, wait_until))
            if self._clock() >= wall_deadline_at:
                raise TrialEnded(Outcome.TIMED_OUT, late)
            if self._budget_clock() >= self._feed.pace.deadline_at + self._limits.grace_s:
                late = f"did not hand over its weights within {self._limits.grace_s:.0f} s after its budget"
                raise TrialEnded(Outcome.TIMED_OUT, late)
            if frame is not None:
                return frame

    def _wall_deadline(self) -> tuple[float, str]:
        """Until when the parent waits by the wall's clock, and why not longer."""
        limits = self._limits
        if self.started_at is None:
            late = f"did not ask for its first batch within {limits.startup_s:.0f} s of start-up"
            return self.launched_at + limits.startup_s, late
        wall_s = self._budget_s * limits.stretch + limits.grace_s
        return self.started_at + wall_s, f"took more than {wall_s:.0f} s over its budget of {self._budget_s:.0f} s"

    def _answer(self, frame: Frame) -> None:
        if self._child.is_clogged:
            raise TrialEnded(Outcome.CRASHED, "asks for batches without reading them")
        self._child.send(self._feed.answer(frame))
        if self.started_at is None:
            self.started_at = self._clock()
            self._processor_at_start_s = self._child.processor_s()
            self._waited_at_start_s = self._child.scheduled()[1]
        self._feed.pack_ahead()

    def _note_end(self) -> None:
        """Read all clocks while the child may still be there."""
        if self.started_at is None or self._feed.pace.started_at is None:
            return
        self.ended_at = self._clock()
        self.processor_s = self._child.processor_s() - self._processor_at_start_s
        waited_s = self._child.scheduled()[1] - self._waited_at_start_s
        self.lost_share = waited_s / max(1e-9, self.ended_at - self.started_at)
        self.spent_s = self._budget_clock() - self._feed.pace.started_at

    def _report(self, on_progress: Callable[[TrialProgress], None]) -> None:
        now = self._clock()
        said = (self._feed.steps, self._feed.loss, self._feed.tokens_served)
        if self._feed.pace.spent_at is not None:
            on_progress(TrialProgress("weights", 0.0, *said))
        elif now - self._progress_at >= _PROGRESS_EVERY_S:
            self._progress_at = now
            on_progress(TrialProgress("training", self._feed.pace.share(), *said))


def _bytes(said: object) -> int:
    """A candidate's number of bytes: shown to people, and clamped to what could be."""
    return min(max(0, said), _MOST_BYTES) if type(said) is int else 0


def _flops(said: object) -> float:
    """A candidate's number of operations, likewise; 0 when it is none."""
    return said if isinstance(said, float) and 0.0 < said < _MOST_FLOPS else 0.0


def orders_for(spec: TrialSpec, manifest: Manifest, source: Path, weights: Path, **more: object) -> Frame:
    """The first frame any child is sent; `more` is for the one that trains."""
    fields: dict[str, object] = {
        "source": str(source),
        "weights": str(weights),
        "vocab_size": manifest.vocab_size,
        "sequence_len": manifest.sequence_len,
        "bos_id": manifest.bos_id,
        "device": "cuda:0" if spec.device.startswith("cuda") else spec.device,  # it sees one GPU only
        "threads": spec.threads,
        "max_rows": spec.limits.batch_tokens // manifest.row_tokens,
    }
    return Frame({"kind": "orders", **fields, **more})
