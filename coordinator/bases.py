"""Against which best new patches are tested: the newest in a small swarm, one that rests a while in a large one. Pure.

Every machine measures a base before it measures a patch on it. In a large swarm, which promotes often, too much
electricity would go into baselines, and too few candidates would be run on a base to say where a machine's level is.
The figures are in docs/decisions/own-trials.md. The best itself moves at once: winners are merged onto it.
"""

from collections.abc import Sequence

from autoresearch.judging.model import Best

FEW_MACHINES = 8  # with no more than these the newest best is the base
REST_TRIALS = 48  # a base rests for as long as a machine needs for so many trials


def base_for_new_patches(lineage: Sequence[Best], now_ms: int, budget_ms: int, machines: int) -> Best:
    """The base for a patch that is submitted now. `lineage`: every best, oldest first; `machines`: at work now.

    A base that was rolled back does not rest: it is left at once.
    """
    if machines <= FEW_MACHINES:
        return lineage[-1]
    base, since_ms, rest_ms = lineage[0], lineage[0].promoted_at_ms, REST_TRIALS * budget_ms
    waiting: Best | None = None
    for best in lineage[1:]:
        if waiting is not None and best.promoted_at_ms >= since_ms + rest_ms:
            base, since_ms, waiting = waiting, since_ms + rest_ms, None
        if best.undone or best.promoted_at_ms >= since_ms + rest_ms:
            base, since_ms, waiting = best, best.promoted_at_ms, None
        else:
            waiting = best
    return waiting if waiting is not None and now_ms >= since_ms + rest_ms else base
