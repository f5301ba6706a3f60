"""Leases and results: hands out ready orders, keeps leases alive, ends them, takes results in.

What a machine is to run is the planner's business, what a result means the decider's.
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits, text
from autoresearch.digest import sha256_hex
from autoresearch.judging.model import Lease, Machine, Progress
from autoresearch.judging.verdict import UNDECIDED
from autoresearch.v1 import trial_pb2
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.volunteer_service_pb2 import ResultStatus
from coordinator import accepting, keyring, leasing
from coordinator.forms import packed
from coordinator.journal import Draft, Journal, Note
from coordinator.leasing import Offer
from coordinator.records import Records, Swarm
from coordinator.refusals import UnauthenticatedError
from coordinator.store import Holds

ENDED_KEPT_MS = 7 * 24 * 3600 * 1000  # an ended lease is remembered this long for a late result
SWEEP = 1000  # leases looked at in one sweep
ACCEPTED = ResultStatus.RESULT_STATUS_ACCEPTED
DUPLICATE = ResultStatus.RESULT_STATUS_DUPLICATE
REFUSED = ResultStatus.RESULT_STATUS_REFUSED
_TOO_LATE = "it is too late: the lease ended, and another machine has its order or nobody wants it any more"


@dataclass(frozen=True, slots=True)
class Chance:
    """Where random values come from."""

    token: Callable[[], str]  # 32 hex digits
    seed: Callable[[], int]  # 0 .. 2**63 - 1


@dataclass(frozen=True, slots=True)
class Receipt:
    """The fate of a delivered result. `patch_id`: whose evidence it is part of, "" for a baseline; None if refused."""

    result_sha256: str
    status: ResultStatus.ValueType
    reason: str = ""
    patch_id: str | None = None


class Dispatch:
    """Moves orders through their leases."""

    def __init__(
        self,
        swarm: Swarm,
        records: Records,
        journal: Journal,
        key: Ed25519PrivateKey,
        *,
        now_ms: Callable[[], int],
        chance: Chance,
        lease_ms: int,
        touched: Callable[[str], None],
    ) -> None:
        """`touched` is called with the line of an order that something may have happened to."""
        self.lease_ms = lease_ms
        self._swarm = swarm
        self._challenge = swarm.parsed_challenge()
        self._records = records
        self._store = records.store
        self._journal = journal
        self._key = key
        self._now_ms = now_ms
        self._chance = chance
        self._touched = touched

    async def grant(self, offer: Offer, machine: Machine) -> tuple[Lease, Envelope] | None:
        """Leases the order to the machine and signs it; None when somebody else was quicker, or its patch changed."""
        order = offer.order
        now = self._now_ms()
        lease_id = self._chance.token()
        message = trial_pb2.Order(
            protocol=limits.PROTOCOL,
            swarm_id=self._swarm.swarm_id,
            order_id=sha256_hex(order.order_id.encode())[:32],  # opaque: the name would tell patch from baseline
            lease_id=lease_id,
            identity_id=machine.identity_id,
            machine_id=machine.machine_id,
            hardware_class=machine.hardware_class,
            source_sha256=order.source_sha256,
            challenge_sha256=self._swarm.challenge_sha256,
            trial_code_sha256=self._challenge.trial_code_sha256,
            seed=self._chance.seed(),
            issued_at_ms=now,
        )
        signed = envelope.sign(message, envelope.ORDER, self._key)
        lease = Lease(
            lease_id=lease_id,
            order_id=order.order_id,
            patch_id=order.patch_id,
            identity_id=machine.identity_id,
            machine_id=machine.machine_id,
            hardware_class=machine.hardware_class,
            order_payload=b64encode(signed.payload).decode(),
            granted_at_ms=now,
            earlier=await self._store.length(f"trials:{order.patch_id}") if order.patch_id else 0,
        )
        self._touched(order.line)
        expires_at_ms = now + self.lease_ms
        granted = (
            leasing.make(order, offer.patch, lease, expires_at_ms)
            if offer.new
            else (leasing.grant(order, lease, expires_at_ms))
        )
        failed = await self._store.apply(granted)
        self._touched(order.line)
        return None if failed else (lease, signed)

    async def heartbeat(self, lease_id: str, machine_id: str, progress: Progress) -> bool:
        """Keeps a lease alive; False when it is gone."""
        lease = await self._records.lease(lease_id)
        if lease is None or lease.machine_id != machine_id:
            return False
        now = self._now_ms()
        tidy = Progress(
            text.clean_line(progress.stage, 20),
            min(1.0, max(0.0, progress.share)) if math.isfinite(progress.share) else 0.0,
            progress.step,
            progress.loss if math.isfinite(progress.loss) else 0.0,
        )
        return await self._store.apply(leasing.renew(lease, tidy, now, now + self.lease_ms)) is None

    async def give_back(self, lease_id: str, machine_id: str) -> bool:
        """Returns a lease unfilled."""
        lease = await self._records.lease(lease_id)
        return lease is not None and lease.machine_id == machine_id and await self._release(lease, only_expired=False)

    async def expire(self) -> int:
        """Ends leases that were not kept alive; returns how many."""
        now = self._now_ms()
        expired = 0
        for lease_id, _ in await self._store.ranked_between("expiry", 0, now, SWEEP):
            lease = await self._records.lease(lease_id)
            expired += lease is not None and await self._release(lease, only_expired=True)
        for lease_id, _ in await self._store.ranked_between("ended", 0, now - ENDED_KEPT_MS, SWEEP):
            await self._store.apply(leasing.forget(lease_id))
        return expired

    async def end_leases_of(self, patch_id: str) -> list[Lease]:
        """Ends every lease of a patch that needs no more trials; returns them, so that their machines can be told."""
        held = await self._records.leases_of(patch_id)
        return [lease for lease in held if await self._release(lease, only_expired=False)]

    async def _release(self, lease: Lease, *, only_expired: bool) -> bool:
        while True:
            order = await self._records.order(lease.order_id)
            if order is None:
                return False
            patch = await self._records.patch(order.patch_id) if order.patch_id else None
            wanted = patch is None or patch.verdict in UNDECIDED
            change = leasing.release(
                lease, order, patch, wanted=wanted, now_ms=self._now_ms(), only_expired=only_expired
            )
            failed = await self._store.apply(change)
            self._touched(order.line)
            if not (isinstance(failed, Holds) and failed.table == "patches"):
                return failed is None  # otherwise the patch was judged meanwhile: it may not want its order any more

    async def accept(self, signed: Envelope, identity_id: str) -> Receipt:
        """Takes a result in, once, from the identity in whose session it comes. Returns after it is durable.

        One whose signature or form does not hold is refused like any other: it must not end the session that keeps
        the machine's other trials alive.
        """
        digest = sha256_hex(signed.payload)
        try:
            result, verified = envelope.open_as(signed, envelope.RESULT, trial_pb2.Result)
        except envelope.EnvelopeError as error:
            return Receipt(digest, REFUSED, str(error))
        known = await self._store.get("results", digest)
        if known is not None:  # whoever wrote it may have gone before anything followed from it
            await self._journal.all_durable()
            return Receipt(digest, DUPLICATE, patch_id=known.decode())
        live = await self._records.lease(result.lease_id)
        lease = live or await self._records.ended_lease(result.lease_id)
        if lease is None:
            return Receipt(digest, REFUSED, await self._why_no_lease(result.lease_id))
        try:
            who = await keyring.owner(self._records, verified.signer_id)
        except UnauthenticatedError as error:
            return Receipt(digest, REFUSED, str(error))
        reason = self._objection(result, lease, who.identity_id)
        if reason:
            return Receipt(digest, REFUSED, reason)
        if who.identity_id != identity_id:  # the session's was asked what it may do, and the signer was not
            return Receipt(digest, REFUSED, "it is another identity's: deliver it in a session of that one")
        if result.outcome == trial_pb2.OUTCOME_ABORTED:
            await self.give_back(lease.lease_id, lease.machine_id)
            return Receipt(digest, REFUSED, "an aborted trial says nothing about its source; the lease was given back")
        return await self._write(signed, result, digest, lease, late=live is None, theirs=who.unchanged)

    async def _why_no_lease(self, lease_id: str) -> str:
        if await self._store.get("filled", lease_id) is not None:
            return "its lease already has a result; one lease, one result"
        return "no such lease in this swarm, or it ended more than a week ago"

    def _objection(self, result: trial_pb2.Result, lease: Lease, signer_id: str) -> str:
        reason = leasing.refusal(result, lease, leasing.order_sha256(lease), signer_id, self._swarm.swarm_id)
        if reason:
            return reason
        order = trial_pb2.Order.FromString(b64decode(lease.order_payload))
        terms = (order.source_sha256, order.challenge_sha256, order.trial_code_sha256, order.seed)
        return leasing.malformed(result, terms, self._challenge)

    async def _write(
        self, signed: Envelope, result: trial_pb2.Result, digest: str, lease: Lease, *, late: bool, theirs: Holds
    ) -> Receipt:
        order = await self._records.order(lease.order_id)
        if order is None:
            return Receipt(digest, REFUSED, "its order is gone")
        trial = accepting.trial_of(
            result,
            digest,
            order_id=order.order_id,
            identity_id=lease.identity_id,
            machine_id=lease.machine_id,
            hardware_class=lease.hardware_class,
            patch_id=order.patch_id,
            base_sha256=order.base_sha256,
            known_answer=order.known_answer,
            known_effect_bpb=order.known_effect_bpb,
            earlier=lease.earlier,
            accepted_at_ms=self._now_ms(),
        )
        note = Note("result", accepting.result_body(trial, lease, packed(signed)))
        change = leasing.fill(lease, order, digest, late=late)
        welcome = Holds("bans", lease.identity_id, None)
        guards = [Holds("results", digest, None), theirs, welcome, *change.guards]

        async def entered(seq: int) -> Draft:
            operations = [*change.operations, *accepting.recorded(replace(trial, entry=seq), result.log_tail)]
            return Draft([note], guards, operations, trial.accepted_at_ms)

        outcome = await self._journal.commit_at(entered)
        self._touched(order.line)
        if isinstance(outcome, int):
            await self._journal.durable(outcome)
            return Receipt(digest, ACCEPTED, patch_id=order.patch_id)
        if outcome == welcome:
            return Receipt(digest, REFUSED, "its identity was shut out by the operator")
        if late and isinstance(outcome, Holds) and outcome.table == "order_state":
            return Receipt(digest, REFUSED, _TOO_LATE)
        return await self.accept(signed, lease.identity_id)  # another delivery was quicker, or the lease changed
