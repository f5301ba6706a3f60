"""Confirms a promotion or proposes to roll it back, from the baselines that every machine runs anyway.

Pure. Leaves out carrying the roll-back out (`lineage`) and whose results count (`trust`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoresearch.judging.evidence import Row, estimate, moments
from autoresearch.judging.rule import DEFAULT, Rule
from autoresearch.judging.tally import ClassGain, class_gains, hear, worse


@dataclass(frozen=True, slots=True)
class Audit:
    """Whether a promotion stands, measured on trials that no patch was ever selected on. Gains in bits per byte,
    positive where the new best is better; None before anybody has baselines on both."""

    roll_back: bool
    log_odds_worse: float  # "the new best is worse" : "it is not", all classes together
    worst_log_odds: float  # the same for whatever looks worst: all together, or one class
    worst_class: str | None  # None: all together
    upper: float  # log odds that roll back
    identities: int
    gain_bpb: float | None  # the confirmed gain
    standard_error: float | None
    interval: tuple[float, float] | None
    class_gains: tuple[ClassGain, ...]


def audit(
    rows: Iterable[Row],
    sigma: Mapping[str, float],
    rule: Rule = DEFAULT,
    *,
    alpha: float = 0.01,
    eps: float = 0.2,
    cap: float = 5.0,
) -> Audit:
    """Each row: `candidate` holds the machine's baseline trials of the *new* best, `baseline` those of the *old* one;
    never the trials that won the promotion, for they were selected.

    The votes of `verdict.decide` with the roles swapped, for "worse by guard_delta": at 1/alpha : 1, overall or on any
    one class, the promotion does not stand. With cap 5 that takes three identities. eps is 1/cap, so that one identity
    weighs as much on either side: with 0.1 five of sixteen kept a patch that the other eleven saw lose (simulated).

    Raises:
        EvidenceError: `sigma` lacks a class that has a finished pair, or holds an impossible noise.
    """
    witnesses = [witness for witness in hear(rows, sigma, rule) if witness.pairs]
    votes: dict[str, list[float]] = {}
    for witness in witnesses:
        for name, pairs in witness.pairs.items():
            votes.setdefault(name, []).append(worse(moments(pairs), rule.guard_delta_bpb, eps, cap))
    overall = math.fsum(worse(w.moments, rule.guard_delta_bpb, eps, cap) for w in witnesses if w.moments)
    worst, worst_class = max(((math.fsum(own), name) for name, own in votes.items()), default=(overall, None))
    if overall >= worst:
        worst, worst_class = overall, None
    every_pair = [pair for witness in witnesses for pairs in witness.pairs.values() for pair in pairs]
    pooled = estimate(every_pair, rule.display_scale_bpb) if every_pair else None
    return Audit(
        roll_back=worst >= -math.log(alpha),
        log_odds_worse=overall,
        worst_log_odds=worst,
        worst_class=worst_class,
        upper=-math.log(alpha),
        identities=len(witnesses),
        gain_bpb=pooled.gain_bpb if pooled else None,
        standard_error=pooled.standard_error if pooled else None,
        interval=pooled.interval if pooled else None,
        class_gains=class_gains(witnesses, rule.display_scale_bpb),
    )
