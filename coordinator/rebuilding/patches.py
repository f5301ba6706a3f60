"""What entries about patches make: submissions, withdrawals, results of trials, verdicts."""

from collections.abc import Sequence
from dataclasses import replace

from autoresearch.digest import sha256_hex
from autoresearch.judging import pairing
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Best, Patch
from autoresearch.judging.verdict import Verdict
from autoresearch.judging.voids import Voids
from autoresearch.unified_diff import apply_patch
from autoresearch.v1.patch_pb2 import PatchSubmission
from autoresearch.v1.trial_pb2 import Result
from coordinator import accepting, leasing, merging, ordering, promoting, settling
from coordinator.rebuilding.made import Made, Ran, unpacked
from coordinator.settling import Finding
from coordinator.store import Operation, Put

_ORDER_DIGITS = 12  # of the number in an order's name, at most


def patch(made: Made, entry: Entry) -> Sequence[Operation]:
    """An author submitted one."""
    body = entry.body
    submission = PatchSubmission.FromString(unpacked(body).payload)
    base = next((best for best in made.bests if best.generation == body["base_generation"]), None)
    if base is None:
        raise ValueError(f"it was taken on generation {body['base_generation']}, which there is not")
    source = _candidate(made, submission, base, body["candidate_sha256"])
    patch_id = body["patch_id"]
    own = Patch(
        patch_id=patch_id,
        author_id=body["author_id"],
        author_name=body["author_name"],
        title=body["title"],
        rationale=submission.rationale,
        tags=tuple(submission.tags),
        base_commit=submission.base_commit,
        base_generation=base.generation,
        base_sha256=base.source_sha256,
        candidate_sha256=body["candidate_sha256"],
        fingerprint=body["fingerprint"],
        submitted_at_ms=entry.at_ms,
        verdict=body["verdict"],
        reason=settling.WAITING_REASON if body["verdict"] == ordering.WAITS else "",
        findings=tuple(body["findings"]),
        canary=body.get("canary", False),  # absent before there were any
        entry=entry.seq,
    )
    made.bases[patch_id] = base.source_sha256
    made.fingerprints.add(own.fingerprint)
    record = Put("patches", patch_id, own.to_bytes())
    return [*settling.admitted(own, submission.diff, source, body["change"]), record]


def _candidate(made: Made, submission: PatchSubmission, best: Best, digest: str) -> str:
    """The diff on its base, merged onto the best that it is tested against if that is another; told by its digest
    which of the two it was."""
    base = next((own for own in reversed(made.bests) if own.commit == submission.base_commit), None)
    if base is None:
        raise ValueError(f"its base {submission.base_commit[:12]} is not in the lineage")
    base_source, best_source = made.sources[base.source_sha256], made.sources[best.source_sha256]
    source: str | merging.Conflict = apply_patch(submission.diff, base_source)
    if sha256_hex(str(source).encode()) != digest:
        source = merging.merge(base_source, best_source, str(source))
    if isinstance(source, merging.Conflict) or sha256_hex(source.encode()) != digest:
        raise ValueError(f"its diff does not make the candidate {digest[:12]}")
    return source


def withdrawal(made: Made, entry: Entry) -> Sequence[Operation]:
    """Its author took one back."""
    _, operations = settling.withdrawn(made.patch(entry.body["patch_id"]), entry.at_ms)
    return operations


def result(made: Made, entry: Entry) -> Sequence[Operation]:
    """Somebody ran a candidate, a best, or a patch that is known to lose."""
    body = entry.body
    own = Result.FromString(unpacked(body).payload)
    base = made.bases[body["patch_id"]] if body["patch_id"] else body["source_sha256"]
    trial = accepting.trial_of(
        own,
        body["result_sha256"],
        order_id=body["order_id"],
        identity_id=body["identity_id"],
        machine_id=body["machine_id"],
        hardware_class=body["hardware_class"],
        patch_id=body["patch_id"],
        base_sha256=body.get("base_sha256", base),  # absent before there were trials with a known answer
        known_answer=body.get("known_answer", ""),
        known_effect_bpb=body.get("known_effect_bpb", 0.0),
        earlier=body.get("earlier", 0),  # likewise
        accepted_at_ms=entry.at_ms,
        entry=entry.seq,
    )
    machine = made.machines[trial.machine_id]  # its strings are kept once, however many trials it ran
    if trial.patch_id:
        ran = Ran(
            entry.seq, machine.identity_id, machine.machine_id, trial.disturbed, trial.result_sha256, entry.at_ms
        )  # fmt: skip
        made.trials.setdefault(trial.patch_id, []).append(ran)
    elif not trial.known_answer:
        made.measured[base, machine.machine_id] = entry.seq
    made.results += 1
    line, _, number = trial.order_id.rpartition("-")
    count = int(number) + 1 if number.isdecimal() and len(number) <= _ORDER_DIGITS else 1
    made.orders[line] = max(made.orders.get(line, 0), count)
    return [
        Put("order_state", trial.order_id, leasing.DONE),
        Put("filled", body["lease_id"], trial.result_sha256.encode()),
        *accepting.recorded(trial, own.log_tail),
    ]


def verdict(made: Made, entry: Entry) -> Sequence[Operation]:
    """A patch was decided about."""
    body, own = entry.body, made.patch(entry.body["patch_id"])
    after = Verdict(body["verdict"])
    if "rollback" in body:
        return promoting.put_back(own, after, body["reason"], made.bests[-1], entry=entry.seq)
    if "rollback_fell" in body:
        own = replace(own, promoted_generation=0, rolled_back_generation=0)
    if after is Verdict.PROMOTED:
        own = replace(own, promoted_generation=made.bests[-1].generation + 1)
    valid = Voids(made.voids.values()).counting(made.trials.get(own.patch_id, []))
    finding = Finding(
        verdict=after,
        reason=body["reason"],
        decision=body["decision"],
        noise_bpb=body["noise_bpb"],
        evidence_before=body["evidence_before"],
        excluded=tuple(body["excluded"]),
        jurors=len(pairing.jurors(valid, body["evidence_before"])),
    )
    return settling.settled(own, finding, entry=entry.seq, now_ms=entry.at_ms)[1]
