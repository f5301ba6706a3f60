"""Draws how far the swarm has come: the best's val_bpb over the trials run, promotions by name, other verdicts small.

One PNG, written whole or not at all. Reads nothing: the points are arguments.
"""

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from autoresearch.text import clean_line
from coordinator.errors import OperatorError

INK: Final = "#1f2933"
QUIET: Final = "#616e7c"
_FAINT: Final = "#9aa5b1"
GRID: Final = "#e9edf1"
_BEST: Final = "#0f766e"
_TITLE_CHARACTERS: Final = 30
_LABELS: Final = 12  # more would cover each other; the largest gains are named then
_LABEL_GAP: Final = 0.035  # share of the width below which two labels would touch
_RAIL: Final = 0.03  # height, as a share, at which verdicts without a number are marked
# Verdict -> marker and colour; any other is drawn as parked ones are.
_MARKS: Final = {
    "parked": ("o", _FAINT),
    "rejected": ("v", "#b45309"),
    "regressed": ("v", "#b45309"),
    "crashed": ("x", "#b91c1c"),
    "disqualified": ("X", "#7e22ce"),
}


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """A best; generation 0 is the seed source."""

    trials: int  # how many the swarm had run when it became the best
    generation: int
    val_bpb: float
    title: str


@dataclass(frozen=True, slots=True)
class DecidedTest:
    """A patch that did not become the best."""

    trials: int  # how many the swarm had run when it was decided
    verdict: str
    val_bpb: float | None  # mean of its completed trials; None when there were none


def draw_progress(points: Sequence[ProgressPoint], tests: Sequence[DecidedTest], path: Path) -> None:
    """Draws the picture into `path` (PNG, 1600 x 900 pixels).

    Args:
        points: in the order of their generations; at least the seed's.
        tests: the verdicts that were no promotions, in any order.
        path: written atomically; its folder is made if missing.

    Raises:
        ValueError: there are no points.
        OperatorError: the file cannot be written.
    """
    if not points:
        raise ValueError("a picture needs at least the seed's val_bpb")
    figure = Figure(figsize=(12.8, 7.2), dpi=125, facecolor="white")  # of its own: pyplot's are not safe in threads
    axes = figure.add_axes((0.075, 0.095, 0.895, 0.755))
    end = max([1, points[-1].trials, *(test.trials for test in tests)])
    axes.set(xlim=(-0.02 * end, 1.24 * end), ylim=_heights(points, tests))  # room for the last label
    _draw_frame(axes, points, tests, end)
    _draw_tests(axes, tests)
    _draw_best(axes, points, end)
    _draw_labels(axes, points)
    write(path, png(figure))


def _heights(points: Sequence[ProgressPoint], tests: Sequence[DecidedTest]) -> tuple[float, float]:
    """Bounds of the vertical axis in bits per byte: the gains set the scale, a hopeless patch must not flatten them."""
    best = min(point.val_bpb for point in points)
    worst = max(point.val_bpb for point in points)
    span = max(worst - best, 0.004 * worst)
    scores = [test.val_bpb for test in tests if test.val_bpb is not None]
    top = min(max([worst, *scores]), worst + span)
    return best - 0.25 * span, top + 0.35 * span


def _draw_frame(axes: Axes, points: Sequence[ProgressPoint], tests: Sequence[DecidedTest], end: int) -> None:
    heading, line = _words(points, tests, end)
    axes.text(0, 1.085, heading, transform=axes.transAxes, va="bottom", fontsize=17, weight="bold", color=INK)
    axes.text(0, 1.035, line, transform=axes.transAxes, va="bottom", fontsize=12, color=QUIET)
    axes.set_xlabel("trials run by the swarm", fontsize=12, color=QUIET)
    axes.set_ylabel("validation bits per byte (lower is better)", fontsize=12, color=QUIET)
    axes.set_xticks([tick for tick in MaxNLocator(10, integer=True).tick_values(0, end) if 0 <= tick <= end])
    axes.ticklabel_format(useOffset=False)
    axes.grid(visible=True, color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=11, labelcolor=QUIET)
    axes.spines[:].set_visible(False)


def _words(points: Sequence[ProgressPoint], tests: Sequence[DecidedTest], end: int) -> tuple[str, str]:
    """Heading and the line below it."""
    first, last, promotions = points[0].val_bpb, points[-1].val_bpb, len(points) - 1
    patches = _count(promotions + len(tests), "patch", "patches")
    if not promotions:
        return f"The swarm's best: {last:.4f} val_bpb", f"no promotion yet; {patches} decided"
    change = f"{100 * (last / first - 1):+.1f} %".replace("-", "−")
    counts = f"{_count(promotions, 'promotion', 'promotions')} from {patches} in {_count(end, 'trial', 'trials')}"
    return f"The swarm's best: {first:.4f} → {last:.4f} val_bpb ({change})", counts


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _draw_tests(axes: Axes, tests: Sequence[DecidedTest]) -> None:
    low, high = axes.get_ylim()
    floor, ceiling = low + _RAIL * (high - low), high - _RAIL * (high - low)
    for verdict, count in Counter(test.verdict for test in tests).most_common():
        marker, colour = _MARKS.get(verdict, _MARKS["parked"])
        shown = [test for test in tests if test.verdict == verdict]
        axes.scatter(
            [test.trials for test in shown],
            [floor if test.val_bpb is None else min(max(test.val_bpb, floor), ceiling) for test in shown],
            s=44,
            marker=marker,
            color=colour,
            edgecolors=None if marker == "x" else "white",
            linewidths=1.6 if marker == "x" else 0.7,
            label=f"{count:,} {verdict}",
            zorder=4,
        )
    if tests:
        axes.legend(loc="upper right", frameon=False, fontsize=11, labelcolor=QUIET, handletextpad=0.3)


def _draw_best(axes: Axes, points: Sequence[ProgressPoint], end: int) -> None:
    trials = [point.trials for point in points]
    heights = [point.val_bpb for point in points]
    line = ([*trials, end], [*heights, heights[-1]])
    axes.step(*line, where="post", color=_BEST, linewidth=2.4, zorder=3)
    axes.fill_between(*line, y2=axes.get_ylim()[0], step="post", color=_BEST, alpha=0.06)
    axes.scatter(trials, heights, s=80, color=_BEST, edgecolors="white", linewidths=1.6, zorder=5)


def _draw_labels(axes: Axes, points: Sequence[ProgressPoint]) -> None:
    for point in _named(points, axes.get_xlim()[1]):
        title = "seed" if point.generation == 0 else f"{point.generation}  {clean_line(point.title, _TITLE_CHARACTERS)}"
        axes.annotate(
            title,
            (point.trials, point.val_bpb),
            xytext=(7, 7),
            textcoords="offset points",
            rotation=24,
            rotation_mode="anchor",
            fontsize=10.5,
            color=INK,
            parse_math=False,  # a title may hold any character
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=6,
        )


def _named(points: Sequence[ProgressPoint], width: float) -> list[ProgressPoint]:
    """The points that get a label: the seed and the last, then the largest gains as long as no two would touch."""
    gains = {after: before.val_bpb - after.val_bpb for before, after in pairwise(points)}
    wanted = [points[0], points[-1], *sorted(gains, key=lambda point: gains[point], reverse=True)]
    chosen: list[ProgressPoint] = []
    for point in wanted:
        free = all(abs(point.trials - other.trials) > _LABEL_GAP * width for other in chosen)
        if free and len(chosen) < _LABELS:
            chosen.append(point)
    return chosen


def png(figure: Figure) -> bytes:
    """The figure as a file's bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a title in any script; a box stands for it
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises OperatorError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OperatorError(f"cannot write the picture {path}: {error.strerror}") from error
