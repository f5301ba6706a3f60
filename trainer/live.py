"""One live line for a running trial, or for data being prepared: a bar on a terminal, plain lines elsewhere.

Shows; measures nothing.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from trainer.progress import PrepareProgress
from trainer.result import TrialProgress

PLAIN_LINES = 5  # per stage, where there is no terminal


def bar(console: Console) -> Progress:
    """A transient progress bar whose tasks carry a `note`; nothing at all where the console is no terminal."""
    text = TextColumn("{task.description}"), BarColumn(30), TextColumn("{task.percentage:>3.0f}% {task.fields[note]}")
    return Progress(*text, console=console, transient=True, disable=not console.is_terminal)


def note(progress: TrialProgress, tokens_per_s: float | None = None) -> str:
    """What is worth knowing of a moment in a trial, in one short line."""
    parts = [progress.stage]
    if progress.step:
        parts.append(f"step {progress.step}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if tokens_per_s:
        parts.append(f"{tokens_per_s / 1000:.1f}k tokens/s")
    return " · ".join(parts)


class LiveLine:
    """Shows the progress of one trial. Use as a context manager; `show` is the trial's `on_progress`."""

    def __init__(self, title: str, console: Console, *, budget_s: float = 0.0, quiet: bool = False) -> None:
        self._title = title
        self._console = console
        self._budget_s = budget_s
        self._quiet = quiet
        self._bar = bar(console)
        self._task: TaskID | None = None
        self._last_plain = ""

    def __enter__(self) -> Self:
        if not self._quiet:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=1.0, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: TrialProgress) -> None:
        if self._quiet or self._task is None:
            return
        spent_s = progress.share * self._budget_s
        speed = progress.tokens / spent_s if progress.stage == "training" and spent_s else None
        if self._console.is_terminal:
            self._bar.update(self._task, completed=progress.share, note=note(progress, speed))
            return
        mark = f"{progress.stage} {int(progress.share * PLAIN_LINES)}"
        if mark != self._last_plain:
            self._last_plain = mark
            self._console.print(f"{self._title}: {progress.share:4.0%} {note(progress, speed)}", highlight=False)


class PrepareLine:
    """Shows how far the data is. Use as a context manager; `show` is `prepare`'s `on_progress`.

    Elsewhere than on a terminal it speaks of downloads only: what is there, or made at once, is no news.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = bar(console)
        self._task = self._bar.add_task("data", total=1.0, note="")
        self._last_plain = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: PrepareProgress) -> None:
        note = " · ".join(filter(None, (progress.stage, progress.detail)))
        if self._console.is_terminal:
            self._bar.update(self._task, completed=progress.share, note=note)
            return
        mark = f"{progress.stage} {int(progress.share * 10)}"
        if progress.detail and mark != self._last_plain:
            self._last_plain = mark
            self._console.print(f"data: {progress.share:4.0%} {note}", highlight=False)
