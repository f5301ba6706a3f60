"""What an instruction of an operator or approver changes, an enrolment and a new key, as operations on the store. Pure.

The same functions serve when it is given (`register`) and when a store is made again from the ledger (`rebuilding`).
Left out: who may give which (`access`).
"""

from dataclasses import replace

from autoresearch.digest import sha256_hex
from autoresearch.judging.model import Invitation, Patch, Roles
from autoresearch.succession import RETIRED, Moved
from coordinator.access import Role
from coordinator.store import Drop, Operation, Put, Rank, Unrank

WAITS = "waiting"  # the verdict of a patch before an approver decided, and the ranking of such patches
UNSAID = "no reason was given"


def enrolment_noted(payload: bytes, identity_id: str) -> Operation:
    """The ledger holds this enrolment from now on: sent again, it is history."""
    return Put("enrolments", sha256_hex(payload), identity_id.encode())


def role_changed(before: Roles | None, identity_id: str, role: Role, *, holds: bool) -> tuple[Roles, list[Operation]]:
    """An identity's roles after one was granted or taken away."""
    after = Roles({**(before.changes if before else {}), role.value: holds})
    return after, [Put("roles", identity_id, after.to_bytes())]


def banned(identity_id: str, reason: str) -> list[Operation]:
    """An identity is shut out."""
    return [Put("bans", identity_id, (reason or UNSAID).encode())]


def let_in(identity_id: str) -> list[Operation]:
    """A ban is lifted."""
    return [Drop("bans", identity_id)]


def chosen(patch: Patch, reason: str, *, approved: bool, now_ms: int) -> tuple[Patch, list[Operation]]:
    """A waiting patch after an approver decided about it."""
    if approved:
        after = replace(patch, verdict="open", reason="")
        queued: list[Operation] = [Rank("open", patch.patch_id, patch.submitted_at_ms)]
    else:
        said = f"refused by an approver: {reason or UNSAID}"
        after, queued = replace(patch, verdict="refused", reason=said, decided_at_ms=now_ms), []
    return after, [Put("patches", patch.patch_id, after.to_bytes()), Unrank(WAITS, patch.patch_id), *queued]


def invited(code_sha256: str, uses: int, expires_at_ms: int) -> tuple[Invitation, list[Operation]]:
    """A new invitation."""
    made = Invitation(uses, expires_at_ms)
    return made, [Put("invitations", code_sha256, made.to_bytes())]


def invitation_used(code: str, invitation: Invitation) -> tuple[Invitation, list[Operation]]:
    """An invitation after one more identity came in by it."""
    after = replace(invitation, uses_left=invitation.uses_left - 1)
    return after, [Put("invitations", sha256_hex(code.encode()), after.to_bytes())]


def paused(reason: str) -> list[Operation]:
    """No more trials are handed out."""
    return [Put("meta", "paused", (reason or UNSAID).encode())]


def resumed() -> list[Operation]:
    """They are again."""
    return [Drop("meta", "paused")]


def rotated(moved: Moved) -> list[Operation]:
    """An identity has a new key."""
    return [
        Put("keys", moved.old_key_id, RETIRED.encode()),
        Put("keys", moved.new_key_id, moved.identity_id.encode()),
    ]


def noted(instruction_id: str, seq: int) -> Operation:
    """An instruction was carried out, by this ledger entry."""
    return Put("instructions", instruction_id, b"%d" % seq)
