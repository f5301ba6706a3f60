"""The gRPC edge: messages in, use cases called, messages out. No rule lives here.

Every signed message is verified in the rooms behind; this file only carries. Errors become statuses in `rpc_errors`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.digest import is_key_id, is_sha256
from autoresearch.judging.model import Machine, Progress
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import access_service_pb2_grpc as access_grpc
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import leaderboard_service_pb2_grpc as board_grpc
from autoresearch.v1 import operator_service_pb2 as operator_pb2
from autoresearch.v1 import operator_service_pb2_grpc as operator_grpc
from autoresearch.v1 import patch_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import patch_service_pb2_grpc as patches_grpc
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1 import volunteer_service_pb2_grpc as volunteer_grpc
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import IdentityProof, SessionProof
from coordinator import keyring, tokens, views
from coordinator.app import App, Idle, Told
from coordinator.checkpoints import Checkpoints
from coordinator.gate import Gate
from coordinator.hub import Hub
from coordinator.keyring import Keys
from coordinator.queries import Queries
from coordinator.records import Swarm
from coordinator.refusals import InvalidRequestError, NotAllowedError, NotNowError, UnauthenticatedError
from coordinator.register import Register
from coordinator.rpc_errors import Context, streaming, unary
from coordinator.session import Message, Session, SessionError
from coordinator.settings import Enrolment
from coordinator.views import VERDICTS

_VOLUNTEER, _PATCH, _ACCESS, _OPERATOR = (
    f"/autoresearch.v1.{name}Service/" for name in ("Volunteer", "Patch", "Access", "Operator")
)
GREETING_S = 20.0  # a peer that does not prove itself by then is dropped
SILENCE_S = 600.0  # a session that says nothing for so long is dropped; its leases have long expired


@dataclass(frozen=True, slots=True)
class Edge:
    """What the servicers share."""

    swarm: Swarm
    app: App
    queries: Queries
    checkpoints: Checkpoints
    hub: Hub
    key: Ed25519PrivateKey
    tls_key_sha256: str
    nonce: Callable[[], bytes]
    gate: Gate
    register: Register
    keys: Keys
    token_key: bytes
    now_ms: Callable[[], int]
    enrolment: Enrolment

    async def signer(self, method: str, signed: Envelope, payload_type: str) -> str:
        """Who signed a call's message, admitted to the call.

        Raises:
            EnvelopeError, UnauthenticatedError, NotAllowedError, TooOftenError: nobody who may.
        """
        return await self.admitted(method, envelope.verify(signed, payload_type).signer_id)

    async def admitted(self, method: str, signer_id: str) -> str:
        """The identity that a key speaks for, admitted to a call. Raises as `signer`."""
        identity_id = (await keyring.owner(self.app.records, signer_id)).identity_id
        await self.gate.signed(method, identity_id)
        return identity_id


class VolunteerServicer(volunteer_grpc.VolunteerServiceServicer):
    """Serves volunteers' machines."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    @unary
    async def GetSwarm(
        self, request: volunteer_pb2.GetSwarmRequest, context: Context
    ) -> volunteer_pb2.GetSwarmResponse:
        """Who this is, signed."""
        swarm = self._edge.swarm
        info = volunteer_pb2.SwarmInfo(
            protocol=limits.PROTOCOL,
            swarm_id=swarm.swarm_id,
            challenge_sha256=swarm.challenge_sha256,
            tls_key_sha256=self._edge.tls_key_sha256,
            work_bits=self._edge.enrolment.work_bits,
            by_invitation=self._edge.enrolment.by_invitation,
        )
        signed = envelope.sign(info, envelope.SWARM_INFO, self._edge.key)
        return volunteer_pb2.GetSwarmResponse(info=signed, challenge=swarm.challenge_bytes)

    @unary
    async def Enroll(self, request: volunteer_pb2.EnrollRequest, context: Context) -> volunteer_pb2.EnrollResponse:
        """Makes an identity and its machine known."""
        await self._edge.signer(_VOLUNTEER + "Enroll", request.enrolment, envelope.ENROLMENT)
        identity, machine = await self._edge.app.enroll(request.enrolment)
        name = machine.hardware_class if machine else ""
        return volunteer_pb2.EnrollResponse(identity_id=identity.identity_id, hardware_class=name)

    @unary
    async def FetchSource(
        self, request: volunteer_pb2.FetchSourceRequest, context: Context
    ) -> volunteer_pb2.FetchSourceResponse:
        """The text of a source."""
        if not is_sha256(request.source_sha256):
            raise InvalidRequestError("a source is named by 64 lower-case hex digits")
        return volunteer_pb2.FetchSourceResponse(source=await self._edge.queries.source(request.source_sha256))

    @streaming
    async def Session(
        self, requests: AsyncIterator[volunteer_pb2.SessionRequest], context: Context
    ) -> AsyncIterator[volunteer_pb2.SessionResponse]:
        """A machine at work."""
        nonce = self._edge.nonce()
        yield volunteer_pb2.SessionResponse(greeting=volunteer_pb2.Greeting(nonce=nonce))
        try:
            async with asyncio.timeout(GREETING_S):
                request = await anext(aiter(requests), None)
        except TimeoutError as error:
            raise SessionError(f"no proof came within {GREETING_S:g} s") from error
        if request is None:
            return
        session, message = Session().receive(request)
        assert isinstance(message, volunteer_pb2.Open)
        machine = await self._prove(message, nonce)
        driver = _Driver(self._edge, machine)
        try:
            yield volunteer_pb2.SessionResponse(welcome=await driver.welcome(message))
            async for response in driver.run(session, requests):
                yield response
        finally:
            driver.close()

    async def _prove(self, opened: volunteer_pb2.Open, nonce: bytes) -> Machine:
        proof, verified = envelope.open_as(opened.proof, envelope.SESSION_PROOF, SessionProof)
        if proof.nonce != nonce or proof.swarm_id != self._edge.swarm.swarm_id:
            raise UnauthenticatedError("the proof answers another greeting")
        if proof.protocol != limits.PROTOCOL:
            raise InvalidRequestError(f"protocol {proof.protocol}; this swarm speaks {limits.PROTOCOL}: upgrade")
        identity_id = await self._edge.admitted(_VOLUNTEER + "Session", verified.signer_id)
        machine = await self._edge.app.records.machine(proof.machine_id)
        if machine is None or machine.identity_id != identity_id:
            raise NotAllowedError("this machine is not enrolled by that identity: enroll first")
        return machine


class _Driver:
    """Carries out what an open session asks for, and passes on what its machine is told."""

    def __init__(self, edge: Edge, machine: Machine) -> None:
        self._edge = edge
        self._machine = machine
        self._ear = edge.hub.join(machine)

    def close(self) -> None:
        """Ends it."""
        self._edge.hub.leave(self._ear)

    async def welcome(self, opened: volunteer_pb2.Open) -> volunteer_pb2.Welcome:
        app = self._edge.app
        live = await app.resume(self._machine, set(opened.held_lease_ids))
        return volunteer_pb2.Welcome(
            heartbeat_ms=app.dispatch.lease_ms // 4,
            live_lease_ids=live,
            generation=(await app.records.best()).generation,
        )

    async def run(
        self, session: Session, requests: AsyncIterator[volunteer_pb2.SessionRequest]
    ) -> AsyncIterator[volunteer_pb2.SessionResponse]:
        """Answers until the peer ends or is silent for too long."""
        incoming = aiter(requests)
        asked: asyncio.Future[Any] = asyncio.ensure_future(anext(incoming, None))
        told = asyncio.ensure_future(self._ear.queue.get())
        try:
            while True:
                done, _ = await asyncio.wait({asked, told}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    return
                if told in done:
                    yield _told_response(told.result())
                    told = asyncio.ensure_future(self._ear.queue.get())
                if asked in done:
                    request = asked.result()
                    if request is None:
                        return
                    await self._edge.gate.message(self._machine.machine_id)
                    session, message = session.receive(request)
                    yield await self._act(message)
                    asked = asyncio.ensure_future(anext(incoming, None))
        finally:
            for task in (asked, told):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _act(self, message: Message) -> volunteer_pb2.SessionResponse:
        match message:
            case volunteer_pb2.LeaseRequest():
                return await self._lease(message)
            case volunteer_pb2.Heartbeat():
                return await self._heartbeat(message)
            case volunteer_pb2.ResultDelivery():
                return await self._result(message)
            case volunteer_pb2.LeaseReturn():
                await self._edge.app.give_back(message.lease_id, self._machine.machine_id)
                stop = volunteer_pb2.StopTrial(lease_id=message.lease_id, reason="given back")
                return volunteer_pb2.SessionResponse(stop=stop)
        raise AssertionError(f"the session state machine let {type(message).__name__} through")

    async def _lease(self, message: volunteer_pb2.LeaseRequest) -> volunteer_pb2.SessionResponse:
        answer = await self._edge.app.lease(self._machine)
        if isinstance(answer, Idle):
            none = volunteer_pb2.NoOrder(
                request_id=message.request_id, reason=answer.reason, retry_after_ms=answer.retry_ms
            )
            return volunteer_pb2.SessionResponse(no_order=none)
        _, order = answer
        lease_ms = self._edge.app.dispatch.lease_ms
        grant = volunteer_pb2.LeaseGrant(request_id=message.request_id, order=order, lease_ms=lease_ms)
        return volunteer_pb2.SessionResponse(grant=grant)

    async def _heartbeat(self, message: volunteer_pb2.Heartbeat) -> volunteer_pb2.SessionResponse:
        app = self._edge.app
        progress = Progress(message.stage, message.share, message.step, message.loss)
        if not await app.heartbeat(message.lease_id, self._machine.machine_id, progress):
            stop = volunteer_pb2.StopTrial(lease_id=message.lease_id, reason="the lease has ended")
            return volunteer_pb2.SessionResponse(stop=stop)
        await app.seen(self._machine.machine_id)
        ack = volunteer_pb2.HeartbeatAck(lease_id=message.lease_id, lease_ms=app.dispatch.lease_ms)
        return volunteer_pb2.SessionResponse(heartbeat_ack=ack)

    async def _result(self, message: volunteer_pb2.ResultDelivery) -> volunteer_pb2.SessionResponse:
        await self._edge.gate.holder(self._machine.identity_id)
        receipt = await self._edge.app.accept(message.result)
        ack = volunteer_pb2.ResultAck(result_sha256=receipt.result_sha256, status=receipt.status, reason=receipt.reason)
        return volunteer_pb2.SessionResponse(result_ack=ack)


def _told_response(told: Told | None) -> volunteer_pb2.SessionResponse:
    if told is None:
        raise NotNowError("this machine opened another session, and has one at a time: end one of its two volunteers")
    if told.lease is not None:
        stop = volunteer_pb2.StopTrial(lease_id=told.lease.lease_id, reason=told.text)
        return volunteer_pb2.SessionResponse(stop=stop)
    notice = volunteer_pb2.Notice(text=told.text[: limits.REASON_CHARACTERS], generation=told.generation)
    return volunteer_pb2.SessionResponse(notice=notice)


class PatchServicer(patches_grpc.PatchServiceServicer):
    """Serves authors."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    @unary
    async def SubmitPatch(
        self, request: patches_pb2.SubmitPatchRequest, context: Context
    ) -> patches_pb2.SubmitPatchResponse:
        """Proposes a patch."""
        await self._edge.signer(_PATCH + "SubmitPatch", request.submission, envelope.PATCH)
        patch = await self._edge.app.submit(request.submission)
        return patches_pb2.SubmitPatchResponse(patch=await self._edge.queries.patch(patch.patch_id))

    @unary
    async def WithdrawPatch(
        self, request: patches_pb2.WithdrawPatchRequest, context: Context
    ) -> patches_pb2.WithdrawPatchResponse:
        """Takes a patch back."""
        await self._edge.signer(_PATCH + "WithdrawPatch", request.withdrawal, envelope.WITHDRAWAL)
        patch = await self._edge.app.withdraw(request.withdrawal)
        return patches_pb2.WithdrawPatchResponse(patch=await self._edge.queries.patch(patch.patch_id))

    @unary
    async def GetPatch(self, request: patches_pb2.GetPatchRequest, context: Context) -> patches_pb2.GetPatchResponse:
        """One patch."""
        return patches_pb2.GetPatchResponse(patch=await self._edge.queries.patch(request.patch_id))

    @unary
    async def ListPatches(
        self, request: patches_pb2.ListPatchesRequest, context: Context
    ) -> patches_pb2.ListPatchesResponse:
        """A page of patches."""
        words = {number: word for word, number in VERDICTS.items()}
        if not all(number in words for number in request.verdicts):
            raise InvalidRequestError(f"verdicts are among {', '.join(patch_pb2.Verdict.keys()[1:])}")
        verdicts = [words[number] for number in request.verdicts]
        page, token = await self._edge.queries.patches(verdicts, request.page_size, request.page_token)
        return patches_pb2.ListPatchesResponse(patches=page, next_page_token=token)

    @unary
    async def GetBest(self, request: patches_pb2.GetBestRequest, context: Context) -> patches_pb2.GetBestResponse:
        """The current best."""
        return patches_pb2.GetBestResponse(best=await self._edge.queries.best())

    @streaming
    async def FetchLineage(
        self, request: patches_pb2.FetchLineageRequest, context: Context
    ) -> AsyncIterator[patches_pb2.FetchLineageResponse]:
        """Branch `best` in pieces."""
        bundle = await self._edge.queries.lineage_bundle()
        for start in range(0, len(bundle), limits.CHUNK_BYTES):
            yield patches_pb2.FetchLineageResponse(chunk=bundle[start : start + limits.CHUNK_BYTES])


class LeaderboardServicer(board_grpc.LeaderboardServiceServicer):
    """Serves readers."""

    def __init__(self, edge: Edge) -> None:
        self._queries = edge.queries
        self._checkpoints = edge.checkpoints

    @unary
    async def GetLeaderboard(
        self, request: board_pb2.GetLeaderboardRequest, context: Context
    ) -> board_pb2.GetLeaderboardResponse:
        """Who gave how much."""
        return await self._queries.leaderboard(request.limit)

    @unary
    async def GetStatus(self, request: board_pb2.GetStatusRequest, context: Context) -> board_pb2.GetStatusResponse:
        """The swarm now."""
        return await self._queries.status()

    @streaming
    async def WatchEvents(
        self, request: board_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[board_pb2.WatchEventsResponse]:
        """Events, as they happen."""
        async for event in self._queries.events(request.start, follow=request.follow):
            yield board_pb2.WatchEventsResponse(event=event)

    @streaming
    async def ReadLedger(
        self, request: board_pb2.ReadLedgerRequest, context: Context
    ) -> AsyncIterator[board_pb2.ReadLedgerResponse]:
        """Ledger lines."""
        async for line in self._queries.ledger_lines(request.start):
            yield board_pb2.ReadLedgerResponse(line=line)

    @unary
    async def GetCheckpoint(
        self, request: board_pb2.GetCheckpointRequest, context: Context
    ) -> board_pb2.GetCheckpointResponse:
        """The ledger as a whole, signed."""
        head = await self._checkpoints.current()
        return board_pb2.GetCheckpointResponse(checkpoint=Envelope.FromString(head.signed))

    @unary
    async def GetInclusionProof(
        self, request: board_pb2.GetInclusionProofRequest, context: Context
    ) -> board_pb2.GetInclusionProofResponse:
        """That an entry is in the ledger."""
        hashes = await self._checkpoints.inclusion(request.sequence, request.tree_size)
        return board_pb2.GetInclusionProofResponse(hashes=hashes)

    @unary
    async def GetConsistencyProof(
        self, request: board_pb2.GetConsistencyProofRequest, context: Context
    ) -> board_pb2.GetConsistencyProofResponse:
        """That the ledger continues what it was."""
        hashes = await self._checkpoints.consistency(request.old_size, request.new_size)
        return board_pb2.GetConsistencyProofResponse(hashes=hashes)


class AccessServicer(access_grpc.AccessServiceServicer):
    """Serves whoever wants a session token."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    @unary
    async def GetNonce(self, request: access_pb2.GetNonceRequest, context: Context) -> access_pb2.GetNonceResponse:
        """A nonce."""
        nonce = tokens.make_nonce(self._edge.token_key, self._edge.nonce(), self._edge.now_ms())
        return access_pb2.GetNonceResponse(nonce=nonce)

    @unary
    async def Authenticate(
        self, request: access_pb2.AuthenticateRequest, context: Context
    ) -> access_pb2.AuthenticateResponse:
        """A token for a signed nonce."""
        proof, verified = envelope.open_as(request.proof, envelope.IDENTITY_PROOF, IdentityProof)
        if proof.protocol != limits.PROTOCOL:
            raise InvalidRequestError(f"protocol {proof.protocol}; this swarm speaks {limits.PROTOCOL}: upgrade")
        if proof.swarm_id != self._edge.swarm.swarm_id:
            raise UnauthenticatedError("the proof is meant for another swarm")
        identity_id = await self._edge.admitted(_ACCESS + "Authenticate", verified.signer_id)
        await self._edge.gate.once(proof.nonce)
        expires_at_ms = self._edge.now_ms() + limits.TOKEN_MS
        token = tokens.make_token(self._edge.token_key, identity_id, expires_at_ms)
        return access_pb2.AuthenticateResponse(token=token, expires_at_ms=expires_at_ms, identity_id=identity_id)

    @unary
    async def GetStanding(
        self, request: access_pb2.GetStandingRequest, context: Context
    ) -> access_pb2.GetStandingResponse:
        """What an identity may do."""
        if not is_key_id(request.identity_id):
            raise InvalidRequestError("an identity is 32 characters of a-z and 2-7")
        standing = await self._edge.register.standing(request.identity_id)
        return views.standing(standing.enrolled, standing.roles, standing.ban)

    @unary
    async def RotateKey(self, request: access_pb2.RotateKeyRequest, context: Context) -> access_pb2.RotateKeyResponse:
        """Gives an identity a new key."""
        envelope.verify(request.rotation, envelope.ROTATION)
        identity_id, repeated = await self._edge.keys.rotate(request.rotation)
        return access_pb2.RotateKeyResponse(identity_id=identity_id, repeated_before=repeated)


class OperatorServicer(operator_grpc.OperatorServiceServicer):
    """Serves those who run the swarm."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    @unary
    async def Instruct(self, request: operator_pb2.InstructRequest, context: Context) -> operator_pb2.InstructResponse:
        """Carries out an instruction."""
        await self._edge.signer(_OPERATOR + "Instruct", request.instruction, envelope.INSTRUCTION)
        done = await self._edge.app.instruct(request.instruction)
        return operator_pb2.InstructResponse(sequence=done.sequence, repeated_before=done.repeated)

    @unary
    async def GetRegister(
        self, request: operator_pb2.GetRegisterRequest, context: Context
    ) -> operator_pb2.GetRegisterResponse:
        """Roles, bans, what waits."""
        return await self._edge.queries.register(self._edge.register)


def register(server: grpc.aio.Server, edge: Edge) -> None:
    """Adds the services to a server."""
    access_grpc.add_AccessServiceServicer_to_server(AccessServicer(edge), server)
    operator_grpc.add_OperatorServiceServicer_to_server(OperatorServicer(edge), server)
    volunteer_grpc.add_VolunteerServiceServicer_to_server(VolunteerServicer(edge), server)
    patches_grpc.add_PatchServiceServicer_to_server(PatchServicer(edge), server)
    board_grpc.add_LeaderboardServiceServicer_to_server(LeaderboardServicer(edge), server)
