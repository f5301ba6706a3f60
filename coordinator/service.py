"""The gRPC edge: messages in, use cases called, messages out. No rule lives here.

Every signed message is verified in the rooms behind; this file only carries. Errors become statuses in `rpc_errors`.
"""

import asyncio
from collections.abc import AsyncIterator

import grpc

from autoresearch import envelope, limits
from autoresearch.digest import is_key_id, is_sha256
from autoresearch.judging.model import Machine
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
from coordinator import tokens, views
from coordinator.driving import Driver
from coordinator.edge import Edge
from coordinator.refusals import InvalidRequestError, NotAllowedError, UnauthenticatedError
from coordinator.rpc_errors import Context, streaming, unary
from coordinator.session import Session, SessionError
from coordinator.views import VERDICTS

_VOLUNTEER, _PATCH, _ACCESS, _OPERATOR = (
    f"/autoresearch.v1.{name}Service/" for name in ("Volunteer", "Patch", "Access", "Operator")
)
GREETING_S = 20.0  # a peer that does not prove itself by then is dropped


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
        driver = Driver(self._edge, machine)
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
