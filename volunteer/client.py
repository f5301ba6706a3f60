"""The calls of a connected client: one method per RPC, each with a deadline, a checked answer and a translated error.

Left out: how the connection was made and believed (`connect.py`), and the rules of a session (`session.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

import grpc

from autoresearch import limits
from autoresearch.digest import sha256_hex
from autoresearch.v1.access_service_pb2 import (
    GetStandingRequest,
    GetStandingResponse,
    RotateKeyRequest,
    RotateKeyResponse,
)
from autoresearch.v1.access_service_pb2_grpc import AccessServiceStub
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.leaderboard_service_pb2 import (
    Event,
    GetCheckpointRequest,
    GetConsistencyProofRequest,
    GetLeaderboardRequest,
    GetLeaderboardResponse,
    GetStatusRequest,
    GetStatusResponse,
    ReadLedgerRequest,
    WatchEventsRequest,
)
from autoresearch.v1.leaderboard_service_pb2_grpc import LeaderboardServiceStub
from autoresearch.v1.operator_service_pb2 import InstructRequest, InstructResponse
from autoresearch.v1.operator_service_pb2_grpc import OperatorServiceStub
from autoresearch.v1.patch_pb2 import Verdict
from autoresearch.v1.patch_service_pb2 import (
    FetchLineageRequest,
    GetBestRequest,
    GetBestResponse,
    GetPatchRequest,
    GetPatchResponse,
    ListPatchesRequest,
    ListPatchesResponse,
    SubmitPatchRequest,
    SubmitPatchResponse,
    WithdrawPatchRequest,
    WithdrawPatchResponse,
)
from autoresearch.v1.patch_service_pb2_grpc import PatchServiceStub
from autoresearch.v1.volunteer_service_pb2 import (
    EnrollRequest,
    EnrollResponse,
    FetchSourceRequest,
    SessionRequest,
    SessionResponse,
)
from autoresearch.v1.volunteer_service_pb2_grpc import VolunteerServiceStub
from volunteer import address, pin
from volunteer.address import Address
from volunteer.connect import Swarm, connect
from volunteer.errors import InputError, UpgradeError, WrongCoordinatorError
from volunteer.pin import Pin
from volunteer.rpc_errors import of_status, translate
from volunteer.settings import Settings

A = TypeVar("A")
SessionCall: TypeAlias = grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]

_CALL_S: Final = 20.0
_PAGES_MOST: Final = 1_000  # of one listing
_BUNDLE_S: Final = 300.0  # 64 MiB over a slow home line


class Client:
    """A connection to one swarm. Close it, or use it as an async context."""

    def __init__(self, channel: grpc.aio.Channel, swarm: Swarm) -> None:
        self.swarm = swarm
        self._channel = channel
        self._access = AccessServiceStub(channel)
        self._operators = OperatorServiceStub(channel)
        self._volunteers = VolunteerServiceStub(channel)
        self._patches = PatchServiceStub(channel)
        self._readers = LeaderboardServiceStub(channel)

    @classmethod
    async def open(cls, address: Address, *, trust_first_use: bool = False) -> Self:
        """Connects and verifies. Raises what `connect` raises."""
        return cls(*await connect(address, trust_first_use=trust_first_use))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._channel.close()

    # --- anybody with a key ---

    async def standing(self, identity_id: str) -> GetStandingResponse:
        """What an identity may do in the swarm."""
        request = GetStandingRequest(identity_id=identity_id)
        return await self._done(self._access.GetStanding(request, timeout=_CALL_S))

    async def instruct(self, instruction: Envelope) -> InstructResponse:
        """Has an approver's or operator's instruction carried out."""
        return await self._done(self._operators.Instruct(InstructRequest(instruction=instruction), timeout=_CALL_S))

    async def rotate_key(self, rotation: Envelope) -> RotateKeyResponse:
        """Gives an identity a new key."""
        return await self._done(self._access.RotateKey(RotateKeyRequest(rotation=rotation), timeout=_CALL_S))

    # --- a volunteer's machine ---

    async def enroll(self, enrolment: Envelope) -> EnrollResponse:
        """Makes an identity and its machine known."""
        return await self._done(self._volunteers.Enroll(EnrollRequest(enrolment=enrolment), timeout=_CALL_S))

    async def fetch_source(self, source_sha256: str) -> bytes:
        """The text of a source.

        Raises:
            WrongCoordinatorError: what came is not what the digest names, or is too large.
        """
        request = FetchSourceRequest(source_sha256=source_sha256)
        source = (await self._done(self._volunteers.FetchSource(request, timeout=_CALL_S))).source
        most = min(limits.SOURCE_BYTES, self.swarm.challenge.source_bytes or limits.SOURCE_BYTES)
        if len(source) > most or sha256_hex(source) != source_sha256:
            raise WrongCoordinatorError(f"{self._target} sent another text than source {source_sha256[:12]}")
        return source

    def open_session(self) -> SessionCall:
        """The stream of a session; the caller reads, writes and translates its errors with `failure`."""
        return self._volunteers.Session()

    def failure(self, error: grpc.aio.AioRpcError) -> Exception:
        """The error that a person should see for a failed call."""
        return translate(error, self._target)

    # --- authors ---

    async def submit(self, submission: Envelope) -> SubmitPatchResponse:
        """Proposes a patch."""
        return await self._done(self._patches.SubmitPatch(SubmitPatchRequest(submission=submission), timeout=_CALL_S))

    async def withdraw(self, withdrawal: Envelope) -> WithdrawPatchResponse:
        """Takes a patch back."""
        request = WithdrawPatchRequest(withdrawal=withdrawal)
        return await self._done(self._patches.WithdrawPatch(request, timeout=_CALL_S))

    async def patch(self, patch_id: str) -> GetPatchResponse:
        """One patch, by its id or the beginning of it."""
        return await self._done(self._patches.GetPatch(GetPatchRequest(patch_id=patch_id), timeout=_CALL_S))

    async def patches(self, verdicts: Sequence[Verdict.ValueType], most: int) -> ListPatchesResponse:
        """The newest patches, at most `most`, over as many pages as that takes; a page may be empty."""
        listed = ListPatchesResponse()
        for _ in range(_PAGES_MOST):
            request = ListPatchesRequest(
                verdicts=verdicts,
                page_size=min(most - len(listed.patches), limits.PAGE_ITEMS),
                page_token=listed.next_page_token,
            )
            page = await self._done(self._patches.ListPatches(request, timeout=_CALL_S))
            listed.patches.extend(page.patches[: most - len(listed.patches)])
            listed.next_page_token = page.next_page_token
            if not page.next_page_token or len(listed.patches) >= most:
                break
        return listed

    async def best(self) -> GetBestResponse:
        """The current best."""
        return await self._done(self._patches.GetBest(GetBestRequest(), timeout=_CALL_S))

    async def lineage(self) -> AsyncIterator[bytes]:
        """The git bundle of the lineage in pieces.

        Raises:
            WrongCoordinatorError: it is longer than limits.LINEAGE_BYTES.
        """
        total = 0
        try:
            async for piece in self._patches.FetchLineage(FetchLineageRequest(), timeout=_BUNDLE_S):
                total += len(piece.chunk)
                if total > limits.LINEAGE_BYTES:
                    raise WrongCoordinatorError(f"the lineage of {self._target} is larger than this program takes")
                yield piece.chunk
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._target) from None

    # --- readers ---

    async def leaderboard(self, limit: int) -> GetLeaderboardResponse:
        """Who gave how much, and whose patches moved the best."""
        return await self._done(self._readers.GetLeaderboard(GetLeaderboardRequest(limit=limit), timeout=_CALL_S))

    async def status(self) -> GetStatusResponse:
        """The swarm at this moment."""
        return await self._done(self._readers.GetStatus(GetStatusRequest(), timeout=_CALL_S))

    async def events(self, start: int, *, follow: bool) -> AsyncIterator[Event]:
        """Events from a sequence number on; without end when `follow`."""
        request = WatchEventsRequest(start=start, follow=follow)
        try:
            async for answer in self._readers.WatchEvents(request, timeout=None if follow else _BUNDLE_S):
                yield answer.event
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._target) from None

    async def checkpoint(self) -> bytes:
        """The coordinator's signed checkpoint of its ledger, as it came; the caller checks it."""
        answer = await self._done(self._readers.GetCheckpoint(GetCheckpointRequest(), timeout=_CALL_S))
        return answer.checkpoint.SerializeToString()

    async def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """The proof that the ledger of the new size continues that of the old; the caller checks it."""
        request = GetConsistencyProofRequest(old_size=old_size, new_size=new_size)
        return list((await self._done(self._readers.GetConsistencyProof(request, timeout=_CALL_S))).hashes)

    async def ledger(self, start: int) -> AsyncIterator[bytes]:
        """The ledger's lines from a sequence number on, as they came.

        Raises:
            WrongCoordinatorError: one is longer than limits.LEDGER_LINE_BYTES.
        """
        try:
            async for answer in self._readers.ReadLedger(ReadLedgerRequest(start=start)):
                if len(answer.line) > limits.LEDGER_LINE_BYTES:
                    raise WrongCoordinatorError(f"the ledger of {self._target} holds a line that is too long")
                yield answer.line
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._target) from None

    async def _done(self, call: Awaitable[A]) -> A:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._target) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Closing the connection cancels its calls; that must not look as if the caller was cancelled.
            raise of_status(grpc.StatusCode.CANCELLED, "", self._target) from None

    @property
    def _target(self) -> str:
        return self.swarm.address.target


async def open_client(settings: Settings, *, joining: bool = False) -> Client:
    """A verified connection to the swarm that the settings name. `joining`: another one of the same key will do.

    Raises what `swarm_address` and `connect` raise, and UpgradeError when another swarm answers than was joined.
    """
    where, pinned = swarm_address(settings)
    client = await Client.open(where, trust_first_use=settings.trust_first_use)
    if pinned and pinned.swarm_id != client.swarm.swarm_id and not joining:
        await client.close()
        raise UpgradeError(f"another swarm answers at {where.target} now: join it, if that is what you want")
    return client


def swarm_address(settings: Settings) -> tuple[Address, Pin | None]:
    """The swarm to talk to, and what is remembered about it: the address given now, else the one joined before.

    Raises:
        AddressError: the address given is malformed.
        InputError: none was given and none is remembered.
    """
    pinned = pin.load(settings.home)
    if settings.swarm:
        given = address.parse(settings.swarm)
        if pinned and given in {pinned.address, Address(pinned.address.host, pinned.address.port, None)}:
            return pinned.address, pinned  # a key that was accepted once is held to
        return given, None
    if pinned is None:
        raise InputError(
            "no swarm was joined from this home: run `autoresearch-volunteer join ADDRESS`, or give --swarm"
        )
    return pinned.address, pinned
