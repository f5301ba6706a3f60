"""What a simulated swarm remembers: how it decides, its patches under test, and what every machine measured."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from autoresearch.judging.case import Case
from autoresearch.judging.evidence import Row, robust_mean, shrunk
from autoresearch.judging.level import OtherTrial, together
from autoresearch.judging.periods import BASELINE_LIFE_MS
from autoresearch.judging.rule import DEFAULT, Rule
from autoresearch.judging.verdict import Verdict
from coordinator.disputes import Voice, disputed
from coordinator.facts import BaseFacts, PatchFacts
from coordinator.policy import DEFAULT_POLICY, Policy
from coordinator.simulation.campaign import Version
from coordinator.simulation.people import Person
from coordinator.simulation.world import Effect


@dataclass(frozen=True, slots=True)
class Course:
    """How a swarm decides."""

    rule: Rule = DEFAULT
    policy: Policy = DEFAULT_POLICY
    watch: bool = True  # whom to believe
    audits: bool = True


@dataclass(slots=True)
class Tested:
    """A patch under test."""

    patch_id: str
    author: str
    effect: Effect
    from_ring: bool
    base: Version
    submitted_at_ms: int
    case: Case
    verdict: Verdict = Verdict.OPEN
    runs: dict[str, int] = field(default_factory=dict)
    leased: tuple[tuple[str, str], ...] = ()
    earlier: dict[str, int] = field(default_factory=dict)  # by identity: runs that there were when it took its last one
    numbers: dict[tuple[str, int], list[float]] = field(default_factory=dict)  # identity, period -> val_bpb
    crashes: dict[str, int] = field(default_factory=dict)
    excluded: dict[str, list[tuple[object, Row]]] = field(default_factory=dict)
    decided_at_ms: int = 0
    reported: int = -1  # the number of what it said last about those who ran it; -1: it says nothing now
    noise_age: int = 0  # which estimate of the noise its case was weighed by

    def every_row(self) -> list[Row]:
        """Of everybody, believed or not."""
        return [*self.case.every_row(), *(row for some in self.excluded.values() for _, row in some)]

    def row(self, identity: str, hardware_class: str, period: int, bench: "Bench", most_others: int) -> Row:
        """What an identity's one machine measured of it in that period of its bench; -1: before the first."""
        first = min((at for who, at in self.numbers if who == identity), default=period)
        return Row(
            identity=identity,
            machine=identity,
            hardware_class=hardware_class,
            candidate=tuple(self.numbers.get((identity, period), ())),
            baseline=tuple(bench.periods[period].baselines) if period >= 0 else (),
            crashes=self.crashes.get(identity, 0) if period == first else 0,
            others=bench.periods[period].others(self.patch_id, most_others) if period >= 0 else (),
        )

    def take(self, period: int, row: Row, *, believed: bool) -> None:
        """Counts a row, or keeps it for when its identity is believed again."""
        if believed:
            self.case.put(period, row)
            return
        kept = [(key, other) for key, other in self.excluded.get(row.identity, ()) if key != period]
        self.excluded[row.identity] = [*kept, (period, row)]

    def facts(self, rule: Rule) -> PatchFacts:
        """As the planner knows it."""
        case, gain_bpb = self.case, None
        if pairs := case.pairs():
            information = sum(1.0 / pair.variance for pair in pairs)
            gain_bpb = shrunk(robust_mean(pairs), information, rule.delta_bpb)
        tallies, counts = case.classes(), case.counts()
        parked = self.verdict is Verdict.PARKED
        voiced = [gained for witness in case.witnesses() if (gained := witness.gained) is not None]
        return PatchFacts(
            patch_id=self.patch_id,
            author_id=self.author,
            base_sha256=self.base.name,
            submitted_at_ms=self.submitted_at_ms,
            parked=parked,
            doubted=parked and any(tally.only_crashed for tally in tallies.values()),
            disputed=disputed([Voice(*gained) for gained in voiced]),
            decided_at_ms=self.decided_at_ms,
            log_odds=counts.log_odds,
            gain_bpb=gain_bpb,
            runs=self.runs,
            votes=case.votes,
            trials=case.trials,
            classes=frozenset(name for name, tally in tallies.items() if tally.finishers),
            doubtful=case.doubtful_classes(counts),
            heard=frozenset(self.runs),
            leased=self.leased,
        )

    def keep_out(self, identity: str) -> None:
        """Its rows do not count from now on."""
        self.excluded[identity] = list(self.case.keyed_rows(identity))
        self.case.drop(identity)

    def let_in(self, identity: str) -> None:
        """They count again."""
        for key, row in self.excluded.pop(identity, ()):
            self.case.put(key, row)


@dataclass(slots=True)
class Period:
    """What a machine measured on one base beside the same baselines."""

    begins_at_ms: int
    baselines: list[float] = field(default_factory=list)  # val_bpb
    tried: dict[str, list[OtherTrial]] = field(default_factory=dict)  # by patch

    def others(self, patch_id: str, most: int) -> tuple[OtherTrial, ...]:
        """Of the last other patches."""
        others = [own for name, own in self.tried.items() if name != patch_id] if most else ()
        return tuple(map(together, others[-most:]))


@dataclass(slots=True)
class Bench:
    """What a machine measured on one base."""

    periods: list[Period] = field(default_factory=list)
    runs: int = 0  # candidates in the last period
    failed: int = 0
    leased: int = 0
    patches: set[str] = field(default_factory=set)  # undecided, run here

    def facts(self) -> BaseFacts:
        """As the planner knows it."""
        if not self.periods:
            return BaseFacts(failed=self.failed, leased=self.leased, runs=self.runs)
        last = self.periods[-1]
        ends_at_ms = last.begins_at_ms + BASELINE_LIFE_MS
        return BaseFacts(len(last.baselines), ends_at_ms, self.runs, self.failed, True, self.leased)

    def take(self, number: float, now_ms: int) -> None:
        """A baseline; it begins a period if the last one is over."""
        if not self.periods or now_ms >= self.periods[-1].begins_at_ms + BASELINE_LIFE_MS:
            self.periods.append(Period(now_ms))
            self.runs = 0
        self.periods[-1].baselines.append(number)

    @property
    def baselines(self) -> tuple[float, ...]:
        """Of the last period."""
        return tuple(self.periods[-1].baselines) if self.periods else ()


class Benches:
    """Every machine's measurements on every base. `classes`: the hardware class of each card."""

    def __init__(self, people: Iterable[Person], classes: list[str]) -> None:
        self._people = list(people)
        self._classes = classes
        self._benches: dict[str, dict[str, Bench]] = {person.name: {} for person in self._people}

    def at(self, name: str, base: str) -> Bench:
        """Of one machine on one base."""
        return self._benches[name].setdefault(base, Bench())

    def facts(self, name: str, live: Iterable[str]) -> dict[str, BaseFacts]:
        """What the planner knows of a machine on these bases."""
        own = self._benches[name]
        return {base: own[base].facts() for base in live if base in own}

    def forget(self, name: str, base: str, patch_id: str) -> None:
        """The patch is decided."""
        own = self._benches[name].get(base)
        if own is not None:
            own.patches.discard(patch_id)

    def audit_rows(self, old: str, new: str, held: Collection[str]) -> list[Row]:
        """Baselines of two bases side by side, by machine, of those who are believed."""
        return [
            Row(person.name, person.name, self._classes[person.card], own[new].baselines, own[old].baselines)
            for person in self._people
            if person.name not in held
            and (own := self._benches[person.name]).keys() >= {old, new}
            and own[new].baselines
            and own[old].baselines
        ]

    def repeats(self, bases: Collection[str], held: Collection[str]) -> Mapping[str, list[list[float]]]:
        """By hardware class, what the noise is estimated from."""
        groups: dict[str, list[list[float]]] = {}
        for person in self._people:
            group = groups.setdefault(self._classes[person.card], [])
            if person.name not in held:
                for base, bench in self._benches[person.name].items():
                    if base in bases:
                        group.extend(period.baselines for period in bench.periods)
        return groups
