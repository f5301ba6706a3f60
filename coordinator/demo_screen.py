"""The demo on a terminal: trials with progress bars, each patch's evidence on its way to a verdict, what happened.

Live on a terminal, one line an event elsewhere. Shows only what the coordinator said.
"""

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoresearch.text import clean_line
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_pb2
from coordinator.demo_reader import Picture

EVENTS_SHOWN = 8
BAR = 24
COLOURS = {"PROMOTED": "green", "PARKED": "yellow", "CRASHED": "magenta", "DISQUALIFIED": "red", "OPEN": "cyan"}


def verdict_word(patch: patch_pb2.Patch) -> str:
    """The verdict as users say it."""
    return patch_pb2.Verdict.Name(patch.verdict).removeprefix("VERDICT_").lower()


class Screen:
    """Shows pictures of the swarm. `names`: patch id to the sample's name."""

    def __init__(self, console: Console, heading: str) -> None:
        self.console = console
        self.names: Mapping[str, str] = {}
        self._heading = heading
        self._printed = 0
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, picture: Picture) -> None:
        """Draws the picture, or prints what is new."""
        if self._live:
            self._live.update(self._draw(picture))
            return
        for event in picture.events[self._printed :]:
            self.say(f"[{event.sequence:3}] {event.text}")
        self._printed = len(picture.events)

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(Text(self._named(clean_line(line, 300))), soft_wrap=True)

    def _named(self, line: str) -> str:
        for patch_id, name in self.names.items():
            line = line.replace(patch_id, f"'{name}'")
        return line

    def _draw(self, picture: Picture) -> RenderableType:
        parts: list[RenderableType] = [Text(self._heading, style="bold"), self._trials(picture.status)]
        parts += [self._patches(picture), self._events(picture)]
        return Group(*parts)

    def _trials(self, status: board_pb2.GetStatusResponse) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for trial in status.live:
            what = f"patch '{self.names.get(trial.patch_id, trial.patch_id)}'" if trial.patch_id else "baseline"
            bar = ProgressBar(total=1.0, completed=trial.share, width=BAR)
            loss = f"step {trial.step:4}  loss {trial.loss:.3f}" if trial.step else ""
            table.add_row(Text(trial.volunteer_name[:12]), Text(what), bar, Text(trial.stage), Text(loss))
        if not status.live:
            table.add_row(Text("no trial under way", style="dim"))
        title = f"trials under way ({status.trials} finished, best is generation {status.generation})"
        return Panel(table, title=title, title_align="left")

    def _patches(self, picture: Picture) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for patch in sorted(picture.patches, key=lambda patch: patch.submitted_at_ms):
            evidence = patch.evidence
            word = verdict_word(patch)
            colour = COLOURS.get(word.upper(), "white")
            bar = ProgressBar(total=1.0, completed=max(0.0, evidence.progress), width=BAR, complete_style=colour)
            odds = f"{evidence.log_odds:+.2f} of {evidence.promote_above:+.2f}"
            table.add_row(
                Text(self.names.get(patch.patch_id, patch.title)[:14]),
                bar,
                Text(odds),
                Text(word, style=f"bold {colour}"),
                Text(clean_line(evidence.sentence, 90), style="dim"),
            )
        return Panel(table, title="patches: log odds on the way to promotion", title_align="left")

    def _events(self, picture: Picture) -> RenderableType:
        lines = [self._named(clean_line(event.text, 140)) for event in picture.events[-EVENTS_SHOWN:]]
        return Panel(Text("\n".join(lines)), title="what happened (every line is a ledger entry)", title_align="left")


def leaderboard_table(board: board_pb2.GetLeaderboardResponse) -> Table:
    """The global leaderboard."""
    table = Table(title="leaderboard", title_justify="left")
    for heading in ("#", "volunteer", "trials", "training time", "promotions", "gain (bpb)"):
        table.add_column(heading, justify="left" if heading == "volunteer" else "right")
    standings = {standing.identity_id: standing for standing in (*board.volunteers, *board.authors)}
    for place, standing in enumerate(standings.values(), start=1):
        table.add_row(
            str(place),
            Text(clean_line(standing.name, 40)),
            str(standing.trials),
            f"{standing.train_ms / 1000:.0f} s",
            str(standing.promotions),
            f"{standing.gain_bpb:.4f}" if standing.promotions else "",
        )
    return table
