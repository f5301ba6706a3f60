"""Rival rules in the same world: what others do, or what one would do first. Every GPU run counts, as it does for ours.

- alone: one machine, a random one, keeps a patch that scores below the best's recorded score (Karpathy's loop)
- lower-wins: any volunteer's single score below the record of all makes the patch the best (autoresearch at home)
- lower-wins-per-tier: the same with a record and a best for every memory tier
- t-test: one machine runs the patch n times beside n runs of the best; a one-sided Welch test decides. With a screen,
  a patch whose first run is not below the mean of the best is dropped at once

Liars there use the obvious attack where one score decides: the record minus 1 to 5 mbpb. A plain sequential test is a
setting of our own machinery (`scenarios.RULES`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.simulation.campaign import Campaign, Version
from coordinator.simulation.people import Person
from coordinator.simulation.world import Effect, Gains, added

TIERS = {"H100": 3, "A100": 3, "4090": 1, "3090": 1, "3060": 0}  # by memory
LIE_BPB = (0.001, 0.005)
BELIEVED_BPB, LARGEST_STEP_BPB = 0.5, 0.1  # scores below, and steps above, are taken for mistakes by everybody


def alone(campaign: Campaign) -> Iterator[None]:
    """One machine."""
    person = campaign.people.at_work()[0]
    person.lie = ""
    campaign.spend("baseline")
    record = campaign.people.measures(person, campaign.head.gains)
    while not campaign.over:
        yield
        effect, _ = campaign.draw()
        number = _runs(campaign, person, campaign.head, effect, from_ring=False)
        if number is not None and number < record:
            record = number
            campaign.promote(effect.kind, effect.gains)


@dataclass(slots=True)
class Record:
    """A tier's best."""

    version: Version
    bpb: float = math.inf


def lower_wins(campaign: Campaign, *, tiers: bool) -> Iterator[None]:
    """Any single score below the record."""
    cards = campaign.world.cards
    tier_of = [TIERS.get(card.name, 0) if tiers else 0 for card in cards]
    records = {tier: Record(campaign.head) for tier in sorted(set(tier_of))}
    while not campaign.over:
        yield
        for person, effect, candidate, number in _round(campaign, records, tier_of):
            record = records[tier_of[person.card]]
            if number is None or not (BELIEVED_BPB <= number < record.bpb):
                continue
            if record.bpb - number > LARGEST_STEP_BPB and record.bpb < math.inf:
                continue
            record.bpb = number
            if effect is not None:
                _tier_promotes(campaign, record, [tier == tier_of[person.card] for tier in tier_of], effect, candidate)


def _round(
    campaign: Campaign, records: dict[int, Record], tier_of: Sequence[int]
) -> list[tuple[Person, Effect | None, Version, float | None]]:
    found: list[tuple[Person, Effect | None, Version, float | None]] = []
    for person in campaign.people.at_work():
        record = records[tier_of[person.card]]
        if record.bpb == math.inf:
            campaign.spend("baseline")
            found.append((person, None, record.version, campaign.people.measures(person, record.version.gains)))
            continue
        effect, from_ring = campaign.draw()
        if from_ring and person.lie != "ring":  # a ring runs its own
            effect, from_ring = campaign.nature.effect(campaign.gain_bpb(campaign.head)), False
        number = _runs(campaign, person, record.version, effect, from_ring=from_ring)
        if person.lie == "flatter" or (person.lie == "ring" and from_ring):
            number = record.bpb - float(campaign.rng.uniform(*LIE_BPB))
        found.append((person, effect, record.version, number))
    return found


def _tier_promotes(campaign: Campaign, record: Record, in_tier: Sequence[bool], effect: Effect, base: Version) -> None:
    """The tier's best becomes the candidate as it ran; the swarm's best has every tier's gains on its own cards."""
    gains = added(base.gains, effect.gains)
    step: Gains = tuple(
        (new - old) if inside else 0.0 for old, new, inside in zip(campaign.head.gains, gains, in_tier, strict=True)
    )
    head = campaign.promote(effect.kind, step)
    record.version = Version(head.name, head.generation, gains)


@dataclass(slots=True)
class Job:
    """A patch on one machine."""

    effect: Effect
    from_ring: bool
    base: Version
    numbers: list[float]


def t_test(campaign: Campaign, *, runs: int, miss: float, screen: bool) -> Iterator[None]:
    """One machine decides by a t-test."""
    baselines: dict[tuple[int, str], list[float]] = {}
    jobs: dict[int, Job] = {}
    while not campaign.over:
        yield
        won: list[Job] = []
        for person in campaign.people.at_work():
            job = jobs.get(person.number)
            if job is None:
                effect, from_ring = campaign.draw()
                job = jobs[person.number] = Job(effect, from_ring, campaign.head, [])
                campaign.tested[effect.kind] += 1
            base = baselines.setdefault((person.number, job.base.name), [])
            if len(base) < runs:
                campaign.spend("baseline")
                number = campaign.people.reports_baseline(person, job.base.gains, job.base.pretended)
                base += [] if number is None else [number]
                continue
            number = _runs(campaign, person, job.base, job.effect, from_ring=job.from_ring, first=False)
            job.numbers += [] if number is None else [number]
            dropped = number is None or (screen and len(job.numbers) == 1 and number >= sum(base) / len(base))
            if dropped or len(job.numbers) == runs:
                del jobs[person.number]
                if not dropped and welch(base, job.numbers) < miss:
                    won.append(job)
        for job in won:
            gains: Gains | None = job.effect.gains
            if job.base is not campaign.head:
                gains = campaign.nature.moved(job.effect.gains)
            if gains is not None:
                campaign.promote(job.effect.kind, gains)


def _runs(
    campaign: Campaign, person: Person, base: Version, effect: Effect, *, from_ring: bool, first: bool = True
) -> float | None:
    if first:
        campaign.tested[effect.kind] += 1
    campaign.spend(effect.kind)
    candidate = added(base.gains, effect.gains)
    crashes = effect.crashes[person.card]
    return campaign.people.reports(person, base.gains, candidate, crashes=crashes, from_ring=from_ring)


def welch(baseline: Sequence[float], candidate: Sequence[float]) -> float:
    """One-sided p-value of "the candidate's mean is lower", by Welch's t-test."""
    x, y = np.asarray(baseline), np.asarray(candidate)
    a, b = float(x.var(ddof=1)) / len(x), float(y.var(ddof=1)) / len(y)
    spread = math.sqrt(a + b) + 1e-12
    freedom = (a + b) ** 2 / (a * a / (len(x) - 1) + b * b / (len(y) - 1) + 1e-30)
    return student_tail(float(x.mean() - y.mean()) / spread, freedom)


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t, by the incomplete beta function's continued fraction (Abramowitz and Stegun 26.5.8)."""
    if t < 0.0:
        return 1.0 - student_tail(-t, freedom)
    return 0.5 * _incomplete_beta(freedom / (freedom + t * t), freedom / 2.0, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    fraction = 1.0
    for step in range(60, 0, -1):  # backwards from far enough: both arguments are below a hundred
        half = step // 2
        if step % 2:
            term = -(a + half) * (a + b + half) * x / ((a + step - 1) * (a + step))
        else:
            term = half * (b - half) * x / ((a + step - 1) * (a + step))
        fraction = 1.0 + term / fraction
    return front / (a * fraction)
