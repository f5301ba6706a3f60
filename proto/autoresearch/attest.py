"""What people and machines signed for, against what a ledger says of it: every envelope, every fact taken from one.

A coordinator can write what it likes into an entry's body; it cannot sign for anybody else. So each fact is held
against the bytes that its author signed: who, which source, what was measured, which order it answers. Pure, shared by
both sides. Left out: the chain and the checkpoints, and what follows from the facts.
"""

import binascii
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from autoresearch import checkpoint, envelope, instructing, succession
from autoresearch.checkpoint import CheckpointError
from autoresearch.digest import key_id, sha256_hex
from autoresearch.envelope import EnvelopeError, Verified
from autoresearch.hardware import hardware_class, setting
from autoresearch.succession import Keyring
from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.operator_pb2 import ROLE_APPROVER, ROLE_OPERATOR, Instruction
from autoresearch.v1.patch_pb2 import PatchSubmission, Withdrawal
from autoresearch.v1.trial_pb2 import OUTCOME_COMPLETED, OUTCOME_TIMED_OUT, Order, Outcome, Result

# A busy machine makes a score worse or a hand-over late; it makes no candidate crash and no model fail the exam.
BELIEVED_ONLY_UNDISTURBED = (OUTCOME_COMPLETED, OUTCOME_TIMED_OUT)
_APPROVERS_TOO = ("approve", "refuse")


# What `Attestations._answers` compares at once: strings, and the seed, both sides of which come from messages.
_ANSWER = (
    "lease_id", "machine_id", "source_sha256", "swarm", "challenge", "trial code", "seed", "lease_id of the order",
    "machine_id of the order", "source_sha256 of the order", "swarm of the order", "challenge of the order",
    "trial code of the order", "identity of the order", "hardware class of the order", "order_id of the order",
    "owner of the machine",
)  # fmt: skip


class AttestError(Exception):
    """An entry that says something else than was signed for."""


def outcome_word(outcome: "Outcome.ValueType") -> str:
    """An outcome as ledger entries name it."""
    return Outcome.Name(outcome).removeprefix("OUTCOME_").lower()


@dataclass(slots=True)
class Attestations:
    """Takes a ledger's entries one after the other, from the first."""

    swarm_id: str = ""
    coordinator_id: str = ""  # key id of the coordinator's key
    _challenge_sha256: str = ""
    _trial_code_sha256: str = ""
    _taken: int = 0
    _keys: Keyring = field(default_factory=lambda: Keyring({}))
    _authors: dict[str, str] = field(default_factory=dict)  # patch -> author
    _sources: dict[str, str] = field(default_factory=dict)  # patch -> candidate
    _machines: dict[str, str] = field(default_factory=dict)  # machine -> identity
    _identities: set[str] = field(default_factory=set)
    _results: set[bytes] = field(default_factory=set)
    _leases: set[str] = field(default_factory=set)
    _bests: set[str] = field(default_factory=set)  # sources that were the best
    _holders: dict[int, set[str]] = field(default_factory=lambda: {ROLE_OPERATOR: set(), ROLE_APPROVER: set()})

    def take(self, kind: str, body: Mapping[str, Any]) -> None:
        """Checks the next entry.

        Raises:
            AttestError: what it says was not signed for, or its signature does not hold.
        """
        if (kind == "genesis") != (self._taken == 0):
            raise AttestError("a ledger has one genesis entry, its first")
        check = _CHECKS.get(kind)
        try:
            if check is not None:
                check(self, body)
            elif "envelope" in body:
                self._any(body)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise AttestError(f"its body is not that of a {kind}: {error!r}") from error
        except (EnvelopeError, DecodeError) as error:
            raise AttestError(f"its envelope does not hold: {error}") from error
        self._taken += 1

    def _genesis(self, body: Mapping[str, Any]) -> None:
        data = b64decode(body["challenge"], validate=True)
        challenge = Challenge.FromString(data)
        self.swarm_id = body["swarm_id"]
        self.coordinator_id = key_id(bytes.fromhex(body["coordinator_key"]))
        self._challenge_sha256, self._trial_code_sha256 = sha256_hex(data), challenge.trial_code_sha256
        source = sha256_hex(body["source"].encode())
        _same("source", source, body["source_sha256"])
        _same("base source of the challenge", challenge.base_source_sha256, source)
        self._bests.add(source)

    def _identity(self, body: Mapping[str, Any]) -> None:
        enrolment, verified = envelope.open_as(_unpacked(body), envelope.ENROLMENT, Enrolment)
        known = hardware_class(enrolment.hardware) if enrolment.machine_id else ""
        said = (enrolment.name, enrolment.machine_id, known)
        self._addressed(enrolment.swarm_id, verified, body["identity_id"])
        for what, own in zip(("name", "machine_id", "hardware_class"), said, strict=True):
            _same(what, own, body[what])
        canary = enrolment.canary and bool(enrolment.machine_id)
        _same("canary", canary, body.get("canary", False))  # absent before there were any
        identity_id, machine_id = body["identity_id"], body["machine_id"]
        self._identities.add(identity_id)
        if machine_id and self._machines.setdefault(machine_id, identity_id) != identity_id:
            raise AttestError(f"machine {machine_id} was enrolled by another identity before")

    def _patch(self, body: Mapping[str, Any]) -> None:
        submission, verified = envelope.open_as(_unpacked(body), envelope.PATCH, PatchSubmission)
        self._addressed(submission.swarm_id, verified, body["author_id"])
        _same("patch_id", sha256_hex(verified.payload)[:16], body["patch_id"])
        _same("title", submission.title, body["title"])
        if body["patch_id"] in self._authors:
            raise AttestError(f"patch {body['patch_id']} was taken before")
        self._authors[body["patch_id"]] = body["author_id"]
        self._sources[body["patch_id"]] = body["candidate_sha256"]

    def _withdrawal(self, body: Mapping[str, Any]) -> None:
        message, verified = envelope.open_as(_unpacked(body), envelope.WITHDRAWAL, Withdrawal)
        self._addressed(message.swarm_id, verified, self._authors[body["patch_id"]])
        _same("patch_id", message.patch_id, body["patch_id"])

    def _instruction(self, body: Mapping[str, Any]) -> None:
        order, verified = envelope.open_as(_unpacked(body), envelope.INSTRUCTION, Instruction)
        action = str(order.WhichOneof("action"))
        found = body["action"] == "found"  # the coordinator's own key names the first operator
        self._addressed(order.swarm_id, verified, body["by"])
        signed = instructing.facts(order)
        _same("facts", " ".join(sorted(signed)), " ".join(sorted(body.keys() - {"by", "envelope"})))
        for what, own in signed.items():
            _same(what, own, "grant" if found and what == "action" else body[what])
        if found:
            _same("first operator's maker", verified.signer_id, self.coordinator_id)
            if self._operators:
                raise AttestError("a first operator was named before")
        else:
            self._may_order(action, body["by"], body["subject"])
        if action in ("grant", "revoke") and (holders := self._holders.get(getattr(order, action).role)) is not None:
            (holders.add if action == "grant" else holders.discard)(body["subject"])

    def _may_order(self, action: str, who: str, subject: str) -> None:
        if who in self._operators or (action in _APPROVERS_TOO and who in self._holders[ROLE_APPROVER]):
            if action in _APPROVERS_TOO and self._authors[subject] == who:
                raise AttestError("an approver decided about a patch of their own")
            return
        by = "an approver" if action in _APPROVERS_TOO else "an operator"
        raise AttestError(f"the instruction {action!r} is not signed by {by}")

    @property
    def _operators(self) -> set[str]:
        return self._holders[ROLE_OPERATOR]

    def _rotation(self, body: Mapping[str, Any]) -> None:
        moved = succession.read(_unpacked(body))
        _same("swarm", moved.swarm_id, self.swarm_id)
        for what in ("identity_id", "old_key_id", "new_key_id"):
            _same(what, getattr(moved, what), body[what])
        if moved.new_key_id in self._identities or any(moved.new_key_id in own for own in self._holders.values()):
            raise AttestError("the new key has an identity of its own")
        if objection := self._keys.objection(moved):
            raise AttestError(objection)
        self._keys.move(moved)

    def _promotion(self, body: Mapping[str, Any]) -> None:
        if "source" in body:
            _same("source", sha256_hex(body["source"].encode()), body["source_sha256"])
        self._bests.add(body["source_sha256"])

    def _rollback(self, body: Mapping[str, Any]) -> None:
        _same("source", sha256_hex(body["source"].encode()), body["source_sha256"])
        self._bests.add(body["source_sha256"])

    def _restoration(self, body: Mapping[str, Any]) -> None:
        """The ledger goes on from here, after more may have been signed for; 0 given up: nobody knows how many."""
        _same("kept", self._taken, body["kept"])
        if body["forsaken"] and not body["forsaken"] > body["kept"]:
            raise AttestError("it gives up nothing")
        if body["forsaken_checkpoint"]:
            signed = b64decode(body["forsaken_checkpoint"], validate=True)
            try:
                head = checkpoint.read(signed, self.swarm_id, self.coordinator_id)
            except CheckpointError as error:
                raise AttestError(f"its checkpoint does not hold: {error}") from error
            if not body["kept"] < head.size <= body["forsaken"]:
                raise AttestError(f"its checkpoint is of {head.size} entries, which were not given up")

    def _result(self, body: Mapping[str, Any]) -> None:
        result, verified = envelope.open_as(_unpacked(body), envelope.RESULT, Result)
        self._addressed(result.swarm_id, verified, body["identity_id"])
        digest = sha256_hex(verified.payload)
        _same("result_sha256", digest, body["result_sha256"])
        payload = b64decode(body["order_payload"], validate=True)
        _same("order", result.order_sha256, sha256_hex(payload))
        order = Order.FromString(payload)
        self._answers(result, order, body)
        disturbed = bool(result.disturbed) and result.outcome in BELIEVED_ONLY_UNDISTURBED
        said = {
            "outcome": outcome_word(result.outcome),
            "val_bpb": result.val_bpb if result.HasField("val_bpb") else None,
            "train_ms": result.train_ms,
            "disturbed": disturbed,
            "tokens": result.tokens_served,
            "setting": setting(result.hardware, result.software),
        }
        for what, own in said.items():
            _same(what, own, body[what])
        if bytes.fromhex(digest) in self._results or body["lease_id"] in self._leases:
            raise AttestError("the result, or one for the same lease, was counted before")
        self._results.add(bytes.fromhex(digest))
        self._leases.add(body["lease_id"])

    def _answers(self, result: Result, order: Order, body: Mapping[str, Any]) -> None:
        """The result answers the order, and the entry says so."""
        signed = (
            result.lease_id, result.machine_id, result.source_sha256, result.swarm_id, result.challenge_sha256,
            result.trial_code_sha256, result.seed, order.lease_id, order.machine_id, order.source_sha256,
            order.swarm_id, order.challenge_sha256, order.trial_code_sha256, order.identity_id, order.hardware_class,
            order.order_id, self._machines.get(body["machine_id"]),
        )  # fmt: skip
        ids = body["lease_id"], body["machine_id"], body["source_sha256"]
        terms = self.swarm_id, self._challenge_sha256, self._trial_code_sha256
        said = (
            *ids, *terms, order.seed, *ids, *terms, body["identity_id"], body["hardware_class"],
            sha256_hex(body["order_id"].encode())[:32], body["identity_id"],
        )  # fmt: skip
        if signed != said:
            for what, own, other in zip(_ANSWER, signed, said, strict=True):
                _same(what, own, other)
        patch_id = body["patch_id"] or body.get("known_answer", "")
        if patch_id:
            _same("candidate of the patch", self._sources.get(patch_id), body["source_sha256"])
            if self._authors[patch_id] == body["identity_id"]:
                raise AttestError("an author's own machine ran the patch")
        elif body["source_sha256"] not in self._bests:
            raise AttestError("a baseline of a source that never was the best")

    def _any(self, body: Mapping[str, Any]) -> None:
        signed = _unpacked(body)
        envelope.verify(signed, signed.payload_type)

    def _addressed(self, swarm_id: str, verified: Verified, who: str) -> None:
        if verified.signer_id in self._keys.owners and not self._keys.owner(verified.signer_id):
            raise AttestError("its key was replaced by another one before")
        _same("signer", self._keys.owner(verified.signer_id), who)
        _same("swarm", swarm_id, self.swarm_id)


def _unpacked(body: Mapping[str, Any]) -> Envelope:
    try:
        return Envelope.FromString(b64decode(body["envelope"], validate=True))
    except binascii.Error as error:
        raise AttestError("its envelope is not base64") from error


def _same(what: str, signed: object, said: object) -> None:
    if signed != said or type(signed) is not type(said):
        raise AttestError(f"{what}: {_short(signed)} was signed for, and the entry says {_short(said)}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_CHECKS: Mapping[str, Callable[[Attestations, Mapping[str, Any]], None]] = {
    "genesis": Attestations._genesis,
    "identity": Attestations._identity,
    "patch": Attestations._patch,
    "withdrawal": Attestations._withdrawal,
    "promotion": Attestations._promotion,
    "rollback": Attestations._rollback,
    "instruction": Attestations._instruction,
    "rotation": Attestations._rotation,
    "result": Attestations._result,
    "restoration": Attestations._restoration,
}
