"""Who reported what about one patch: one witness per identity with its bounded vote, one tally per hardware class.

Gathers and sums; what follows from the sums is in `verdict`, the formulas are in `evidence`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from autoresearch.judging.evidence import (
    Moments,
    Pair,
    Row,
    bounded,
    estimate,
    log_likelihood_ratio,
    moments,
    paired,
    total,
)
from autoresearch.judging.rule import Rule

REPORTS_FOR_A_FACT = 2  # a crash or a failed exam is a fact about a patch when this many identities report it


@dataclass(slots=True)
class Witness:
    """All that one identity reported about the patch."""

    identity: str
    pairs: dict[str, list[Pair]] = field(default_factory=dict)  # by hardware class
    crash_classes: frozenset[str] = frozenset()  # of machines on which it crashed and never finished
    disqualified: bool = False
    trials: int = 0
    moments: Moments | None = None  # of all its pairs
    vote: float | None = None
    guards: dict[str, float] = field(default_factory=dict)  # per class with a pair, the vote for "worse by guard_delta"
    by_class: dict[str, Moments] = field(default_factory=dict)  # of its pairs there

    @property
    def gained(self) -> tuple[float, float] | None:
        """The gain of all its pairs, and its standard deviation; None where it only saw the patch crash or fail."""
        if self.moments is None:
            return None
        information, score = self.moments
        return score / information, information**-0.5


@dataclass(slots=True)
class ClassTally:
    """Identities that finished a pair on a hardware class, that only crashed on it, and the odds that it is worse."""

    finishers: int
    crashers: int
    guard: float  # log odds of "worse by guard_delta"

    def bad(self, rule: Rule) -> bool:
        """The patch harms this class: a fact, not one identity's word."""
        if not self.finishers:
            return self.crashers >= REPORTS_FOR_A_FACT
        return self.guard >= rule.guard_upper

    def doubtful(self, rule: Rule) -> bool:
        """The patch may harm this class: somebody's trial crashed here and nobody has finished one, or it looks worse,
        but not beyond doubt."""
        if not self.finishers:
            return self.only_crashed
        return rule.guard_doubt <= self.guard < rule.guard_upper

    @property
    def only_crashed(self) -> bool:
        """Somebody's trial crashed here and nobody has finished one."""
        return self.crashers > 0 and not self.finishers


@dataclass(frozen=True, slots=True)
class ClassGain:
    """The gain on one hardware class, for display."""

    hardware_class: str
    identities: int
    gain_bpb: float
    standard_error: float
    interval: tuple[float, float]


def hear(rows: Iterable[Row], sigma: Mapping[str, float], rule: Rule) -> list[Witness]:
    """One witness per identity, in the order of their names, with its vote."""
    heard: dict[str, list[Row]] = {}
    for row in rows:
        heard.setdefault(row.identity, []).append(row)
    return [hear_one(identity, heard[identity], sigma, rule) for identity in sorted(heard)]


def hear_one(identity: str, rows: Iterable[Row], sigma: Mapping[str, float], rule: Rule) -> Witness:
    """What one identity's rows amount to, with its vote."""
    witness = Witness(identity)
    pairs, trials = witness.pairs, 0
    for row in rows:
        trials += len(row.candidate)
        pair = paired(row, sigma, rule)
        if pair is None and row.only_crashed:
            witness.crash_classes |= {row.hardware_class}
        elif pair is not None and row.hardware_class in pairs:
            pairs[row.hardware_class].append(pair)
        elif pair is not None:
            pairs[row.hardware_class] = [pair]
        if row.crashes or row.disqualifications:
            trials += row.crashes + row.disqualifications
            witness.disqualified = witness.disqualified or row.disqualifications > 0
    witness.trials = trials
    _let_vote(witness, rule)
    return witness


def _let_vote(witness: Witness, rule: Rule) -> None:
    if witness.pairs:
        eps, cap = rule.eps, rule.cap
        for name, pairs in witness.pairs.items():
            witness.by_class[name] = own = moments(pairs)
            witness.guards[name] = worse(own, rule.guard_delta_bpb, eps, cap)
        witness.moments = own = total(list(witness.by_class.values()))
        witness.vote = bounded(log_likelihood_ratio(own, rule.delta_bpb), eps, cap)
    elif witness.crash_classes:
        witness.vote = rule.alarm
    if witness.disqualified:
        witness.vote = rule.alarm if witness.vote is None else min(witness.vote, rule.alarm)


def worse(own: Moments, delta_bpb: float, eps: float, cap: float) -> float:
    """One identity's vote for "worse by delta"."""
    return bounded(log_likelihood_ratio(own, -delta_bpb), eps, cap)


def class_gains(witnesses: Iterable[Witness], scale_bpb: float) -> tuple[ClassGain, ...]:
    """The pooled gain on every class with a finished pair, by name. `scale_bpb`: see `evidence.interval`."""
    pairs: dict[str, list[Pair]] = {}
    identities: dict[str, int] = {}
    for witness in witnesses:
        for name, own in witness.pairs.items():
            pairs.setdefault(name, []).extend(own)
            identities[name] = identities.get(name, 0) + 1
    return tuple(class_gain(name, identities[name], pairs[name], scale_bpb) for name in sorted(pairs))


def class_gain(hardware_class: str, identities: int, pairs: Sequence[Pair], scale_bpb: float) -> ClassGain:
    """The pooled gain of at least one pair on one class."""
    pooled = estimate(pairs, scale_bpb)
    return ClassGain(hardware_class, identities, pooled.gain_bpb, pooled.standard_error, pooled.interval)
