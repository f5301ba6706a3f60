"""Records as the messages that readers see. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_pb2, trial_pb2
from coordinator.ledger import Entry
from coordinator.model import Best, Lease, Patch, Progress, Trial
from coordinator.verdict import Verdict

VERDICTS: Mapping[str, "patch_pb2.Verdict.ValueType"] = {
    verdict.value: patch_pb2.Verdict.Value(f"VERDICT_{verdict.value.upper()}") for verdict in Verdict
}


def patch_message(
    patch: Patch, decision: Mapping[str, Any], names: Mapping[str, str], in_flight: int
) -> patch_pb2.Patch:
    """A patch with its evidence."""
    return patch_pb2.Patch(
        patch_id=patch.patch_id,
        title=patch.title,
        rationale=patch.rationale,
        tags=patch.tags,
        author_id=patch.author_id,
        author_name=patch.author_name,
        base_commit=patch.base_commit,
        base_generation=patch.base_generation,
        candidate_sha256=patch.candidate_sha256,
        submitted_at_ms=patch.submitted_at_ms,
        verdict=VERDICTS[patch.verdict],
        reason=named(patch.reason, names),
        promoted_generation=patch.promoted_generation,
        evidence=_evidence(decision, names, in_flight),
    )


def patch_trial(trial: Trial, name: str, log: bytes) -> patch_pb2.PatchTrial:
    """A trial of a patch; `log`: the end of the candidate's output."""
    message = patch_pb2.PatchTrial(
        volunteer_name=name,
        hardware_class=trial.hardware_class,
        outcome=trial_pb2.Outcome.Value(f"OUTCOME_{trial.outcome.upper()}"),
        reason=trial.reason,
        log_tail=log.decode(),
        disturbed=trial.disturbed,
        accepted_at_ms=trial.accepted_at_ms,
    )
    if trial.val_bpb is not None:
        message.val_bpb = trial.val_bpb
    return message


def named(text: str, names: Mapping[str, str]) -> str:
    """The text with identities called by their names."""
    for identity_id, name in names.items():
        text = text.replace(identity_id, name)
    return text


def identities(entry: Entry) -> list[str]:
    """Whom an entry speaks of."""
    votes = entry.body.get("decision", {}).get("votes", [])
    own = entry.body.get("identity_id")
    return [*([own] if own else []), *(vote["identity"] for vote in votes)]


def _evidence(decision: Mapping[str, Any], names: Mapping[str, str], in_flight: int) -> patch_pb2.Evidence:
    evidence = patch_pb2.Evidence(
        log_odds=decision["log_odds"],
        promote_above=decision["upper"],
        park_below=decision["park"],
        progress=decision["progress"],
        trials=decision["trials"],
        in_flight=in_flight,
        sentence=named(decision["sentence"], names),
        votes=[_vote(vote, names) for vote in decision["votes"]],
    )
    if decision["gain_bpb"] is not None:
        evidence.gain_bpb = decision["gain_bpb"]
    if decision["standard_error"] is not None:
        evidence.standard_error_bpb = decision["standard_error"]
    if decision["interval"] is not None:
        evidence.gain_low_bpb, evidence.gain_high_bpb = decision["interval"]
    return evidence


def _vote(vote: Mapping[str, Any], names: Mapping[str, str]) -> patch_pb2.Vote:
    message = patch_pb2.Vote(
        identity_id=vote["identity"], name=names.get(vote["identity"], ""), log_odds=vote["log_odds"]
    )
    if vote["gain_bpb"] is not None:
        message.gain_bpb = vote["gain_bpb"]
    if vote["sd_bpb"] is not None:
        message.sd_bpb = vote["sd_bpb"]
    return message


def best_message(best: Best, scores: Sequence[patch_pb2.ClassScore]) -> patch_pb2.Best:
    """The best with its scores."""
    return patch_pb2.Best(
        generation=best.generation,
        commit=best.commit,
        source_sha256=best.source_sha256,
        patch_id=best.patch_id,
        title=best.title,
        author_name=best.author_name,
        promoted_at_ms=best.promoted_at_ms,
        scores=scores,
    )


def live_trial(lease: Lease, progress: Progress | None, name: str) -> board_pb2.LiveTrial:
    """A trial under way."""
    shown = progress or Progress("waiting", 0.0, 0, 0.0)
    return board_pb2.LiveTrial(
        lease_id=lease.lease_id,
        identity_id=lease.identity_id,
        volunteer_name=name,
        hardware_class=lease.hardware_class,
        patch_id=lease.patch_id,
        stage=shown.stage,
        share=shown.share,
        step=shown.step,
        loss=shown.loss,
        started_at_ms=lease.granted_at_ms,
    )


def event(entry: Entry, names: Mapping[str, str]) -> board_pb2.Event:
    """A ledger entry as one line for people."""
    return board_pb2.Event(
        sequence=entry.seq,
        at_ms=entry.at_ms,
        kind=entry.kind,
        text=named(_TEXT[entry.kind](entry.body, names), names),
        patch_id=entry.body.get("patch_id", ""),
    )


def _who(body: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return names.get(body["identity_id"]) or str(body["identity_id"])[:8]


def _result_text(body: Mapping[str, Any], names: Mapping[str, str]) -> str:
    what = f"patch {body['patch_id']}" if body["patch_id"] else "the best"
    ended = f"val_bpb {body['val_bpb']:.4f}" if body["val_bpb"] is not None else body["outcome"].replace("_", " ")
    return f"{_who(body, names)} ran {what}: {ended}{' (disturbed, not counted)' if body['disturbed'] else ''}"


def _identity_text(body: Mapping[str, Any], _: Mapping[str, str]) -> str:
    machine = f" with {body['hardware_class']}" if body["hardware_class"] else ""
    return f"{body['name']} joined{machine}"


def _quarantine_text(body: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return f"{_who(body, names)} is in quarantine: it {body['reason']}"


def _proposal_text(body: Mapping[str, Any], _: Mapping[str, str]) -> str:
    what = "need not be rolled back" if body["stands"] else "should be rolled back"
    return f"generation {body['generation']} {what}: {body['reason']}"


_TEXT: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], str]] = {
    "genesis": lambda body, _: f"swarm {body['swarm_id'][:8]} created",
    "identity": _identity_text,
    "patch": lambda body, _: f"{body['author_name']} submitted patch {body['patch_id']}: {body['title']}",
    "result": _result_text,
    "verdict": lambda body, _: f"patch {body['patch_id']} {body['verdict']}: {body['reason']}",
    "promotion": lambda body, _: f"generation {body['generation']} is the new best: {body['title']}",
    "quarantine": _quarantine_text,
    "reinstatement": lambda body, names: f"{_who(body, names)} is believed again: {body['reason']}",
    "proposal": _proposal_text,
    "rollback": lambda body, _: f"generation {body['generation']}: {body['title']}: {body['reason']}",
    "withdrawal": lambda body, _: f"patch {body['patch_id']} withdrawn by its author",
}
