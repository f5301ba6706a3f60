"""Against which best new patches are tested: the newest in a small swarm, one that rests a while in a large one. Pure.

Every machine measures a base before it measures a patch on it. In a large swarm, which promotes often, too much
electricity would go into baselines. But everybody's reporting is judged base by base, for all that is measured on one
shares its baselines: while bases are few, liars are believed. So the first ones rest shorter. The figures are in
docs/decisions/verdict-rule.md. The best itself moves at once: winners are merged onto it.
"""

from collections.abc import Sequence

from autoresearch.judging.model import Best

FEW_MACHINES = 8  # with no more than these the newest best is the base
REST_TRIALS = 48  # a base rests for as long as a machine needs for so many trials ...
FIRST_REST_TRIALS = 12  # ... the first ones shorter
FIRST_BASES = 5


def rest_trials(bases: int) -> int:
    """How many trials of a machine the newest of so many bases rests for."""
    return FIRST_REST_TRIALS if bases <= FIRST_BASES else REST_TRIALS


def base_for_new_patches(lineage: Sequence[Best], now_ms: int, budget_ms: int, machines: int) -> Best:
    """The base for a patch that is submitted now. `lineage`: every best, oldest first; `machines`: at work now.

    A base that was rolled back does not rest: it is left at once.
    """
    if machines <= FEW_MACHINES:
        return lineage[-1]
    base, since_ms, bases = lineage[0], lineage[0].promoted_at_ms, 1
    waiting: Best | None = None
    for best in lineage[1:]:
        if waiting is not None and best.promoted_at_ms >= since_ms + rest_trials(bases) * budget_ms:
            base, since_ms, bases, waiting = waiting, since_ms + rest_trials(bases) * budget_ms, bases + 1, None
        if best.undone or best.promoted_at_ms >= since_ms + rest_trials(bases) * budget_ms:
            base, since_ms, bases, waiting = best, best.promoted_at_ms, bases + 1, None
        else:
            waiting = best
    return waiting if waiting is not None and now_ms >= since_ms + rest_trials(bases) * budget_ms else base
