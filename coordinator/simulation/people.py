"""The simulated volunteers, honest and not, and what they report.

A liar is told by what it does; all of them but `offset` can tell a candidate from a baseline:

- flatter: every candidate 6 mbpb better than it was, crashes too
- worse: every candidate 10 mbpb worse
- ring: members hand in patches that lose 8 mbpb and all report that those gain 6
- offset: everything 10 mbpb better, baselines too
- lazy: runs the best in place of the candidate
- mix: flatter, worse and ring in equal parts
"""

from dataclasses import dataclass

import numpy as np

from coordinator.simulation.world import OFFSET_SD, Gains, Nature, World

STRATEGIES = ("flatter", "worse", "ring", "offset", "lazy", "mix")
FLATTERY_BPB, SPITE_BPB, OFFSET_BPB, RING_CLAIM_BPB, RING_LOSS_BPB = 0.006, 0.010, 0.010, 0.006, 0.008
FLAKY_CRASHES = 0.3


@dataclass(slots=True)
class Person:
    """An identity with its one machine."""

    number: int
    name: str  # as identity and as machine
    card: int
    level_bpb: float  # of its machine, beside its class
    lie: str
    flaky: bool
    left: int = 0  # trials of its session


class People:
    """Everybody, and who is at work."""

    def __init__(self, world: World, nature: Nature, rng: np.random.Generator) -> None:
        self.world = world
        self._nature = nature
        self._rng = rng
        cards = world.classes()
        rng.shuffle(cards)
        lies = {"mix": ("flatter", "worse", "ring")}.get(world.liars, (world.liars,))
        dishonest = round(world.liar_share * len(cards))
        flaky = round(world.flaky_share * len(cards))
        true = world.scaled_cards()
        self.everybody = [
            Person(
                number=at,
                name=f"v{at:03d}",
                card=card,
                level_bpb=float(rng.normal(0.0, OFFSET_SD * true[card].noise_bpb)),
                lie=lies[at % len(lies)] if at < dishonest else "",
                flaky=at >= len(cards) - flaky,
            )
            for at, card in enumerate(cards)
        ]
        self.ring = [person for person in self.everybody if person.lie == "ring"]
        zeal = np.exp(rng.normal(0.0, 0.7, len(cards)))
        self._chance = zeal / zeal.sum()
        self._at_work: list[Person] = []

    def at_work(self) -> list[Person]:
        """Who runs a trial now; sessions end and others begin."""
        self._at_work = [person for person in self._at_work if person.left > 0]
        here = {person.number for person in self._at_work}
        while len(self._at_work) < min(self.world.at_once, len(self.everybody)):
            person = self.everybody[int(self._rng.choice(len(self.everybody), p=self._chance))]
            if person.number not in here:
                person.left = int(self._rng.geometric(1.0 / self.world.session_trials))
                here.add(person.number)
                self._at_work.append(person)
        for person in self._at_work:
            person.left -= 1
        return list(self._at_work)

    def measures(self, person: Person, gains: Gains) -> float:
        """What a trial of a source with these gains really gives on this person's machine."""
        card = self._nature.world.cards[person.card]
        if self.world.drift:
            noise_bpb = card.noise_bpb * self.world.noise_scale
            person.level_bpb += float(self._rng.standard_normal()) * self.world.drift * noise_bpb
        return card.bpb - gains[person.card] + person.level_bpb + self._nature.noise(person.card)

    def breaks(self, person: Person) -> bool:
        """Whether its machine crashes this trial by its own fault."""
        return person.flaky and bool(self._rng.random() < FLAKY_CRASHES)

    def reports_baseline(self, person: Person, gains: Gains, pretended: Gains | None) -> float | None:
        """val_bpb of a baseline as reported; None: crashed. `pretended`: what a ring says the best has gained."""
        if person.lie == "ring" and pretended is not None:
            return self.measures(person, pretended)
        if self.breaks(person):
            return None
        return self.measures(person, gains) - (OFFSET_BPB if person.lie == "offset" else 0.0)

    def reports(self, person: Person, base: Gains, candidate: Gains, *, crashes: bool, from_ring: bool) -> float | None:
        """val_bpb of a candidate as reported; None: crashed."""
        if person.lie == "ring" and from_ring:
            return self.measures(person, base) - RING_CLAIM_BPB
        if person.lie not in ("flatter", "worse") and (crashes or self.breaks(person)):
            return None
        if person.lie == "lazy":
            return self.measures(person, base)
        shift = {"flatter": -FLATTERY_BPB, "worse": SPITE_BPB, "offset": -OFFSET_BPB}.get(person.lie, 0.0)
        return self.measures(person, candidate) + shift
