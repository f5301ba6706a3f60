"""Which trial a machine should run next, kept ready for whoever asks. Pure: no I/O, no clock, no chance of its own.

A `Planner` holds what is known (`facts`) in the order in which it is wanted. Tell it what changed (`put_patch`,
`put_machine`, ...: whole new values, in any order) and ask it `choose`: the answer is a function of the facts, the
time and the drawn number alone, however they came about; a change costs about as much as the logarithm of the number
of patches. Rules (statistics.md of the design, sections 5 and 6), the first that gives something:

1. a machine that fails on what others run gets nothing; one in quarantine one uncounted trial an hour
2. soon after a promotion, the new best on a machine that measured the old one: that is its audit
3. a parked patch about which identities contradict each other (`disputes`), for another one on a quiet card to say
   who is right: so liars are found, and nobody honest stands against two of them
4. the open patch that is worth most, authors taking turns (`turns`, `worth`): evidence first, then fresh ones; one
   that its identity has voted on already only when there is no other
5. a patch that somebody saw crash or fail its exam, for another identity to say so too
6. the best, if this machine has not measured it
7. a parked patch that is worth a second look and has rested

A base is measured before a patch on it, and again when the baselines are stale. Now and then a trial with a known
answer takes a candidate's place. An author's machines never run the author's patch; an unknown author's is run first by
a canary machine; nobody runs a patch again before everybody at hand had as many chances; never more runs at once than
could change the verdict.

Left out: what a trial's result means (`verdict`, `trust`), and handing out (`scheduling`, `dispatch`).
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from autoresearch.judging.rule import Rule
from coordinator.eligibility import NO_BASE, Asker, Baselines, for_canaries
from coordinator.facts import KnownLoss, MachineFacts, PatchFacts
from coordinator.fleet import Fleet
from coordinator.policy import DEFAULT_POLICY, Policy
from coordinator.turns import Turns
from coordinator.waiting import Waiting
from coordinator.worth import Worth, wanted, worth

LOOKED_AT = 256  # patches looked through for the reason why there is nothing to run
SECOND_LOOKS = 64  # parked patches looked through for one that the machine may run


class Kind(enum.Enum):
    """What a machine is to run."""

    CANDIDATE = enum.auto()
    BASELINE = enum.auto()
    KNOWN_ANSWER = enum.auto()
    NOTHING = enum.auto()


class Why(enum.Enum):
    """Why there is nothing to run."""

    BROKEN = "this machine fails on the current best: mend it, then join again"
    QUARANTINED = "your results are in quarantine: a trial now and then shows whether they agree with the others' again"
    NO_PATCH = "no open patches: waiting for somebody to submit one"
    OWN = "only your own patches are open: others must test them"
    CANARY = "the open patches are by unknown authors: a canary machine has to come back from them first"
    ENOUGH = "every open patch has enough trials under way"


@dataclass(frozen=True, slots=True)
class Choice:
    """What to run: `patch_id` of a candidate, `base_sha256` of it or of a baseline, `known` of a known answer."""

    kind: Kind
    patch_id: str = ""
    base_sha256: str = ""
    known: KnownLoss | None = None
    why: Why | None = None


class Planner:
    """What is known, in the order in which it is wanted. `rule.min_classes`: how many should be heard."""

    def __init__(self, rule: Rule, policy: Policy = DEFAULT_POLICY) -> None:
        self._rule = rule
        self._policy = policy
        self._patches: dict[str, PatchFacts] = {}
        self._fleet = Fleet(policy)
        self._turns = Turns(policy.turn_patches)
        self._worth: dict[str, Worth] = {}  # of patches with evidence
        self._waiting = Waiting()  # parked and doubted ones
        self._open_by: dict[str, int] = {}  # author -> open patches
        # Open patches that look good and lack no class, which noisy cards leave to others: how many cannot take it.
        self._for_quiet: dict[str, int] = {}
        self._known: dict[str, list[KnownLoss]] = {}  # by base
        self._best = self._before = ""
        fresh = worth(0.0, None, rule, policy).per_run
        self._second_look = fresh * policy.second_look_worth

    # --- what changed ---

    def load(self, patches: Iterable[PatchFacts], machines: Iterable[MachineFacts]) -> None:
        """Takes many facts at once into a planner that has none; the same as putting them one by one."""
        for machine in machines:
            self.put_machine(machine)
        self._patches = {facts.patch_id: facts for facts in patches}
        waiting = [facts for facts in self._patches.values() if facts.parked or facts.doubted]
        for facts in waiting:
            self._list(facts)
        self._turns.load(self._offer(own) for own in self._patches.values() if not (own.parked or own.doubted))

    def put_patch(self, facts: PatchFacts) -> None:
        """An undecided patch is new, or something about it changed."""
        self.drop_patch(facts.patch_id)
        self._patches[facts.patch_id] = facts
        if facts.doubted or facts.parked:
            self._list(facts)
        else:
            self._turns.put(*(offer := self._offer(facts))[:4], offered=offer[4])

    def drop_patch(self, patch_id: str) -> None:
        """A patch is decided or withdrawn; an unknown one is fine."""
        facts = self._patches.pop(patch_id, None)
        if facts is None:
            return
        if facts.doubted or facts.parked:
            self._waiting.drop(facts, self._worth.pop(patch_id).per_run)
        else:
            self._turns.drop(patch_id)
            self._worth.pop(patch_id, None)
            self._for_quiet.pop(patch_id, None)
            self._open_by[facts.author_id] -= 1
            if not self._open_by[facts.author_id]:
                del self._open_by[facts.author_id]

    def put_machine(self, facts: MachineFacts) -> None:
        """A machine was heard of, or something about it changed."""
        self._fleet.put(facts)

    def drop_machine(self, machine_id: str) -> None:
        """A machine went silent; an unknown one is fine."""
        self._fleet.drop(machine_id)

    def set_best(self, best_sha256: str, before_sha256: str = "") -> None:
        """What machines measure that have nothing else to do; `before`: the best it replaced, for its audit."""
        self._best, self._before = best_sha256, before_sha256
        self._fleet.set_audit(best_sha256, before_sha256)

    def set_noise(self, noise_bpb: Mapping[str, float]) -> None:
        """Noise of one trial per hardware class."""
        self._fleet.set_noise(noise_bpb)

    def set_around(self, classes: Mapping[str, int]) -> None:
        """Machines of each hardware class that were at work lately, now or not."""
        self._fleet.set_around(classes)

    def set_min_classes(self, min_classes: int) -> None:
        """Hardware classes that should speak before a promotion, of those that there are (`classes_to_hear`)."""
        if min_classes != self._rule.min_classes:
            self._rule = replace(self._rule, min_classes=min_classes)
            for facts in list(self._patches.values()):
                self.put_patch(facts)

    def set_quarantined(self, identities: Collection[str]) -> None:
        """Identities whose results do not count."""
        changed = self._fleet.quarantined ^ frozenset(identities)
        self._fleet.set_quarantined(identities)
        for facts in list(self._patches.values()):
            if any(identity in changed for identity, _ in facts.leased):
                self.put_patch(facts)

    def set_known_losses(self, known: Iterable[KnownLoss]) -> None:
        """The patches that are known to lose; replaces those of before."""
        self._known = {}
        for loss in sorted(known, key=lambda own: own.patch_id):
            self._known.setdefault(loss.base_sha256, []).append(loss)

    def patch(self, patch_id: str) -> PatchFacts | None:
        """What is known of a patch."""
        return self._patches.get(patch_id)

    def machine(self, machine_id: str) -> MachineFacts | None:
        """What is known of a machine."""
        return self._fleet.machines.get(machine_id)

    def first_run(self, patch_id: str) -> str:
        """Why a patch waits for its first run; empty when it does not, beyond its turn."""
        facts = self._patches.get(patch_id)
        if facts is None or not facts.unproven or facts.leased or not for_canaries(facts, self._fleet, self._policy):
            return ""
        there = self._fleet.canaries(without=facts.author_id)
        return f"its author is new here: its first run is for a canary machine; {there or 'none'} at work now"

    # --- what follows ---

    def choose(self, machine_id: str, now_ms: int, draw: float) -> Choice:
        """What this machine should run now. `draw`: from 0 to 1, whether a known answer is due; it changes nothing
        else. Choosing changes nothing: the caller puts the facts with the new lease."""
        machine = self._fleet.machines[machine_id]
        if self._fleet.is_broken(machine):
            return _nothing(Why.BROKEN)
        asker = Asker(machine, now_ms, self._fleet, self._rule, self._policy)
        if asker.identity in self._fleet.quarantined:
            return self._for_quarantined(asker, now_ms)
        if self._audits(asker, now_ms):
            return Choice(Kind.BASELINE, base_sha256=self._best)
        found = None if asker.is_noisy else self._waits_for_a_voice(self._waiting.disputes, asker)
        found = found or self._open_patch(asker) or self._waits_for_a_voice(self._waiting.doubts, asker)
        if found is None and asker.baselines(self._best) is Baselines.NEEDED:
            return Choice(Kind.BASELINE, base_sha256=self._best)
        found = found or self._second_look_at(asker, now_ms)
        if found is None:
            return _nothing(self._why(asker))
        return _with_baseline(asker, found) or self._known_answer(asker, found, draw) or _run(found)

    def _why(self, asker: Asker) -> Why:
        if not self._open_by:
            return Why.NO_PATCH
        if self._open_by.keys() == {asker.identity}:
            return Why.OWN
        others = (facts for facts in self._patches.values() if not facts.parked and facts.author_id != asker.identity)
        return Why.CANARY if all(asker.must_leave(facts) for facts in islice(others, LOOKED_AT)) else Why.ENOUGH

    def _audits(self, asker: Asker, now_ms: int) -> bool:
        """Whether this machine's baseline of the new best is wanted at once, beside that of the old one."""
        if not self._before or self._before == self._best:
            return False
        old = asker.machine.bases.get(self._before, NO_BASE)
        measured = old.baselines > 0 and now_ms < old.ends_at_ms
        if not measured or asker.baselines(self._best) is not Baselines.NEEDED:
            return False
        return self._fleet.auditors() < self._policy.audit_identities

    # --- candidates ---

    def _offer(self, facts: PatchFacts) -> tuple[str, str, int, float | None, bool]:
        """An open patch as `Turns.put` takes it."""
        self._open_by[facts.author_id] = self._open_by.get(facts.author_id, 0) + 1
        if not facts.runs and not facts.leased:  # nearly always
            return facts.patch_id, facts.author_id, facts.submitted_at_ms, None, True
        per_run = None
        if facts.runs:
            own = self._worth[facts.patch_id] = worth(facts.log_odds, facts.gain_bpb, self._rule, self._policy)
            per_run = own.per_run
            if self._is_for_quiet(facts):
                self._for_quiet[facts.patch_id] = len(facts.runs) + len(facts.leased) + 1  # and its author
        return facts.patch_id, facts.author_id, facts.submitted_at_ms, per_run, self._free(facts) > 0

    def _is_for_quiet(self, facts: PatchFacts) -> bool:
        looks_good = facts.log_odds > self._policy.confirm_above
        return looks_good and len(facts.classes) >= self._rule.min_classes and not facts.doubtful

    def _free(self, facts: PatchFacts) -> int:
        """How many more trials of it may start now."""
        if not facts.leased:
            return wanted(facts, self._rule)
        under_way = sum(1 for identity, _ in facts.leased if identity not in self._fleet.quarantined)
        return wanted(facts, self._rule) - under_way

    def _list(self, facts: PatchFacts) -> None:
        """A patch that waits behind the open ones."""
        own = self._worth[facts.patch_id] = worth(facts.log_odds, facts.gain_bpb, self._rule, self._policy)
        self._waiting.put(facts, own.per_run)

    def _open_patch(self, asker: Asker) -> PatchFacts | None:
        """The open patch to run: the first in turn or, among those nearly as good, one that this machine suits."""
        best, again, most, first, seen = None, None, 0.0, 0.0, 0
        quiet = self._fleet.quiet() if asker.is_noisy else 0
        for key in self._turns.in_order():
            if quiet and self._for_quiet.get(key[5], quiet) < quiet:
                continue  # what `may_run` would find too: some of the quiet ones can still run it
            facts = self._patches[key[5]]
            is_fresh, per_run = key[1], -key[2]
            if best is not None and (is_fresh or seen >= self._policy.look or per_run < self._policy.window * first):
                break
            if not asker.may_run(facts):
                continue
            if is_fresh:
                return facts
            if asker.identity in facts.heard or asker.leaves(facts):  # it could add little
                again = again or facts
                continue
            suits = asker.suits(facts, self._worth[facts.patch_id])
            seen += 1
            if best is None:
                first = per_run
            if best is None or suits > most:
                best, most = facts, suits
        return best or again

    # --- what waits behind the open patches ---

    def _waits_for_a_voice(self, listed: Iterable[tuple[int, str]], asker: Asker) -> PatchFacts | None:
        """The first of these patches that another identity's word would settle, and that this one may give."""
        for _, patch_id in listed:
            facts = self._patches[patch_id]
            if asker.identity in facts.heard or asker.identity == facts.author_id or self._free(facts) <= 0:
                continue
            if asker.may_confirm(facts):
                return facts
        return None

    def _second_look_at(self, asker: Asker, now_ms: int) -> PatchFacts | None:
        rested = now_ms - self._policy.resume_after_ms
        for minus_worth, _, patch_id in self._waiting.parked[:SECOND_LOOKS]:
            if -minus_worth < self._second_look:
                break
            facts = self._patches[patch_id]
            if facts.decided_at_ms > rested or asker.identity == facts.author_id or self._free(facts) <= 0:
                continue
            if asker.may_confirm(facts):
                return facts
        return None

    # --- trust ---

    def _known_answer(self, asker: Asker, instead_of: PatchFacts, draw: float) -> Choice | None:
        """Now and then, in a candidate's place and on its base: a trial whose answer is known. While there are few,
        a patch that looks bad enough to become one, so that others confirm how much it loses."""
        share = self._policy.known_answer_share
        if draw >= share:
            return None
        known = self._losses_for(asker, instead_of.base_sha256)
        new = [own for own in known if asker.identity != own.author_id]
        if any(asker.identity in own.seen for own in self._known.get(instead_of.base_sha256, ())):
            new = []  # two answers against the same baselines would be one mistake counted twice
        if new:
            return Choice(Kind.KNOWN_ANSWER, known=new[int(draw / share * len(new))])
        if len(known) >= self._policy.known_answers:
            return None
        suspect = self._suspect(asker, instead_of.base_sha256)
        return None if suspect is None else _run(suspect)

    def _losses_for(self, asker: Asker, base: str) -> list[KnownLoss]:
        """Those that are not known to spare such hardware."""
        return [own for own in self._known.get(base, ()) if asker.machine.hardware_class not in own.spared]

    def _suspect(self, asker: Asker, base: str) -> PatchFacts | None:
        """The parked patch on this base that looks worst, if this identity can confirm it."""
        least = self._policy.known_answer_deltas * self._rule.delta_bpb
        for _, _, patch_id in reversed(self._waiting.parked[-SECOND_LOOKS:]):
            facts = self._patches[patch_id]
            if facts.base_sha256 != base or facts.gain_bpb is None or facts.gain_bpb > -least:
                continue
            if asker.identity not in (*facts.runs, facts.author_id) and self._free(facts) > 0:
                return facts
        return None

    def _for_quarantined(self, asker: Asker, now_ms: int) -> Choice:
        """A trial that does not count, so that its identity can show that it agrees with the others again."""
        machine = asker.machine
        if now_ms - machine.last_trial_at_ms < self._policy.quarantined_every_ms:
            return _nothing(Why.QUARANTINED)
        for base in machine.bases:
            losses = self._losses_for(asker, base) if asker.baselines(base) is Baselines.THERE else ()
            new = [loss for loss in losses if asker.identity not in (*loss.seen, loss.author_id)]
            if new:
                return Choice(Kind.KNOWN_ANSWER, known=new[0])
        for key in self._turns.in_order():
            facts = self._patches[key[5]]
            if asker.identity in (*facts.runs, facts.author_id) or not asker.may_confirm(facts):
                continue
            return _with_baseline(asker, facts) or _run(facts)
        if asker.baselines(self._best) is Baselines.NEEDED:
            return Choice(Kind.BASELINE, base_sha256=self._best)
        return _nothing(Why.QUARANTINED)


def _with_baseline(asker: Asker, facts: PatchFacts) -> Choice | None:
    if asker.baselines(facts.base_sha256) is Baselines.NEEDED:
        return Choice(Kind.BASELINE, base_sha256=facts.base_sha256)
    return None


def _run(facts: PatchFacts) -> Choice:
    return Choice(Kind.CANDIDATE, patch_id=facts.patch_id, base_sha256=facts.base_sha256)


def _nothing(why: Why) -> Choice:
    return Choice(Kind.NOTHING, why=why)
