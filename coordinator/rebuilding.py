"""Makes a swarm's store and lineage again from its ledger alone, entry by entry.

What the store holds is a function of the ledger, but for what lives only while trials run: orders, leases, progress,
who was heard of when. Those are planned and heard anew. Every commit must come out with the id that the ledger names,
every candidate with its digest; anything else stops the work. Undecided patches are looked at again at the
coordinator's next start, as after any other.

Leaves out: reading and checking the ledger (`archive.py`, `auditing.py`), and where it is written to.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from autoresearch.digest import sha256_hex
from autoresearch.hardware import setting
from autoresearch.judging import pairing
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import (
    Best,
    Held,
    Identity,
    Invitation,
    Machine,
    Patch,
    Proposal,
    Roles,
    Trial,
    Void,
)
from autoresearch.judging.trust import Suspicion
from autoresearch.judging.verdict import UNDECIDED, Verdict
from autoresearch.judging.voids import Voids
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.operator_pb2 import Instruction, RoleChange
from autoresearch.v1.operator_pb2 import Role as RoleName
from autoresearch.v1.patch_pb2 import PatchSubmission
from autoresearch.v1.trial_pb2 import Result
from coordinator import accepting, commits, doubting, leasing, merging, ordering, promoting, settling
from coordinator.access import Role
from coordinator.admission import normalised_fingerprint
from coordinator.admission_errors import AdmissionError
from coordinator.errors import OperatorError
from coordinator.lineage import Lineage, LineageError
from coordinator.records import SCHEMA, Swarm
from coordinator.settling import Finding
from coordinator.store import Append, Bump, Change, Drop, Operation, Put, Rank, Store, Unrank
from coordinator.unified_diff import PATCHED_FILE, apply_patch

OPERATIONS_AT_ONCE = 5_000  # one change of the store: a few megabytes
FOLLOWED_BACK = 1_000  # the coordinator follows this many of the last entries again: their consequences may be missing
_NUMBER = re.compile(r"-(\d{1,12})$")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was made."""

    swarm_id: str
    entries: int
    generation: int
    commit: str
    patches: int
    results: int


class Rebuilder:
    """Takes the entries of a ledger in, from the first. `store` must be empty, and nothing lie at `lineage_path`."""

    def __init__(self, store: Store, lineage_path: Path) -> None:
        self._store = store
        self._lineage_path = lineage_path
        self._lineage: Lineage | None = None
        self._swarm: Swarm | None = None
        self._length = 0
        self._results = 0
        self._operations: list[Operation] = []
        self._identities: dict[str, Identity] = {}
        self._machines: dict[str, Machine] = {}
        self._roles: dict[str, Roles] = {}
        self._invitations: dict[str, Invitation] = {}
        self._patches: dict[str, Patch] = {}
        self._bests: list[Best] = []
        self._sources: dict[str, str] = {}  # text by digest
        self._fingerprints: set[str] = set()
        self._trials: dict[str, list[Trial]] = {}  # by patch
        self._baselines: dict[str, list[Trial]] = {}  # by source
        self._held: dict[str, Held] = {}
        self._voids: dict[int, Void] = {}  # by the ledger entry of the instruction
        self._orders: dict[str, int] = {}  # by line: the highest number in an order's name, and one

    async def take(self, line: bytes, entry: Entry) -> None:
        """The next entry.

        Raises:
            OperatorError: what it says cannot be made again.
        """
        try:
            self._note(Append("ledger", line), *_TAKE.get(entry.kind, Rebuilder._unknown)(self, entry))
        except (KeyError, TypeError, ValueError, AdmissionError, LineageError) as error:
            raise OperatorError(f"ledger entry {entry.seq} ({entry.kind}) cannot be made again: {error}") from error
        self._length += 1
        if len(self._operations) >= OPERATIONS_AT_ONCE:
            await self._flush()

    async def finish(self) -> Rebuilt:
        """Writes what is left; the swarm's own record last, which makes the store one that a coordinator starts on."""
        if self._swarm is None:
            raise OperatorError("the ledger is empty: there is nothing to make a swarm from")
        made = [Bump("orders_made", line, count) for line, count in sorted(self._orders.items())]
        self._note(*made, Put("meta", "followed", str(self._followed()).encode()))
        await self._flush()
        await self._store.apply(Change((), (Put("meta", "swarm", self._swarm.to_bytes()),)))
        best = self._bests[-1]
        return Rebuilt(
            self._swarm.swarm_id, self._length, best.generation, best.commit, len(self._patches), self._results
        )

    def _followed(self) -> int:
        """From where on the coordinator must follow the ledger again."""
        behind = [
            patch.looked
            for patch in self._patches.values()
            if patch.verdict in UNDECIDED
            and pairing.looks(
                self._trials.get(patch.patch_id, ()),
                self._baselines.get(patch.base_sha256, ()),
                patch.looked,
                self._length,
            )
        ]
        return max(0, min(self._length - FOLLOWED_BACK, *behind, self._length))

    def _note(self, *operations: Operation) -> None:
        """Remembers what is to be written, and the patches as they are after it."""
        self._operations += operations
        for operation in operations:
            if isinstance(operation, Put) and operation.table == "patches":
                self._patches[operation.key] = Patch.from_bytes(operation.value)

    async def _flush(self) -> None:
        operations, self._operations = self._operations, []
        await self._store.apply(Change((), _collapsed(operations)))

    # --- people, machines, patches ---

    def _genesis(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        self._swarm = Swarm(**{field.name: body[field.name] for field in fields(Swarm)})
        if self._swarm.schema > SCHEMA:
            raise OperatorError(
                f"the ledger was begun by a newer version (schema {self._swarm.schema}): upgrade this coordinator"
            )
        source, digest = body["source"], body["source_sha256"]
        files = {**body["files"], PATCHED_FILE: source}
        message, at = commits.first_message(self._swarm.parsed_challenge().name), commits.committed_at(entry.at_ms)
        self._lineage = Lineage.create(
            self._lineage_path, {name: text.encode() for name, text in files.items()}, message=message, at=at
        )
        self._check_commit(self._lineage.tip(), body["commit"])
        best = Best(0, body["commit"], digest, "", settling.FIRST_TITLE, "", self._swarm.created_at_ms, 0)
        self._bests.append(best)
        self._sources[digest] = source
        fingerprint = normalised_fingerprint(source)
        self._fingerprints.add(fingerprint)
        return [
            Put("sources", digest, source.encode()),
            Put("fingerprints", fingerprint, settling.FIRST_PATCH),
            *settling.crowning(best),
        ]

    def _identity(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        known = self._identities.get(body["identity_id"])
        identity = Identity(body["identity_id"], body["name"], known.enrolled_at_ms if known else entry.at_ms)
        self._identities[identity.identity_id] = identity
        enrolment = Enrolment.FromString(_envelope(body).payload)
        put = [Put("identities", identity.identity_id, identity.to_bytes()), *self._entered(enrolment, known)]
        if not body["machine_id"]:
            return put
        owned = self._machines.get(body["machine_id"])
        machine = Machine(
            machine_id=body["machine_id"],
            identity_id=identity.identity_id,
            hardware_class=body["hardware_class"],
            enrolled_at_ms=owned.enrolled_at_ms if owned else entry.at_ms,
            setting=setting(enrolment.hardware, enrolment.software),
        )
        self._machines[machine.machine_id] = machine
        return [*put, Put("machines", machine.machine_id, machine.to_bytes())]

    def _entered(self, enrolment: Enrolment, known: Identity | None) -> list[Operation]:
        """What a new identity's invitation has left."""
        code = sha256_hex(enrolment.invitation.encode())
        if known is not None or code not in self._invitations:
            return []
        self._invitations[code], operations = ordering.invitation_used(enrolment.invitation, self._invitations[code])
        return operations

    def _patch(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        submission = PatchSubmission.FromString(_envelope(body).payload)
        base = next((best for best in self._bests if best.generation == body["base_generation"]), None)
        if base is None:
            raise ValueError(f"it was taken on generation {body['base_generation']}, which there is not")
        source = self._candidate(submission, base, body["candidate_sha256"])
        patch = Patch(
            patch_id=body["patch_id"],
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
            entry=entry.seq,
        )
        self._sources[patch.candidate_sha256] = source
        self._fingerprints.add(patch.fingerprint)
        record = Put("patches", patch.patch_id, patch.to_bytes())
        return [*settling.admitted(patch, submission.diff, source, body["change"]), record]

    def _candidate(self, submission: PatchSubmission, best: Best, digest: str) -> str:
        """The diff on its base, merged onto the best that it is tested against if that is another; told by its digest
        which of the two it was."""
        base = next((own for own in reversed(self._bests) if own.commit == submission.base_commit), None)
        if base is None:
            raise ValueError(f"its base {submission.base_commit[:12]} is not in the lineage")
        base_source, best_source = self._sources[base.source_sha256], self._sources[best.source_sha256]
        source: str | merging.Conflict = apply_patch(submission.diff, base_source)
        if sha256_hex(str(source).encode()) != digest:
            source = merging.merge(base_source, best_source, str(source))
        if isinstance(source, merging.Conflict) or sha256_hex(source.encode()) != digest:
            raise ValueError(f"its diff does not make the candidate {digest[:12]}")
        return source

    def _withdrawal(self, entry: Entry) -> Sequence[Operation]:
        _, operations = settling.withdrawn(self._patches[entry.body["patch_id"]], entry.at_ms)
        return operations

    def _instruction(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        order = Instruction.FromString(_envelope(body).payload)
        operations = self._ordered(body["action"], body["subject"], order, entry)
        if body["action"] == "found":
            return operations
        return [*operations, ordering.noted(order.instruction_id, entry.seq)]

    def _ordered(self, action: str, subject: str, order: Instruction, entry: Entry) -> list[Operation]:
        match action:
            case "found" | "grant" | "revoke":
                return self._role(
                    subject, order.revoke if action == "revoke" else order.grant, holds=action != "revoke"
                )
            case "ban" | "lift_ban":
                return ordering.banned(subject, order.reason) if action == "ban" else ordering.let_in(subject)
            case "approve" | "refuse":
                patch, approved = self._patches[subject], action == "approve"
                return ordering.chosen(patch, order.reason, approved=approved, now_ms=entry.at_ms)[1]
            case "invite":
                code, uses = order.invite.code_sha256, order.invite.uses
                self._invitations[code], operations = ordering.invited(code, uses, order.invite.expires_at_ms)
                return operations
            case "pause" | "resume":
                return ordering.paused(order.reason) if action == "pause" else ordering.resumed()
            case "invalidate":
                return self._invalidated(order, entry.seq)
            case "restore":
                return self._restored(order.restore.sequence, entry.seq)
            case "quarantine" | "reinstate" | "roll_back":
                return []  # carried out by the entries that follow
        raise ValueError(f"this version does not know the instruction {action!r}")

    def _role(self, identity_id: str, change: RoleChange, *, holds: bool) -> list[Operation]:
        role = Role(RoleName.Name(change.role).removeprefix("ROLE_").lower())
        before = self._roles.get(identity_id)
        self._roles[identity_id], operations = ordering.role_changed(before, identity_id, role, holds=holds)
        return operations

    def _invalidated(self, order: Instruction, entry: int) -> list[Operation]:
        own = order.invalidate
        self._voids[entry] = Void(entry, own.identity_id, own.result_sha256, own.since_ms, order.reason)
        return doubting.voided(self._voids[entry])

    def _restored(self, ordered: int, entry: int) -> list[Operation]:
        void = self._voids.get(ordered)
        if void is None:
            return [Put("fallen", str(ordered), b"%d" % entry)]
        self._voids[ordered] = replace(void, restored=entry)
        return doubting.restored(void, entry)

    # --- evidence and verdicts ---

    def _result(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        result = Result.FromString(_envelope(body).payload)
        base = self._patches[body["patch_id"]].base_sha256 if body["patch_id"] else body["source_sha256"]
        trial = accepting.trial_of(
            result,
            body["result_sha256"],
            order_id=body["order_id"],
            identity_id=body["identity_id"],
            machine_id=body["machine_id"],
            hardware_class=body["hardware_class"],
            patch_id=body["patch_id"],
            base_sha256=body.get("base_sha256", base),  # absent before there were trials with a known answer
            known_answer=body.get("known_answer", ""),
            known_effect_bpb=body.get("known_effect_bpb", 0.0),
            accepted_at_ms=entry.at_ms,
            entry=entry.seq,
        )
        if trial.patch_id:
            self._trials.setdefault(trial.patch_id, []).append(trial)
        elif not trial.known_answer:
            self._baselines.setdefault(base, []).append(trial)
        self._results += 1
        number = _NUMBER.search(trial.order_id)
        made = int(number[1]) + 1 if number else 1
        line = trial.order_id.rpartition("-")[0]
        self._orders[line] = max(self._orders.get(line, 0), made)
        return [
            Put("order_state", trial.order_id, leasing.DONE),
            Put("filled", body["lease_id"], trial.result_sha256.encode()),
            *accepting.recorded(trial, result.log_tail),
        ]

    def _verdict(self, entry: Entry) -> Sequence[Operation]:
        body, patch = entry.body, self._patches[entry.body["patch_id"]]
        verdict = Verdict(body["verdict"])
        if "rollback" in body:
            return promoting.put_back(patch, verdict, body["reason"], self._bests[-1], entry=entry.seq)
        if "rollback_fell" in body:
            patch = replace(patch, promoted_generation=0, rolled_back_generation=0)
        if verdict is Verdict.PROMOTED:
            patch = replace(patch, promoted_generation=self._bests[-1].generation + 1)
        candidate, baseline = self._trials.get(patch.patch_id, []), self._baselines.get(patch.base_sha256, [])
        valid = Voids(self._voids.values()).counting
        rows = pairing.evidence(valid(candidate), valid(baseline), body["evidence_before"])
        finding = Finding(
            verdict=verdict,
            reason=body["reason"],
            decision=body["decision"],
            noise_bpb=body["noise_bpb"],
            evidence_before=body["evidence_before"],
            excluded=tuple(body["excluded"]),
            jurors=len({row.identity for row in rows}),
        )
        return settling.settled(patch, finding, entry=entry.seq, now_ms=entry.at_ms)[1]

    # --- the best ---

    def _promotion(self, entry: Entry) -> Sequence[Operation]:
        body, patch = entry.body, self._patches[entry.body["patch_id"]]
        source = body.get("source") or self._sources[body["source_sha256"]]
        assert patch.decision is not None
        trailers = commits.promotion_trailers(patch, patch.decision, generation=body["generation"], entry=entry.seq)
        best = self._best(entry, patch.patch_id, patch.author_name)
        fingerprint = normalised_fingerprint(source)
        named = [] if fingerprint in self._fingerprints else [Put("fingerprints", fingerprint, patch.patch_id.encode())]
        self._fingerprints.add(fingerprint)
        return [*self._crown(best, source, trailers), *named, *settling.credit(patch, 1)]

    def _rollback(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        trailers = commits.rollback_trailers(
            body["undone"], body["reason"], generation=body["generation"], entry=entry.seq
        )
        best = replace(
            self._best(entry, "", ""), undone=tuple(body["undone"]), ordered=body.get("instruction", 0)
        )  # fmt: skip
        return self._crown(best, body["source"], trailers)

    def _best(self, entry: Entry, patch_id: str, author_name: str) -> Best:
        body = entry.body
        return Best(
            generation=body["generation"],
            commit=body["commit"],
            source_sha256=body["source_sha256"],
            patch_id=patch_id,
            title=body["title"],
            author_name=author_name,
            promoted_at_ms=entry.at_ms,
            trials=self._results,
            entry=entry.seq,
        )

    def _crown(self, best: Best, source: str, trailers: commits.Trailers) -> list[Operation]:
        assert self._lineage is not None
        if sha256_hex(source.encode()) != best.source_sha256:
            raise ValueError("its source is not the one that it names")
        before = self._bests[-1].commit
        commit = self._lineage.build_promotion(
            before,
            source,
            title=best.title,
            trailers=trailers,
            author_name=best.author_name,
            at=commits.committed_at(best.promoted_at_ms),
        )
        self._check_commit(commit, best.commit)
        self._lineage.advance(commit, before)
        self._bests.append(best)
        self._sources[best.source_sha256] = source
        return [Put("sources", best.source_sha256, source.encode()), *settling.crowning(best)]

    def _check_commit(self, made: str, named: str) -> None:
        if made != named:
            raise ValueError(f"its commit comes out as {made[:12]} and not as {named[:12]}")

    # --- trust ---

    def _quarantine(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        held = Held(
            body["identity_id"], body["suspicion"], body["log_odds"], body["reason"], entry.at_ms, entry.seq,
            body.get("with_ban", False),
        )  # fmt: skip
        self._held[held.identity_id] = held
        return doubting.held(held)

    def _reinstatement(self, entry: Entry) -> Sequence[Operation]:
        identity_id = entry.body["identity_id"]
        by_hand = "instruction" in entry.body and self._held[identity_id].suspicion != Suspicion.OPERATOR
        return doubting.believed_again(identity_id, entry.seq, vouched=by_hand)

    def _proposal(self, entry: Entry) -> Sequence[Operation]:
        body = entry.body
        key = str(body["generation"])
        if body["stands"]:
            return [Drop("proposals", key)]
        title = self._patches[body["patch_id"]].title
        proposal = Proposal(body["generation"], body["patch_id"], title, body["reason"], entry.at_ms)
        return [Put("proposals", key, proposal.to_bytes())]

    def _unknown(self, _: Entry) -> Sequence[Operation]:
        raise ValueError("this version does not know that kind: use the coordinator's own, or a newer one")


def _collapsed(operations: Sequence[Operation]) -> list[Operation]:
    """Fewer operations with the same outcome: of those that set one thing the last, of counts their sum."""
    rest: list[Operation] = []
    last: dict[tuple[str, str, str], Operation] = {}
    for operation in operations:
        match operation:
            case Put(table, key, _) | Drop(table, key):
                last["table", table, key] = operation
            case Rank(ranking, member, _) | Unrank(ranking, member):
                last["rank", ranking, member] = operation
            case Bump(ranking, member, by) if ranking != "gain":
                known = last.get(("bump", ranking, member))
                last["bump", ranking, member] = Bump(ranking, member, by + (known.by if isinstance(known, Bump) else 0))
            case _:  # lists keep their order, and so do sums of fractions, which round
                rest.append(operation)
    return [*rest, *last.values()]


def _envelope(body: Mapping[str, Any]) -> Envelope:
    """Whose signature was checked before."""
    return Envelope.FromString(b64decode(body["envelope"]))


_TAKE: Mapping[str, Callable[[Rebuilder, Entry], Sequence[Operation]]] = {
    "genesis": Rebuilder._genesis,
    "identity": Rebuilder._identity,
    "patch": Rebuilder._patch,
    "result": Rebuilder._result,
    "verdict": Rebuilder._verdict,
    "promotion": Rebuilder._promotion,
    "withdrawal": Rebuilder._withdrawal,
    "quarantine": Rebuilder._quarantine,
    "reinstatement": Rebuilder._reinstatement,
    "proposal": Rebuilder._proposal,
    "rollback": Rebuilder._rollback,
    "instruction": Rebuilder._instruction,
}
