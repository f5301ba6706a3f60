"""The records of a swarm as values. Pure: no I/O, no clock.

Records are what the store holds as JSON; what was signed stays in the ledger as the bytes that were signed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar


@dataclass(frozen=True, slots=True)
class Record:
    """A value with a JSON form. Unknown fields of a newer version are refused rather than dropped."""

    def to_bytes(self) -> bytes:
        """Compact JSON, sorted keys."""
        # Not `asdict`, which copies what it holds and takes five times as long as the rest; nor `fields`: half as long.
        return encode({name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The record that `to_bytes` wrote.

        Raises:
            ValueError: not this record's JSON.
        """
        value = json.loads(data)
        if not isinstance(value, dict) or not set(value) <= cls.__dataclass_fields__.keys():
            raise ValueError(f"the store's {cls.__name__} is of another version")
        lists = {name: tuple(item) for name, item in value.items() if isinstance(item, list)}
        try:
            return cls(**{**value, **lists})
        except TypeError as error:  # a field is missing
            raise ValueError(f"the store's {cls.__name__} is of another version: {error}") from error


R = TypeVar("R", bound=Record)


# Made once: `json.dumps` with arguments makes an encoder for every call, a third of the time that it takes.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact JSON with sorted keys: the same value, the same bytes."""
    return _encode(value).encode()


@dataclass(frozen=True, slots=True)
class Identity(Record):
    """A person or an agent. `identity_id` is the digest of its public key."""

    identity_id: str
    name: str
    enrolled_at_ms: int


@dataclass(frozen=True, slots=True)
class Machine(Record):
    """One install on one host."""

    machine_id: str
    identity_id: str
    hardware_class: str
    enrolled_at_ms: int
    setting: str = ""  # what it said that it runs with when it enrolled: see `setting`
    canary: bool = False  # takes the first run of unknown authors' patches


@dataclass(frozen=True, slots=True)
class Roles(Record):
    """What operators ordered of an identity's roles: role -> granted, or taken away."""

    changes: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Invitation(Record):
    """A code that lets new identities in."""

    uses_left: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Best(Record):
    """The source at the tip of the lineage."""

    generation: int
    commit: str
    source_sha256: str
    patch_id: str
    title: str
    author_name: str
    promoted_at_ms: int
    trials: int  # accepted results when it was promoted
    entry: int = 0  # of the ledger, that made it the best
    undone: tuple[int, ...] = ()  # generations whose changes this one takes back; empty for a promotion
    ordered: int = 0  # ledger entry of the operator's instruction that took them back; 0: an audit did


@dataclass(frozen=True, slots=True)
class Patch(Record):
    """A patch and what was decided about it."""

    patch_id: str
    author_id: str
    author_name: str
    title: str
    rationale: str
    tags: tuple[str, ...]
    base_commit: str  # the lineage commit that the author's diff applies to
    base_generation: int  # the generation that the candidate is tested against
    base_sha256: str  # that generation's source
    candidate_sha256: str
    fingerprint: str  # of the candidate's normalised syntax tree
    submitted_at_ms: int
    verdict: str = "open"
    reason: str = ""
    decided_at_ms: int = 0
    promoted_generation: int = 0
    decision: Mapping[str, Any] | None = None  # verdict.Decision as JSON
    entry: int = 0  # of the ledger, that took it
    looked: int = 0  # the evidence before this ledger entry has been looked at
    evidence_before: int = 0  # the last verdict in the ledger was given on the evidence before this entry ...
    noise_bpb: Mapping[str, float] | None = None  # ... with this noise, per hardware class
    rolled_back_generation: int = 0  # that took its promotion back
    findings: tuple[str, ...] = ()  # of `inspection`
    canary: bool = False  # its author was unknown when it was taken: the first run is for a canary machine


@dataclass(frozen=True, slots=True)
class Held(Record):
    """An identity in quarantine: its results do not count until it is lifted."""

    identity_id: str
    suspicion: str  # a trust.Suspicion
    log_odds: float
    reason: str
    since_ms: int
    entry: int  # of the ledger, that records it
    with_ban: bool = False  # ordered together with a ban, whose lifting ends it


@dataclass(frozen=True, slots=True)
class Belief(Record):
    """A change of the quarantine: from that ledger entry on the identity's results count, or do not."""

    identity_id: str
    entry: int
    counts: bool


@dataclass(frozen=True, slots=True)
class Void(Record):
    """Results that an operator has had counted no more: one, or those of an identity accepted from an instant on; in
    any case only those that the ledger held before."""

    entry: int  # of the ledger: the instruction
    identity_id: str
    result_sha256: str  # empty: all since `since_ms`
    since_ms: int
    reason: str
    restored: int = 0  # ledger entry of the instruction that took it back


@dataclass(frozen=True, slots=True)
class Proposal(Record):
    """A promotion that no longer stands without somebody who is in quarantine now."""

    generation: int
    patch_id: str
    title: str
    reason: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Trial(Record):
    """An accepted result, as far as decisions need it."""

    result_sha256: str
    order_id: str
    identity_id: str
    machine_id: str
    hardware_class: str
    source_sha256: str
    patch_id: str  # empty for a baseline and for a trial with a known answer
    outcome: str
    val_bpb: float | None
    train_ms: int
    disturbed: bool
    accepted_at_ms: int
    reason: str = ""  # why it did not complete
    tokens: int = 0  # training tokens served
    setting: str = ""  # what it ran with: see `setting`
    entry: int = 0  # of the ledger, that holds the result
    base_sha256: str = ""  # the source whose baselines it is compared with; a baseline's own
    known_answer: str = ""  # the patch that is known to lose; then `patch_id` is empty
    known_effect_bpb: float = 0.0  # at least so much
    earlier: int = 0  # results of its patch that there were when it was handed out


@dataclass(frozen=True, slots=True)
class Tried(Record):
    """A candidate's finished trial, as far as it says where its machine's level is: see `level`."""

    entry: int  # of the ledger
    patch_id: str
    identity_id: str
    machine_id: str
    hardware_class: str
    setting: str
    val_bpb: float
    accepted_at_ms: int
    result_sha256: str
    earlier: int  # see `Trial`
    disturbed: bool = False  # never: such a trial is not among these


@dataclass(frozen=True, slots=True)
class Order(Record):
    """A trial that the swarm wants: of a candidate, of a base, or of a patch that is known to lose."""

    order_id: str
    patch_id: str  # of a candidate; else empty
    source_sha256: str
    base_sha256: str  # the source whose baselines the trial is compared with; a baseline's own
    machine_id: str = ""  # the only machine that may run it; empty for any
    known_answer: str = ""  # the patch that is known to lose
    known_effect_bpb: float = 0.0  # at least so much

    @property
    def line(self) -> str:
        """Orders of one patch, or for one machine, are counted and listed together."""
        return self.patch_id or f"@{self.machine_id}"


@dataclass(frozen=True, slots=True)
class Lease(Record):
    """The time-bound right to fill one order."""

    lease_id: str
    order_id: str
    patch_id: str
    identity_id: str
    machine_id: str
    hardware_class: str
    order_payload: str  # the signed order's bytes in base64
    granted_at_ms: int
    earlier: int = 0  # results of its patch that there were then


@dataclass(frozen=True, slots=True)
class Progress(Record):
    """What a lease's trial was doing at its last heartbeat."""

    stage: str
    share: float
    step: int
    loss: float
