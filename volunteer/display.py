"""Shows a volunteer at work: a live view in a terminal, plain lines elsewhere, nothing when quiet.

Text from the swarm is cleaned before it comes here or is cleaned here. Left out: the words for a session's state
(`narration.py`), and the answers of other commands (`report.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoresearch import limits
from autoresearch.text import clean_line
from autoresearch.v1 import trial_pb2
from autoresearch.v1.trial_pb2 import Outcome
from autoresearch.v1.volunteer_service_pb2 import RESULT_STATUS_REFUSED, ResultAck
from volunteer import narration
from volunteer.results import TrialOutcome
from volunteer.session_rules import budget_share
from volunteer.session_state import State

_FPS: Final = 4


class Display(Protocol):
    """Where a person looks while this machine works."""

    def say(self, text: str) -> None:
        """One line."""

    def preparing(self, stage: str, share: float) -> None:
        """How far the preparation is, 0 to 1."""

    def show(self, state: State, now_s: float) -> None:
        """How the session stands now."""

    def finished(self, outcome: TrialOutcome) -> None:
        """A trial of this machine ended and its result is kept."""

    def acknowledged(self, ack: ResultAck) -> None:
        """The coordinator decided about a result."""

    def paused(self) -> AbstractContextManager[None]:
        """Draws nothing meanwhile: a person is asked something."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


class Earnings:
    """What this volunteer gave since it started."""

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
        self.train_ms = 0

    def line(self) -> str:
        """In words."""
        minutes = self.train_ms / 60_000
        refused = f", {self.refused} refused" if self.refused else ""
        return f"{self.accepted} result(s) accepted{refused}, {minutes:.1f} min of training given"


class Quiet:
    """Says nothing; errors go elsewhere."""

    def __init__(self) -> None:
        self.earnings = Earnings()

    def say(self, text: str) -> None:
        """Says nothing."""

    def preparing(self, stage: str, share: float) -> None:
        """Says nothing."""

    def show(self, state: State, now_s: float) -> None:
        """Says nothing."""

    def finished(self, outcome: TrialOutcome) -> None:
        """Counts the training time and says how the trial ended."""
        self.earnings.train_ms += outcome.train_ms
        self.say(_ending(outcome))

    def acknowledged(self, ack: ResultAck) -> None:
        """Counts it; says why when it was refused."""
        if ack.status == RESULT_STATUS_REFUSED:
            self.earnings.refused += 1
            reason = clean_line(ack.reason, limits.REASON_CHARACTERS) or "no reason given"
            self.say(f"the coordinator refused result {ack.result_sha256[:8]}: {reason}")
        else:
            self.earnings.accepted += 1

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is drawn anyway."""
        return nullcontext()

    def close(self) -> None:
        """Says what came of it."""
        if self.earnings.accepted or self.earnings.refused:
            self.say(f"stopped: {self.earnings.line()}")


class Plain(Quiet):
    """One line whenever something changed, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._milestone = ""
        self._waits: set[str] = set()

    def say(self, text: str) -> None:
        """Prints it."""
        self._console.print(Text(text), soft_wrap=True)

    def preparing(self, stage: str, share: float) -> None:  # noqa: ARG002 - the protocol's
        """A line for each stage."""
        if stage != self._milestone:
            self._milestone = stage
            self.say(f"preparing the data: {clean_line(stage, 80)}")

    def show(self, state: State, now_s: float) -> None:
        """A line at each milestone; between two trials, each wait is told once however often it comes back."""
        milestone = narration.milestone(state)
        if state.running:
            self._waits.clear()
        if milestone != self._milestone and milestone not in self._waits:
            self.say(narration.doing(state, now_s))
        self._milestone = milestone
        if not state.running:
            self._waits.add(milestone)


class Rich(Plain):
    """A live view at the bottom of the terminal, messages above it."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        """`clock` is the one that `show` gets its instants from: countdowns go on between two events."""
        super().__init__(console)
        self._clock = clock
        self._view: Callable[[], RenderableType] = Text
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=_FPS, transient=True)
        self._live.start()

    def preparing(self, stage: str, share: float) -> None:
        """A bar."""
        self._view = lambda: _bar(f"preparing the data: {clean_line(stage, 80)}", share)

    def show(self, state: State, now_s: float) -> None:  # noqa: ARG002 - the view reads the clock itself
        """Bar, words, earnings."""
        self._view = lambda: self._session(state)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the live view away and puts it back: it would wipe out what is typed."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def close(self) -> None:
        """Removes the live view."""
        self._view = Text
        self._live.stop()
        super().close()

    def _render(self) -> RenderableType:
        return self._view()

    def _session(self, state: State) -> RenderableType:
        running = state.running
        words = narration.doing(state, self._clock())
        top = _bar(words, budget_share(running)) if running else Text(words)
        return Group(top, Text(self.earnings.line(), style="dim"))


def make(console: Console, *, quiet: bool, clock: Callable[[], float]) -> Display:
    """The view that fits where the program's output goes."""
    if quiet:
        return Quiet()
    return Rich(console, clock) if console.is_terminal else Plain(console)


def _bar(words: str, share: float) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=24)
    row.add_column()
    row.add_row(ProgressBar(total=1.0, completed=min(1.0, max(0.0, share))), Text(words))
    return row


def _ending(outcome: TrialOutcome) -> str:
    if outcome.outcome == trial_pb2.OUTCOME_COMPLETED and outcome.val_bpb is not None:
        words = f"trial completed: val_bpb {outcome.val_bpb:.4f}, {outcome.steps} steps"
    else:
        name = Outcome.Name(outcome.outcome).removeprefix("OUTCOME_").lower().replace("_", " ")
        words = f"trial ended: {name} ({clean_line(outcome.reason, limits.REASON_CHARACTERS)})"
    return f"{words}; disturbed: {clean_line(outcome.disturbed, 200)}" if outcome.disturbed else words
