"""Builds the signed statement of how a trial came out. Pure: values in, an envelope out.

Everything that the candidate could influence is cut to its limit and cleaned here. Left out: running the trial
(`trials.py`), keeping the envelope (`spool.py`).
"""

import math
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.text import clean_line, clean_text
from autoresearch.v1 import trial_pb2
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.trial_pb2 import Hardware, LossPoint, Outcome, Result, Software
from volunteer.orders import CheckedOrder

_COUNT_MOST: Final = 2**63 - 1
_FLOAT_MOST: Final = 3.4e38


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """How a trial came out; the fields mean what those of the same name in `Result` mean."""

    outcome: Outcome.ValueType
    reason: str = ""
    val_bpb: float | None = None
    tokens_served: int = 0
    steps: int = 0
    startup_ms: int = 0
    train_ms: int = 0
    exam_ms: int = 0
    started_at_ms: int = 0
    finished_at_ms: int = 0
    peak_memory_bytes: int = 0
    weights_sha256: str = ""
    # (share of the budget, nats per token)
    loss_curve: tuple[tuple[float, float], ...] = ()
    log_tail: str = ""
    cpu_share: float = 0.0
    disturbed: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """Who runs trials, and on what."""

    key: Ed25519PrivateKey
    machine_id: str
    hardware: Hardware
    software: Software
    # Its owner takes the first run of unknown authors' patches.
    canary: bool = False


def sign_result(order: CheckedOrder, outcome: TrialOutcome, worker: Worker) -> Envelope:
    """The result of `order`, signed by the worker."""
    return envelope.sign(_result(order, _sound(outcome), worker), envelope.RESULT, worker.key)


def _sound(outcome: TrialOutcome) -> TrialOutcome:
    """A score that is no number between 0 and the most possible is not sent as one."""
    if outcome.outcome != trial_pb2.OUTCOME_COMPLETED:
        return outcome
    score = outcome.val_bpb
    if score is not None and math.isfinite(score) and 0 < score <= limits.VAL_BPB_MAX:
        return outcome
    reason = f"the exam's score is no possible number of bits per byte ({score})"
    return TrialOutcome(trial_pb2.OUTCOME_CRASHED, reason, log_tail=outcome.log_tail, train_ms=outcome.train_ms)


def _result(signed: CheckedOrder, outcome: TrialOutcome, worker: Worker) -> Result:
    order = signed.order
    return Result(
        protocol=limits.PROTOCOL,
        swarm_id=order.swarm_id,
        lease_id=order.lease_id,
        order_sha256=signed.sha256,
        source_sha256=order.source_sha256,
        challenge_sha256=order.challenge_sha256,
        trial_code_sha256=order.trial_code_sha256,
        machine_id=worker.machine_id,
        seed=order.seed,
        hardware=worker.hardware,
        software=worker.software,
        outcome=outcome.outcome,
        reason=clean_line(outcome.reason, limits.REASON_CHARACTERS),
        val_bpb=outcome.val_bpb if outcome.outcome == trial_pb2.OUTCOME_COMPLETED else None,
        tokens_served=outcome.tokens_served,
        steps=min(max(0, outcome.steps), _COUNT_MOST),  # the candidate counts them
        startup_ms=outcome.startup_ms,
        train_ms=outcome.train_ms,
        exam_ms=outcome.exam_ms,
        started_at_ms=outcome.started_at_ms,
        finished_at_ms=outcome.finished_at_ms,
        peak_memory_bytes=outcome.peak_memory_bytes,
        weights_sha256=outcome.weights_sha256,
        loss_curve=_thin(outcome.loss_curve),
        log_tail=clean_text(outcome.log_tail, limits.LOG_TAIL_CHARACTERS),
        cpu_share=outcome.cpu_share if _fits(outcome.cpu_share) else 0.0,
        disturbed=clean_line(outcome.disturbed, limits.REASON_CHARACTERS),
    )


def _thin(curve: tuple[tuple[float, float], ...]) -> list[LossPoint]:
    """At most limits.LOSS_POINTS points, evenly picked, the last one always among them."""
    points = [(share, loss) for share, loss in curve if _fits(share) and _fits(loss)]
    count = min(len(points), limits.LOSS_POINTS)
    picked = [points[(index + 1) * len(points) // count - 1] for index in range(count)]
    return [LossPoint(share=share, loss=loss) for share, loss in picked]


def _fits(value: float) -> bool:
    """Whether a 32-bit float holds it as a finite number."""
    return math.isfinite(value) and abs(value) <= _FLOAT_MOST
