"""What one more trial of a patch is worth, and how many may run at once. Formulas only; pure.

Worth is the gain to expect per trial: the chance that the patch helps, times how much, over the trials that it takes
to find out. It orders patches and says which parked ones deserve a second look; it decides nothing about them.
"""

import math
from typing import NamedTuple

from autoresearch.judging.rule import SLACK, Rule
from autoresearch.judging.verdict import wanted_in_flight
from coordinator.facts import PatchFacts
from coordinator.policy import Policy


class Worth(NamedTuple):
    """Gain in bpb to expect per trial, and the trials that it would take."""

    per_run: float
    runs: float


def worth(log_odds: float, gain_bpb: float | None, rule: Rule, policy: Policy) -> Worth:
    """Of a patch at these odds; `gain_bpb`: its expected gain if it helps, None before the first pair.

    The odds that it helps are the prior ones times the evidence's. One that helps climbs to the upper bound by a
    typical vote a trial; one that does not is parked soon, from wherever it stands.
    """
    prior = math.log(policy.useful_share / (1.0 - policy.useful_share))
    chance = 1.0 / (1.0 + math.exp(-max(-500.0, min(500.0, prior + log_odds))))
    climb = max(1.0, (rule.upper - log_odds) / policy.typical_vote)
    runs = chance * climb + (1.0 - chance) * policy.useless_runs
    helps_by = rule.delta_bpb if gain_bpb is None else max(gain_bpb, rule.delta_bpb)
    return Worth(chance * helps_by / runs, runs)


def votes_needed(facts: PatchFacts, rule: Rule) -> int:
    """The fewest further votes, all of them the strongest, that would bring the odds to the upper bound."""
    return max(0, math.ceil((rule.upper - facts.log_odds) / math.log(rule.cap) - SLACK))


def trials_needed(facts: PatchFacts, rule: Rule) -> int:
    """The fewest further trials after which it could be promoted."""
    identities = rule.min_identities - len(facts.votes)
    return max(votes_needed(facts, rule), identities, rule.min_classes - len(facts.classes), 0)


def wanted(facts: PatchFacts, rule: Rule) -> int:
    """How many trials of a patch may be under way at once: never more than could change the verdict.

    Not more than the luckiest outcome of them would need to promote it, for then the others were wasted; not more
    than the rule still counts; and few while it may yet turn out bad. A doubt needs one more word, a parked patch is
    looked at once at a time.
    """
    if not facts.trials and not facts.log_odds:
        return 1  # nobody has run it: nearly always
    has_votes = facts.log_odds >= rule.upper - SLACK
    left = (rule.max_trials_ahead if has_votes else rule.max_trials) - facts.trials
    if facts.doubted or facts.parked:
        return min(1, left)
    return max(0, min(wanted_in_flight(facts.log_odds, rule.upper), max(1, trials_needed(facts, rule)), left))


def best_possible(facts: PatchFacts, unheard: int, rule: Rule) -> float:
    """The highest log odds that the identities at hand could bring it to: everybody at the cap."""
    return math.fsum((facts.log_odds, *(math.log(rule.cap) - vote for vote in facts.votes.values()))) + (
        unheard * math.log(rule.cap)
    )
