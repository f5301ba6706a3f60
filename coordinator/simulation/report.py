"""What campaigns amount to: figures, a table, a picture. Nothing is decided here."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordinator.simulation.campaign import Outcome
from coordinator.simulation.world import USEFUL

MBPB: Final = 1e3  # bits per byte -> thousandths
COLOURS: Final = (
    "#0f766e", "#b45309", "#1d4ed8", "#b91c1c", "#7e22ce", "#0369a1", "#4d7c0f", "#be185d", "#a16207",
    "#475569", "#9aa5b1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over campaigns. Gains in thousandths of a bit per byte; None where no campaign came so far."""

    campaigns: int
    gain_2k: float | None
    gain_2k_error: float | None  # standard error of the mean
    gain_10k: float | None
    gain_10k_error: float | None
    false_share: float  # of all promotions, those that do nothing or harm
    promotions: float
    promoted_null_share: float  # of all useless patches, those ever promoted
    promoted_share: float  # of all patches
    ring_promotions: float
    ring_patches: float
    regressions: float
    undone: float
    runs_per_patch: float
    baseline_share: float
    caught: float
    liars: float
    wronged: float


def figures(outcomes: Sequence[Outcome]) -> Figures:
    """Of at least one campaign."""
    count = len(outcomes)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / count

    def total(of: Sequence[Mapping[str, int]], *kinds: str) -> int:
        return sum(own.get(kind, 0) for own in of for kind in kinds)

    promoted = [own.promoted for own in outcomes]
    tested = [own.tested for own in outcomes]
    promotions = sum(sum(own.values()) for own in promoted)
    useful = total(promoted, *USEFUL)
    patches = sum(sum(own.values()) for own in tested)
    first, last = ([own.gains[at] for own in outcomes if len(own.gains) > at] for at in (0, 1))
    return Figures(
        campaigns=count,
        gain_2k=_mean(first),
        gain_2k_error=_error(first),
        gain_10k=_mean(last),
        gain_10k_error=_error(last),
        false_share=(promotions - useful) / max(1, promotions),
        promotions=promotions / count,
        promoted_null_share=total(promoted, "null") / max(1, total(tested, "null")),
        promoted_share=promotions / max(1, patches),
        ring_promotions=total(promoted, "ring") / count,
        ring_patches=total(tested, "ring") / count,
        regressions=mean([own.regressions for own in outcomes]),
        undone=mean([own.undone for own in outcomes]),
        runs_per_patch=sum(own.trials for own in outcomes) / max(1, patches),
        baseline_share=sum(own.spent.get("baseline", 0) for own in outcomes) / sum(own.trials for own in outcomes),
        caught=mean([own.caught for own in outcomes]),
        liars=mean([own.liars for own in outcomes]),
        wronged=mean([own.wronged for own in outcomes]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return MBPB * statistics.fmean(values) if values else None


def _error(values: Sequence[float]) -> float | None:
    return MBPB * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


HEADINGS: Final = (
    "campaigns", "gain at 2,000", "gain at 10,000", "false promotions", "useless ever promoted", "lasting regressions",
    "runs per patch", "baselines", "liars caught", "honest wronged",
)  # fmt: skip


def cells(own: Figures) -> tuple[str, ...]:
    """Under `HEADINGS`."""
    return (
        str(own.campaigns),
        _gain(own.gain_2k, own.gain_2k_error),
        _gain(own.gain_10k, own.gain_10k_error),
        f"{100 * own.false_share:.1f} % of {own.promotions:.1f}",
        f"{100 * own.promoted_null_share:.2f} %",
        f"{own.regressions:.2f}",
        f"{own.runs_per_patch:.1f}",
        f"{100 * own.baseline_share:.0f} %",
        f"{own.caught:.1f} of {own.liars:.0f}" if own.liars else "",
        f"{own.wronged:.2f}",
    )


def _gain(mean: float | None, error: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.0f}" if error is None else f"{mean:.0f} ± {error:.1f}"


def table(named: Mapping[str, Figures], first: str = "rule") -> str:
    """As Markdown."""
    lines = ["| " + " | ".join((first, *HEADINGS)) + " |", "|---" * (len(HEADINGS) + 1) + "|"]
    lines += ["| " + " | ".join((name, *cells(own))) + " |" for name, own in named.items()]
    return "\n".join(lines)


def draw(named: Mapping[str, Sequence[Outcome]], path: Path, title: str, subtitle: str) -> None:
    """The best over the trials, one line a rule: the mean of its campaigns (PNG, 1600 x 900).

    Raises:
        OperatorError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - drawing is slow to load, and most uses do not draw

    from coordinator import picture  # noqa: PLC0415 - likewise

    figure = Figure(figsize=(12.8, 7.2), dpi=125, facecolor="white")
    axes = figure.add_axes((0.075, 0.095, 0.735, 0.77))
    end = max(own.trials for outcomes in named.values() for own in outcomes)
    labels: list[tuple[float, str, str]] = []  # height, name, colour
    for colour, (name, outcomes) in zip(_colours(len(named)), named.items(), strict=True):
        xs = [end * at / 200 for at in range(201)]
        ys = [statistics.fmean(MBPB * _at(own, x) for own in outcomes) for x in xs]
        axes.plot(xs, ys, color=colour, linewidth=2.4 if not labels else 1.6, zorder=3 if labels else 4)
        labels.append((ys[-1], name, colour))
    span = max(1.0, max(y for y, _, _ in labels) - min(0.0, *(y for y, _, _ in labels)))
    for y, (shown, name, colour) in zip(
        _apart([y for y, _, _ in sorted(labels)], 0.042 * span), sorted(labels), strict=True
    ):
        axes.text(1.01 * end, y, f"{name}  {shown:.0f}", color=colour, fontsize=11, va="center")
    axes.set_xlim(0, end)
    axes.set_xlabel("GPU runs of the swarm, baselines and audits included", fontsize=12, color=picture.QUIET)
    axes.set_ylabel("true gain of the best, thousandths of a bit per byte", fontsize=12, color=picture.QUIET)
    axes.grid(visible=True, color=picture.GRID, linewidth=1)
    axes.tick_params(length=0, labelsize=11, labelcolor=picture.QUIET)
    axes.spines[:].set_visible(False)
    axes.text(0, 1.085, title, transform=axes.transAxes, va="bottom", fontsize=17, weight="bold", color=picture.INK)
    axes.text(0, 1.035, subtitle, transform=axes.transAxes, va="bottom", fontsize=12, color=picture.QUIET)
    picture.write(path, picture.png(figure))


def _colours(count: int) -> list[str]:
    return [COLOURS[at % len(COLOURS)] for at in range(count)]


def _at(own: Outcome, trials: float) -> float:
    """Gain of the best after so many trials."""
    return own.trace[max(0, bisect_right(own.trace, trials, key=lambda step: step[0]) - 1)][1]


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Ascending heights, moved up so far that labels do not touch."""
    moved: list[float] = []
    for height in heights:
        moved.append(height if not moved else max(height, moved[-1] + least))
    return moved
