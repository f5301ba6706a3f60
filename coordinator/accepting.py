"""What an accepted result leaves in the store, as a function of the result and its ledger entry. Pure.

Leaves out: whether it is accepted (`leasing`, `dispatch`), and what follows from it.
"""

from autoresearch import limits, text
from autoresearch.attest import BELIEVED_ONLY_UNDISTURBED, outcome_word
from autoresearch.hardware import setting
from autoresearch.judging.model import Lease, Trial
from autoresearch.judging.periods import tried
from autoresearch.v1.trial_pb2 import Result
from coordinator.store import Append, Bump, Operation, Put, Rank


def trial_of(
    result: Result,
    result_sha256: str,
    *,
    order_id: str,
    identity_id: str,
    machine_id: str,
    hardware_class: str,
    patch_id: str,
    base_sha256: str,
    known_answer: str,
    known_effect_bpb: float,
    earlier: int,
    accepted_at_ms: int,
    entry: int = 0,
) -> Trial:
    """The result as decisions see it."""
    return Trial(
        result_sha256=result_sha256,
        order_id=order_id,
        identity_id=identity_id,
        machine_id=machine_id,
        hardware_class=hardware_class,
        source_sha256=result.source_sha256,
        patch_id=patch_id,
        outcome=outcome_word(result.outcome),
        val_bpb=result.val_bpb if result.HasField("val_bpb") else None,
        train_ms=result.train_ms,
        disturbed=bool(result.disturbed) and result.outcome in BELIEVED_ONLY_UNDISTURBED,
        accepted_at_ms=accepted_at_ms,
        reason=text.clean_line(result.reason, limits.REASON_CHARACTERS),
        tokens=result.tokens_served,
        setting=setting(result.hardware, result.software),
        base_sha256=base_sha256,
        known_answer=known_answer,
        known_effect_bpb=known_effect_bpb,
        earlier=earlier,
        entry=entry,
    )


def result_body(trial: Trial, lease: Lease, envelope: str) -> dict[str, object]:
    """The result in the ledger. `envelope`: as entries hold it."""
    return {
        "result_sha256": trial.result_sha256,
        "lease_id": lease.lease_id,
        "order_id": trial.order_id,
        "order_payload": lease.order_payload,
        "identity_id": trial.identity_id,
        "machine_id": trial.machine_id,
        "hardware_class": trial.hardware_class,
        "patch_id": trial.patch_id,
        "source_sha256": trial.source_sha256,
        "base_sha256": trial.base_sha256,
        "known_answer": trial.known_answer,
        "known_effect_bpb": trial.known_effect_bpb,
        "earlier": trial.earlier,
        "outcome": trial.outcome,
        "val_bpb": trial.val_bpb,
        "train_ms": trial.train_ms,
        "disturbed": trial.disturbed,
        "tokens": trial.tokens,
        "setting": trial.setting,
        "envelope": envelope,
    }


def recorded(trial: Trial, log_tail: str) -> list[Operation]:
    """What is written with it."""
    if trial.patch_id:
        name = f"trials:{trial.patch_id}"
    else:
        name = "known" if trial.known_answer else f"baselines:{trial.source_sha256}"
    kept: list[Operation] = []
    if trial.outcome != "completed" and (log := text.clean_text(log_tail, limits.LOG_TAIL_CHARACTERS)):
        kept.append(Put("logs", trial.result_sha256, log.encode()))
    if trial.patch_id:  # whose verdicts hang on the identity, and on the machine's baselines
        kept += [
            Rank(f"jury:{trial.identity_id}", trial.patch_id, trial.entry),
            Rank(f"ran:{trial.base_sha256}:{trial.machine_id}", trial.patch_id, trial.entry),
        ]
        if (own := tried(trial)) is not None:  # where the machine's level is
            kept.append(Append(f"tried:{trial.base_sha256}:{trial.machine_id}", own.to_bytes()))
    return [
        *kept,
        Append(name, trial.to_bytes()),
        Bump("trials", trial.identity_id, 1),
        Bump("train_ms", trial.identity_id, trial.train_ms),
        Rank("seen", trial.machine_id, trial.accepted_at_ms),
        Put("results", trial.result_sha256, trial.patch_id.encode()),
    ]
