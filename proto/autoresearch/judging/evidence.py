"""What results say about a patch: paired differences, bounded votes, pooled estimates. Formulas only.

Gain is always baseline minus candidate in bits per byte: positive means that the patch helps. Noise is the standard
deviation of one trial on one machine over seeds, per hardware class. This module neither gives verdicts (`verdict`),
nor measures noise (`noise`), nor knows where results come from; sums are exact (`math.fsum`), so that no answer
depends on the order of the results.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autoresearch.judging.level import OtherTrial, level
from autoresearch.judging.rule import Rule

MAX_BPB = 1e6  # beyond any model's loss; keeps every square and sum below far from overflow
NOISE_BOUNDS_BPB = (1e-9, 1e3)  # likewise


class EvidenceError(ValueError):
    """Results or noise that no arithmetic should see. `fact` names what is wrong with which machine or class."""

    def __init__(self, fact: str) -> None:
        self.fact = fact
        super().__init__(fact)


@dataclass(frozen=True, slots=True)
class Row:
    """What one machine of one identity reported about one patch in one baseline period.

    A machine has one row per period (its baselines expire), so it may appear more than once.

    Raises:
        EvidenceError: a value is not finite or absurd, or a count is negative.
    """

    identity: str
    machine: str
    hardware_class: str
    candidate: tuple[float, ...]  # val_bpb of the finished trials of the candidate
    baseline: tuple[float, ...]  # val_bpb of the trials of the best that the patch is tested against
    crashes: int = 0  # trials of the candidate that crashed here
    disqualifications: int = 0  # trials of the candidate whose model failed the exam here
    others: tuple[OtherTrial, ...] = ()  # finished trials of other candidates in the same period

    def __post_init__(self) -> None:
        for bpb in (*self.candidate, *self.baseline, *(other.val_bpb for other in self.others)):
            if not -MAX_BPB <= bpb <= MAX_BPB:  # also catches NaN
                raise EvidenceError(f"val_bpb {bpb!r} of machine {self.machine!r} is not a possible result")
        if self.crashes < 0 or self.disqualifications < 0 or any(other.earlier < 0 for other in self.others):
            raise EvidenceError(f"machine {self.machine!r} has a negative number of crashes, exams or trials")

    @property
    def finished(self) -> bool:
        """There is a pair."""
        return bool(self.candidate and self.baseline)

    @property
    def only_crashed(self) -> bool:
        """The candidate crashed and never finished. A result that waits for its baseline is neither."""
        return self.crashes > 0 and not self.candidate

    @property
    def trials(self) -> int:
        """Trials of the candidate that were spent, however they ended."""
        return len(self.candidate) + self.crashes + self.disqualifications


class Pair(NamedTuple):
    """The paired gain of one row, and its variance (bpb squared)."""

    gain_bpb: float
    variance: float


class Moments(NamedTuple):
    """All that a normal model takes from some pairs: sums over them of 1/variance and of gain/variance."""

    information: float
    score: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A pooled gain for people to look at. `interval` holds at any moment one cares to look, 95 %."""

    gain_bpb: float
    standard_error: float
    interval: tuple[float, float]


def paired(row: Row, sigma: Mapping[str, float], rule: Rule, *, by_baselines: bool = False) -> Pair | None:
    """The row's paired gain, or None while a candidate or a baseline result is missing.

    Variance: s^2 (1/n + 1/m) + tau^2 for n candidate and m baseline trials; where other candidates say something about
    the machine's level too (`level`), the variance of that in place of s^2/m. `by_baselines`: baselines alone count.

    Raises:
        EvidenceError: the class has no noise estimate, or an impossible one.
    """
    candidate, baseline = row.candidate, row.baseline
    if not (candidate and baseline):
        return None
    noise_bpb = sigma.get(row.hardware_class, math.nan)
    if not NOISE_BOUNDS_BPB[0] <= noise_bpb <= NOISE_BOUNDS_BPB[1]:
        raise EvidenceError(f"hardware class {row.hardware_class!r} has no usable noise estimate ({noise_bpb!r})")
    if by_baselines or not row.others:
        variance = noise_bpb * noise_bpb * (1.0 / len(candidate) + 1.0 / len(baseline)) + rule.tau_bpb * rule.tau_bpb
        return Pair(_mean(baseline) - _mean(candidate), variance)
    own = level(baseline, row.others, noise_bpb, rule.delta_bpb)
    variance = noise_bpb * noise_bpb / len(candidate) + own.variance + rule.tau_bpb * rule.tau_bpb
    return Pair(own.bpb - _mean(candidate), variance)


def _mean(numbers: Sequence[float]) -> float:
    return numbers[0] if len(numbers) == 1 else math.fsum(numbers) / len(numbers)


def moments(pairs: Sequence[Pair]) -> Moments:
    """The sums over at least one pair."""
    if len(pairs) == 1:  # nearly always
        gain_bpb, variance = pairs[0]
        return Moments(1.0 / variance, gain_bpb / variance)
    return Moments(math.fsum(1.0 / p.variance for p in pairs), math.fsum(p.gain_bpb / p.variance for p in pairs))


def total(parts: Sequence[Moments]) -> Moments:
    """The sums over at least one group of pairs."""
    if len(parts) == 1:
        return parts[0]
    return Moments(math.fsum(part.information for part in parts), math.fsum(part.score for part in parts))


def log_likelihood_ratio(own: Moments, delta_bpb: float) -> float:
    """Log odds of "true gain is delta" against "true gain is 0" for normal observations; delta may be a loss."""
    return delta_bpb * (own.score - delta_bpb / 2.0 * own.information)


def bounded(log_odds: float, eps: float, cap: float) -> float:
    """A vote: ln min(cap, eps + (1 - eps) e^x). Never below ln eps, never above ln cap.

    eps is the chance that the identity's numbers mean nothing; if e^x averages 1 for a useless patch, so does the
    mixture, and the cap only lowers it. That is why votes may be multiplied and looked at after every one of them.
    """
    return math.log(min(cap, eps + (1.0 - eps) * math.exp(min(log_odds, 50.0))))


def estimate(pairs: Sequence[Pair], scale_bpb: float = 0.003) -> Estimate:
    """The pooled gain of at least one pair. Display only: votes never use it."""
    information = math.fsum(1.0 / p.variance for p in pairs)
    gain_bpb = robust_mean(pairs)
    return Estimate(gain_bpb, information**-0.5, interval(gain_bpb, information, scale_bpb))


def robust_mean(pairs: Sequence[Pair]) -> float:
    """Inverse-variance mean of the gains, each first pulled to within 2 sd of their weighted median."""
    weighted = sorted(pairs)
    weights = [1.0 / variance for _, variance in weighted]
    information = math.fsum(weights)
    half = 0.5 * information * (1.0 - 1e-12)  # two equal weights: the lower one, whatever the rounding
    seen, at = weights[0], 0
    while seen < half:
        at += 1
        seen += weights[at]
    median = weighted[at][0]
    pulled = []
    for (gain_bpb, variance), weight in zip(weighted, weights, strict=True):
        off_bpb = gain_bpb - median
        if off_bpb * off_bpb > 4.0 * variance:
            gain_bpb = median + math.copysign(2.0 * math.sqrt(variance), off_bpb)  # noqa: PLW2901 - pulled to the bound
        pulled.append(gain_bpb * weight)
    return math.fsum(pulled) / information


def interval(gain_bpb: float, information: float, scale_bpb: float = 0.003, miss: float = 0.05) -> tuple[float, float]:
    """Always-valid interval for a gain of known information (1/variance): the normal mixture bound.

    Robbins (1970); Howard, Ramdas, McAuliffe and Sekhon (2021), for a normal prior with sd `scale_bpb`. The true gain
    of honest reports is ever outside with probability at most `miss`; somebody who lies moves it like any mean.
    """
    prior = 1.0 / (scale_bpb * scale_bpb)
    total = information + prior
    half = math.sqrt(2.0 * total * math.log(math.sqrt(total / prior) / miss)) / information
    return gain_bpb - half, gain_bpb + half


def shrunk(gain_bpb: float, information: float, scale_bpb: float = 0.002) -> float:
    """The gain to expect after the winner's curse: posterior mean for a normal prior around 0 with sd `scale_bpb`."""
    return gain_bpb * information / (information + 1.0 / (scale_bpb * scale_bpb))


def spoken_odds(log_odds: float) -> str:
    """Odds as people say them: "121 : 1", "1 : 2.0"."""
    if log_odds < 0.0:
        return f"1 : {_figure(-log_odds)}"
    return f"{_figure(log_odds)} : 1"


def _figure(log_odds: float) -> str:
    """e^x for people: one decimal while that says something, no seven-digit precision."""
    if log_odds > math.log(1e6):
        return "over 1,000,000"
    odds = math.exp(log_odds)
    return f"{odds:.1f}" if odds < 9.95 else f"{odds:,.0f}"
