"""What `python -m trainer run` prints: the familiar block, JSON, and comparisons with their uncertainty.

Pure: results in, text out. The command line is `cli.py`.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from importlib import metadata

from trainer.record import Record
from trainer.result import Outcome, TrialResult, TrialSpec

# Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom, and the normal's.
_STUDENT_95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
_NORMAL_95 = 1.959964


def block(result: TrialResult) -> str:
    """The lines that agents know how to grep, after a `---`."""
    lines = {
        "outcome": result.outcome.value,
        "val_bpb": f"{result.val_bpb:.6f}" if result.val_bpb is not None else "none",
        "training_seconds": f"{result.train_s:.1f}",
        "total_seconds": f"{result.wall_s:.1f}",
        "startup_seconds": f"{result.startup_s:.1f}",
        "exam_seconds": f"{result.exam_s:.1f}",
        "peak_vram_mb": f"{result.peak_vram_bytes / 2**20:.1f}",
        "peak_memory_mb": f"{result.peak_memory_bytes / 2**20:.1f}",
        "mfu_percent": f"{result.mfu_percent:.2f}" if result.mfu_percent is not None else "none",
        "total_tokens_M": f"{result.tokens_served / 1e6:.3f}",
        "num_steps": str(result.steps),
        "num_params_M": f"{result.parameters / 1e6:.3f}",
        **({"depth": str(result.depth)} if result.depth else {}),
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
    fields = {
        field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "batches"
    }
    return {**fields, "outcome": result.outcome.value, "loss_curve": list(result.loss_curve)}


def replay_json(record: Record, spec: TrialSpec, result: TrialResult) -> dict[str, object]:
    """How a replay compares with its record; the difference is replayed minus recorded, null where it has no score."""
    return {
        "val_bpb_recorded": record.val_bpb,
        "val_bpb_difference": None if result.val_bpb is None else result.val_bpb - record.val_bpb,
        "weights_sha256_recorded": record.weights_sha256,
        "same_weights": result.weights_sha256 == record.weights_sha256,
        "same_source": spec.source == record.source,
        "batches_recorded": len(record.batches),
        "batches_served": len(result.batches),
    }


def replay_lines(record: Record, spec: TrialSpec, result: TrialResult, trial_code_sha256: str) -> list[str]:
    """The same in words, and why the numbers may differ."""
    compared = replay_json(record, spec, result)
    served = f"{compared['batches_served']} of {compared['batches_recorded']} recorded batches"
    lines = [f"replayed: {served}, val_bpb {record.val_bpb:.6f} recorded"]
    if result.val_bpb is not None:
        same = "the same weights" if compared["same_weights"] else "other weights"
        lines[0] += f", difference {result.val_bpb - record.val_bpb:+.6f}, {same}"
    reasons = [
        *([] if compared["same_source"] else ["another source"]),
        *([] if spec.threads == record.threads else [f"{spec.threads} threads instead of {record.threads}"]),
        *([] if trial_code_sha256 == record.trial_code_sha256 else ["other trial code than recorded"]),
        *([] if metadata.version("torch") == record.torch else [f"another torch than the recorded {record.torch}"]),
    ]
    return [*lines, *([f"may differ for: {', '.join(reasons)}"] if reasons else [])]


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
    return mean, student_95(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))


def student_95(degrees: int) -> float:
    """The two-sided 95 % point of Student's t, to 0.001.

    Beyond the table: the Cornish-Fisher expansion (Abramowitz and Stegun, 26.7.5, three terms).
    """
    if degrees <= len(_STUDENT_95):
        return _STUDENT_95[degrees - 1]
    z = _NORMAL_95
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


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
