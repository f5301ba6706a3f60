"""What planning is told of decided patches: which are known to lose, by how much, and where."""

from dataclasses import replace
from typing import Any

import pytest

from autoresearch.judging.evidence import Row
from autoresearch.judging.model import Patch
from autoresearch.judging.verdict import DEFAULT, Verdict, decide
from coordinator.gathering import known_loss
from coordinator.policy import DEFAULT_POLICY

SIGMA = {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020}
LEAST = DEFAULT_POLICY.known_answer_deltas * DEFAULT.delta_bpb


def rejected(**gains_bpb: float) -> Patch:
    """One identity on each class."""
    rows = [Row(f"owner of {name}", "m", name, (1.0 - gain,), (1.0,) * 4) for name, gain in gains_bpb.items()]
    decision = decide(rows, SIGMA, replace(DEFAULT, guard_delta_bpb=1.0))
    assert decision.verdict is Verdict.REJECTED
    recorded: dict[str, Any] = {"verdict": decision.verdict.value, "decision": decision.to_json()}
    return Patch("p", "ann", "A", "t", "", (), "c" * 40, 0, "b" * 64, "s" * 64, "f", 1, **recorded)


def test_a_patch_that_lost_plainly_is_known_to_lose_the_near_end_of_its_interval() -> None:
    patch = rejected(H100=-0.05, A100=-0.05)
    loss = known_loss(patch, {"bea"}, DEFAULT, DEFAULT_POLICY)
    assert loss is not None
    assert patch.decision is not None
    assert loss.effect_bpb == -patch.decision["interval"][1] > LEAST
    assert (loss.seen, loss.spared) == (frozenset({"bea"}), frozenset())


def test_it_is_not_known_where_it_was_not_seen_to_lose_so_much() -> None:
    loss = known_loss(rejected(H100=-0.05, A100=-0.05, **{"4090": -0.001}), (), DEFAULT, DEFAULT_POLICY)
    assert loss is not None
    assert loss.spared == {"4090"}


@pytest.mark.parametrize("changes", [{"verdict": "regressed"}, {"decision": None}])
def test_what_was_not_rejected_is_not_known(changes: dict[str, Any]) -> None:
    assert known_loss(replace(rejected(H100=-0.05, A100=-0.05), **changes), (), DEFAULT, DEFAULT_POLICY) is None


def test_a_small_loss_would_not_be_seen_by_one_trial() -> None:
    assert known_loss(rejected(H100=-0.009, A100=-0.009), (), DEFAULT, DEFAULT_POLICY) is None
