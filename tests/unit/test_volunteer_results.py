"""What a trial came to is signed as it was, within the limits, with nothing that could harm a terminal."""

import math

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import envelope, limits
from autoresearch.v1 import trial_pb2
from autoresearch.v1.trial_pb2 import Hardware, Order, Result, Software
from volunteer.orders import CheckedOrder
from volunteer.results import TrialOutcome, Worker, sign_result

WORKER = Worker(Ed25519PrivateKey.generate(), "0" * 32, Hardware(device_kind="cpu"), Software(python="3"))
ORDER = CheckedOrder(
    Order(swarm_id="swarm", lease_id="lease", source_sha256="e" * 64, challenge_sha256="c" * 64, seed=2**64 - 1),
    "f" * 64,
)


def signed(outcome: TrialOutcome) -> Result:
    result, verified = envelope.open_as(sign_result(ORDER, outcome, WORKER), envelope.RESULT, Result)
    assert verified.public_key == envelope.public_bytes(WORKER.key)
    return result


def test_a_result_binds_the_order_and_the_machine() -> None:
    result = signed(TrialOutcome(trial_pb2.OUTCOME_COMPLETED, val_bpb=2.25, steps=7))
    assert (result.lease_id, result.order_sha256, result.seed) == ("lease", "f" * 64, 2**64 - 1)
    assert (result.machine_id, result.hardware.device_kind, result.software.python) == ("0" * 32, "cpu", "3")
    assert (result.val_bpb, result.steps, result.protocol) == (2.25, 7, limits.PROTOCOL)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, 0.0, -1.0, 65.0])
def test_a_score_that_is_none_is_never_sent(score: float | None) -> None:
    result = signed(TrialOutcome(trial_pb2.OUTCOME_COMPLETED, val_bpb=score))
    assert result.outcome == trial_pb2.OUTCOME_CRASHED
    assert not result.HasField("val_bpb")
    assert "bits per byte" in result.reason


def test_a_failed_trial_has_no_score() -> None:
    result = signed(TrialOutcome(trial_pb2.OUTCOME_DISQUALIFIED, "looked ahead", val_bpb=1.0))
    assert not result.HasField("val_bpb")
    assert result.reason == "looked ahead"


def test_what_the_candidate_wrote_is_cut_and_cleaned() -> None:
    log = "x" * 20_000 + "\n\x1b[31mlast line\x07\n"
    result = signed(TrialOutcome(trial_pb2.OUTCOME_CRASHED, "a\nb\x1b]0;c" * 400, log_tail=log))
    assert len(result.reason) <= limits.REASON_CHARACTERS
    assert result.reason.isprintable()
    assert len(result.log_tail) <= limits.LOG_TAIL_CHARACTERS
    assert result.log_tail.endswith("[31mlast line\n")


@pytest.mark.parametrize(("counted", "sent"), [(-5, 0), (7, 7), (2**70, 2**63 - 1)])
def test_a_count_that_the_candidate_makes_up_is_cut(counted: int, sent: int) -> None:
    assert signed(TrialOutcome(trial_pb2.OUTCOME_CRASHED, steps=counted)).steps == sent


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=300))
def test_a_loss_curve_is_thinned_and_keeps_its_end(curve: list[tuple[float, float]]) -> None:
    points = signed(TrialOutcome(trial_pb2.OUTCOME_CRASHED, loss_curve=tuple(curve))).loss_curve
    finite = [(share, loss) for share, loss in curve if abs(share) <= 3.4e38 and abs(loss) <= 3.4e38]
    assert all(math.isfinite(point.share) and math.isfinite(point.loss) for point in points)
    assert len(points) == min(len(finite), limits.LOSS_POINTS)
    if finite:
        assert points[-1] == trial_pb2.LossPoint(share=finite[-1][0], loss=finite[-1][1])
