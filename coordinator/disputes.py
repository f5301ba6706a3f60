"""Whether those who ran a patch contradict each other by more than chance: then somebody reports what it did not
measure, and more voices tell who. Pure.

Two of three may be liars together, and then the third looks odd: a dispute is over when three identities say the same.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from autoresearch.judging.agreement import CLASS_SPREAD

DISPUTE_SD = 3.0  # honest pairs are further apart in 1 of 370, and slow runs in as many again
ENOUGH_VOICES = 3  # identities that say the same


class Voice(NamedTuple):
    """The gain that one identity measured, and its standard deviation."""

    gain_bpb: float
    sd_bpb: float


def disputed(voices: Sequence[Voice]) -> bool:
    """Whether the highest and the lowest cannot both be true, one for and one against the patch, and fewer than three
    identities are on either side."""
    if len(voices) < 2:
        return False
    helps = sum(own.gain_bpb > 0.0 for own in voices)
    if not 0 < helps < len(voices) or max(helps, len(voices) - helps) >= ENOUGH_VOICES:
        return False
    high, low = max(voices), min(voices)
    honestly = CLASS_SPREAD * (high.gain_bpb + low.gain_bpb) / 2.0
    apart = math.hypot(high.sd_bpb, low.sd_bpb, honestly)
    return high.gain_bpb - low.gain_bpb > DISPUTE_SD * apart
