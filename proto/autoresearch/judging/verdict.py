"""Decides about one patch from all that is known of it: "bounded votes". Pure: the same rows, in any order, give the
same decision, so that anyone can recompute it from the ledger.

Every identity that ran the patch casts one vote: the odds that its paired differences come from a patch that helps by
delta rather than from one that does nothing, never stronger than `cap` : 1 for nor 1 : 1/`eps` against. Votes multiply.

Guarantees of the default rule, whatever anybody signs: two identities never promote a patch; one identity never ends
a good one (it can park it, which is resumable, or delay it); a patch that helps nobody is promoted with probability
at most alpha, looked at as often as one likes (Ville's inequality), times cap for every voter that lies.

Left out: which identities may vote (`trust`; give only rows that count: not the author's own machines, nobody in
quarantine), what runs next (`planning`), and merging a winner onto a best that moved, which may still be a conflict.
"""

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from autoresearch.judging.audit import Audit, audit
from autoresearch.judging.case import Case, Counts
from autoresearch.judging.evidence import EvidenceError, Row, estimate, shrunk, spoken_odds
from autoresearch.judging.hanging import hangs_on
from autoresearch.judging.rule import DEFAULT, FAST, PATIENT, PRESETS, SLACK, SOLO, STRICT, Rule, RuleError
from autoresearch.judging.tally import REPORTS_FOR_A_FACT, ClassGain, ClassTally, Witness

__all__ = [
    "DEFAULT", "FAST", "PATIENT", "PRESETS", "SOLO", "STRICT", "Audit", "ClassGain", "Decision", "EvidenceError", "Row",
    "Rule", "RuleError", "Verdict", "Vote", "audit", "baselines_wanted", "decide", "judge", "wanted_in_flight", "weigh",
]  # fmt: skip

UNDECIDED = ("open", "parked")  # verdicts of patches that may still get trials
MAX_LOG_ODDS_SHOWN = 700.0  # `Decision.odds` stops here; a float overflows a little later


class Verdict(enum.StrEnum):
    """What became of a patch, in the words users see."""

    OPEN = "open"  # go on
    PROMOTED = "promoted"  # from `decide`: it has won; merging it onto the best may still end in a conflict
    PARKED = "parked"  # no more trials for now; may be resumed, the evidence stays valid
    REJECTED = "rejected"
    REGRESSED = "regressed"  # worse, or crashing, on a hardware class
    CRASHED = "crashed"
    DISQUALIFIED = "disqualified"
    INCONCLUSIVE = "inconclusive"
    CONFLICT = "conflict"  # does not merge onto the new best; given by the lineage
    WITHDRAWN = "withdrawn"  # given by the author
    WAITING = "waiting"  # for an approver; not tested yet
    REFUSED = "refused"  # given by an approver


class Vote(NamedTuple):
    """What one identity says. Gain and sd are None where it only saw the patch crash or fail its exam."""

    identity: str
    log_odds: float
    gain_bpb: float | None
    sd_bpb: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with all that led to it. Bits per byte throughout; gains are None before the first finished pair."""

    verdict: Verdict
    log_odds: float  # "the patch helps" : "it does nothing"
    odds: float
    upper: float  # log odds that win
    park: float  # log odds below which no more trials are spent
    lower: float  # log odds that reject for good
    votes: tuple[Vote, ...]  # by identity
    gain_bpb: float | None  # robust mean
    standard_error: float | None
    interval: tuple[float, float] | None  # 95 %, valid whenever one looks
    shrunk_gain_bpb: float | None  # what to expect of the gain after having been selected for it
    class_gains: tuple[ClassGain, ...]  # by hardware class
    identities: int  # with a finished pair
    hangs_on: tuple[str, ...]  # identities without any one of which the verdict would be another
    classes: tuple[str, ...]  # hardware classes with a finished pair
    trials: int  # of the candidate, however they ended
    bad_classes: tuple[str, ...]  # worse, or crashing for several identities
    doubtful_classes: tuple[str, ...]  # a promotion waits for another word on them: perhaps worse, crashing for one, or
    # those on which it hangs most whether the mean over classes is a gain
    harm: float | None  # chance that the mean over classes is a loss; None where the votes are not enough to ask
    doubts: tuple[str, ...]  # what one identity reported and nobody has confirmed or refuted
    progress: float  # 0..1 of the way to winning
    sentence: str  # for a volunteer

    def to_json(self) -> dict[str, object]:
        """Plain dicts, lists or tuples, numbers, strings and None; numbers exact."""
        votes = [vote._asdict() for vote in self.votes]
        return {**asdict(self), "verdict": self.verdict.value, "votes": votes}


def decide(rows: Iterable[Row], sigma: Mapping[str, float], rule: Rule = DEFAULT) -> Decision:
    """What to do with a patch now. `sigma`: noise in bpb of one trial, per hardware class.

    The first test that holds gives the verdict:

    0. two identities saw the exam fail                              disqualified
    1. no finished pair, and two identities saw a crash              crashed
    2. log odds at or below ln(beta)                                 rejected
    3. a class is worse by guard_delta at odds of 1/guard_alpha, or
       two identities of it saw crashes and nobody finished there    regressed
    4. log odds at ln(1/alpha), enough identities and classes, no
       doubt left (or the trial limit reached without an answer), and
       the mean over classes a loss with a chance of harm_alpha       promoted
    5. log odds below park                                           parked
    6. the trial limit is reached; twice that with the votes of 4    inconclusive
    7. otherwise                                                     open

    Exam: an honest model never fails it, but a cheat may pass it by luck, so two failures count however many others
    finished; one may be a lie, so it only votes against like a crash (or worse, where the identity's own numbers are
    worse) and holds a promotion back. So does a class on which one identity crashed and nobody finished, or that is
    half-way to being worse: votes for a patch come from the classes that it helps, and could drown one that it harms.
    Such a doubt ends with the trial limit: else one identity, naming a class that only it has, could stop any patch.
    That the mean may be a loss (`overall`) ends a patch only if that is more than one identity's word.

    Raises:
        EvidenceError: `sigma` lacks a class that has a finished pair, or holds an impossible noise.
    """
    case = Case(sigma, rule)
    case.put_all(rows)
    return weigh(case)


def judge(case: Case) -> Verdict:
    """The verdict alone, at a fraction of the work."""
    return _judge(case.counts(), case.rule)


def weigh(case: Case) -> Decision:
    """The decision that `decide` gives on the rows of the case."""
    rule, witnesses, classes, counts = case.rule, case.witnesses(), case.classes(), case.counts()
    verdict = _judge(counts, rule)
    pairs = case.pairs()
    pooled = estimate(pairs, rule.display_scale_bpb) if pairs else None
    bad_classes = tuple(sorted(name for name, tally in classes.items() if tally.bad(rule)))
    doubts = _doubts(witnesses, classes, counts)
    perhaps_worse = [f"perhaps worse on {name}" for name, tally in classes.items() if tally.doubtful(rule)]
    return Decision(
        verdict=verdict,
        log_odds=counts.log_odds,
        odds=math.exp(min(counts.log_odds, MAX_LOG_ODDS_SHOWN)),
        upper=rule.upper,
        park=rule.park,
        lower=rule.lower,
        votes=tuple(_vote(witness, vote) for witness in witnesses if (vote := witness.vote) is not None),
        gain_bpb=pooled.gain_bpb if pooled else None,
        standard_error=pooled.standard_error if pooled else None,
        interval=pooled.interval if pooled else None,
        shrunk_gain_bpb=shrunk(pooled.gain_bpb, pooled.standard_error**-2, rule.delta_bpb) if pooled else None,
        class_gains=case.class_gains(),
        identities=counts.finishers,
        hangs_on=hangs_on(case, counts, _judge),
        classes=tuple(sorted(name for name, tally in classes.items() if tally.finishers)),
        trials=case.trials,
        bad_classes=bad_classes,
        doubtful_classes=tuple(sorted(case.doubtful_classes(counts))),
        harm=counts.harm.chance if counts.enough(rule) and rule.harm_alpha < 1.0 else None,
        doubts=doubts,
        progress=max(0.0, min(1.0, counts.log_odds / rule.upper)),
        sentence=_sentence(verdict, counts, bad_classes, [*doubts, *perhaps_worse], rule),
    )


def wanted_in_flight(log_odds: float, upper: float) -> int:
    """How many trials of a candidate may run at once: more of them the likelier that all of them will be needed."""
    if log_odds < 0.7:
        return 1
    if log_odds < 2.0:
        return 2
    return max(2, math.ceil((upper - log_odds) / 1.5))


def baselines_wanted(candidate_runs: int, least: int = 1, most: int = 6) -> int:
    """Baseline trials a machine should have on a best before its next candidate trial: the square-root rule."""
    return max(least, min(most, int(math.sqrt(candidate_runs) + 0.5)))


def _judge(counts: Counts, rule: Rule) -> Verdict:
    """The tests of `decide`, in their order."""
    spent = counts.trials >= rule.max_trials
    if counts.disqualifiers >= REPORTS_FOR_A_FACT:
        return Verdict.DISQUALIFIED
    if not counts.finishers and counts.crashers >= REPORTS_FOR_A_FACT:
        return Verdict.CRASHED
    if counts.log_odds <= rule.lower + SLACK:
        return Verdict.REJECTED
    if counts.bad and counts.finishers:
        return Verdict.REGRESSED
    if counts.enough(rule):
        if not counts.harm.likely:
            return Verdict.PROMOTED if spent or not (counts.doubtful or counts.disqualifiers) else Verdict.OPEN
        if counts.trials_ahead < rule.max_trials_ahead:
            return Verdict.OPEN
        return Verdict.PROMOTED if counts.harm.one_word else Verdict.INCONCLUSIVE
    if counts.log_odds < rule.park:
        return Verdict.PARKED
    return Verdict.INCONCLUSIVE if spent else Verdict.OPEN


def _vote(witness: Witness, log_odds: float) -> Vote:
    gained = witness.gained
    return Vote(witness.identity, log_odds, *((None, None) if gained is None else gained))


def _doubts(witnesses: Sequence[Witness], classes: Mapping[str, ClassTally], counts: Counts) -> tuple[str, ...]:
    doubts = [
        f"crashed on {name}" for name, tally in sorted(classes.items()) if tally.only_crashed and tally.crashers == 1
    ]
    if counts.disqualifiers == 1:
        doubts += [f"failed the exam of {witness.identity}" for witness in witnesses if witness.disqualified]
    return tuple(doubts)


def _sentence(
    verdict: Verdict, counts: Counts, bad_classes: Sequence[str], doubts: Sequence[str], rule: Rule
) -> str:  # fmt: skip
    now = f"{_signed(counts.log_odds)} of {_signed(rule.upper)}"
    odds = spoken_odds(counts.log_odds)
    match verdict:
        case Verdict.DISQUALIFIED:
            return f"disqualified: its model failed the exam of {_many(counts.disqualifiers, 'volunteer')}"
        case Verdict.CRASHED:
            return f"crashed for {_many(counts.crashers, 'volunteer')} and finished for nobody"
        case Verdict.REJECTED:
            return f"rejected: the odds that it helps fell to {odds}"
        case Verdict.REGRESSED:
            return f"regressed: worse, or crashing, on {', '.join(bad_classes)}"
        case Verdict.PROMOTED:
            volunteers, classes = _many(counts.finishers, "volunteer"), _many(counts.classes, "kind")
            return f"won: {volunteers} on {classes} of hardware put the odds that it helps at {odds}"
        case Verdict.PARKED if doubts and not counts.finishers:
            return f"parked: {doubts[0]}; a second such report elsewhere would end it"
        case Verdict.PARKED:
            return f"parked at odds of {odds}: no more electricity for now, may be resumed"
        case Verdict.INCONCLUSIVE:
            spent = rule.max_trials_ahead if (ahead := counts.enough(rule)) else rule.max_trials
            how = f"ahead, but {_harm(counts)}" if ahead else "neither won nor lost"
            return f"inconclusive: {how} when its {spent} trials were spent; ended at {now}"
    return _to_go(counts, doubts, rule, now)


def _to_go(counts: Counts, doubts: Sequence[str], rule: Rule, now: str) -> str:
    """Of an open patch."""
    if not counts.enough(rule):
        return f"needs {_missing(counts, rule)}; now {now}"
    if doubts:
        return f"ahead, but {doubts[0]}: needs another machine to confirm or refute that; now {now}"
    return f"ahead, but {_harm(counts)}: needs another {' or '.join(counts.harm.classes)}; now {now}"


def _harm(counts: Counts) -> str:
    return f"still {counts.harm.chance:.2%} likely to lose on the mean over kinds of hardware"


def _missing(counts: Counts, rule: Rule) -> str:
    """The least that could still make it win."""
    votes = math.ceil((rule.upper - counts.log_odds) / math.log(rule.cap) - SLACK)
    classes = max(0, rule.min_classes - counts.classes)
    machines = max(votes, rule.min_identities - counts.finishers, classes, 1)
    what = _many(machines, "more trial" if rule.min_identities == 1 else "more machine")
    if not classes or rule.min_classes == 1:
        return what
    kinds = "another kind" if classes == 1 else "different kinds" if not counts.classes else "other kinds"
    return f"{what} of {kinds}" if classes == machines else f"{what}, {classes} of {kinds}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _signed(log_odds: float) -> str:
    return f"{round(log_odds, 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"
