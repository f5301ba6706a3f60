"""What is broken, when, and for how long: a schedule drawn from a seed. Pure."""

import random  # noqa: TID251  # always seeded: the same faults every time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Kind -> (how often among a hundred, seconds that it lasts at least and at most). A kill lasts no time: whatever looks
# after the program starts it again.
KINDS = {
    "kill leader": (12, 0.0, 0.0),
    "kill standby": (5, 0.0, 0.0),
    "freeze leader": (10, 1.0, 7.0),
    "freeze standby": (3, 1.0, 7.0),
    "kill store": (11, 0.0, 0.0),
    "restart store": (4, 0.0, 0.0),
    "freeze store": (6, 0.3, 4.0),
    "kill volunteer": (10, 0.0, 0.0),
    "freeze volunteer": (8, 1.0, 8.0),
    "cut volunteers": (4, 0.0, 0.0),
    "cut leader from store": (4, 0.0, 0.0),
    "silence volunteers": (3, 0.5, 4.0),
    "silence leader's store": (5, 0.5, 6.0),
    "delay volunteers": (3, 1.0, 4.0),
    "delay store": (4, 1.0, 4.0),
    "fill leader's disk": (4, 0.5, 3.0),
    "fill store's disk": (2, 0.5, 3.0),
    "fill volunteers' disk": (2, 0.5, 3.0),
}
MEASURED = {"kill leader": "coordinator", "kill store": "store"}
WAIT_MEAN_S, WAIT_MOST_S = 1.0, 4.0
ALONE = 0.5  # share of the measured kills after which nothing else is broken until the swarm has recovered
DELAYS_S = (0.02, 0.3)  # one way


@dataclass(frozen=True)
class Fault:
    """One thing to break, `wait_s` after the last one."""

    number: int
    kind: str
    wait_s: float
    lasts_s: float
    which: float  # 0 to 1: picks one of several
    alone: bool
    delay_s: float


def schedule(seed: int, count: int, without: Sequence[str] = ()) -> Iterator[Fault]:
    """`count` faults; the same ones for the same arguments."""
    chance = random.Random(seed)
    kinds = [kind for kind in KINDS if kind not in without]
    weights = [KINDS[kind][0] for kind in kinds]
    for number in range(count):
        (kind,) = chance.choices(kinds, weights)
        _, least_s, most_s = KINDS[kind]
        yield Fault(
            number,
            kind,
            wait_s=min(WAIT_MOST_S, chance.expovariate(1 / WAIT_MEAN_S)),
            lasts_s=chance.uniform(least_s, most_s),
            which=chance.random(),
            alone=kind in MEASURED and chance.random() < ALONE,
            delay_s=chance.uniform(*DELAYS_S),
        )
