"""What entries about people make: enrolments with their machines, new keys, and signed instructions."""

from collections.abc import Sequence

from autoresearch import succession
from autoresearch.digest import sha256_hex
from autoresearch.hardware import setting
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Identity, Machine
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.operator_pb2 import Instruction, RoleChange
from autoresearch.v1.operator_pb2 import Role as RoleName
from coordinator import ordering
from coordinator.access import Role
from coordinator.rebuilding import believing
from coordinator.rebuilding.made import Made, unpacked
from coordinator.store import Operation, Put


def identity(made: Made, entry: Entry) -> Sequence[Operation]:
    """Somebody enrolled, or enrolled again: themselves, or a machine too."""
    body = entry.body
    known = made.identities.get(body["identity_id"])
    own = Identity(body["identity_id"], body["name"], known.enrolled_at_ms if known else entry.at_ms)
    made.identities[own.identity_id] = own
    payload = unpacked(body).payload
    enrolment = Enrolment.FromString(payload)
    noted = ordering.enrolment_noted(payload, own.identity_id)
    put = [Put("identities", own.identity_id, own.to_bytes()), noted, *_entered(made, enrolment, known)]
    if not body["machine_id"]:
        return put
    owned = made.machines.get(body["machine_id"])
    machine = Machine(
        machine_id=body["machine_id"],
        identity_id=own.identity_id,
        hardware_class=body["hardware_class"],
        enrolled_at_ms=owned.enrolled_at_ms if owned else entry.at_ms,
        setting=setting(enrolment.hardware, enrolment.software),
        canary=enrolment.canary,
    )
    made.machines[machine.machine_id] = machine
    return [*put, Put("machines", machine.machine_id, machine.to_bytes())]


def _entered(made: Made, enrolment: Enrolment, known: Identity | None) -> list[Operation]:
    """What a new identity's invitation has left."""
    code = sha256_hex(enrolment.invitation.encode())
    if known is not None or code not in made.invitations:
        return []
    made.invitations[code], operations = ordering.invitation_used(enrolment.invitation, made.invitations[code])
    return operations


def rotation(_: Made, entry: Entry) -> Sequence[Operation]:
    """An identity has a new key."""
    return ordering.rotated(succession.read(unpacked(entry.body)))


def instruction(made: Made, entry: Entry) -> Sequence[Operation]:
    """An operator or an approver ordered something, or the coordinator named the first operator."""
    body = entry.body
    order = Instruction.FromString(unpacked(body).payload)
    operations = _ordered(made, body["action"], body["subject"], order, entry)
    if body["action"] == "found":
        return operations
    return [*operations, ordering.noted(order.instruction_id, entry.seq)]


def _ordered(made: Made, action: str, subject: str, order: Instruction, entry: Entry) -> list[Operation]:
    match action:
        case "found" | "grant" | "revoke":
            change = order.revoke if action == "revoke" else order.grant
            return _role(made, subject, change, holds=action != "revoke")
        case "ban" | "lift_ban":
            return ordering.banned(subject, order.reason) if action == "ban" else ordering.let_in(subject)
        case "approve" | "refuse":
            patch, approved = made.patch(subject), action == "approve"
            return ordering.chosen(patch, order.reason, approved=approved, now_ms=entry.at_ms)[1]
        case "invite":
            code, uses = order.invite.code_sha256, order.invite.uses
            made.invitations[code], operations = ordering.invited(code, uses, order.invite.expires_at_ms)
            return operations
        case "pause" | "resume":
            return ordering.paused(order.reason) if action == "pause" else ordering.resumed()
        case "invalidate":
            return believing.invalidated(made, order, entry.seq)
        case "restore":
            return believing.restored(made, order.restore.sequence, entry.seq)
        case "quarantine" | "reinstate" | "roll_back":
            return []  # carried out by the entries that follow
    raise ValueError(f"this version does not know the instruction {action!r}")


def _role(made: Made, identity_id: str, change: RoleChange, *, holds: bool) -> list[Operation]:
    role = Role(RoleName.Name(change.role).removeprefix("ROLE_").lower())
    before = made.roles.get(identity_id)
    made.roles[identity_id], operations = ordering.role_changed(before, identity_id, role, holds=holds)
    return operations
