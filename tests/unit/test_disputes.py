"""When two cannot both have measured what they say, and when enough others have spoken."""

import pytest

from coordinator.disputes import Voice, disputed

SD = 0.0015


def voices(*gains_mbpb: float, sd_bpb: float = SD) -> list[Voice]:
    return [Voice(gain / 1000.0, sd_bpb) for gain in gains_mbpb]


@pytest.mark.parametrize(
    ("gains", "is_disputed"),
    [
        ((6.0, -8.0), True),
        ((6.0, 6.0, -8.0), True),  # two who lie together must not stand alone against one
        ((6.0, 6.0, -8.0, -8.0), True),
        ((6.0, 6.0, -8.0, -8.0, -8.0), False),
        ((6.0, -8.0, -8.0, -8.0), False),
        ((1.0, -2.0), False),  # chance
        ((-4.0, -20.0), False),  # classes differ in how much it harms, and nobody says that it helps
        ((6.0,), False),
        ((), False),
    ],
)
def test_a_dispute_lasts_until_three_say_the_same(gains: tuple[float, ...], is_disputed: bool) -> None:
    assert disputed(voices(*gains)) is is_disputed
    assert disputed(voices(*reversed(gains))) is is_disputed


def test_noisy_cards_contradict_nobody() -> None:
    assert not disputed(voices(6.0, -8.0, sd_bpb=0.006))
