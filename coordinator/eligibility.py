"""Whether a machine that asks may run a trial of a patch, and whether that could matter. Pure.

Leaves out the order in which patches are offered (`turns`) and everything that is not about one machine and one patch
(`planning`).
"""

import enum

from autoresearch.judging.rule import Rule
from autoresearch.judging.verdict import baselines_wanted
from coordinator.facts import BaseFacts, MachineFacts, PatchFacts
from coordinator.fleet import Fleet
from coordinator.policy import Canaries, Policy
from coordinator.worth import Worth, best_possible, votes_needed

NO_BASE = BaseFacts()


class Baselines(enum.Enum):
    """Whether a machine's baselines on a base are enough for its next candidate."""

    THERE = enum.auto()
    UNDER_WAY = enum.auto()
    NEEDED = enum.auto()


def for_canaries(facts: PatchFacts, fleet: Fleet, policy: Policy) -> bool:
    """Whether the first run of an unproven patch is kept for canary machines now."""
    if policy.canaries is not Canaries.PREFER:
        return policy.canaries is Canaries.WAIT
    return fleet.canaries(without=facts.author_id) > 0


class Asker:
    """One machine that asks, at one moment, in a fleet that does not change meanwhile."""

    def __init__(self, machine: MachineFacts, now_ms: int, fleet: Fleet, rule: Rule, policy: Policy) -> None:
        self.machine = machine
        self.identity = machine.identity_id
        self._class = machine.hardware_class
        self._now_ms = now_ms
        self._fleet = fleet
        self._rule = rule
        self._policy = policy
        self.is_noisy = fleet.is_noisy(machine.hardware_class)
        self._baselines: dict[str, Baselines] = {}

    def baselines(self, base: str) -> Baselines:
        """Whether the machine has the baselines on this base that its next candidate there needs."""
        known = self._baselines.get(base)
        if known is None:
            known = self._baselines[base] = self._look_at(base)
        return known

    def _look_at(self, base: str) -> Baselines:
        own = self.machine.bases.get(base, NO_BASE)
        have, runs = (own.baselines, own.runs) if self._now_ms < own.ends_at_ms else (0, 0)
        most = self._policy.most_beside_trials if self._rule.own_trials else self._policy.most_baselines
        wants = baselines_wanted(runs, least=self._policy.first_baselines, most=most)
        if have >= wants:
            return Baselines.THERE
        return Baselines.UNDER_WAY if have + own.leased >= wants else Baselines.NEEDED

    def suits(self, facts: PatchFacts, own: Worth) -> float:
        """What a trial of this patch on this machine is worth."""
        per_run = own.per_run
        if self._lacks(facts):
            per_run *= self._policy.missing_class_worth
        if self.baselines(facts.base_sha256) is Baselines.NEEDED:
            per_run *= own.runs / (own.runs + 1.0)
        return per_run

    def may_run(self, facts: PatchFacts) -> bool:
        """Whether a trial of this open patch is allowed and could matter."""
        if facts.author_id == self.identity or not self.may_confirm(facts):
            return False
        return not facts.runs or (self._confirms(facts) and self._adds_class(facts))

    def must_leave(self, facts: PatchFacts) -> bool:
        """Whether the patch's first run is for somebody else's canary machine."""
        return facts.unproven and not self.machine.canary and for_canaries(facts, self._fleet, self._policy)

    def may_confirm(self, facts: PatchFacts) -> bool:
        """Whether a trial of this patch is allowed, whatever it could add."""
        if self.must_leave(facts):
            return False
        if facts.leased and any(holder == self.identity for holder, _ in facts.leased):
            return False
        if self.baselines(facts.base_sha256) is Baselines.UNDER_WAY:
            return False
        runs = facts.runs.get(self.identity, 0)
        return not runs or self._again(facts, runs)

    def _again(self, facts: PatchFacts, runs: int) -> bool:
        """Whether an identity that ran the patch may run it again: everybody at hand had as many chances, and the
        identities at hand could still promote it."""
        able = self._fleet.able(without=facts.author_id)
        if len(facts.runs) < able:
            return False
        had = [count for identity, count in facts.runs.items() if self._fleet.is_able(identity, facts.author_id)]
        if len(had) < able or runs > min(had):
            return False
        if self.identity not in facts.heard:
            return True  # it has not been heard yet: disturbed
        unheard = able - sum(self._fleet.is_able(identity, facts.author_id) for identity in facts.heard)
        voters = len(facts.votes) + unheard
        return voters >= self._rule.min_identities and best_possible(facts, unheard, self._rule) >= self._rule.upper

    def _lacks(self, facts: PatchFacts) -> bool:
        """Whether a promotion still needs a class, and this one would do."""
        return len(facts.classes) < self._rule.min_classes and self._class not in facts.classes

    def _confirms(self, facts: PatchFacts) -> bool:
        """Noisy cards screen; those that look good are for quieter ones, while there is one that can."""
        return not self.leaves(facts) or not self._fleet.quiet_left(facts)

    def leaves(self, facts: PatchFacts) -> bool:
        """Whether this card is too noisy for a patch that looks good: it finds out more about another one."""
        if not self.is_noisy or facts.log_odds <= self._policy.confirm_above or self._class in facts.doubtful:
            return False
        return not self._lacks(facts)

    def _adds_class(self, facts: PatchFacts) -> bool:
        """Whether the trials that are still needed leave room for one on this class.

        When as few votes are missing as classes, each of them has to come from another class; one that is ahead but
        for a doubt about a class waits for that class.
        """
        rule = self._rule
        if facts.doubtful and not self._voices_needed(facts):
            settles = self._class in facts.doubtful or self._lacks(facts)
            return settles or not self._fleet.able_on(facts.doubtful, facts)
        spoken = facts.classes | {name for _, name in facts.leased} if facts.leased else facts.classes
        lacking = rule.min_classes - len(spoken)
        if lacking <= 0 or self._class not in spoken:
            return True
        voices = self._voices_needed(facts)
        if voices - len(facts.leased) > lacking:
            return True
        return voices > 0 and not self._fleet.able_off(spoken, facts)

    def _voices_needed(self, facts: PatchFacts) -> int:
        """How many further identities it needs at least, on whatever hardware."""
        return max(votes_needed(facts, self._rule), self._rule.min_identities - len(facts.votes), 0)
