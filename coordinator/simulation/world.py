"""The simulated world: graphics cards and their noise, what patches really do, and how that changes when they move.

Effects are gains in bits per byte, positive when a patch helps, one per hardware class. Sizes are anchored on public
reports where there are some (an H100 at 0.998, about 15 % of proposals useful, noise near 0.001) and assumed elsewhere;
docs/decisions.md says which. Chance comes from the generator that is passed in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

Gains = tuple[float, ...]  # bpb, by hardware class


@dataclass(frozen=True, slots=True)
class Card:
    """A hardware class."""

    name: str
    bpb: float  # of the seed source
    noise_bpb: float  # standard deviation of one trial
    tail: float  # degrees of freedom of its noise; 0: normal
    share: float  # of the identities
    slow: float  # share of trials that lose 5 to 40 mbpb because something else used the machine


CARDS = (
    Card("H100", 0.998, 0.0013, 0.0, 0.10, 0.000),
    Card("A100", 1.040, 0.0015, 0.0, 0.15, 0.002),
    Card("4090", 1.150, 0.0020, 8.0, 0.30, 0.010),
    Card("3090", 1.250, 0.0028, 5.0, 0.30, 0.010),
    Card("3060", 1.420, 0.0045, 4.0, 0.15, 0.015),
)
KINDS = ("crash", "harm", "null", "small", "large")
MIX = (0.08, 0.45, 0.32, 0.10, 0.05)
USEFUL = frozenset({"small", "large"})
SMALL_BPB, LARGE_BPB = (0.0005, 0.002), (0.002, 0.010)
HARM_MEDIAN_BPB, HARM_MOST_BPB = 0.004, 0.06
CROWDED = 0.04  # share of patches that run out of memory on small cards
MERGE_KEEPS, MERGE_CONFLICTS, MERGE_WEAKENS = 0.30, 0.05, 0.10  # what is kept, and how often
OFFSET_SD = 2.0  # of a machine's own level, in its noise
BANK = 4096  # noises drawn at once


@dataclass(frozen=True, slots=True)
class World:
    """What may differ from one simulated swarm to another."""

    identities: int = 40
    at_once: int = 16  # trials at a time
    session_trials: float = 24.0  # mean length of a volunteer's session
    cards: tuple[Card, ...] = CARDS
    noise_scale: float = 1.0
    class_spread: float = 0.35  # sd of a patch's effect from class to class, as a share of it
    drying_bpb: float = 0.05  # gains shrink by exp(-gain so far / this); infinity: they never dry up
    no_gains: bool = False  # no patch helps
    liars: str = ""  # what the dishonest do, see `people`
    liar_share: float = 0.0
    drift: float = 0.0  # random walk of a machine's level per trial, in its noise
    flaky_share: float = 0.0  # identities whose machine crashes three trials in ten, whatever it runs
    burst: int = 0  # patches that one author submits at once, an hour after the start
    ring_rate: float = 0.02  # share of patches that a ring, if there is one, submits

    def scaled_cards(self) -> tuple[Card, ...]:
        """The cards with their true noise."""
        return tuple(replace(card, noise_bpb=card.noise_bpb * self.noise_scale) for card in self.cards)

    def classes(self) -> list[int]:
        """The card of every identity, by shares; at least one identity per class that has a share."""
        counts = [max(1, round(card.share * self.identities)) if card.share > 0 else 0 for card in self.cards]
        while sum(counts) > self.identities:
            counts[counts.index(max(counts))] -= 1
        while sum(counts) < self.identities:
            counts[max(range(len(counts)), key=lambda at: self.cards[at].share)] += 1
        return [index for index, count in enumerate(counts) for _ in range(count)]


class Effect(NamedTuple):
    """What a patch really does."""

    kind: str
    gains: Gains
    crashes: tuple[bool, ...]  # by hardware class


@dataclass(slots=True)
class Nature:
    """The world's chance: noise, patches and merges, drawn from one generator."""

    world: World
    rng: np.random.Generator
    _cards: tuple[Card, ...] = field(init=False)
    _banks: list[list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self._cards = self.world.scaled_cards()
        self._banks = [[] for _ in self._cards]

    def noise(self, card: int) -> float:
        """Of one trial; added to its val_bpb."""
        if not self._banks[card]:
            self._banks[card] = self._draw(self._cards[card])
        return self._banks[card].pop()

    def _draw(self, card: Card) -> list[float]:
        if card.tail:
            drawn = self.rng.standard_t(card.tail, BANK) / math.sqrt(card.tail / (card.tail - 2.0))
        else:
            drawn = self.rng.standard_normal(BANK)
        noises = drawn * card.noise_bpb
        slow = self.rng.random(BANK) < card.slow
        noises[slow] += self.rng.uniform(0.005, 0.04, int(slow.sum()))
        return [float(noise) for noise in noises]

    def effect(self, gain_bpb: float) -> Effect:
        """Of the next patch, when the best has gained so much already."""
        kind = KINDS[int(self.rng.choice(len(KINDS), p=MIX))]
        count = len(self._cards)
        if kind == "crash":
            return Effect(kind, (0.0,) * count, (True,) * count)
        if kind in USEFUL and self.world.no_gains:
            kind = "null"
        mean = self._mean(kind, math.exp(-max(0.0, gain_bpb) / self.world.drying_bpb))
        spread = 1.0 + self.world.class_spread * self.rng.standard_normal(count)
        return Effect(kind, tuple(float(mean * own) for own in spread), self._crowded())

    def _mean(self, kind: str, scale: float) -> float:
        if kind == "null":
            return 0.0
        if kind == "harm":
            return -min(HARM_MOST_BPB, math.exp(self.rng.normal(math.log(HARM_MEDIAN_BPB), 1.0)))
        return float(self.rng.uniform(*(SMALL_BPB if kind == "small" else LARGE_BPB))) * scale

    def _crowded(self) -> tuple[bool, ...]:
        """Whether it runs out of memory: on the smallest card, and sometimes on the middle ones."""
        count = len(self._cards)
        if self.rng.random() >= CROWDED:
            return (False,) * count
        middle = bool(self.rng.random() < 0.25)
        return tuple(at == count - 1 or (middle and at >= 2) for at in range(count))

    def moved(self, gains: Gains) -> Gains | None:
        """A patch's gains after a merge onto a best that changed; None: it does not merge."""
        chance = self.rng.random()
        if chance < MERGE_CONFLICTS:
            return None
        if chance < MERGE_CONFLICTS + MERGE_WEAKENS:
            return tuple(MERGE_KEEPS * gain if gain > 0.0 else gain for gain in gains)
        return gains


def mean_gain(gains: Sequence[float], cards: Sequence[Card]) -> float:
    """Over the fleet."""
    total = sum(card.share for card in cards)
    return sum(gain * card.share for gain, card in zip(gains, cards, strict=True)) / total


def added(one: Gains, other: Gains) -> Gains:
    """Gains of both together."""
    return tuple(a + b for a, b in zip(one, other, strict=True))


def kind_of(effect: Effect, cards: Sequence[Card]) -> str:
    """What a patch does for the fleet: where classes are unlike, one that was drawn to harm may help, and one that was
    drawn to help may harm."""
    if effect.kind not in USEFUL | {"harm"}:
        return effect.kind
    helps = mean_gain(effect.gains, cards) > 0.0
    if helps == (effect.kind in USEFUL):
        return effect.kind
    return "small" if helps else "harm"
