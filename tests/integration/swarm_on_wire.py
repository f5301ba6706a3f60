"""A real coordinator with its embedded store, and machines that speak its protocol and really sign.

A `Peer` runs no training: it answers orders with the numbers that a test gives it, as any client on the wire could.
"""

import asyncio
import difflib
import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.digest import key_id, sha256_hex
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import access_service_pb2_grpc as access_grpc
from autoresearch.v1 import leaderboard_service_pb2_grpc as board_grpc
from autoresearch.v1 import operator_service_pb2_grpc as operator_grpc
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import patch_service_pb2_grpc as patches_grpc
from autoresearch.v1 import trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1 import volunteer_service_pb2_grpc as volunteer_grpc
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment, SessionProof
from autoresearch.v1.patch_pb2 import Patch, PatchSubmission, Verdict, Withdrawal
from coordinator import main as program
from coordinator.settings import Settings, Terms

SOURCE = '''"""A source for tests."""

WIDTH = 128
RATE = 0.003


def build_model(config):
    return (WIDTH, config)


def main(session):
    for batch in session:
        print(RATE, batch)
'''


def change(old: str, new: str, source: str = SOURCE) -> bytes:
    """A diff of `source` that replaces one line by another."""
    after = source.replace(old, new)
    assert after != source
    lines = difflib.unified_diff(source.splitlines(True), after.splitlines(True), "a/train.py", "b/train.py")
    return "".join(lines).encode()


@dataclass
class Swarm:
    """A running coordinator and how to reach it."""

    running: program.Running
    channel: grpc.aio.Channel
    settings: Settings
    peers: list["Peer"] = field(default_factory=list)

    @property
    def volunteers(self) -> "volunteer_grpc.VolunteerServiceAsyncStub":
        return volunteer_grpc.VolunteerServiceStub(self.channel)

    @property
    def access(self) -> "access_grpc.AccessServiceAsyncStub":
        return access_grpc.AccessServiceStub(self.channel)

    @property
    def operators(self) -> "operator_grpc.OperatorServiceAsyncStub":
        return operator_grpc.OperatorServiceStub(self.channel)

    @property
    def patches(self) -> "patches_grpc.PatchServiceAsyncStub":
        return patches_grpc.PatchServiceStub(self.channel)

    @property
    def board(self) -> "board_grpc.LeaderboardServiceAsyncStub":
        return board_grpc.LeaderboardServiceStub(self.channel)

    @property
    def swarm_id(self) -> str:
        return self.running.swarm.swarm_id

    def peer(self, name: str, device: str = "Test GPU") -> "Peer":
        """A new identity with one machine."""
        peer = Peer(self, name, device=device)
        self.peers.append(peer)
        return peer

    async def patch(self, patch_id: str) -> Patch:
        return (await self.patches.GetPatch(patches_pb2.GetPatchRequest(patch_id=patch_id))).patch

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        """Waits until the (async) condition gives something true; fails after `seconds`."""
        async with asyncio.timeout(seconds):
            while not (found := await condition()):
                await asyncio.sleep(0.02)
            return found

    async def verdict(self, patch_id: str, *wanted: str) -> Patch:
        """Waits until a patch has one of these verdicts."""
        numbers = {Verdict.Value(f"VERDICT_{word.upper()}") for word in wanted}

        async def there() -> Patch | None:
            patch = await self.patch(patch_id)
            return patch if patch.verdict in numbers else None

        return await self.until(there)


class Peer:
    """A client on the wire with its own key and machine."""

    _ids = itertools.count(1)
    _instants = itertools.count(1)

    def __init__(self, swarm: Swarm, name: str, device: str) -> None:
        self.swarm = swarm
        self.name = name
        self.key = Ed25519PrivateKey.generate()
        self.machine_id = f"{next(self._ids):032x}"
        self.hardware = trial_pb2.Hardware(
            device_kind="cuda", device_name=device, device_memory_bytes=24 << 30, threads=8, operating_system="Linux 6"
        )
        self.stream: Any = None
        self.held: list[str] = []

    @property
    def identity_id(self) -> str:
        return key_id(envelope.public_bytes(self.key))

    async def enroll_author(self, **fields: Any) -> volunteer_pb2.EnrollResponse:
        """Makes the identity known, without a machine."""
        given = {"name": self.name, "signed_at_ms": next(self._instants), **fields}
        message = Enrolment(protocol=1, swarm_id=self.swarm.swarm_id, **given)
        signed = envelope.sign(message, envelope.ENROLMENT, self.key)
        return await self.swarm.volunteers.Enroll(volunteer_pb2.EnrollRequest(enrolment=signed))

    async def enroll(self, **fields: Any) -> volunteer_pb2.EnrollResponse:
        message = Enrolment(
            protocol=1,
            swarm_id=self.swarm.swarm_id,
            name=self.name,
            machine_id=self.machine_id,
            hardware=self.hardware,
            software=trial_pb2.Software(python="3.11", torch="2.13.0", client="0.1.0"),
            signed_at_ms=next(self._instants),
            **fields,
        )
        signed = envelope.sign(message, envelope.ENROLMENT, self.key)
        return await self.swarm.volunteers.Enroll(volunteer_pb2.EnrollRequest(enrolment=signed))

    async def open(self) -> volunteer_pb2.Welcome:
        self.stream = self.swarm.volunteers.Session()
        greeting = (await self.stream.read()).greeting
        proof = SessionProof(protocol=1, swarm_id=self.swarm.swarm_id, nonce=greeting.nonce, machine_id=self.machine_id)
        opened = volunteer_pb2.Open(
            proof=envelope.sign(proof, envelope.SESSION_PROOF, self.key), held_lease_ids=self.held
        )
        await self.stream.write(volunteer_pb2.SessionRequest(open=opened))
        return (await self.stream.read()).welcome

    async def start(self) -> "Peer":
        await self.enroll()
        await self.open()
        return self

    async def say(self, **event: Any) -> volunteer_pb2.SessionResponse:
        """Sends one message and returns the answer, skipping what is pushed."""
        await self.stream.write(volunteer_pb2.SessionRequest(**event))
        while True:
            response = await self.stream.read()
            if response.WhichOneof("event") != "notice":
                return response

    async def ask(self) -> trial_pb2.Order | volunteer_pb2.NoOrder:
        """Asks once for an order."""
        response = await self.say(lease=volunteer_pb2.LeaseRequest(request_id=1))
        while response.WhichOneof("event") == "stop":
            response = await self.stream.read()
        if response.WhichOneof("event") == "no_order":
            return response.no_order
        order, signer = envelope.open_as(response.grant.order, envelope.ORDER, trial_pb2.Order)
        assert signer.public_key.hex() == self.swarm.running.swarm.coordinator_key
        self.held = [order.lease_id]
        self._payload = response.grant.order.payload
        return order

    async def order(self) -> trial_pb2.Order:
        """Asks until there is an order."""

        async def there() -> trial_pb2.Order | None:
            answer = await self.ask()
            return answer if isinstance(answer, trial_pb2.Order) else None

        return await self.swarm.until(there)

    def result(self, order: trial_pb2.Order, value: "float | str", **fields: Any) -> trial_pb2.Result:
        """What this peer claims of a trial: a val_bpb, or the name of another outcome."""
        result = trial_pb2.Result(
            protocol=1,
            swarm_id=self.swarm.swarm_id,
            lease_id=order.lease_id,
            order_sha256=sha256_hex(self._payload),
            source_sha256=order.source_sha256,
            challenge_sha256=order.challenge_sha256,
            trial_code_sha256=order.trial_code_sha256,
            machine_id=self.machine_id,
            seed=order.seed,
            hardware=self.hardware,
            outcome=trial_pb2.OUTCOME_COMPLETED,
            train_ms=10_000,
            tokens_served=1_000_000,
        )
        if isinstance(value, str):
            result.outcome = trial_pb2.Outcome.Value(f"OUTCOME_{value.upper()}")
        else:
            result.val_bpb = value
        for name, content in fields.items():
            setattr(result, name, content)
        return result

    async def deliver(self, result: trial_pb2.Result, key: Ed25519PrivateKey | None = None) -> volunteer_pb2.ResultAck:
        return await self.deliver_envelope(envelope.sign(result, envelope.RESULT, key or self.key))

    async def deliver_envelope(self, signed: Envelope) -> volunteer_pb2.ResultAck:
        response = await self.say(result=volunteer_pb2.ResultDelivery(result=signed))
        while response.WhichOneof("event") == "stop":
            response = await self.stream.read()
        return response.result_ack

    async def work(self, values: "Callable[[trial_pb2.Order], float | str]") -> trial_pb2.Order:
        """Runs one order."""
        order = await self.order()
        ack = await self.deliver(self.result(order, values(order)))
        assert ack.status == volunteer_pb2.RESULT_STATUS_ACCEPTED, ack.reason
        return order

    async def submission(self, diff: bytes, title: str = "try it", base: str = "", **fields: Any) -> Envelope:
        """A signed patch."""
        if not base:
            base = (await self.swarm.patches.GetBest(patches_pb2.GetBestRequest())).best.commit
        message = PatchSubmission(
            protocol=1, swarm_id=self.swarm.swarm_id, base_commit=base, diff=diff, title=title, author_name=self.name
        )
        for name, content in fields.items():
            setattr(message, name, content)
        return envelope.sign(message, envelope.PATCH, self.key)

    async def submit(self, diff: bytes, title: str = "try it", base: str = "", **fields: Any) -> Patch:
        """Submits a patch, enrolling first where that is necessary."""
        request = access_pb2.GetStandingRequest(identity_id=self.identity_id)
        if not (await self.swarm.access.GetStanding(request)).enrolled:
            await self.enroll_author()
        signed = await self.submission(diff, title, base, **fields)
        return (await self.swarm.patches.SubmitPatch(patches_pb2.SubmitPatchRequest(submission=signed))).patch

    async def withdraw(self, patch_id: str) -> Patch:
        message = Withdrawal(protocol=1, swarm_id=self.swarm.swarm_id, patch_id=patch_id)
        signed = envelope.sign(message, envelope.WITHDRAWAL, self.key)
        return (await self.swarm.patches.WithdrawPatch(patches_pb2.WithdrawPatchRequest(withdrawal=signed))).patch

    async def close(self) -> None:
        if self.stream is not None:
            self.stream.cancel()


class Starter:
    """Starts (and starts again) a coordinator on one data folder. `made`: a stopped swarm to begin as a copy of."""

    def __init__(self, folder: Path, made: Path | None = None) -> None:
        self.folder = folder
        self.source = folder / "start.py"
        self.source.write_text(SOURCE)
        self.lease_s = 30.0
        self.store = ""
        self.settings: dict[str, Any] = {"enrolment": "open"}
        if made is not None:
            shutil.copytree(made, folder / "swarm")

    def __call__(self) -> "Started":
        settings = Settings(
            self.folder / "swarm", listen="127.0.0.1:0", lease_s=self.lease_s, store=self.store, **self.settings
        )
        terms = Terms(name="test", source=self.source, budget_s=10.0, noise_prior_bpb=0.002)
        return Started(settings, terms)


class Started:
    """`async with starter() as swarm`."""

    def __init__(self, settings: Settings, terms: Terms) -> None:
        self.settings = settings
        self.terms = terms
        self._running = program.running(settings, terms, lambda line: None)

    async def __aenter__(self) -> Swarm:
        running = await self._running.__aenter__()
        certificate = (self.settings.data_dir / "tls.crt").read_bytes()
        address = running.address.split("#")[0]
        channel = grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(certificate),
            options=[
                ("grpc.ssl_target_name_override", "autoresearch-swarm"),
                ("grpc.max_send_message_length", 2 * limits.MESSAGE_BYTES),
            ],
        )
        self.swarm = Swarm(running, channel, self.settings)
        return self.swarm

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self.swarm.peers:
            await peer.close()
        await self.swarm.channel.close()
        await self._running.__aexit__(kind, error, trace)
