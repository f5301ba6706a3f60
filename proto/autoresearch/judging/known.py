"""What trials with a known answer say about those who ran them. Pure.

The patch is known to lose, by several identities' word: whoever runs it sees that, whoever invents a number does not.
These trials are no evidence about the patch, which is decided, and about no other. When they are ordered is
`planning`'s business, what follows `trust`'s.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from autoresearch.judging.model import Trial
from autoresearch.judging.periods import Key, Period, counts, period_of, periods_by_machine
from autoresearch.judging.trust import KnownAnswer


def answers(
    known: Iterable[Trial], baselines: Mapping[str, Sequence[Trial]], noise_bpb: Mapping[str, float]
) -> dict[str, list[KnownAnswer]]:
    """By identity, in the order of `known`. `baselines`: by source, those of every base that `known` was run against.

    One that did not finish, or has no baseline of its period, says nothing.
    """
    periods: dict[str, dict[Key, list[Period]]] = {}
    found: dict[str, list[KnownAnswer]] = {}
    for trial in known:
        if trial.base_sha256 not in periods:
            periods[trial.base_sha256] = periods_by_machine(baselines.get(trial.base_sha256, ()))
        answer = _answer(trial, periods[trial.base_sha256].get((trial.machine_id, trial.hardware_class), ()), noise_bpb)
        if answer is not None:
            found.setdefault(trial.identity_id, []).append(answer)
    return found


def _answer(trial: Trial, own: Sequence[Period], noise_bpb: Mapping[str, float]) -> KnownAnswer | None:
    if not counts(trial) or trial.val_bpb is None:
        return None
    index = period_of(trial, own)
    numbers = [] if index is None else [base.val_bpb for base in own[index].baselines if base.val_bpb is not None]
    if not numbers:
        return None
    gain_bpb = math.fsum(numbers) / len(numbers) - trial.val_bpb
    return KnownAnswer(gain_bpb, len(numbers), noise_bpb[trial.hardware_class], trial.known_effect_bpb)
