"""On whom a verdict hangs: identities without any one of which it would be another. Pure.

Every identity is left out in turn, by taking its part away from what was counted; what the counts lead to is the
caller's to say (`verdict`).
"""

import math
from collections.abc import Callable, Mapping, Sequence

from autoresearch.judging.case import Case, Counts
from autoresearch.judging.overall import Harm
from autoresearch.judging.rule import SLACK, Rule
from autoresearch.judging.tally import ClassTally, Witness


def hangs_on(case: Case, counts: Counts, judge: Callable[[Counts, Rule], object]) -> tuple[str, ...]:
    """By name. `counts`: of the case; `judge`: the verdict that counts lead to."""
    asked, verdict = _Asked(case, counts), judge(counts, case.rule)
    return tuple(
        witness.identity
        for witness in asked.not_idle()
        if judge(asked.counts_without(witness), case.rule) is not verdict
    )


class _Asked:
    """What the verdict on a patch is made of."""

    def __init__(self, case: Case, counts: Counts) -> None:
        self._rule, self._counts = case.rule, counts
        self._witnesses = case.witnesses()
        self._votes, self._classes = case.votes, case.classes()
        weakest = min(self._votes.values(), default=math.inf)
        could_win = counts.log_odds - weakest >= self._rule.upper - SLACK
        self._harms: Mapping[str, Harm] = case.harm_without_each() if could_win else {}

    def not_idle(self) -> Sequence[Witness]:
        """Those on whom the verdict may hang. Without any other one every comparison of it comes out the same.

        Saves most of the work where many ran a patch: often nobody is left.
        """
        rule, counts = self._rule, self._counts
        limit, spent = rule.max_trials_per_identity, counts.trials >= rule.max_trials
        decisive = counts.finishers <= max(1, rule.min_identities) or (
            spent and counts.trials - limit < rule.max_trials
        )
        if decisive or counts.trials_ahead >= rule.max_trials_ahead:
            return self._witnesses
        most = rule.guard_doubt + math.log(rule.eps)  # a vote against "worse" may go with the identity
        calm = {name for name, tally in self._classes.items() if tally.finishers > 1 and tally.guard < most}
        swaying = {identity for identity, own in self._harms.items() if own.likely is not counts.harm.likely}
        zone, log_odds = _zone(counts.log_odds, rule), counts.log_odds
        if len(calm) == len(self._classes) and not counts.crashers and not counts.disqualifiers and not swaying:
            strongest, weakest = max(self._votes.values()), min(self._votes.values())
            if _zone(log_odds - strongest, rule) == zone == _zone(log_odds - weakest, rule):
                return ()
        return [
            w
            for w in self._witnesses
            if w.crash_classes
            or w.disqualified
            or w.vote is None
            or w.identity in swaying
            or not calm.issuperset(w.guards)
            or _zone(log_odds - w.vote, rule) != zone
        ]

    def counts_without(self, witness: Witness) -> Counts:
        """The counts if this identity had reported nothing. Touches only its own classes, so that asking it of every
        identity costs no more than the decision itself."""
        rule, counts = self._rule, self._counts
        finished = bad = doubtful = 0  # changes
        for name, guard in witness.guards.items():
            now = self._classes[name]
            if now.finishers > 1:  # nearly always
                then = ClassTally(now.finishers - 1, now.crashers, now.guard - guard)
            else:
                then = ClassTally(0, now.crashers - (name in witness.crash_classes), 0.0)
                finished -= 1
            bad += then.bad(rule) - now.bad(rule)
            doubtful += then.doubtful(rule) - now.doubtful(rule)
        for name in witness.crash_classes:
            if name not in witness.guards:
                now = self._classes[name]
                then = ClassTally(now.finishers, now.crashers - 1, now.guard)
                bad += then.bad(rule) - now.bad(rule)
                doubtful += then.doubtful(rule) - now.doubtful(rule)
        return Counts(
            log_odds=counts.log_odds - (witness.vote or 0.0),
            finishers=counts.finishers - bool(witness.pairs),
            crashers=counts.crashers - bool(witness.crash_classes),
            disqualifiers=counts.disqualifiers - witness.disqualified,
            classes=counts.classes + finished,
            bad=counts.bad + bad,
            doubtful=counts.doubtful + doubtful,
            trials=counts.trials - min(witness.trials, rule.max_trials_per_identity),
            trials_ahead=counts.trials_ahead - min(witness.trials, 2 * rule.max_trials_per_identity),
            harm=self._harms.get(witness.identity, counts.harm),
        )


def _zone(log_odds: float, rule: Rule) -> int:
    """Which bounds of the verdict the log odds are beyond."""
    return (log_odds > rule.lower + SLACK) + (log_odds >= rule.park) + (log_odds >= rule.upper - SLACK)
