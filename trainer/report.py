"""What `python -m trainer run` prints: the familiar block, JSON, and comparisons with their uncertainty.

Pure: results in, text out. The command line is `cli.py`.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from trainer.result import Outcome, TrialResult

# Two-sided 95 % points of Student's t by degrees of freedom; beyond the table the normal's is close enough.
_STUDENT_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_NORMAL_95 = 1.96


def block(result: TrialResult) -> str:
    """The lines that agents know how to grep, after a `---`."""
    lines = {
        "outcome": result.outcome.value,
        "val_bpb": f"{result.val_bpb:.6f}" if result.val_bpb is not None else "none",
        "training_seconds": f"{result.train_s:.1f}",
        "total_seconds": f"{result.wall_s:.1f}",
        "startup_seconds": f"{result.startup_s:.1f}",
        "exam_seconds": f"{result.exam_s:.1f}",
        "peak_memory_mb": f"{result.peak_memory_bytes / 2**20:.1f}",
        "total_tokens_M": f"{result.tokens_served / 1e6:.3f}",
        "num_steps": str(result.steps),
        "cpu_share": f"{result.cpu_share:.2f}" if result.cpu_share is not None else "none",
    }
    if result.fresh_bpb is not None:
        lines["fresh_bpb"] = f"{result.fresh_bpb:.6f}"
    if result.disturbed:
        lines["disturbed"] = result.disturbed
    return "\n".join(["---", *(f"{name + ':':<18}{value}" for name, value in lines.items())])


def percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.0%}"


def summary(runs: Sequence[tuple[str, TrialResult]], names: Sequence[str]) -> list[str]:
    """Each source's mean and spread, and the comparison of the first with the second."""
    lines = ["---", *(f"{name}: {spread(scores(_of(runs, name)))}" for name in names)]
    if len(names) == 2:
        lines.append(comparison(names[0], names[1], differences(runs, names[0], names[1])))
    return lines


def summary_json(runs: Sequence[tuple[str, TrialResult]], names: Sequence[str]) -> dict[str, object]:
    """Every run and, for two sources, the paired difference (positive: the first is better) with half its interval."""
    content: dict[str, object] = {"runs": [{"source": name, **as_json(result)} for name, result in runs]}
    content["spread"] = {
        name: {"mean": statistics.mean(values), "standard_deviation": statistics.stdev(values)}
        for name in names
        if len(values := scores(_of(runs, name))) > 1
    }
    pairs = differences(runs, names[0], names[1]) if len(names) == 2 else []
    if pairs:
        mean, half = interval(pairs)
        content["gain"] = {"mean": mean, "half_interval_95": half if math.isfinite(half) else None, "pairs": len(pairs)}
    return content


def differences(runs: Sequence[tuple[str, TrialResult]], name: str, other: str) -> list[float]:
    """`other` minus `name` for each pair of runs that both completed."""
    pairs = zip(_of(runs, name), _of(runs, other), strict=False)
    return [
        second.val_bpb - first.val_bpb
        for first, second in pairs
        if first.val_bpb is not None and second.val_bpb is not None
    ]


def _of(runs: Sequence[tuple[str, TrialResult]], name: str) -> list[TrialResult]:
    return [result for run_name, result in runs if run_name == name]


def as_json(result: TrialResult) -> dict[str, object]:
    """The result as plain JSON values."""
    return {**dataclasses.asdict(result), "outcome": result.outcome.value, "loss_curve": list(result.loss_curve)}


def scores(results: Sequence[TrialResult]) -> list[float]:
    return [result.val_bpb for result in results if result.outcome is Outcome.COMPLETED and result.val_bpb is not None]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of repeated runs."""
    if len(values) < 2:
        return f"val_bpb {values[0]:.4f} (one run)" if values else "no run completed"
    return (
        f"val_bpb {statistics.mean(values):.4f}, standard deviation {statistics.stdev(values):.4f}, {len(values)} runs"
    )


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean of paired differences and half the width of its 95 % confidence interval; infinite for a single pair."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, math.inf
    degrees = len(differences) - 1
    factor = _STUDENT_95[degrees - 1] if degrees <= len(_STUDENT_95) else _NORMAL_95
    return mean, factor * statistics.stdev(differences) / math.sqrt(len(differences))


def comparison(name: str, other: str, differences: Sequence[float]) -> str:
    """One line on paired differences, `other` minus `name`: positive means that `name` is better."""
    if not differences:
        return f"{name} and {other} cannot be compared: no pair of runs completed"
    mean, half = interval(differences)
    if math.isinf(half):
        return f"{name} is {mean:+.4f} bpb better than {other} in one pair of runs: repeat it to know more"
    sure = "" if abs(mean) > half else "; the interval holds 0, so this may be noise"
    pairs = len(differences)
    return f"{name} is {mean:+.4f} ± {half:.4f} bpb better than {other} ({pairs} pairs, 95 % interval{sure})"
