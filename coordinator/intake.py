"""What comes in from people: enrolment, patches, withdrawals. Checks, then writes; decides nothing about worth."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from autoresearch import envelope, limits, text, work
from autoresearch.digest import sha256_hex
from autoresearch.judging.model import Best, Identity, Machine, Patch
from autoresearch.judging.verdict import UNDECIDED
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.patch_pb2 import PatchSubmission, Withdrawal
from coordinator import admission, inspection, keyring, merging, ordering, settling
from coordinator.bases import FEW_MACHINES, base_for_new_patches
from coordinator.changes import change_key
from coordinator.forms import check_submission, introduction, machine_of, packed
from coordinator.journal import Draft, Journal, Note
from coordinator.quotas import OPEN_PATCHES_MOST
from coordinator.records import Records, Swarm
from coordinator.refusals import AlreadyExistsError, InvalidRequestError, NotAllowedError, NotFoundError, NotNowError
from coordinator.scheduling import ACTIVE_MS
from coordinator.settings import Approval
from coordinator.settings import Enrolment as EnrolmentTerms
from coordinator.store import Change, Guard, Holds, Operation, Put


class Intake:
    """Takes in what people sign."""

    def __init__(
        self,
        swarm: Swarm,
        records: Records,
        journal: Journal,
        now_ms: Callable[[], int],
        *,
        enrolment: EnrolmentTerms,
        approval: Approval,
    ) -> None:
        self._enrolment = enrolment
        self._approval = approval
        self._swarm = swarm
        self._records = records
        self._journal = journal
        self._now_ms = now_ms

    async def enroll(self, signed: Envelope) -> tuple[Identity, Machine | None]:
        """Makes an identity, and its machine if it names one, known; refreshes name and hardware.

        Raises:
            EnvelopeError, InvalidRequestError: the enrolment is malformed.
            NotAllowedError: the machine belongs to another identity, or a new identity does not bring what it should.
        """
        enrolment, verified = envelope.open_as(signed, envelope.ENROLMENT, Enrolment)
        self._check_addressee(enrolment.protocol, enrolment.swarm_id)
        if not text.is_line(enrolment.name, limits.NAME_CHARACTERS):
            raise InvalidRequestError(f"a name is one line of 1 to {limits.NAME_CHARACTERS} printable characters")
        now = self._now_ms()
        while True:
            who = await keyring.owner(self._records, verified.signer_id)
            known = await self._records.identity(who.identity_id)
            identity = Identity(who.identity_id, enrolment.name, known.enrolled_at_ms if known else now)
            owned = await self._records.machine(enrolment.machine_id) if enrolment.machine_id else None
            machine = machine_of(enrolment, identity, owned, now)
            if (identity, machine) == (known, owned):
                await self._journal.all_durable()  # whoever wrote it may have gone before it was
                return identity, machine
            if known is not None and await self.is_history(signed):
                await self._journal.all_durable()
                return known, owned
            price = await self._price(enrolment, verified.public_key) if known is None else Change()
            price = Change((*price.guards, who.unchanged), price.operations)
            if await self._write_enrolment(signed, (known, owned), identity, machine, price=price, at_ms=now):
                return identity, machine

    async def is_history(self, signed: Envelope) -> bool:
        """Whether the ledger holds this enrolment. Anybody can read it there and send it again: it changes no more."""
        return await self._records.store.get("enrolments", sha256_hex(signed.payload)) is not None

    async def _price(self, enrolment: Enrolment, public_key: bytes) -> Change:
        """What the enrolment of a new identity uses up.

        Raises:
            NotAllowedError: it does not bring it.
        """
        bits = self._enrolment.work_bits
        asked = work.question(self._swarm.swarm_id, public_key)
        if bits and not await asyncio.to_thread(work.holds, asked, enrolment.work, bits):
            raise NotAllowedError(
                f"a new identity has to solve this swarm's puzzle ({bits} bits) to enroll: use a client that does"
            )
        if not self._enrolment.by_invitation:
            return Change()
        if len(enrolment.invitation) > limits.INVITATION_CHARACTERS:
            raise InvalidRequestError(f"an invitation has at most {limits.INVITATION_CHARACTERS} characters")
        code = sha256_hex(enrolment.invitation.encode())
        invitation = await self._records.invitation(code)
        if invitation is None or invitation.expires_at_ms < self._now_ms() or not invitation.uses_left:
            raise NotAllowedError(
                "this swarm is by invitation: ask its operator for a code, and give it with --invitation"
                if not enrolment.invitation
                else "the invitation is unknown, used up or too old: ask the operator for another"
            )
        left = replace(invitation, uses_left=invitation.uses_left - 1)
        return Change(
            (Holds("invitations", code, invitation.to_bytes()),), (Put("invitations", code, left.to_bytes()),)
        )

    async def _write_enrolment(
        self,
        signed: Envelope,
        before: tuple[Identity | None, Machine | None],
        identity: Identity,
        machine: Machine | None,
        *,
        price: Change,
        at_ms: int,
    ) -> bool:
        known, owned = before
        unchanged = Holds("identities", identity.identity_id, known.to_bytes() if known else None)
        guards: list[Guard] = [unchanged, *price.guards]
        operations: list[Operation] = [
            Put("identities", identity.identity_id, identity.to_bytes()),
            ordering.enrolment_noted(signed.payload, identity.identity_id),
            *price.operations,
        ]
        if machine is not None:
            guards.append(Holds("machines", machine.machine_id, owned.to_bytes() if owned else None))
            operations.append(Put("machines", machine.machine_id, machine.to_bytes()))
        note = Note("identity", introduction(identity, machine, signed))
        outcome = await self._journal.commit([note], guards, operations, at_ms)
        return await self._settled(outcome)

    async def submit(self, signed: Envelope) -> Patch:
        """Admits a patch for testing against the current best. The same submission again returns the same patch.

        Raises:
            EnvelopeError, InvalidRequestError, AdmissionError: the submission is malformed or cannot be applied.
            NotNowError: it does not merge onto the current best.
            AlreadyExistsError: the same code was submitted before.
            NotNowError: too many of the author's patches are undecided.
        """
        submission, verified = envelope.open_as(signed, envelope.PATCH, PatchSubmission)
        self._check_addressee(submission.protocol, submission.swarm_id)
        check_submission(submission)
        patch_id = sha256_hex(verified.payload)[:16]
        while True:
            known = await self._records.patch(patch_id)
            if known is not None:
                await self._journal.all_durable()
                return known
            author = await keyring.owner(self._records, verified.signer_id)
            if await self._undecided_of(author.identity_id) >= OPEN_PATCHES_MOST:
                raise NotNowError(
                    f"{OPEN_PATCHES_MOST} patches of yours are undecided: wait for their verdicts, or withdraw some"
                )
            patch, source, change = await self._admit(patch_id, submission, author.identity_id)
            if await self._write_patch(signed, submission, patch, source, change, theirs=author.unchanged):
                return patch

    async def _admit(self, patch_id: str, submission: PatchSubmission, author_id: str) -> tuple[Patch, str, str]:
        """The patch, its candidate, and the key of what it changes."""
        their_base = await self._source_at(submission.base_commit)
        admitted = await asyncio.to_thread(admission.admit, submission.diff, their_base)
        base, source = await self._based(submission.base_commit, their_base, admitted.candidate_source)
        base_source = await self._text(base)
        fingerprint = await asyncio.to_thread(admission.normalised_fingerprint, source)
        if fingerprint == await asyncio.to_thread(admission.normalised_fingerprint, base_source):
            raise InvalidRequestError(f"the patch changes nothing in the current best (generation {base.generation})")
        change = await asyncio.to_thread(change_key, base_source, source)
        challenge = self._swarm.parsed_challenge()
        if len(source.encode()) > challenge.source_bytes:
            raise InvalidRequestError(f"the patched train.py would exceed {challenge.source_bytes} bytes")
        names = await self._records.names([author_id])
        found = await asyncio.to_thread(inspection.findings, source, base_source)
        known = await self._is_known(author_id)
        waits = self._must_wait(found, known=known)
        return (
            Patch(
                patch_id=patch_id,
                author_id=author_id,
                author_name=names.get(author_id) or submission.author_name or author_id[:8],
                title=submission.title,
                rationale=submission.rationale,
                tags=tuple(submission.tags),
                base_commit=submission.base_commit,
                base_generation=base.generation,
                base_sha256=base.source_sha256,
                candidate_sha256=sha256_hex(source.encode()),
                fingerprint=fingerprint,
                submitted_at_ms=self._now_ms(),
                verdict="waiting" if waits else "open",
                reason=settling.WAITING_REASON if waits else "",
                findings=found,
                canary=not known,
            ),
            source,
            change,
        )

    async def _based(self, commit: str, their_base: str, source: str) -> tuple[Best, str]:
        """The base that the author's source is tested against, and the source made for it: the base for new patches
        if the change merges onto it, else the current best.

        Raises:
            NotNowError: it merges onto neither.
        """
        best = await self._records.best()
        conflict = ""
        for base in (await self._base(), best):
            if base.commit == commit:
                return base, source
            merged = await asyncio.to_thread(merging.merge, their_base, await self._text(base), source)
            if not isinstance(merged, merging.Conflict):
                return base, merged
            conflict = merged.reason
        raise NotNowError(
            f"the patch does not merge onto the current best (generation {best.generation}): {conflict}; "
            "run `autoresearch-volunteer checkout`, make the change again there and submit that"
        )

    async def _base(self) -> Best:
        now = self._now_ms()
        at_work = await self._records.store.ranked_between("seen", now - ACTIVE_MS, float(2**53), FEW_MACHINES + 1)
        lineage = await self._records.lineage()
        return base_for_new_patches(lineage, now, self._swarm.parsed_challenge().budget_ms, len(at_work))

    async def _text(self, best: Best) -> str:
        return ((await self._records.source(best.source_sha256)) or b"").decode()

    def _must_wait(self, findings: Sequence[str], *, known: bool) -> bool:
        """Whether a patch waits for an approver."""
        if self._approval is not Approval.KNOWN_AUTHORS:
            return self._approval is Approval.MANUAL
        return not known or bool(findings)

    async def _is_known(self, author_id: str) -> bool:
        """Whether an author has a promoted patch, or an operator gave them the role in words."""
        ordered = await self._records.roles(author_id)
        granted = ordered is not None and ordered.changes.get("author", False)
        return granted or bool(await self._records.store.score("promotions", author_id))

    async def _undecided_of(self, author_id: str) -> int:
        """How many of an author's latest patches have no verdict."""
        latest = await self._records.store.ranked(f"authored:{author_id}", 2 * OPEN_PATCHES_MOST, highest_first=True)
        patches = await self._records.patches([member for member, _ in latest])
        return sum(patch.verdict in (*UNDECIDED, "waiting") for patch in patches)

    async def _source_at(self, commit: str) -> str:
        """From the store, which names a best before the branch has reached it."""
        found = next((best for best in await self._records.lineage() if best.commit == commit), None)
        if found is None:
            raise NotFoundError(f"commit {commit[:12]} is not in the lineage of this swarm: check out the best again")
        return await self._text(found)

    async def _write_patch(
        self, signed: Envelope, submission: PatchSubmission, patch: Patch, source: str, change: str, *, theirs: Holds
    ) -> bool:
        store = self._records.store
        twins: list[Guard] = []
        for table, key, what in (
            ("fingerprints", patch.fingerprint, "the same code"),
            ("changes", change, "the same change of an earlier best"),
        ):
            twin = await store.get(table, key)
            twins.append(Holds(table, key, twin))
            if twin is not None and not await self._may_return(twin.decode(), patch):
                raise AlreadyExistsError(
                    f"{what} is already patch {twin.decode()}; look at that one with "
                    f"`autoresearch-volunteer patch {twin.decode()}`"
                )
        guards: list[Guard] = [Holds("patches", patch.patch_id, None), *twins, theirs]
        operations: list[Operation] = list(settling.admitted(patch, submission.diff, source, change))
        body = {
            "patch_id": patch.patch_id,
            "author_id": patch.author_id,
            "author_name": patch.author_name,
            "title": patch.title,
            "base_generation": patch.base_generation,
            "candidate_sha256": patch.candidate_sha256,
            "fingerprint": patch.fingerprint,
            "change": change,
            "verdict": patch.verdict,
            "findings": list(patch.findings),
            "canary": patch.canary,
            "envelope": packed(signed),
        }
        note = Note("patch", body)

        async def entered(seq: int) -> Draft:
            kept = replace(patch, entry=seq)
            put = Put("patches", patch.patch_id, kept.to_bytes())
            return Draft([note], guards, [put, *operations], patch.submitted_at_ms)

        return await self._journal.settle(entered)

    async def _may_return(self, earlier_id: str, patch: Patch) -> bool:
        """Whether what an earlier patch holds may be tested again: only when that one won and did not merge, and now
        against the best that it did not merge onto. After any other verdict, a withdrawal too, the evidence that there
        is would be thrown away, and whoever sends a useless patch often enough would pass it by luck."""
        earlier = await self._records.patch(earlier_id)
        return earlier is not None and earlier.verdict == "conflict" and earlier.base_sha256 != patch.base_sha256

    async def withdraw(self, signed: Envelope) -> Patch:
        """Takes an undecided patch back. Repeating it is harmless.

        Raises:
            EnvelopeError, InvalidRequestError, NotFoundError: malformed, or no such patch.
            NotAllowedError: another author's patch.
            NotNowError: it is decided.
        """
        message, verified = envelope.open_as(signed, envelope.WITHDRAWAL, Withdrawal)
        self._check_addressee(message.protocol, message.swarm_id)
        while True:
            patch = await self._records.patch(message.patch_id)
            if patch is None:
                raise NotFoundError(f"no patch {text.clean_line(message.patch_id, 20)}")
            author = await keyring.owner(self._records, verified.signer_id)
            if patch.author_id != author.identity_id:
                raise NotAllowedError(f"patch {patch.patch_id} belongs to another author")
            if patch.verdict == "withdrawn":
                await self._journal.all_durable()
                return patch
            if patch.verdict not in (*UNDECIDED, "waiting"):
                raise NotNowError(f"patch {patch.patch_id} is decided already: {patch.verdict}")
            after, operations = settling.withdrawn(patch, self._now_ms())
            guards = [Holds("patches", patch.patch_id, patch.to_bytes()), author.unchanged]
            note = Note("withdrawal", {"patch_id": patch.patch_id, "envelope": packed(signed)})
            if await self._settled(await self._journal.commit([note], guards, operations, after.decided_at_ms)):
                return after

    async def _settled(self, outcome: Guard | int) -> bool:
        """Waits until a commit is durable; False when a guard failed and the caller has to look again."""
        if not isinstance(outcome, int):
            return False
        await self._journal.durable(outcome)
        return True

    def _check_addressee(self, protocol: int, swarm_id: str) -> None:
        if protocol != limits.PROTOCOL:
            raise InvalidRequestError(f"protocol {protocol}; this swarm speaks {limits.PROTOCOL}: upgrade your client")
        if swarm_id != self._swarm.swarm_id:
            raise InvalidRequestError("this was signed for another swarm")
