"""Whom to believe: an identity's reporting is judged against the others, against trials with a known answer, and by
alarms that nobody confirms. Pure. How the evidence is taken from results is in `agreement`.

A vote's bounds protect one decision from one liar; this watch protects the swarm from somebody who lies every day.
Each suspicion is a product of bounded likelihood ratios, like a verdict, and 500 : 1 is enough. Several kinds, because
each sees what the others cannot:

- flatters, runs down: the identity's gains differ from those of the others on the same decided patches;
- invents: it answers a trial that is known to lose as if the patch did nothing, so it does not run what it is sent;
- cries wolf: it reports crashes or failed exams of patches that the others finish.

A quarantine is a value with its reason. It excludes rows, it deletes nothing: lift it, and the same verdicts come
back. Left out: who keeps the list and acts on a proposed roll-back (`app`), when known-answer trials are run
(`planning`), and free identities: one who returns under a new key starts anew, so enrolment must cost something.
"""

import enum
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from autoresearch.judging.agreement import Deviation, Residual, alarms, deviations, residuals
from autoresearch.judging.evidence import Pair, Row, bounded, log_likelihood_ratio, moments, spoken_odds
from autoresearch.judging.rule import Rule
from autoresearch.judging.verdict import Decision, Verdict, decide

QUARANTINE_AT = math.log(500.0)
REINSTATE_BELOW = QUARANTINE_AT / 2.0  # not the same bound: nobody should go in and out with every result
RESIDUAL_FLOOR_BPB = 0.0005  # no two machines agree better than this, however many trials they average
HONEST_ALARMS, FALSE_ALARMS = 0.05, 0.5  # share of good patches that a flaky machine, and a liar, raise an alarm about


class Suspicion(enum.StrEnum):
    """Why an identity is not believed."""

    FLATTERS = "flatters"
    RUNS_DOWN = "runs down"
    INVENTS = "invents"
    CRIES_WOLF = "cries wolf"
    OPERATOR = "operator"  # a person decided so; only a person lifts it


ACCUSATIONS: Mapping[Suspicion, str] = {
    Suspicion.FLATTERS: "reports larger gains than everybody else measures on the same patches",
    Suspicion.RUNS_DOWN: "reports smaller gains than everybody else measures on the same patches",
    Suspicion.INVENTS: "answers trials with a known answer as if it had not run them",
    Suspicion.CRIES_WOLF: "reports crashes or failed exams of patches that the others finish",
    Suspicion.OPERATOR: "was put in quarantine by the operator",
}


class KnownAnswer(NamedTuple):
    """A trial of a patch that is known to lose: the paired gain that was reported, and on how many baselines."""

    gain_bpb: float
    baselines: int
    noise_bpb: float
    effect_bpb: float = 0.010  # the patch loses at least so much


@dataclass(frozen=True, slots=True)
class DecidedPatch:
    """A patch with a verdict, and what that was given on; `rows` of everybody, quarantined or not."""

    base: str  # the source that it was tested against
    rows: tuple[Row, ...]
    sigma: Mapping[str, float]
    rule: Rule


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Results of this identity do not count until it is lifted."""

    identity: str
    suspicion: Suspicion
    log_odds: float
    reason: str  # one sentence

    def to_json(self) -> dict[str, object]:
        """Plain and complete, for the ledger."""
        return {**asdict(self), "suspicion": self.suspicion.value}


@dataclass(frozen=True, slots=True)
class Reputation:
    """What is known of an identity's reporting. Log odds of each suspicion; see `suspicion`."""

    identity: str
    log_odds: Mapping[Suspicion, float]
    deviations: int
    known_answers: int
    alarms: int  # refuted ones
    agreement: float | None  # share of its deviations within 2 sd of the others; None before the first

    @property
    def worst(self) -> tuple[Suspicion, float]:
        """The strongest suspicion."""
        return max(self.log_odds.items(), key=lambda item: (item[1], item[0]))


@dataclass(frozen=True, slots=True)
class Change:
    """An identity that enters or leaves quarantine, and why."""

    identity: str
    quarantine: Quarantine | None  # None: reinstated
    reason: str


@dataclass(frozen=True, slots=True)
class Recheck:
    """A verdict recomputed without the quarantined."""

    before: Verdict
    after: Decision
    stands: bool
    roll_back: bool  # it was promoted and no longer stands: a proposal to the lineage
    reason: str


# --- from evidence to suspicion ---


def bias_votes(
    deviations: Iterable[Deviation], sign: float, sd: float = 3.0, eps: float = 0.1, cap: float = 8.0
) -> list[float]:
    """Log odds, one per deviation, of "biased by `sd` noises of this card" against "not biased".

    `sign`: +1 for flattering, -1 for running down. The bias looked for scales with the card's noise: one fixed size
    puts honest noisy cards in quarantine, because those who screened the patches that survived were lucky.
    """
    return [_bounded_vote(sign * own.gain_bpb, _variance(own), sd * own.noise_bpb, eps, cap) for own in deviations]


def known_answer_votes(answers: Iterable[KnownAnswer], eps: float = 0.1, cap: float = 30.0) -> list[float]:
    """Log odds, one per trial, of "reported as if the patch did nothing" against "ran it": honest gains are at or below
    -effect, invented ones near 0."""
    return [
        _bounded_vote(
            own.gain_bpb + own.effect_bpb, own.noise_bpb**2 * (1.0 + 1.0 / own.baselines), own.effect_bpb, eps, cap
        )
        for own in answers
    ]


def alarm_votes(refuted: Iterable[bool]) -> list[float]:
    """Log odds, one per patch, of "raises alarms about half of the good patches" against "about 1 in 20"."""
    alarm, none = math.log(FALSE_ALARMS / HONEST_ALARMS), math.log((1.0 - FALSE_ALARMS) / (1.0 - HONEST_ALARMS))
    return [alarm if own else none for own in refuted]


def _bounded_vote(gain_bpb: float, variance: float, delta_bpb: float, eps: float, cap: float) -> float:
    return bounded(log_likelihood_ratio(moments([Pair(gain_bpb, variance)]), delta_bpb), eps, cap)


def _variance(own: Deviation) -> float:
    """Of an honest machine's deviation."""
    seeds = own.noise_bpb**2 * (1.0 / own.patches + 1.0 / own.baselines)
    return seeds + own.extra_variance / own.patches + RESIDUAL_FLOOR_BPB**2


def suspicion(votes: Iterable[float]) -> float:
    """Log odds after some votes, oldest first, in which past honesty counts for at most 500 : 1.

    Not the plain sum: somebody who was honest for a year and then starts to lie would have that year as credit. In 20
    simulated campaigns each, the limit put no honest identity in quarantine that the sum would not have (0.00 of 40
    without liars, 0.55 with 20 % flatterers); without any credit it was 0.30 and 1.25.
    """
    log_odds = 0.0
    for vote in votes:
        log_odds = max(log_odds, -QUARANTINE_AT) + vote
    return log_odds


def assess(
    identity: str, deviations: Sequence[Deviation], answers: Sequence[KnownAnswer], refuted: Sequence[bool]
) -> Reputation:
    """What all evidence about one identity says, each kind oldest first. `refuted`: its part of
    `agreement.alarms`, patch by patch."""
    near = sum(1 for own in deviations if own.gain_bpb**2 <= 4.0 * _variance(own))
    return Reputation(
        identity=identity,
        log_odds={
            Suspicion.FLATTERS: suspicion(bias_votes(deviations, 1.0)),
            Suspicion.RUNS_DOWN: suspicion(bias_votes(deviations, -1.0)),
            Suspicion.INVENTS: suspicion(known_answer_votes(answers)),
            Suspicion.CRIES_WOLF: suspicion(alarm_votes(refuted)),
        },
        deviations=len(deviations),
        known_answers=len(answers),
        alarms=sum(refuted),
        agreement=near / len(deviations) if deviations else None,
    )


# --- from suspicion to what changes ---


def review(
    decided: Iterable[DecidedPatch],
    answers: Mapping[str, Sequence[KnownAnswer]],
    quarantined: Mapping[str, Quarantine],
    sigma: Mapping[str, float],
    vouched: Container[str] = (),
) -> tuple[dict[str, Reputation], tuple[Change, ...]]:
    """Everybody's reputation, and who enters or leaves quarantine, in this order. All evidence oldest first.

    One at a time, the most suspicious first, and everybody is measured anew after each: where few ran a patch, a liar
    on a quiet card makes an honest identity look odd. Nobody changes twice in one review, so it ends.

    Raises:
        EvidenceError: a patch's own `sigma` lacks a class that has a finished pair.
    """
    history = list(decided)
    held = dict(quarantined)
    changes: list[Change] = []
    while True:
        reputations = _reputations(history, answers, held, sigma)
        changed = {change.identity for change in changes}
        change = next_change([own for own in reputations.values() if own.identity not in changed], held, vouched)
        if change is None:
            return reputations, tuple(changes)
        changes.append(change)
        if change.quarantine is None:
            del held[change.identity]
        else:
            held[change.identity] = change.quarantine


def next_change(
    reputations: Iterable[Reputation], quarantined: Mapping[str, Quarantine], vouched: Container[str] = ()
) -> Change | None:
    """Who enters quarantine next or, if nobody does, leaves it; the clearest case.

    One enters at 500 : 1 and leaves below the square root of that, when the evidence has changed: the others who made
    it look odd turned out to be liars, or it answered trials with a known answer well. What a person decided, only a
    person lifts: a quarantine by hand, and the word of an operator for somebody (`vouched`).
    """
    ranked = sorted(reputations, key=lambda own: (-own.worst[1], own.identity))
    for own in ranked:
        kind, log_odds = own.worst
        if log_odds >= QUARANTINE_AT and own.identity not in quarantined and own.identity not in vouched:
            reason = f"{ACCUSATIONS[kind]}; {_at(log_odds)}"
            return Change(own.identity, Quarantine(own.identity, kind, log_odds, reason), reason)
    for own in reversed(ranked):
        held = quarantined.get(own.identity)
        if held is not None and held.suspicion is not Suspicion.OPERATOR and own.worst[1] < REINSTATE_BELOW:
            reason = f"reinstated: the evidence that it {held.suspicion} no longer holds; {_at(own.worst[1])}"
            return Change(own.identity, None, reason)
    return None


def _reputations(
    history: Iterable[DecidedPatch],
    answers: Mapping[str, Sequence[KnownAnswer]],
    quarantined: Container[str],
    sigma: Mapping[str, float],
) -> dict[str, Reputation]:
    found: dict[str, list[Residual]] = {identity: [] for identity in answers}
    raised: dict[str, list[bool]] = {}
    for patch in history:
        for row in patch.rows:
            found.setdefault(row.identity, [])
        for residual in residuals(patch.rows, patch.sigma, patch.base, patch.rule, quarantined):
            found[residual.identity].append(residual)
        for identity, refuted in alarms(patch.rows, quarantined).items():
            raised.setdefault(identity, []).append(refuted)
    return {
        identity: assess(identity, deviations(own, sigma), answers.get(identity, ()), raised.get(identity, ()))
        for identity, own in sorted(found.items())
    }


def believed(rows: Iterable[Row], quarantined: Container[str]) -> tuple[Row, ...]:
    """The rows that count."""
    return tuple(row for row in rows if row.identity not in quarantined)


def recheck(
    rows: Sequence[Row], sigma: Mapping[str, float], rule: Rule, quarantined: Container[str], before: Verdict
) -> Recheck:
    """A patch's verdict without the quarantined; proposes to roll a promotion back that no longer stands.

    `rows`, `sigma` and `rule` are those that the verdict was given on. Verdicts that no evidence gave (withdrawn,
    conflict) stay.

    Raises:
        EvidenceError: as `decide`.
    """
    after = decide(believed(rows, quarantined), sigma, rule)
    silenced = sorted({row.identity for row in rows if row.identity in quarantined})
    stays = after.verdict is before or before in (Verdict.WITHDRAWN, Verdict.CONFLICT)
    roll_back = before is Verdict.PROMOTED and not stays
    without = f"without {', '.join(silenced)}" if silenced else "with everybody"
    if stays:
        reason = f"{before} stands {without}"
    elif roll_back:
        reason = f"its promotion does not stand {without}: {after.sentence}"
    else:
        reason = f"{before} becomes {after.verdict} {without}: {after.sentence}"
    return Recheck(before, after, stays, roll_back, reason)


def _at(log_odds: float) -> str:
    return f"the odds of that are {spoken_odds(log_odds)}"
