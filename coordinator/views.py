"""Records as the messages that readers see. Pure."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autoresearch.judging.audit import Audit
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Best, Held, Lease, Patch, Progress, Proposal, Trial, Void
from autoresearch.judging.spans import ENOUGH_IDENTITIES, Span
from autoresearch.judging.verdict import Verdict
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import operator_pb2, patch_pb2, trial_pb2
from autoresearch.v1 import operator_service_pb2 as operators_pb2

_IDENTITY = re.compile(r"\b[a-z2-7]{32}\b")  # a key id, as in `autoresearch.digest.key_id`
VERDICTS: Mapping[str, "patch_pb2.Verdict.ValueType"] = {
    verdict.value: patch_pb2.Verdict.Value(f"VERDICT_{verdict.value.upper()}") for verdict in Verdict
}


def patch_message(
    patch: Patch, decision: Mapping[str, Any], names: Mapping[str, str], in_flight: int, excluded: Sequence[str]
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
        rolled_back_generation=patch.rolled_back_generation,
        evidence=_evidence(patch.verdict, decision, names, in_flight, excluded),
        findings=patch.findings,
    )


def patch_trial(trial: Trial, name: str, log: bytes, why_not: str | None) -> patch_pb2.PatchTrial:
    """A trial of a patch; `log`: the end of the candidate's output; `why_not`: an operator invalidated it."""
    message = patch_pb2.PatchTrial(
        volunteer_name=name,
        hardware_class=trial.hardware_class,
        outcome=trial_pb2.Outcome.Value(f"OUTCOME_{trial.outcome.upper()}"),
        reason=trial.reason,
        log_tail=log.decode(),
        disturbed=trial.disturbed,
        accepted_at_ms=trial.accepted_at_ms,
        invalidated="" if why_not is None else why_not or "an operator invalidated it",
        sequence=trial.entry,
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
    own = entry.body.get("identity_id") or entry.body.get("subject")
    in_reason = identities_in(entry.body.get("reason", ""))
    return [*([own] if own else []), *(vote["identity"] for vote in votes), *in_reason]


def _evidence(
    verdict: str, decision: Mapping[str, Any], names: Mapping[str, str], in_flight: int, excluded: Sequence[str]
) -> patch_pb2.Evidence:
    evidence = patch_pb2.Evidence(
        log_odds=decision["log_odds"],
        promote_above=decision["upper"],
        park_below=decision["park"],
        reject_below=decision["lower"],
        progress=decision["progress"],
        trials=decision["trials"],
        in_flight=in_flight,
        sentence=named(decision["sentence"], names),
        votes=[_vote(vote, names) for vote in decision["votes"]],
        hangs_on=_jurors(decision["hangs_on"], names),
        classes=class_evidence(decision["class_gains"], decision["bad_classes"], own=verdict == Verdict.REGRESSED),
        doubts=[named(doubt, names) for doubt in decision["doubts"]],
        excluded=_jurors(excluded, names),
    )
    if decision["gain_bpb"] is not None:
        evidence.gain_bpb = decision["gain_bpb"]
    if decision["standard_error"] is not None:
        evidence.standard_error_bpb = decision["standard_error"]
    if decision["interval"] is not None:
        evidence.gain_low_bpb, evidence.gain_high_bpb = decision["interval"]
    if decision["shrunk_gain_bpb"] is not None:
        evidence.expected_gain_bpb = decision["shrunk_gain_bpb"]
    return evidence


def class_evidence(
    gains: Iterable[Mapping[str, Any]], worse: Container[str], *, own: bool
) -> list[patch_pb2.ClassEvidence]:
    """Gains by hardware class. `own`: the patch harms another class, so what helps is a class's own improvement."""
    return [
        patch_pb2.ClassEvidence(
            hardware_class=gain["hardware_class"],
            identities=gain["identities"],
            gain_bpb=gain["gain_bpb"],
            standard_error_bpb=gain["standard_error"],
            gain_low_bpb=gain["interval"][0],
            gain_high_bpb=gain["interval"][1],
            worse=gain["hardware_class"] in worse,
            own_improvement=own and gain["interval"][0] > 0.0,
        )
        for gain in gains
    ]


def confirmation(span: Span, own: Audit) -> patch_pb2.Confirmation:
    """What was measured of a promotion since."""
    worse = {own.worst_class} if own.roll_back and own.worst_class else set()
    message = patch_pb2.Confirmation(
        generations=span.generations,
        identities=own.identities,
        log_odds_worse=own.worst_log_odds,
        roll_back_above=own.upper,
        over=own.identities >= ENOUGH_IDENTITIES,
        classes=class_evidence([asdict(gain) for gain in own.class_gains], worse, own=False),
    )
    if own.gain_bpb is not None and own.standard_error is not None and own.interval is not None:
        message.gain_bpb, message.standard_error_bpb = own.gain_bpb, own.standard_error
        message.gain_low_bpb, message.gain_high_bpb = own.interval
    return message


def proposal(own: Proposal, names: Mapping[str, str]) -> patch_pb2.RollBackProposal:
    """A promotion that should be rolled back."""
    return patch_pb2.RollBackProposal(
        generation=own.generation,
        patch_id=own.patch_id,
        title=own.title,
        reason=named(own.reason, names),
        since_ms=own.since_ms,
    )


def quarantined(own: Held, name: str) -> board_pb2.QuarantinedIdentity:
    """An identity that is not believed for now."""
    return board_pb2.QuarantinedIdentity(
        identity_id=own.identity_id,
        name=name,
        suspicion=own.suspicion,
        reason=own.reason,
        log_odds=own.log_odds,
        since_ms=own.since_ms,
    )


def doubts(
    held: Iterable[Held], vouched: Iterable[str], names: Mapping[str, str]
) -> list[operators_pb2.GetRegisterResponse.Doubt]:
    """Whom an operator has put in quarantine, and for whom one vouches."""
    message = operators_pb2.GetRegisterResponse.Doubt
    return [
        *(message(identity_id=own.identity_id, name=names.get(own.identity_id, ""), reason=own.reason) for own in held),
        *(message(identity_id=who, name=names.get(who, ""), vouched=True) for who in sorted(vouched)),
    ]


def invalid(own: Void, names: Mapping[str, str]) -> operators_pb2.GetRegisterResponse.InvalidResults:
    """Results that do not count any more."""
    return operators_pb2.GetRegisterResponse.InvalidResults(
        sequence=own.entry,
        identity_id=own.identity_id,
        name=names.get(own.identity_id, ""),
        result_sha256=own.result_sha256,
        since_ms=own.since_ms,
        reason=own.reason,
    )


def identities_in(reason: str) -> list[str]:
    """Ids of identities that a reason names."""
    return _IDENTITY.findall(reason)


def _jurors(identities: Iterable[str], names: Mapping[str, str]) -> list[patch_pb2.Juror]:
    return [patch_pb2.Juror(identity_id=who, name=names.get(who, "")) for who in identities]


def _vote(vote: Mapping[str, Any], names: Mapping[str, str]) -> patch_pb2.Vote:
    message = patch_pb2.Vote(
        identity_id=vote["identity"], name=names.get(vote["identity"], ""), log_odds=vote["log_odds"]
    )
    if vote["gain_bpb"] is not None:
        message.gain_bpb = vote["gain_bpb"]
    if vote["sd_bpb"] is not None:
        message.sd_bpb = vote["sd_bpb"]
    return message


def best_message(
    best: Best, scores: Sequence[patch_pb2.ClassScore], proposals: Sequence[patch_pb2.RollBackProposal]
) -> patch_pb2.Best:
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
        undone=best.undone,
        proposals=proposals,
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
        source_sha256=entry.body.get("source_sha256", ""),
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


_ORDERED: Mapping[str, str] = {
    "found": "{who} became the swarm's first operator",
    "grant": "{who} was granted a role",
    "revoke": "a role was taken away from {who}",
    "ban": "{who} was shut out",
    "lift_ban": "{who} may take part again",
    "approve": "patch {subject} was approved for testing",
    "refuse": "patch {subject} was refused by an approver",
    "invite": "an invitation was made",
    "pause": "the swarm was paused",
    "resume": "the swarm goes on",
    "quarantine": "an operator put {who} in quarantine",
    "reinstate": "an operator lifted the quarantine of {who}",
    "invalidate": "results of {who} do not count any more",
    "restore": "what entry {restores} ordered about {who} was taken back",
    "roll_back": "an operator ordered generation {generation} to be rolled back",
}


def _instruction_text(body: Mapping[str, Any], names: Mapping[str, str]) -> str:
    subject = str(body["subject"])
    said = _ORDERED[body["action"]].format_map({**body, "who": names.get(subject) or subject[:8]})
    return f"{said}: {body['reason']}" if body["reason"] else said


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
    "instruction": _instruction_text,
    "rotation": lambda body, names: f"{_who(body, names)} has a new key",
    "restoration": lambda body, _: f"set back to its first {body['kept']} entries: {body['reason']}",
}


def role(word: str) -> "operator_pb2.Role.ValueType":
    """A role's number."""
    return operator_pb2.Role.Value(f"ROLE_{word.upper()}")


def standing(enrolled: bool, roles: Iterable[str], ban: str | None) -> access_pb2.GetStandingResponse:
    """What an identity may do."""
    message = access_pb2.GetStandingResponse(enrolled=enrolled, roles=sorted(map(role, roles)))
    if ban is not None:
        message.ban = ban
    return message
