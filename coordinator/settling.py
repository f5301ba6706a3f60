"""What a verdict, a promotion and a roll-back write: the records as they are after it, and the ledger's words. Pure.

What the verdict is comes from `verdict`, `trust` or `audit`; when it is written is the use cases' business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoresearch.judging.agreement import FEWEST_OTHERS
from autoresearch.judging.evidence import Row
from autoresearch.judging.model import Best, Patch
from autoresearch.judging.verdict import Decision, Verdict
from coordinator.store import Append, Bump, Operation, Put, Rank, Unrank

WAITING_REASON = "waits for an approver"
FIRST_TITLE = "the source the swarm started from"  # of generation 0
FIRST_PATCH = b"the start"  # under whose name generation 0's code is known


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at a patch's evidence found, with all that anyone needs to find the same."""

    verdict: Verdict
    reason: str
    decision: Mapping[str, Any]  # verdict.Decision as JSON
    noise_bpb: Mapping[str, float]
    evidence_before: int  # only what the ledger held before this entry was looked at
    excluded: tuple[str, ...]  # identities that ran the patch and were in quarantine
    jurors: int  # identities that ran it

    @property
    def doubted(self) -> bool:
        """One identity reported a crash or a failed exam that nobody confirmed or refuted."""
        return bool(self.decision["doubts"])


def found(
    decision: Decision,
    rows: Sequence[Row],
    noise_bpb: Mapping[str, float],
    evidence_before: int,
    quarantined: Mapping[str, object],
) -> Finding:
    """The finding that a decision is. `rows`: of everybody, those in quarantine too."""
    jurors = {row.identity for row in rows}
    excluded = tuple(sorted(jurors & quarantined.keys()))
    as_json = decision.to_json()
    reason = decision.sentence
    if decision.verdict is Verdict.REGRESSED and (helped := own_improvements(as_json)):
        gains = ", ".join(f"{name} ({gain:+.4f} bpb)" for name, gain in helped.items())
        reason = f"{reason}; an own improvement of {gains}"
    return Finding(decision.verdict, reason, as_json, noise_bpb, evidence_before, excluded, len(jurors))


def admitted(patch: Patch, diff: bytes, source: str, change: str) -> list[Operation]:
    """What a new patch brings besides its own record."""
    return [
        Put("diffs", patch.patch_id, diff),
        Put("fingerprints", patch.fingerprint, patch.patch_id.encode()),
        Put("changes", change, patch.patch_id.encode()),
        Put("sources", patch.candidate_sha256, source.encode()),
        Rank("patches", patch.patch_id, patch.submitted_at_ms),
        Rank(patch.verdict, patch.patch_id, patch.submitted_at_ms),  # open, or waiting for an approver
        Rank(f"authored:{patch.author_id}", patch.patch_id, patch.submitted_at_ms),
    ]


def withdrawn(patch: Patch, now_ms: int) -> tuple[Patch, list[Operation]]:
    """The patch after its author took it back."""
    after = replace(patch, verdict="withdrawn", reason="withdrawn by its author", decided_at_ms=now_ms)
    gone = [Unrank(ranking, patch.patch_id) for ranking in ("open", "parked", "waiting", "decided")]
    return after, [Put("patches", patch.patch_id, after.to_bytes()), *gone]


def settled(patch: Patch, finding: Finding, *, entry: int, now_ms: int) -> tuple[Patch, list[Operation]]:
    """The patch after a verdict that ledger entry `entry` records, and where it waits now."""
    after = replace(
        looked_at(patch, finding),
        verdict=finding.verdict.value,
        reason=finding.reason,
        decided_at_ms=now_ms,
        evidence_before=finding.evidence_before,
        noise_bpb=dict(finding.noise_bpb),
    )
    put = Put("patches", patch.patch_id, after.to_bytes())
    return after, [put, *_place(after, finding), *_history(after, finding, entry), *_own_improvements(patch, finding)]


def looked_at(patch: Patch, finding: Finding) -> Patch:
    """The patch after a look that left its verdict as it was."""
    return replace(
        patch,
        reason=finding.reason,
        decision=finding.decision,
        looked=max(patch.looked, finding.evidence_before),
        decided_at_ms=patch.decided_at_ms,
    )


def kept(patch: Patch, finding: Finding, *, now_ms: int) -> tuple[Patch, list[Operation]]:
    """As `settled`, for a look that the ledger need not record, since the verdict stays."""
    after = looked_at(patch, finding)
    if finding.verdict is Verdict.PARKED:  # looked at in vain: it rests again
        after = replace(after, decided_at_ms=now_ms)
    return after, [Put("patches", patch.patch_id, after.to_bytes()), *_place(after, finding)]


def _place(patch: Patch, finding: Finding) -> list[Operation]:
    """Where a patch waits: with the open ones, with the parked ones, or nowhere."""
    if patch.verdict == "open" or (patch.verdict == "parked" and finding.doubted):
        return [Rank("open", patch.patch_id, patch.submitted_at_ms), Unrank("parked", patch.patch_id)]
    if patch.verdict == "parked":
        return [Unrank("open", patch.patch_id), Rank("parked", patch.patch_id, finding.decision["log_odds"])]
    return [Unrank("open", patch.patch_id), Unrank("parked", patch.patch_id)]


def _history(patch: Patch, finding: Finding, entry: int) -> list[Operation]:
    """Whether the patch says something about those who ran it."""
    if patch.verdict != "open" and finding.jurors > FEWEST_OTHERS:
        return [Rank("decided", patch.patch_id, entry)]
    return [Unrank("decided", patch.patch_id)]


def own_improvements(decision: Mapping[str, Any]) -> dict[str, float]:
    """Hardware classes that a patch helps beyond doubt, with its gain there: the whole interval is above 0."""
    gains = decision["class_gains"]
    return {own["hardware_class"]: own["gain_bpb"] for own in gains if own["interval"][0] > 0.0}


def _own_improvements(patch: Patch, finding: Finding) -> list[Operation]:
    """A patch that harms one class may be another's own improvement: it is found under that class."""
    helped = own_improvements(finding.decision) if finding.verdict is Verdict.REGRESSED else {}
    classes = {own["hardware_class"] for own in finding.decision["class_gains"]}
    return [
        Rank(f"improves:{name}", patch.patch_id, helped[name])
        if name in helped
        else Unrank(f"improves:{name}", patch.patch_id)
        for name in sorted(classes)
    ]


def verdict_body(patch: Patch, finding: Finding, **more: object) -> dict[str, object]:
    """A verdict in the ledger."""
    return {
        "patch_id": patch.patch_id,
        "verdict": finding.verdict.value,
        "reason": finding.reason,
        "decision": dict(finding.decision),
        "noise_bpb": dict(finding.noise_bpb),
        "evidence_before": finding.evidence_before,
        "excluded": list(finding.excluded),
        **more,
    }


def promotion_body(after: Best, before: Best, source: str, candidate_sha256: str) -> dict[str, object]:
    """A promotion in the ledger. The source's text only where nothing else in the ledger gives it: after a merge."""
    merged = {} if after.source_sha256 == candidate_sha256 else {"source": source}
    return {**_moved(after, before), "patch_id": after.patch_id, "title": after.title, **merged}


def rollback_body(after: Best, before: Best, source: str, facts: Mapping[str, object]) -> dict[str, object]:
    """A roll-back in the ledger. `facts`: reason and evidence."""
    return {
        **_moved(after, before), "title": after.title, "undone": list(after.undone), "source": source, **facts
    }  # fmt: skip


def _moved(after: Best, before: Best) -> dict[str, object]:
    return {
        "generation": after.generation,
        "commit": after.commit,
        "parent": before.commit,
        "source_sha256": after.source_sha256,
    }


def crowning(best: Best) -> list[Operation]:
    """What makes a source the best."""
    return [Put("meta", "best", best.to_bytes()), Append("lineage", best.to_bytes())]


def credit(patch: Patch, sign: int) -> list[Operation]:
    """What a promotion adds to its author's standing, or (-1) its roll-back takes away again."""
    gain_bpb = (patch.decision or {}).get("gain_bpb") or 0.0
    return [Bump("promotions", patch.author_id, sign), Bump("gain", patch.author_id, sign * gain_bpb)]
