"""Whether a machine may run a trial of a patch, and whether that could matter. Pure.

Leaves out the order in which patches are offered (`turns`) and everything that is not about one machine and one patch
(`planning`).
"""

import enum

from autoresearch.judging.rule import Rule
from autoresearch.judging.verdict import baselines_wanted
from coordinator.facts import BaseFacts, MachineFacts, PatchFacts
from coordinator.fleet import Fleet
from coordinator.policy import Policy
from coordinator.worth import Worth, best_possible, trials_needed, votes_needed, wanted

NO_BASE = BaseFacts()


class Baselines(enum.Enum):
    """Whether a machine's baselines on a base are enough for its next candidate."""

    THERE = enum.auto()
    UNDER_WAY = enum.auto()
    NEEDED = enum.auto()


class Eligibility:
    """The rules, for a fleet that changes."""

    def __init__(self, fleet: Fleet, rule: Rule, policy: Policy) -> None:
        self.fleet = fleet
        self.rule = rule
        self.policy = policy

    def baselines(self, machine: MachineFacts, base: str, now_ms: int) -> Baselines:
        """Whether the machine has the baselines on this base that its next candidate there needs."""
        own = machine.bases.get(base, NO_BASE)
        fresh = now_ms < own.ends_at_ms
        have, runs = (own.baselines, own.runs) if fresh else (0, 0)
        policy = self.policy
        wants = baselines_wanted(runs, least=policy.first_baselines, most=policy.most_baselines)
        if have >= wants:
            return Baselines.THERE
        return Baselines.UNDER_WAY if have + own.leased >= wants else Baselines.NEEDED

    def free(self, facts: PatchFacts) -> int:
        """How many more trials of it may start now."""
        under_way = sum(1 for identity, _ in facts.leased if identity not in self.fleet.quarantined)
        return wanted(facts, self.rule) - under_way

    def suits(self, machine: MachineFacts, facts: PatchFacts, own: Worth, now_ms: int) -> float:
        """What a trial of this patch on this machine is worth."""
        per_run = own.per_run
        if self._lacks(machine, facts):
            per_run *= self.policy.missing_class_worth
        if self.baselines(machine, facts.base_sha256, now_ms) is Baselines.NEEDED:
            per_run *= own.runs / (own.runs + 1.0)
        return per_run

    def may_run(self, machine: MachineFacts, facts: PatchFacts, now_ms: int) -> bool:
        """Whether a trial of this open patch on this machine is allowed and could matter."""
        identity = machine.identity_id
        if any(holder == identity for holder, _ in facts.leased):
            return False
        if self.baselines(machine, facts.base_sha256, now_ms) is Baselines.UNDER_WAY:
            return False
        runs = facts.runs.get(identity, 0)
        if runs and not self._again(machine, facts, runs):
            return False
        return not facts.runs or (self._confirms(machine, facts) and self._adds_class(machine, facts))

    def _again(self, machine: MachineFacts, facts: PatchFacts, runs: int) -> bool:
        """Whether an identity that ran the patch may run it again: everybody at hand had as many chances, and the
        identities at hand could still promote it."""
        able = self.fleet.able(without=facts.author_id)
        had = [count for identity, count in facts.runs.items() if self.fleet.is_able(identity, facts.author_id)]
        if len(had) < able or runs > min(had):
            return False
        if machine.identity_id not in facts.heard:
            return True  # it has not been heard yet: disturbed
        unheard = able - sum(self.fleet.is_able(identity, facts.author_id) for identity in facts.heard)
        voters = len(facts.votes) + unheard
        return voters >= self.rule.min_identities and best_possible(facts, unheard, self.rule) >= self.rule.upper

    def _lacks(self, machine: MachineFacts, facts: PatchFacts) -> bool:
        """Whether a promotion still needs a class, and this one would do."""
        return len(facts.classes) < self.rule.min_classes and machine.hardware_class not in facts.classes

    def _confirms(self, machine: MachineFacts, facts: PatchFacts) -> bool:
        """Noisy cards screen; those that look good are for quieter ones, while there is one that can."""
        if facts.log_odds <= self.policy.confirm_above or not self.fleet.is_noisy(machine.hardware_class):
            return True
        if machine.hardware_class in facts.doubtful:
            return True
        return self._lacks(machine, facts) or not self.fleet.quiet_left(facts)

    def _adds_class(self, machine: MachineFacts, facts: PatchFacts) -> bool:
        """Whether the trials that are still needed leave room for one on this class.

        When as few votes are missing as classes, each of them has to come from another class; one that is ahead but
        for a doubt about a class waits for that class.
        """
        rule = self.rule
        spoken = facts.classes | {name for _, name in facts.leased}
        lacking = rule.min_classes - len(spoken)
        if facts.doubtful and not trials_needed(facts, rule):
            return machine.hardware_class in facts.doubtful or not self.fleet.able_on(facts.doubtful, facts)
        if lacking <= 0 or machine.hardware_class not in spoken:
            return True
        others = max(votes_needed(facts, rule), rule.min_identities - len(facts.votes)) - len(facts.leased)
        if others > lacking:
            return True
        if self.fleet.able_off(spoken, facts):
            return False
        return votes_needed(facts, rule) > 0 or len(facts.votes) < rule.min_identities

    def may_confirm(self, machine: MachineFacts, facts: PatchFacts, now_ms: int) -> bool:
        if self.baselines(machine, facts.base_sha256, now_ms) is Baselines.UNDER_WAY:
            return False
        runs = facts.runs.get(machine.identity_id, 0)
        return not runs or self._again(machine, facts, runs)
