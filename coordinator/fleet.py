"""Who is there to run trials: the machines heard of lately, whose they are, on what hardware, and how noisy that is.

A value that is changed machine by machine; every question costs about as much as the identities that it concerns, not
as many as there are machines. Pure. Left out: what the machines are to run (`planning`).
"""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from coordinator.facts import MachineFacts, PatchFacts
from coordinator.policy import Policy


class Fleet:
    """Machines that are there."""

    def __init__(self, policy: Policy) -> None:
        self.machines: dict[str, MachineFacts] = {}
        self.quarantined: frozenset[str] = frozenset()
        self._policy = policy
        self._healthy: Counter[str] = Counter()  # identity -> machines that are not broken
        self._classes: dict[str, Counter[str]] = {}  # hardware class -> identity -> machines that are not broken
        self._around: Mapping[str, int] = {}  # hardware class -> machines at work lately; empty: those that are there
        self._noise_bpb: Mapping[str, float] = {}
        self._noisy: frozenset[str] | None = None  # hardware classes; None: to be worked out
        self._quiet: dict[str, None] = {}  # identities with a machine that is not; worked out with it
        self._audit = ("", "")  # bases: the new one, the old one
        self._auditors: Counter[str] = Counter()  # identity -> its machines that measured both
        self._canaries: Counter[str] = Counter()  # identity -> canary machines that are not broken

    def put(self, facts: MachineFacts) -> None:
        """A machine is there, or something about it changed."""
        noisy, before = self._noisy, self.machines.get(facts.machine_id)
        if before is not None:
            self._count(before, -1)
        self.machines[facts.machine_id] = facts
        self._count(facts, 1)
        if before is not None and self._weighs(before) == self._weighs(facts):  # and machines do not change owners
            self._noisy = noisy  # nearly always: a trial began or ended

    def drop(self, machine_id: str) -> None:
        """A machine is gone; an unknown one is fine."""
        facts = self.machines.pop(machine_id, None)
        if facts is not None:
            self._count(facts, -1)

    def set_noise(self, noise_bpb: Mapping[str, float]) -> None:
        """Noise of one trial per hardware class."""
        self._noise_bpb, self._noisy = dict(noise_bpb), None

    def set_around(self, classes: Mapping[str, int]) -> None:
        """How many machines of each hardware class were at work lately, now or not: which cards are noisy must not
        change with who is at home this hour."""
        self._around, self._noisy = dict(classes), None

    def set_quarantined(self, identities: Collection[str]) -> None:
        """Identities whose results do not count."""
        self.quarantined = frozenset(identities)

    def set_audit(self, new_base: str, old_base: str) -> None:
        """The bases between which `auditors` compare."""
        self._audit = (new_base, old_base)
        self._auditors = Counter(m.identity_id for m in self.machines.values() if self._measures_both(m))

    def is_broken(self, facts: MachineFacts) -> bool:
        """Whether the machine fails on sources that others run: it had its tries and never completed one."""
        return any(base.failed >= self._policy.failed_baselines and not base.ever for base in facts.bases.values())

    def is_able(self, identity: str, author: str) -> bool:
        """Whether a trial of this author's patch by this identity would count, and it is there to run one."""
        return identity in self._healthy and identity != author and identity not in self.quarantined

    def able(self, without: str) -> int:
        """How many identities are able to run this author's patches."""
        away = sum(1 for identity in self.quarantined | {without} if identity in self._healthy)
        return len(self._healthy) - away

    def canaries(self, without: str) -> int:
        """How many identities have a canary machine that is able to run this author's patches."""
        return sum(1 for identity in self._canaries if self.is_able(identity, without))

    def auditors(self) -> int:
        """Identities that measured both bases of the audit, or are measuring the new one now."""
        return sum(1 for identity in self._auditors if identity not in self.quarantined)

    def is_noisy(self, hardware_class: str) -> bool:
        """Whether a trial on this class is much noisier than on the fleet's median machine."""
        if self._noisy is None:
            counts = self._around or {name: there.total() for name, there in self._classes.items()}
            known = [(self._noise_bpb[name], count) for name, count in counts.items() if name in self._noise_bpb]
            each = [noise for noise, count in known for _ in range(count)]
            limit = self._policy.screen_ratio * statistics.median(each) if each else math.inf
            self._noisy = frozenset(name for name, noise in self._noise_bpb.items() if noise > limit)
            quiet = (there for name, there in self._classes.items() if name not in self._noisy)
            self._quiet = dict.fromkeys(identity for there in quiet for identity in there)
        return hardware_class in self._noisy

    def quiet(self) -> int:
        """How many identities have a machine that is not noisy, and whose results count."""
        self.is_noisy("")  # works out who is quiet
        return len(self._quiet) - sum(1 for identity in self.quarantined if identity in self._quiet)

    def quiet_left(self, facts: PatchFacts) -> bool:
        """Whether somebody with a card that is not noisy could still give its first vote on the patch."""
        self.is_noisy("")  # works out who is quiet
        return any(self._could_vote(identity, facts) for identity in self._quiet)

    def able_on(self, classes: Iterable[str], facts: PatchFacts) -> bool:
        """Whether somebody on one of these classes could still give its first vote on the patch."""
        return self._somebody((name for name in classes if name in self._classes), facts)

    def able_off(self, classes: Collection[str], facts: PatchFacts) -> bool:
        """Whether somebody on another class than these could still give its first vote on the patch."""
        return self._somebody((name for name in self._classes if name not in classes), facts)

    def _somebody(self, classes: Iterable[str], facts: PatchFacts) -> bool:
        return any(self._could_vote(identity, facts) for name in classes for identity in self._classes[name])

    def _could_vote(self, identity: str, facts: PatchFacts) -> bool:
        """Whether an identity could still give its first vote. One that runs the patch now is about to have done so."""
        if identity in facts.runs or not self.is_able(identity, facts.author_id):
            return False
        return not facts.leased or all(identity != holder for holder, _ in facts.leased)

    def _weighs(self, facts: MachineFacts) -> str:
        """The class that the machine counts for in the fleet's median."""
        return "" if self.is_broken(facts) else facts.hardware_class

    def _measures_both(self, facts: MachineFacts) -> bool:
        new, old = (facts.bases.get(base) for base in self._audit)
        return new is not None and old is not None and old.baselines > 0 and (new.baselines > 0 or new.leased > 0)

    def _count(self, facts: MachineFacts, by: int) -> None:
        if self._measures_both(facts):
            _add(self._auditors, facts.identity_id, by)
        if self.is_broken(facts):
            return
        _add(self._healthy, facts.identity_id, by)
        if facts.canary:
            _add(self._canaries, facts.identity_id, by)
        there = self._classes.setdefault(facts.hardware_class, Counter())
        _add(there, facts.identity_id, by)
        if not there:
            del self._classes[facts.hardware_class]
        self._noisy = None


def _add(counter: Counter[str], key: str, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]
