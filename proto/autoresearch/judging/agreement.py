"""What decided patches say about those who ran them: how far each is from the others, and whose alarms were refuted.

Pure; gathers evidence. What follows from it is in `trust`.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from autoresearch.judging.evidence import Pair, Row, moments, paired
from autoresearch.judging.rule import Rule

CLASS_SPREAD = 0.4  # sd of a patch's effect between hardware classes, as a share of the effect
FEWEST_OTHERS = 2  # against a single other, nobody can say which of the two is wrong
REFUTE_CRASH = 2  # others who finished on the class where one crashed
REFUTE_EXAM = 4  # others who finished where one saw the exam fail; more, because a cheat may pass by luck


class Residual(NamedTuple):
    """How far one row of a decided patch is from what the other identities measured; expected 0 for an honest one."""

    identity: str
    machine: str
    hardware_class: str
    base: str  # the source that the patch was tested against
    gain_bpb: float  # own minus the others'
    baselines: int
    extra_variance: float  # of what is not the machine's own seed noise


class Deviation(NamedTuple):
    """The residuals of one machine on one base, averaged: they share their baselines, so they are one vote."""

    gain_bpb: float
    patches: int
    baselines: int
    extra_variance: float
    noise_bpb: float


def residuals(
    rows: Sequence[Row], sigma: Mapping[str, float], base: str, rule: Rule, quarantined: Container[str] = ()
) -> tuple[Residual, ...]:
    """What a decided patch says about those who ran it, each against at least two believed others.

    Those in quarantine are measured too, so that they can come back, but nobody is measured against them. Whoever is
    measured is so by baselines alone: who flatters every candidate moves the level that these speak for, too.
    extra_variance: of the others' pooled gain, of classes that honestly differ (40 % of the effect), and of the others
    among themselves: where one of them lies, their mean says little about anybody.

    Raises:
        EvidenceError: `sigma` lacks a class that has a finished pair.
    """
    found = [(row, pair) for row in rows if (pair := paired(row, sigma, rule)) is not None]
    measured = []
    for identity in {row.identity for row, _ in found}:
        others = [(row, pair) for row, pair in found if row.identity not in quarantined and row.identity != identity]
        if len({row.identity for row, _ in others}) < FEWEST_OTHERS:
            continue
        information, score = moments([pair for _, pair in others])
        expected_bpb = score / information
        disagreement = between([pair for _, pair in others], expected_bpb)
        extra = 1.0 / information + (CLASS_SPREAD * expected_bpb) ** 2 + disagreement
        own = [(row, paired(row, sigma, rule, by_baselines=True)) for row, _ in found if row.identity == identity]
        measured += [
            Residual(
                identity, row.machine, row.hardware_class, base, pair.gain_bpb - expected_bpb, len(row.baseline), extra
            )
            for row, pair in own
            if pair is not None
        ]
    return tuple(sorted(measured))


def between(pairs: Sequence[Pair], mean_bpb: float) -> float:
    """Variance of what several identities measured beyond what their noise explains (DerSimonian and Laird 1986), as
    far as it makes their mean uncertain and one more of them different."""
    weights = [1.0 / pair.variance for pair in pairs]
    total, squares = math.fsum(weights), math.fsum(weight * weight for weight in weights)
    if len(pairs) < 2:
        return 0.0
    excess = math.fsum((pair.gain_bpb - mean_bpb) ** 2 / pair.variance for pair in pairs) - (len(pairs) - 1)
    return max(0.0, excess / (total - squares / total)) * (1.0 + squares / (total * total))


def deviations(residuals: Iterable[Residual], sigma: Mapping[str, float]) -> tuple[Deviation, ...]:
    """One identity's residuals, oldest first, averaged per machine and base; in the order of their first residual."""
    groups: dict[tuple[str, str], list[Residual]] = {}
    for residual in residuals:
        groups.setdefault((residual.machine, residual.base), []).append(residual)
    return tuple(
        Deviation(
            gain_bpb=math.fsum(own.gain_bpb for own in group) / len(group),
            patches=len(group),
            baselines=max(own.baselines for own in group),
            extra_variance=math.fsum(own.extra_variance for own in group) / len(group),
            noise_bpb=sigma[group[0].hardware_class],
        )
        for group in groups.values()
    )


def alarms(rows: Sequence[Row], quarantined: Container[str] = ()) -> dict[str, bool]:
    """Of a decided patch, per identity: True where it raised an alarm that the believed others refute, False where it
    raised none although it could have. Identities about whom the patch says nothing are left out.

    An alarm is a crash on a class where at least two others finished and nobody else crashed, or a failed exam where
    at least four others finished and nobody else saw it fail.
    """
    found = {}
    for identity in sorted({row.identity for row in rows}):
        own = [row for row in rows if row.identity == identity]
        others = [row for row in rows if row.identity != identity and row.identity not in quarantined]
        refuted = _refuted(own, others)
        if refuted is not None:
            found[identity] = refuted
    return found


def _refuted(own: Sequence[Row], others: Sequence[Row]) -> bool | None:
    finished = {row.identity for row in others if row.finished}
    failed_exam = any(row.disqualifications for row in own)
    if failed_exam and len(finished) >= REFUTE_EXAM and not any(row.disqualifications for row in others):
        return True
    crashed_on = {row.hardware_class for row in own if row.only_crashed}
    for name in crashed_on:
        there = [row for row in others if row.hardware_class == name]
        fine = {row.identity for row in there if row.finished}
        if len(fine) >= REFUTE_CRASH and not any(row.only_crashed for row in there):
            return True
    silent = not failed_exam and not crashed_on and any(row.finished for row in own)
    return False if silent and len(finished) >= FEWEST_OTHERS else None
