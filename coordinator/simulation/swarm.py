"""A campaign decided by production code: verdicts, quarantine, audits, noise and planning are the coordinator's own.

What is simulated is only what surrounds them: trials of five minutes whose results arrive together, authors who submit
as fast as patches are wanted, merges that sometimes fail. What the coordinator reads from its ledger is kept in memory.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from autoresearch.judging import noise, pairing
from autoresearch.judging.agreement import FEWEST_OTHERS
from autoresearch.judging.case import Case
from autoresearch.judging.level import OtherTrial
from autoresearch.judging.reputation import Reputations
from autoresearch.judging.trust import DecidedPatch, KnownAnswer
from autoresearch.judging.verdict import Verdict, judge
from coordinator.bases import FEW_MACHINES, REST_TRIALS
from coordinator.facts import MachineFacts
from coordinator.planning import Choice, Kind, Planner
from coordinator.simulation.campaign import Campaign, Version
from coordinator.simulation.losses import Losses
from coordinator.simulation.people import Person
from coordinator.simulation.proposals import Proposals, Won
from coordinator.simulation.spans import Spans
from coordinator.simulation.state import Bench, Benches, Course, Tested
from coordinator.simulation.world import Gains, added, kind_of

TRIAL_MS = 300_000  # five minutes
AUTHORS = 40  # who take turns in submitting; none of them a volunteer, but for a ring
PARKED_KEPT = 100  # parked patches that the planner still knows
BURST_AT_TRIALS = 192  # an hour after the start
ENDED = frozenset(Verdict) - {Verdict.OPEN, Verdict.PARKED}


class Swarm:
    """One campaign."""

    def __init__(self, campaign: Campaign, course: Course) -> None:
        self.campaign = campaign
        world = campaign.world
        self._classes = [card.name for card in world.cards]
        self._people = {person.name: person for person in campaign.people.everybody}
        fleet = {world.cards[person.card].name for person in campaign.people.everybody}
        self._rule = replace(course.rule, min_classes=max(1, min(course.rule.min_classes, len(fleet))))
        self._course = course
        self._noise: dict[str, float] = {name: noise.prior_for(name) for name in sorted(fleet)}
        self._noise_age = 0
        self._reputations = Reputations(self._noise)
        heard = course.policy.classes_to_hear(course.rule.min_classes, len(fleet))
        self._planner = Planner(replace(self._rule, min_classes=heard), course.policy)
        self._planner.set_noise(self._noise)
        self._planner.set_around(Counter(self._classes[person.card] for person in campaign.people.everybody))
        self._base = campaign.head  # what new patches are written for
        self._before = campaign.head
        self._live: set[str] = set()  # bases that anything may run on now
        self._versions = {campaign.head.name: campaign.head}
        self._planner.set_best(campaign.head.name)
        self._refreshed_at = 0
        self._patches: dict[str, Tested] = {}
        self._parked: dict[str, None] = {}
        self._fresh = self._submitted = 0
        self.tested_of: Counter[str] = Counter()  # patches by author
        self._benches = Benches(campaign.people.everybody, self._classes)
        self._losses = Losses(course)
        self._spans = Spans()
        self._proposals = Proposals(self._rule)
        self._bursting = world.burst
        self._now_ms = 0
        self._planned_for: set[str] = set()  # machines

    @property
    def quarantined(self) -> list[str]:
        """Whose results do not count."""
        return sorted(self._reputations.held)

    def step(self) -> None:
        """One round: everybody at work runs a trial."""
        self._now_ms += TRIAL_MS
        self._supply()
        under_test = {own.base.name for own in self._patches.values() if own.verdict is Verdict.OPEN}
        self._live = under_test | {self._base.name, self._before.name}
        running = []
        for person in self._at_work():
            choice = self._choose(person)
            if choice.kind is not Kind.NOTHING:
                running.append((person, choice))
                self._lease(person, choice)
        if not running:
            self.campaign.spend("idle")  # a round in which nobody may run anything must not last for ever
        touched: dict[str, None] = {}
        measured: set[str] = set()
        for person, choice in running:
            if choice.kind is Kind.CANDIDATE:
                touched |= self._run_candidate(person, choice)
            elif choice.kind is Kind.KNOWN_ANSWER:
                self._run_known(person, choice)
            else:
                touched |= self._run_baseline(person, choice)
                measured.add(choice.base_sha256)
        for patch_id in touched:
            self._judge(patch_id)
        self._review()
        if measured and self._course.audits:
            self._audit(measured)
        self._estimate_noise(len(running))
        self._refresh()

    # --- what there is to run ---

    def _supply(self) -> None:
        if self._bursting and self.campaign.trials >= BURST_AT_TRIALS:
            for _ in range(self._bursting):
                self._submit("burst")
            self._bursting = 0
        while self._fresh < self.campaign.world.at_once:
            self._submit("")

    def _submit(self, author: str) -> None:
        campaign = self.campaign
        effect, from_ring = campaign.draw()
        if from_ring:
            author = campaign.people.ring[int(campaign.rng.integers(len(campaign.people.ring)))].name
        self._submitted += 1
        own = Tested(
            patch_id=f"p{self._submitted:06d}",
            author=author or f"author{self._submitted % AUTHORS:02d}",
            effect=effect,
            from_ring=from_ring,
            base=self._base,
            submitted_at_ms=self._now_ms,
            case=Case(self._noise, self._rule),
            noise_age=self._noise_age,
        )
        self._patches[own.patch_id] = own
        if author != "burst":
            self._fresh += 1
        self._tell_patch(own)

    def _at_work(self) -> list[Person]:
        """Who asks for a trial. The planner forgets who left, as it forgets silent machines."""
        here = self.campaign.people.at_work()
        names = {person.name for person in here}
        for name in self._planned_for - names:
            self._planner.drop_machine(name)
        self._planned_for = names
        return here

    def _choose(self, person: Person) -> Choice:
        facts = self._benches.facts(person.name, self._live)
        hardware_class = self._classes[person.card]
        self._planner.put_machine(MachineFacts(person.name, person.name, hardware_class, facts, self._now_ms))
        return self._planner.choose(person.name, self._now_ms, float(self.campaign.rng.random()))

    def _bench(self, person: Person, base: str) -> Bench:
        return self._benches.at(person.name, base)

    def _lease(self, person: Person, choice: Choice) -> None:
        if choice.kind is Kind.BASELINE:
            self._bench(person, choice.base_sha256).leased += 1
        elif choice.kind is Kind.CANDIDATE:
            own = self._patches[choice.patch_id]
            if not own.runs and not own.leased:
                self.campaign.tested[own.effect.kind] += 1
                self.tested_of[own.author] += 1
                self._fresh -= own.author != "burst"
            own.leased = (*own.leased, (person.name, self._classes[person.card]))
            own.earlier[person.name] = sum(own.runs.values())
            known = self._planner.patch(own.patch_id)
            assert known is not None
            self._planner.put_patch(replace(known, leased=own.leased))

    # --- trials ---

    def _run_baseline(self, person: Person, choice: Choice) -> dict[str, None]:
        campaign, version = self.campaign, self._versions[choice.base_sha256]
        campaign.spend("baseline")
        bench = self._bench(person, version.name)
        bench.leased -= 1
        number = campaign.people.reports_baseline(person, version.gains, version.pretended)
        if number is None:
            bench.failed += 1
            return {}
        bench.take(number, self._now_ms)
        touched: dict[str, None] = {}
        for patch_id in sorted(bench.patches):
            own = self._patches.get(patch_id)
            if own is not None:
                self._put_row(person, own, len(bench.periods) - 1)
                touched[patch_id] = None
        return touched

    def _run_candidate(self, person: Person, choice: Choice) -> dict[str, None]:
        campaign, own = self.campaign, self._patches[choice.patch_id]
        campaign.spend(own.effect.kind)
        name = self._classes[person.card]
        own.leased = tuple(lease for lease in own.leased if lease != (person.name, name))
        own.runs[person.name] = own.runs.get(person.name, 0) + 1
        bench = self._bench(person, own.base.name)
        bench.runs += 1
        bench.patches.add(own.patch_id)
        crashes = own.effect.crashes[person.card]
        candidate = added(own.base.gains, own.effect.gains)
        number = campaign.people.reports(
            person, own.base.gains, candidate, crashes=crashes, from_ring=own.from_ring
        )  # fmt: skip
        period = len(bench.periods) - 1
        if number is None:
            own.crashes[person.name] = own.crashes.get(person.name, 0) + 1
        else:
            own.numbers.setdefault((person.name, period), []).append(number)
            if period >= 0:
                tried = bench.periods[period].tried.setdefault(own.patch_id, [])
                tried.append(OtherTrial(number, own.earlier[person.name]))
        for name, at in list(own.numbers) if self._rule.own_trials else ():
            self._put_row(self._people[name], own, at)  # whose level is known better by now
        self._put_row(person, own, period)
        return {own.patch_id: None}

    def _put_row(self, person: Person, own: Tested, period: int) -> None:
        bench = self._bench(person, own.base.name)
        row = own.row(person.name, self._classes[person.card], period, bench, self._rule.own_trials)
        own.take(period, row, believed=person.name not in self._reputations.held)

    def _run_known(self, person: Person, choice: Choice) -> None:
        assert choice.known is not None
        campaign = self.campaign
        loss, effect = self._losses.take(choice.known.patch_id, person.name)
        campaign.spend("known answer")
        base = self._versions[loss.base_sha256]
        candidate = added(base.gains, effect.gains)
        number = campaign.people.reports(person, base.gains, candidate, crashes=False, from_ring=False)
        bench = self._bench(person, base.name)
        self._tell_known()
        if number is None or not bench.periods:
            return
        baselines = bench.periods[-1].baselines
        gain_bpb = sum(baselines) / len(baselines) - number
        noise_bpb = self._noise[self._classes[person.card]]
        if self._course.watch:
            answer = KnownAnswer(gain_bpb, len(baselines), noise_bpb, loss.effect_bpb)
            self._reputations.answered(person.name, answer)

    # --- what follows ---

    def _tell_patch(self, own: Tested) -> None:
        self._planner.put_patch(own.facts(self._rule))

    def _judge(self, patch_id: str) -> None:
        own = self._patches.get(patch_id)
        if own is None:
            return
        if own.noise_age < self._noise_age:
            own.case.set_noise(self._noise)
            own.noise_age = self._noise_age
        verdict = judge(own.case)
        if verdict is not own.verdict:
            own.decided_at_ms = self._now_ms
            if own.verdict is Verdict.PARKED:
                self._parked.pop(patch_id, None)
        own.verdict = verdict
        if verdict in ENDED:
            self._end(own)
            return
        self._tell_patch(own)
        if verdict is Verdict.OPEN:
            self._take_back(own)
        elif verdict is Verdict.PARKED:
            self._parked[patch_id] = None
            if not own.leased:
                self._report(own)
            if len(self._parked) > PARKED_KEPT:
                self._forget(self._patches[next(iter(self._parked))])

    def _end(self, own: Tested) -> None:
        self._report(own)
        if own.verdict is Verdict.PROMOTED:
            self._promote(own)
        elif own.verdict is Verdict.REJECTED:
            self._losses.learn(own)
            self._tell_known()
        self._forget(own)

    def _forget(self, own: Tested) -> None:
        self._planner.drop_patch(own.patch_id)
        self._parked.pop(own.patch_id, None)
        del self._patches[own.patch_id]
        for identity in own.runs:
            self._benches.forget(identity, own.base.name, own.patch_id)

    def _report(self, own: Tested) -> None:
        """What the patch says about those who ran it."""
        self._take_back(own)
        rows = own.every_row()
        if self._course.watch and len({row.identity for row in rows}) > FEWEST_OTHERS:
            own.reported = self._reputations.add(DecidedPatch(own.base.name, tuple(rows), self._noise, self._rule))

    def _take_back(self, own: Tested) -> None:
        """An open patch says nothing about those who ran it; a decided one, what it said last."""
        if own.reported >= 0:
            self._reputations.take_back(own.reported)
            own.reported = -1

    def _tell_known(self) -> None:
        current = {self._base.name, *(own.base.name for own in self._patches.values())}
        self._losses.keep(current)
        self._planner.set_known_losses(self._losses)

    def _promote(self, own: Tested) -> None:
        campaign = self.campaign
        gains: Gains | None = own.effect.gains
        if own.base is not campaign.head:
            gains = campaign.nature.moved(own.effect.gains)
        if gains is not None:
            head = campaign.promote(kind_of(own.effect, campaign.world.cards), gains)
            self._versions[head.name] = head
            self._proposals.add(Won(len(campaign.promotions) - 1, campaign.promotions[-1], own, self._noise))

    def _review(self) -> None:
        if not self._course.watch:
            return
        changes = self._reputations.review()
        if not changes:
            return
        self._planner.set_quarantined(self._reputations.held.keys())
        touched: dict[str, None] = {}
        for change in changes:
            for own in self._patches.values():
                if change.identity in own.runs:
                    (own.let_in if change.quarantine is None else own.keep_out)(change.identity)
                    touched[own.patch_id] = None
        for patch_id in touched:
            self._judge(patch_id)
        for won in self._proposals.heeded({change.identity for change in changes}, self._reputations.held):
            self._take_out(won.number, won.number + 1)
            self._go_on(won.patch)

    def _go_on(self, own: Tested) -> None:
        """A patch whose promotion was taken back is tested again, with the evidence of those who are believed now."""
        for identity in own.runs:
            is_out = identity in own.excluded
            if is_out != (identity in self._reputations.held):
                (own.let_in if is_out else own.keep_out)(identity)
            self._benches.at(identity, own.base.name).patches.add(own.patch_id)
        self._patches[own.patch_id] = own
        self._judge(own.patch_id)

    # --- audits, noise, refreshes ---

    def _audit(self, measured: Collection[str]) -> None:
        failed = self._spans.failed(measured, self._benches, self._reputations.held, self._noise, self._rule)
        if failed is not None:
            self._take_out(failed.first, failed.end)

    def _take_out(self, first: int, end: int) -> None:
        """Promotions, from number `first` up to, and without, `end`, are taken out of the best again. If what came
        later does not merge without them, its patches win again at once, by the evidence that they have, and are
        merged."""
        campaign = self.campaign
        if campaign.nature.moved(campaign.head.gains) is None:
            campaign.merge_anew(campaign.promotions[end:])
        head = campaign.take_back(campaign.promotions[first:end])
        self._versions[head.name] = head
        self._spans.begin_anew(len(campaign.promotions))
        self._use(head)

    def _estimate_noise(self, fresh: int) -> None:
        """As the coordinator: whenever the ledger has grown by about one part in sixty-four."""
        step = max(64, 1 << max(0, self.campaign.trials.bit_length() - 6))
        if self.campaign.trials // step == (self.campaign.trials - fresh) // step:
            return
        most = pairing.NOISE_SOURCES_FEW if self._rule.own_trials else pairing.NOISE_SOURCES
        recent = set(list(self._versions)[-most:])
        groups = self._benches.repeats(recent, self._reputations.held)
        prior = {name: noise.prior_for(name) for name in self._noise}
        moved = noise.moved_priors(groups, prior)
        self._set_noise(noise.estimate(groups, moved, clips_sd=noise.TIGHT_CLIPS_SD))

    def _set_noise(self, sigma: Mapping[str, float]) -> None:
        self._noise = dict(sigma)
        self._planner.set_noise(self._noise)
        self._reputations.set_noise(self._noise)
        self._noise_age += 1

    def _refresh(self) -> None:
        """New patches are tested against the new best, when the old one has rested."""
        campaign = self.campaign
        if campaign.head is self._base or campaign.trials - self._refreshed_at < self._rest():
            return
        self._spans.begin(self._base, campaign.head, len(campaign.promotions))
        self._use(campaign.head)

    def _rest(self) -> int:
        """Trials of the whole swarm."""
        machines = self.campaign.world.at_once
        return 0 if machines <= FEW_MACHINES else REST_TRIALS * machines

    def _use(self, head: Version) -> None:
        self._before, self._base = self._base, head
        self._refreshed_at = self.campaign.trials
        self._planner.set_best(head.name, self._before.name)
        for own in list(self._patches.values()):
            if own.runs or own.leased:
                continue
            moved = self.campaign.nature.moved(own.effect.gains)
            if moved is None:  # back to its author
                self._fresh -= own.author != "burst"
                self._forget(own)
            else:
                own.effect, own.base = own.effect._replace(gains=moved), head
                self._tell_patch(own)
