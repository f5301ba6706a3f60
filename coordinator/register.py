"""Who may do what: loads roles and bans, answers the guard, and carries out what operators and approvers order.

Every order is a signed instruction and one ledger entry. The rules are `access`'s; what an order means for trials
under way is the app's to follow up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoresearch import envelope, instructing, limits, text
from autoresearch.digest import is_key_id, is_machine_id, is_sha256, key_id
from autoresearch.judging.model import Patch
from autoresearch.v1 import operator_pb2
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.operator_pb2 import Instruction
from coordinator import keyring, ordering
from coordinator.access import INSTRUCTIONS, Role, objection, roles_of
from coordinator.discounting import Discounting, Effect
from coordinator.forms import packed
from coordinator.journal import Draft, Journal, Note
from coordinator.records import Records, Swarm
from coordinator.refusals import InvalidRequestError, NotAllowedError, NotFoundError, NotNowError
from coordinator.store import Guard, Holds


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of somebody who calls. `ban`: why they are shut out; None when they are not."""

    enrolled: bool
    roles: frozenset[Role]
    ban: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """An instruction that was carried out, now or before."""

    sequence: int
    repeated: bool
    action: str
    subject: str  # the identity or patch concerned, or empty


class Register:
    """The swarm's register of roles, bans, invitations and instructions."""

    def __init__(self, swarm: Swarm, records: Records, journal: Journal, now_ms: Callable[[], int]) -> None:
        self._swarm = swarm
        self._records = records
        self._store = records.store
        self._journal = journal
        self._now_ms = now_ms
        self._discounting = Discounting(records)

    async def standing(self, identity_id: str) -> Standing:
        """What somebody may do now."""
        ban = await self._store.get("bans", identity_id)
        enrolled = await self._records.identity(identity_id) is not None
        ordered = await self._records.roles(identity_id)
        changes = {Role(name): holds for name, holds in ordered.changes.items()} if ordered else {}
        roles = roles_of(enrolled=enrolled, changes=changes, banned=ban is not None)
        return Standing(enrolled, roles, None if ban is None else ban.decode())

    async def require(self, identity_id: str, wanted: frozenset[Role]) -> None:
        """Raises NotAllowedError when somebody may not do what needs one of the wanted roles."""
        standing = await self.standing(identity_id)
        said = objection(standing.roles, wanted, enrolled=standing.enrolled, banned=standing.ban)
        if said:
            raise NotAllowedError(said)

    async def found(self, operator_id: str, signed: Envelope) -> None:
        """Makes the first operator, if there was none ever; `signed` by the coordinator's key says so in the ledger."""
        if await self._store.count("roles"):
            return
        _, operations = ordering.role_changed(None, operator_id, Role.OPERATOR, holds=True)
        body = {
            "action": "found",
            "by": key_id(bytes.fromhex(self._swarm.coordinator_key)),
            "subject": operator_id,
            "reason": "",
            "envelope": packed(signed),
        }
        guard = Holds("roles", operator_id, None)
        outcome = await self._journal.commit([Note("instruction", body)], [guard], operations)
        if isinstance(outcome, int):
            await self._journal.durable(outcome)

    async def instruct(self, signed: Envelope) -> Done:
        """Carries an instruction out, once.

        Raises:
            EnvelopeError, InvalidRequestError: it is malformed, for another swarm, or too old.
            NotAllowedError, NotFoundError, NotNowError: its signer may not give it, or it cannot be carried out.
        """
        order, verified = envelope.open_as(signed, envelope.INSTRUCTION, Instruction)
        action = self._check_form(order)
        while True:
            known = await self._store.get("instructions", order.instruction_id)
            if known is not None:
                await self._journal.all_durable()
                return Done(int(known), True, action, instructing.subject(order))
            now = self._now_ms()
            self._check_age(order, now)
            who = await keyring.owner(self._records, verified.signer_id)
            await self.require(who.identity_id, INSTRUCTIONS[action])
            effect = await self._change(order, action, who.identity_id, now)
            effect = replace(effect, guards=[*effect.guards, who.unchanged])
            body = {"by": who.identity_id, **instructing.facts(order), "envelope": packed(signed)}
            sequence = await self._write(order.instruction_id, body, effect, now)
            if sequence is not None:
                return Done(sequence, False, action, instructing.subject(order))

    async def _write(self, instruction_id: str, body: Mapping[str, Any], effect: Effect, now_ms: int) -> int | None:
        """Writes what an instruction changes; its ledger entry, or None when something changed meanwhile."""
        guards = [*effect.guards, Holds("instructions", instruction_id, None)]
        entry = 0

        async def draft(seq: int) -> Draft:
            nonlocal entry
            entry = seq
            more, then = effect.at(seq)
            operations = [*effect.operations, *then, ordering.noted(instruction_id, seq)]
            return Draft([Note("instruction", body), *more], guards, operations, now_ms)

        return entry if await self._journal.settle(draft) else None

    def _check_form(self, order: Instruction) -> str:
        if order.protocol != limits.PROTOCOL:
            raise InvalidRequestError(f"protocol {order.protocol}; this swarm speaks {limits.PROTOCOL}: upgrade")
        if order.swarm_id != self._swarm.swarm_id:
            raise InvalidRequestError("this was signed for another swarm")
        if not is_machine_id(order.instruction_id):  # the same form
            raise InvalidRequestError("an instruction id is 32 lower-case hex digits")
        if order.reason and not text.is_line(order.reason, limits.REASON_CHARACTERS):
            raise InvalidRequestError(f"a reason is one line of at most {limits.REASON_CHARACTERS} characters")
        action = order.WhichOneof("action")
        if action is None:
            raise InvalidRequestError("an instruction without a known action: upgrade the coordinator")
        return str(action)

    def _check_age(self, order: Instruction, now_ms: int) -> None:
        apart_ms = abs(now_ms - order.signed_at_ms)
        if apart_ms > limits.INSTRUCTION_AGE_MS:
            raise InvalidRequestError(
                f"the instruction was signed {apart_ms // 60_000} minutes from now by this coordinator's clock: "
                "set your clock and give it again"
            )

    async def _change(self, order: Instruction, action: str, by: str, now_ms: int) -> Effect:
        match action:
            case "grant":
                return await self._set_role(order.grant, holds=True)
            case "revoke":
                return await self._set_role(order.revoke, holds=False)
            case "ban":
                return await self._ban(order, now_ms)
            case "lift_ban":
                return await self._lift_ban(order)
            case "approve" | "refuse":
                return await self._choose(order, by, now_ms, approved=action == "approve")
            case "invite":
                return self._invite(order.invite, now_ms)
            case "pause":
                return Effect([], ordering.paused(order.reason))
            case "resume":
                return Effect([], ordering.resumed())
        return await self._discount(order, action, now_ms)

    async def _discount(self, order: Instruction, action: str, now_ms: int) -> Effect:
        own = self._discounting
        match action:
            case "quarantine":
                return await own.quarantine(_identity(order.quarantine.identity_id), order.reason, now_ms)
            case "reinstate":
                return await own.reinstate(_identity(order.reinstate.identity_id), order.reason)
            case "invalidate":
                _identity(order.invalidate.identity_id)
                return await own.invalidate(order.invalidate, order.reason)
            case "restore":
                return await own.restore(order.restore)
            case "roll_back":
                return await own.roll_back(order.roll_back)
        raise AssertionError(f"unknown instruction {action}")

    async def _set_role(self, change: operator_pb2.RoleChange, *, holds: bool) -> Effect:
        role, identity_id = _role(change.role), _identity(change.identity_id)
        before = await self._records.roles(identity_id)
        guards: list[Guard] = [Holds("roles", identity_id, before.to_bytes() if before else None)]
        if role is Role.OPERATOR and not holds:
            guards += await self._another_operator(identity_id)
        _, operations = ordering.role_changed(before, identity_id, role, holds=holds)
        return Effect(guards, operations)

    async def _another_operator(self, identity_id: str) -> list[Guard]:
        """That somebody else stays an operator, and is not shut out, while this one ceases to be."""
        banned = await self._store.entries("bans")
        for who, roles in (await self._records.every_roles()).items():
            if who != identity_id and who not in banned and roles.changes.get(Role.OPERATOR.value):
                return [Holds("roles", who, roles.to_bytes()), Holds("bans", who, None)]
        raise NotNowError("this is the last operator: grant the role to somebody else first")

    async def _ban(self, order: Instruction, now_ms: int) -> Effect:
        identity_id = _identity(order.ban.identity_id)
        before = await self._store.get("bans", identity_id)
        if Role.OPERATOR in (await self.standing(identity_id)).roles:
            raise NotNowError("an operator cannot be banned: take the role away first")
        shut = Effect([Holds("bans", identity_id, before)], ordering.banned(identity_id, order.reason))
        if not order.ban.exclude_results:
            return shut
        doubted = await self._discounting.quarantine(identity_id, order.reason, now_ms, with_ban=True)
        return replace(doubted, guards=[*shut.guards, *doubted.guards], operations=shut.operations)

    async def _lift_ban(self, order: Instruction) -> Effect:
        identity_id = _identity(order.lift_ban.identity_id)
        before = await self._store.get("bans", identity_id)
        if before is None:
            raise NotFoundError(f"identity {identity_id} is not banned")
        believed = await self._discounting.unbanned(identity_id, order.reason)
        guards = [Holds("bans", identity_id, before), *believed.guards]
        return replace(believed, guards=guards, operations=ordering.let_in(identity_id))

    async def _choose(self, order: Instruction, by: str, now_ms: int, *, approved: bool) -> Effect:
        choice = order.approve if approved else order.refuse
        patch = await self._records.patch(choice.patch_id)
        if patch is None:
            raise NotFoundError(f"no patch {text.clean_line(choice.patch_id, 20)}: give the whole id")
        if patch.author_id == by:
            raise NotAllowedError("nobody decides about their own patch: ask another approver")
        if patch.verdict != ordering.WAITS:
            raise NotNowError(f"patch {patch.patch_id} does not wait for an approver: it is {patch.verdict}")
        _, operations = ordering.chosen(patch, order.reason, approved=approved, now_ms=now_ms)
        return Effect([Holds("patches", patch.patch_id, patch.to_bytes())], operations)

    def _invite(self, invitation: operator_pb2.Invitation, now_ms: int) -> Effect:
        if not is_sha256(invitation.code_sha256):
            raise InvalidRequestError("an invitation is named by the sha256 of its code")
        if not 1 <= invitation.uses <= limits.INVITATION_USES:
            raise InvalidRequestError(f"an invitation is for 1 to {limits.INVITATION_USES} identities")
        if invitation.expires_at_ms <= now_ms:
            raise InvalidRequestError("the invitation has expired already: give a later instant")
        _, operations = ordering.invited(invitation.code_sha256, invitation.uses, invitation.expires_at_ms)
        return Effect([Holds("invitations", invitation.code_sha256, None)], operations)

    async def paused(self) -> str:
        """Why no trials are handed out; empty when they are."""
        return (await self._store.get("meta", "paused") or b"").decode()

    async def bans(self) -> dict[str, str]:
        """Identities that are shut out, with the reason."""
        return {who: reason.decode() for who, reason in (await self._store.entries("bans")).items()}

    async def waiting(self) -> Sequence[Patch]:
        """Patches that wait for an approver, oldest first."""
        ids = [member for member, _ in await self._store.ranked(ordering.WAITS, limits.PAGE_ITEMS)]
        return await self._records.patches(ids)


def _role(number: int) -> Role:
    if number not in operator_pb2.Role.values() or number == operator_pb2.ROLE_UNSPECIFIED:
        raise InvalidRequestError(f"unknown role {number}: upgrade")
    return Role(operator_pb2.Role.Name(number).removeprefix("ROLE_").lower())  # type: ignore[arg-type]


def _identity(identity_id: str) -> str:
    if not is_key_id(identity_id):
        raise InvalidRequestError(
            "an identity is 32 characters of a-z and 2-7: `autoresearch-volunteer whoami` shows it"
        )
    return identity_id
