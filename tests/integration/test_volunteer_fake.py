"""A coordinator for the volunteer's tests: the real wire, real TLS, real signatures; no store, no statistics.

It can be told to misbehave. Holds no test itself.
"""

import asyncio
import contextlib
import datetime
import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from autoresearch import checkpoint, envelope, limits, merkle
from autoresearch.digest import key_id, sha256_hex
from autoresearch.v1 import access_service_pb2 as access
from autoresearch.v1 import access_service_pb2_grpc as access_grpc
from autoresearch.v1 import challenge_pb2, identity_pb2, patch_pb2, trial_pb2
from autoresearch.v1 import leaderboard_service_pb2 as board
from autoresearch.v1 import leaderboard_service_pb2_grpc as board_grpc
from autoresearch.v1 import patch_service_pb2 as patching
from autoresearch.v1 import patch_service_pb2_grpc as patching_grpc
from autoresearch.v1 import volunteer_service_pb2 as wire
from autoresearch.v1 import volunteer_service_pb2_grpc as wire_grpc
from autoresearch.v1.envelope_pb2 import Envelope

SOURCE = b"print('a source')\n"
SWARM_ID = "test-swarm"
TIMEOUT_S = 60.0  # for anything that is to come, on a busy machine too
LOOK_EVERY_S = 0.1


def make_challenge(**changes: Any) -> challenge_pb2.Challenge:
    """A challenge of one second."""
    fields: dict[str, Any] = {
        "format": 1,
        "name": "tiny-test",
        "grader": challenge_pb2.GRADER_KIND_BITS_PER_BYTE,
        "dataset": "tiny",
        "manifest_sha256": "a" * 64,
        "base_source_sha256": sha256_hex(SOURCE),
        "trial_code_sha256": "b" * 64,
        "budget_ms": 1000,
        "startup_ms": 60_000,
        "grace_ms": 10_000,
        "exam_ms": 60_000,
        "source_bytes": limits.SOURCE_BYTES,
        "weights_bytes": 64 << 20,
        "memory_bytes": 4 << 30,
    }
    return challenge_pb2.Challenge(**fields | changes)


def make_certificate(
    name: str = "autoresearch-swarm", authority: "Authority | None" = None
) -> tuple[bytes, bytes, str]:
    """A certificate, self-made unless an authority signs: (private key PEM, certificate PEM, sha256 of the key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, signer = (authority.name, authority.key) if authority else (subject, key)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        _builder(subject, issuer, key).add_extension(alternatives, critical=False).sign(signer, hashes.SHA256())
    )
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private, certificate.public_bytes(Encoding.PEM), hashlib.sha256(public).hexdigest()


class Authority:
    """A certificate authority that a system may be told to believe."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self.name, self.name, self.key).add_extension(constraints, critical=True)
        self.pem = builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


@dataclass
class FakeCoordinator(
    wire_grpc.VolunteerServiceServicer,
    patching_grpc.PatchServiceServicer,
    board_grpc.LeaderboardServiceServicer,
    access_grpc.AccessServiceServicer,
):
    """Serves on 127.0.0.1 and writes down what it hears."""

    challenge: challenge_pb2.Challenge = field(default_factory=make_challenge)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    tls: tuple[bytes, bytes, str] = field(default_factory=make_certificate)
    port: int = 0
    # --- what it does ---
    sources: dict[str, bytes] = field(default_factory=lambda: {sha256_hex(SOURCE): SOURCE})
    orders: list[str] = field(default_factory=list)  # digests of sources to hand out
    heartbeat_ms: int = 200
    lease_ms: int = 5000
    retry_after_ms: int = 200
    empty_page: bool = False  # the first page of a listing is
    protocol: int = limits.PROTOCOL
    named_tls_sha256: str | None = None  # None: the true one
    order_key: Ed25519PrivateKey | None = None  # None: the true one
    order_changes: dict[str, Any] = field(default_factory=dict)
    ack_results: bool = True
    answer_lease: Callable[[wire.LeaseRequest], wire.SessionResponse] | None = None
    known_leases: set[str] = field(default_factory=set)
    refuse_session: grpc.StatusCode | None = None
    patches: dict[str, patch_pb2.Patch] = field(default_factory=dict)
    best: patch_pb2.Best = field(default_factory=patch_pb2.Best)
    bundle: bytes = b""
    standing: access.GetStandingResponse = field(default_factory=access.GetStandingResponse)
    work_bits: int = 0
    by_invitation: bool = False
    events: list[board.Event] = field(default_factory=list)
    ledger: list[bytes] = field(default_factory=lambda: [b"{}"])  # lines that it shows, whatever they say
    # --- what it heard ---
    enrolments: list[identity_pb2.Enrolment] = field(default_factory=list)
    opens: list[wire.Open] = field(default_factory=list)
    heard: list[wire.SessionRequest] = field(default_factory=list)
    results: dict[str, trial_pb2.Result] = field(default_factory=dict)
    submissions: list[patch_pb2.PatchSubmission] = field(default_factory=list)
    granted: int = 0

    def __post_init__(self) -> None:
        self.changed = asyncio.Condition()
        self.streams: list[grpc.aio.ServicerContext[Any, Any]] = []
        self.server: grpc.aio.Server | None = None
        self.kept_port: socket.socket | None = None
        self.outbox: list[asyncio.Queue[wire.SessionResponse | None]] = []

    # --- life ---

    async def start(self) -> "FakeCoordinator":
        """Serves; on the port it had before, if any."""
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        wire_grpc.add_VolunteerServiceServicer_to_server(self, self.server)
        patching_grpc.add_PatchServiceServicer_to_server(self, self.server)
        board_grpc.add_LeaderboardServiceServicer_to_server(self, self.server)
        access_grpc.add_AccessServiceServicer_to_server(self, self.server)
        credentials = grpc.ssl_server_credentials([self.tls[:2]])
        self._let_port_go()
        self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self.server.start()
        return self

    async def stop(self) -> None:
        """Drops everybody; the port stays its own, and nobody answers there."""
        await self._end()
        self.kept_port = socket.socket()
        self.kept_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.kept_port.bind(("127.0.0.1", self.port))

    async def _end(self) -> None:
        if self.server:
            await self.server.stop(None)
            self.server = None

    def _let_port_go(self) -> None:
        if self.kept_port:
            self.kept_port.close()
            self.kept_port = None

    async def __aenter__(self) -> "FakeCoordinator":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self._end()
        self._let_port_go()

    @property
    def fingerprint(self) -> str:
        """Of its key."""
        return key_id(envelope.public_bytes(self.key))

    @property
    def address(self) -> str:
        """The join address."""
        return f"127.0.0.1:{self.port}#{self.fingerprint}"

    async def until(self, condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
        """Waits until what was heard fulfils `condition`, or what a thread did of which nothing is heard."""
        async with asyncio.timeout(timeout_s), self.changed:
            while not condition():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self.changed.wait()

    async def note(self) -> None:
        """Something was heard."""
        async with self.changed:
            self.changed.notify_all()

    def kinds(self) -> list[str | None]:
        """What was heard on sessions."""
        return [message.WhichOneof("event") for message in self.heard]

    def push(self, message: wire.SessionResponse | None) -> None:
        """Sends on the newest session; None ends it."""
        self.outbox[-1].put_nowait(message)

    # --- volunteers ---

    async def GetSwarm(self, request: wire.GetSwarmRequest, context: Any) -> wire.GetSwarmResponse:
        data = self.challenge.SerializeToString()
        info = wire.SwarmInfo(
            protocol=self.protocol,
            swarm_id=SWARM_ID,
            challenge_sha256=sha256_hex(data),
            tls_key_sha256=self.tls[2] if self.named_tls_sha256 is None else self.named_tls_sha256,
            work_bits=self.work_bits,
            by_invitation=self.by_invitation,
        )
        return wire.GetSwarmResponse(info=envelope.sign(info, envelope.SWARM_INFO, self.key), challenge=data)

    async def GetStanding(self, request: access.GetStandingRequest, context: Any) -> access.GetStandingResponse:
        return self.standing

    async def Enroll(self, request: wire.EnrollRequest, context: Any) -> wire.EnrollResponse:
        enrolment, verified = envelope.open_as(request.enrolment, envelope.ENROLMENT, identity_pb2.Enrolment)
        self.enrolments.append(enrolment)
        await self.note()
        return wire.EnrollResponse(identity_id=verified.signer_id, hardware_class="a class")

    async def FetchSource(self, request: wire.FetchSourceRequest, context: Any) -> wire.FetchSourceResponse:
        return wire.FetchSourceResponse(source=self.sources[request.source_sha256])

    async def Session(
        self, request_iterator: AsyncIterator[wire.SessionRequest], context: Any
    ) -> AsyncIterator[wire.SessionResponse]:
        if self.refuse_session:
            await context.abort(self.refuse_session, "go away")
        nonce = b"n" * limits.NONCE_BYTES
        yield wire.SessionResponse(greeting=wire.Greeting(nonce=nonce))
        outbox: asyncio.Queue[wire.SessionResponse | None] = asyncio.Queue()
        self.outbox.append(outbox)
        reader = asyncio.create_task(self._read(request_iterator, nonce, outbox))
        try:
            while (message := await outbox.get()) is not None:
                yield message
        finally:
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[wire.SessionRequest], nonce: bytes, outbox: "asyncio.Queue[Any]"
    ) -> None:
        identity_id = machine_id = ""
        async for message in requests:
            self.heard.append(message)
            match message.WhichOneof("event"):
                case "open":
                    proof, verified = envelope.open_as(
                        message.open.proof, envelope.SESSION_PROOF, identity_pb2.SessionProof
                    )
                    assert proof.nonce == nonce
                    assert proof.swarm_id == SWARM_ID
                    identity_id, machine_id = verified.signer_id, proof.machine_id
                    self.opens.append(message.open)
                    live = [lease for lease in message.open.held_lease_ids if lease in self.known_leases]
                    outbox.put_nowait(
                        wire.SessionResponse(
                            welcome=wire.Welcome(heartbeat_ms=self.heartbeat_ms, live_lease_ids=live, generation=3)
                        )
                    )
                case "lease":
                    outbox.put_nowait(self._lease(message.lease, identity_id, machine_id))
                case "heartbeat":
                    ack = wire.HeartbeatAck(lease_id=message.heartbeat.lease_id, lease_ms=self.lease_ms)
                    outbox.put_nowait(wire.SessionResponse(heartbeat_ack=ack))
                case "result":
                    self._result(message.result.result, outbox)
                case "lease_return":
                    self.known_leases.discard(message.lease_return.lease_id)
            await self.note()
        outbox.put_nowait(None)
        await self.note()

    def _lease(self, request: wire.LeaseRequest, identity_id: str, machine_id: str) -> wire.SessionResponse:
        if self.answer_lease:
            return self.answer_lease(request)
        if not self.orders:
            none = wire.NoOrder(
                request_id=request.request_id, reason="nothing to do", retry_after_ms=self.retry_after_ms
            )
            return wire.SessionResponse(no_order=none)
        self.granted += 1
        fields: dict[str, Any] = {
            "protocol": limits.PROTOCOL,
            "swarm_id": SWARM_ID,
            "order_id": f"order-{self.granted}",
            "lease_id": f"lease-{self.granted}",
            "identity_id": identity_id,
            "machine_id": machine_id,
            "hardware_class": "a class",
            "source_sha256": self.orders.pop(0),
            "challenge_sha256": sha256_hex(self.challenge.SerializeToString()),
            "trial_code_sha256": self.challenge.trial_code_sha256,
            "seed": 7,
        }
        order = trial_pb2.Order(**fields | self.order_changes)
        self.known_leases.add(order.lease_id)
        signed = envelope.sign(order, envelope.ORDER, self.order_key or self.key)
        grant = wire.LeaseGrant(request_id=request.request_id, order=signed, lease_ms=self.lease_ms)
        return wire.SessionResponse(grant=grant)

    def _result(self, signed: envelope.Envelope, outbox: "asyncio.Queue[Any]") -> None:
        result, _ = envelope.open_as(signed, envelope.RESULT, trial_pb2.Result)
        sha256 = sha256_hex(signed.payload)
        known = sha256 in self.results
        self.results[sha256] = result
        if self.ack_results:
            status = wire.RESULT_STATUS_DUPLICATE if known else wire.RESULT_STATUS_ACCEPTED
            outbox.put_nowait(wire.SessionResponse(result_ack=wire.ResultAck(result_sha256=sha256, status=status)))

    # --- authors and readers ---

    async def SubmitPatch(self, request: patching.SubmitPatchRequest, context: Any) -> patching.SubmitPatchResponse:
        submission, verified = envelope.open_as(request.submission, envelope.PATCH, patch_pb2.PatchSubmission)
        self.submissions.append(submission)
        patch = patch_pb2.Patch(
            patch_id=sha256_hex(request.submission.payload)[:16],
            title=submission.title,
            rationale=submission.rationale,
            tags=submission.tags,
            author_id=verified.signer_id,
            author_name=submission.author_name,
            base_commit=submission.base_commit,
            verdict=patch_pb2.VERDICT_OPEN,
            diff=submission.diff,
        )
        self.patches[patch.patch_id] = patch
        await self.note()
        return patching.SubmitPatchResponse(patch=patch)

    async def WithdrawPatch(
        self, request: patching.WithdrawPatchRequest, context: Any
    ) -> patching.WithdrawPatchResponse:
        withdrawal, _ = envelope.open_as(request.withdrawal, envelope.WITHDRAWAL, patch_pb2.Withdrawal)
        patch = await self._find(withdrawal.patch_id, context)
        patch.verdict = patch_pb2.VERDICT_WITHDRAWN
        return patching.WithdrawPatchResponse(patch=patch)

    async def GetPatch(self, request: patching.GetPatchRequest, context: Any) -> patching.GetPatchResponse:
        return patching.GetPatchResponse(patch=await self._find(request.patch_id, context))

    async def _find(self, patch_id: str, context: Any) -> patch_pb2.Patch:
        found = [patch for key, patch in self.patches.items() if key.startswith(patch_id)]
        if len(found) != 1:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no patch {patch_id}: list them with `patches`")
        return found[0]

    async def ListPatches(self, request: patching.ListPatchesRequest, context: Any) -> patching.ListPatchesResponse:
        listed = [patch for patch in self.patches.values() if not request.verdicts or patch.verdict in request.verdicts]
        if self.empty_page and not request.page_token:  # it looked through some, and none was wanted
            return patching.ListPatchesResponse(next_page_token="0")
        first = int(request.page_token or 0)
        last = first + request.page_size
        token = str(last) if last < len(listed) else ""
        return patching.ListPatchesResponse(patches=listed[first:last], next_page_token=token)

    async def GetBest(self, request: patching.GetBestRequest, context: Any) -> patching.GetBestResponse:
        return patching.GetBestResponse(best=self.best)

    async def FetchLineage(
        self, request: patching.FetchLineageRequest, context: Any
    ) -> AsyncIterator[patching.FetchLineageResponse]:
        for start in range(0, len(self.bundle), limits.CHUNK_BYTES):
            yield patching.FetchLineageResponse(chunk=self.bundle[start : start + limits.CHUNK_BYTES])

    async def GetLeaderboard(self, request: board.GetLeaderboardRequest, context: Any) -> board.GetLeaderboardResponse:
        standing = board.Standing(rank=1, identity_id="x" * 32, name="alice", trials=12, train_ms=720_000)
        return board.GetLeaderboardResponse(volunteers=[standing])

    async def GetStatus(self, request: board.GetStatusRequest, context: Any) -> board.GetStatusResponse:
        live = board.LiveTrial(volunteer_name="alice", hardware_class="a class", stage="training", share=0.5, step=9)
        return board.GetStatusResponse(swarm_id=SWARM_ID, challenge_name="tiny-test", trials=12, live=[live])

    async def WatchEvents(
        self, request: board.WatchEventsRequest, context: Any
    ) -> AsyncIterator[board.WatchEventsResponse]:
        for event in self.events[request.start :]:
            yield board.WatchEventsResponse(event=event)

    async def ReadLedger(
        self, request: board.ReadLedgerRequest, context: Any
    ) -> AsyncIterator[board.ReadLedgerResponse]:
        for line in self.ledger[request.start :]:
            yield board.ReadLedgerResponse(line=line)

    async def GetCheckpoint(self, request: board.GetCheckpointRequest, context: Any) -> board.GetCheckpointResponse:
        root = merkle.root_of([merkle.leaf_hash(line) for line in self.ledger])
        head = checkpoint.sign(SWARM_ID, len(self.ledger), root, 1, self.key)
        return board.GetCheckpointResponse(checkpoint=Envelope.FromString(head.signed))

    async def GetConsistencyProof(
        self, request: board.GetConsistencyProofRequest, context: Any
    ) -> board.GetConsistencyProofResponse:
        leaves = [merkle.leaf_hash(line) for line in self.ledger]

        def node(level: int, index: int) -> bytes:
            return merkle.root_of(leaves[index << level : (index + 1) << level])

        hashes = merkle.consistency_proof(request.old_size, request.new_size, node)
        return board.GetConsistencyProofResponse(hashes=hashes)
