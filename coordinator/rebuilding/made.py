"""What the entries of a ledger have made so far, as far as later entries need it. Values alone."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from autoresearch.judging.model import Best, Held, Identity, Invitation, Machine, Patch, Roles, Void
from autoresearch.judging.verdict import UNDECIDED
from autoresearch.v1.envelope_pb2 import Envelope
from coordinator.lineage import Lineage
from coordinator.records import Swarm

FOLLOWED_BACK = 1_000  # the coordinator follows this many of the last entries again: their consequences may be missing


class Ran(NamedTuple):
    """A trial as far as later entries depend on it: a million of them have to fit into memory."""

    entry: int  # of the ledger
    identity_id: str
    machine_id: str
    disturbed: bool
    result_sha256: str
    accepted_at_ms: int


@dataclass(slots=True)
class Made:
    """A swarm in the making. Changed by the functions that take entries, and by nobody else."""

    lineage_path: Path  # where the lineage is made
    swarm: Swarm | None = None
    lineage: Lineage | None = None
    length: int = 0  # entries taken
    results: int = 0
    identities: dict[str, Identity] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    roles: dict[str, Roles] = field(default_factory=dict)
    invitations: dict[str, Invitation] = field(default_factory=dict)
    patches: dict[str, bytes] = field(default_factory=dict)  # as the store has them
    bases: dict[str, str] = field(default_factory=dict)  # patch -> source that it is tested against
    bests: list[Best] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)  # text by digest, of the bests alone
    fingerprints: set[str] = field(default_factory=set)
    trials: dict[str, list[Ran]] = field(default_factory=dict)  # by patch
    measured: dict[tuple[str, str], int] = field(default_factory=dict)  # source, machine -> entry of its last baseline
    held: dict[str, Held] = field(default_factory=dict)  # the last quarantine of an identity
    voids: dict[int, Void] = field(default_factory=dict)  # by the ledger entry of the instruction
    orders: dict[str, int] = field(default_factory=dict)  # by line: the highest number in an order's name, and one

    def patch(self, patch_id: str) -> Patch:
        """A patch as it is now."""
        return Patch.from_bytes(self.patches[patch_id])

    def followed(self) -> int:
        """From which entry on the coordinator must follow the ledger again."""
        undecided = (patch for patch in map(Patch.from_bytes, self.patches.values()) if patch.verdict in UNDECIDED)
        behind = [patch.looked for patch in undecided if self._last_evidence(patch) >= patch.looked]
        return max(0, min(self.length - FOLLOWED_BACK, *behind, self.length))

    def _last_evidence(self, patch: Patch) -> int:
        """The entry that brought the last evidence about it (see `pairing.looks`); -1 for none."""
        trials = self.trials.get(patch.patch_id, [])
        measured = {self.measured.get((patch.base_sha256, trial.machine_id), -1) for trial in trials}
        return max(-1, *measured, trials[-1].entry) if trials else -1


def unpacked(body: Mapping[str, Any]) -> Envelope:
    """An entry's envelope, whose signature was checked before."""
    return Envelope.FromString(b64decode(body["envelope"]))
