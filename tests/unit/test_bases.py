"""Against which best new patches are tested."""

import dataclasses

import pytest

from autoresearch.judging.model import Best
from coordinator.bases import FEW_MACHINES, REST_TRIALS, base_for_new_patches

BUDGET_MS = 300_000
REST_MS = REST_TRIALS * BUDGET_MS


def lineage(*promoted_at_ms: int) -> list[Best]:
    return [Best(n, f"c{n}", f"s{n}", "", "", "", at, 0) for n, at in enumerate((0, *promoted_at_ms))]


def base(bests: list[Best], now_ms: int, machines: int = FEW_MACHINES + 1) -> int:
    return base_for_new_patches(bests, now_ms, BUDGET_MS, machines).generation


@pytest.mark.parametrize(
    ("promoted", "now_ms", "expected"),
    [
        ((), 9 * REST_MS, 0),
        ((10,), 20, 0),  # the first base has not rested long enough
        ((10,), REST_MS - 1, 0),
        ((10,), REST_MS, 1),
        ((REST_MS + 5,), REST_MS + 5, 1),  # it had rested: the new best is the base at once
        ((10, 20, 30), REST_MS, 3),  # those in between are never a base
        ((REST_MS, REST_MS + 1), REST_MS + 2, 1),
        ((REST_MS, REST_MS + 1), 2 * REST_MS, 2),
        ((10, 2 * REST_MS + 1), 2 * REST_MS + 1, 2),
        ((10, REST_MS + 20, REST_MS + 30), REST_MS + 40, 1),  # the base since REST_MS rests until twice that
    ],
)
def test_a_base_rests_in_a_large_swarm(promoted: tuple[int, ...], now_ms: int, expected: int) -> None:
    assert base(lineage(*promoted), now_ms) == expected


def test_in_a_small_swarm_the_newest_best_is_the_base() -> None:
    assert base(lineage(10, 20), 30, FEW_MACHINES) == 2


def test_a_base_that_was_rolled_back_is_left_at_once() -> None:
    bests = lineage(REST_MS, REST_MS + 10)
    bests[2] = dataclasses.replace(bests[2], undone=(1,))
    assert base(bests, REST_MS + 20) == 2
