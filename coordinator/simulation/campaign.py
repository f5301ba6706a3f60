"""What every simulated campaign keeps, whatever rule decides in it: the best, the trials spent, what came of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from coordinator.simulation.people import RING_CLAIM_BPB, RING_LOSS_BPB, People
from coordinator.simulation.world import Effect, Gains, Nature, World, added, mean_gain

REGRESSION_BPB = 0.0001  # a promotion that loses more than this made the best worse


@dataclass(frozen=True, slots=True)
class Version:
    """A source that was the best. `pretended`: its gains as a ring reports them."""

    name: str
    generation: int
    gains: Gains
    pretended: Gains | None = None


@dataclass(slots=True)
class Promotion:
    """A step of the best."""

    trials: int
    kind: str
    gains: Gains
    gain_bpb: float
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a campaign. Gains in bits per byte, over the fleet."""

    gains: tuple[float, ...]  # at the marks that it reached
    trace: tuple[tuple[int, float], ...]  # trials, gain of the best: where it changed
    trials: int
    tested: dict[str, int]  # patches by kind
    promoted: dict[str, int]
    spent: dict[str, int]  # trials by kind; "baseline" too
    regressions: int  # promotions that made the best worse and stayed
    undone: int  # promotions rolled back
    caught: int  # liars in quarantine at the end
    liars: int
    wronged: int  # honest identities in quarantine at the end


@dataclass(slots=True)
class Campaign:
    """One swarm's course. `marks`: trials at which its gain is noted, ascending; the last one ends it."""

    world: World
    seed: int
    marks: Sequence[int]
    rng: np.random.Generator = field(init=False)
    nature: Nature = field(init=False)
    people: People = field(init=False)
    head: Version = field(init=False)
    trials: int = 0
    promotions: list[Promotion] = field(default_factory=list)
    tested: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)
    trace: list[tuple[int, float]] = field(default_factory=lambda: [(0, 0.0)])
    _at_marks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.nature = Nature(self.world, self.rng)
        self.people = People(self.world, self.nature, self.rng)
        self.head = Version("v0", 0, (0.0,) * len(self.world.cards))

    @property
    def over(self) -> bool:
        """Whether every mark is reached."""
        return len(self._at_marks) == len(self.marks)

    def gain_bpb(self, version: Version) -> float:
        """What the fleet gains by a version."""
        return mean_gain(version.gains, self.world.cards)

    def draw(self) -> tuple[Effect, bool]:
        """The next patch, and whether a ring wrote it."""
        if self.people.ring and self.rng.random() < self.world.ring_rate:
            count = len(self.world.cards)
            return Effect("ring", (-RING_LOSS_BPB,) * count, (False,) * count), True
        return self.nature.effect(self.gain_bpb(self.head)), False

    def spend(self, kind: str) -> None:
        """One trial."""
        self.trials += 1
        self.spent[kind] += 1
        while len(self._at_marks) < len(self.marks) and self.trials >= self.marks[len(self._at_marks)]:
            self._at_marks.append(self.gain_bpb(self.head))

    def promote(self, kind: str, gains: Gains) -> Version:
        """A patch with these gains becomes part of the best."""
        pretended = self.head.pretended
        if kind == "ring":
            pretended = added(pretended or self.head.gains, (RING_CLAIM_BPB,) * len(gains))
        elif pretended is not None:
            pretended = added(pretended, gains)
        before = self.gain_bpb(self.head)
        self.move(added(self.head.gains, gains), pretended)
        self.promotions.append(Promotion(self.trials, kind, gains, self.gain_bpb(self.head) - before))
        return self.head

    def merge_anew(self, promotions: Iterable[Promotion]) -> None:
        """They are merged onto another best than before; what conflicts goes back to its author."""
        for own in promotions:
            gains = self.nature.moved(own.gains)
            own.undone = own.undone or gains is None
            own.gains = own.gains if gains is None else gains

    def take_back(self, promotions: Iterable[Promotion]) -> Version:
        """They are part of the best no more."""
        for own in promotions:
            own.undone = True
        standing = [own for own in self.promotions if not own.undone]
        nothing, claimed = ((each,) * len(self.world.cards) for each in (0.0, RING_CLAIM_BPB))
        gains = reduce(added, (own.gains for own in standing), nothing)
        if not any(own.kind == "ring" for own in standing):
            return self.move(gains)
        return self.move(gains, reduce(added, (claimed if own.kind == "ring" else own.gains for own in standing)))

    def move(self, gains: Gains, pretended: Gains | None = None) -> Version:
        """Another source becomes the best."""
        generation = self.head.generation + 1
        self.head = Version(f"v{generation}", generation, gains, pretended)
        self.trace.append((self.trials, self.gain_bpb(self.head)))
        return self.head

    def outcome(self, quarantined: Sequence[str] = ()) -> Outcome:
        """What came of it until now."""
        liars = {person.name for person in self.people.everybody if person.lie}
        return Outcome(
            gains=tuple(self._at_marks),
            trace=tuple(self.trace),
            trials=self.trials,
            tested=dict(self.tested),
            promoted=dict(Counter(own.kind for own in self.promotions)),
            spent=dict(self.spent),
            regressions=sum(own.gain_bpb < -REGRESSION_BPB and not own.undone for own in self.promotions),
            undone=sum(own.undone for own in self.promotions),
            caught=len(liars.intersection(quarantined)),
            liars=len(liars),
            wronged=len(set(quarantined) - liars),
        )
