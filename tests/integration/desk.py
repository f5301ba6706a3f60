"""A coordinator's rooms without the network: real store, ledger, git and signatures, driven by hand and by a clock that
a test moves. Jurors run what the test says, not what a plan would have them run.
"""

import asyncio
import contextlib
import difflib
import itertools
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, succession
from autoresearch.digest import key_id, sha256_hex
from autoresearch.judging import ledger
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Lease, Machine, Order, Patch
from autoresearch.judging.rule import DEFAULT, Rule
from autoresearch.v1 import trial_pb2
from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.operator_pb2 import ROLE_OPERATOR, Instruction, RoleChange
from autoresearch.v1.patch_pb2 import PatchSubmission, Withdrawal
from autoresearch.v1.volunteer_service_pb2 import ResultStatus
from coordinator import commits, genesis
from coordinator.confirming import Confirmer
from coordinator.deciding import Decider
from coordinator.dispatch import Chance, Dispatch
from coordinator.export import LedgerExport
from coordinator.following import Follower
from coordinator.intake import Intake
from coordinator.journal import Journal
from coordinator.keyring import Keys
from coordinator.leasing import Offer
from coordinator.lineage import Lineage
from coordinator.promoting import Promoter
from coordinator.queries import Queries
from coordinator.records import SCHEMA, Records, Swarm
from coordinator.redis_store import RedisStore, connect
from coordinator.register import Register
from coordinator.settings import Approval
from coordinator.settings import Enrolment as EnrolmentTerms
from coordinator.watching import Watch

PLACES = 12  # lines that patches may change without touching each other's neighbours
SOURCE = (
    "\n\n\n".join(f"A{place} = 0" for place in range(PLACES))
    + "\n\n\ndef build_model(config):\n    return config\n\n\ndef main(session):\n    return session\n"
)
CHALLENGE = Challenge(
    format=1, name="desk", budget_ms=10_000, grace_ms=1_000, source_bytes=65_536,
    base_source_sha256=sha256_hex(SOURCE.encode()),
)  # fmt: skip
_NAMES = itertools.count()


def edit(**values: "int | str") -> dict[str, str]:
    """`edit(A1=2)`: the change of line `A1 = 0` to `A1 = 2`."""
    return {f"{name} = 0": f"{name} = {value}" for name, value in values.items()}


# Patches here gain ten deltas each, and a machine runs nothing else: beside no candidate that does nothing, they would
# speak for another level of the machine than its one baseline does.
RULE = replace(DEFAULT, own_trials=0)


@dataclass
class Juror:
    """An identity with machines, one for each name of a hardware class that it is given."""

    name: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    machines: dict[str, Machine] = field(default_factory=dict)
    named: str = ""  # after an earlier key

    @property
    def identity_id(self) -> str:
        return self.named or key_id(envelope.public_bytes(self.key))


class Desk:
    """One coordinator process, until `stop`. A second one on the same store and folder begins where it left off."""

    def __init__(self, url: str, name: str, folder: Path, *, rule: Rule = RULE, lineage: Lineage | None = None) -> None:
        self.now = 1_800_000_000_000
        self.name, self.folder, self.rule = name, folder, rule
        self.folder.mkdir(exist_ok=True)
        self._lineage = lineage
        self.store = RedisStore(connect(url), name)
        self.records = Records(self.store)
        self.heard: list[Entry] = []
        self.key = Ed25519PrivateKey.from_private_bytes(sha256_hex(name.encode())[:32].encode())
        self.operator = Ed25519PrivateKey.from_private_bytes(sha256_hex(name.encode())[32:].encode())

    async def start(self) -> Self:
        self.export = LedgerExport(self.folder / "ledger.jsonl", self.store)
        await self.export.start()
        self._exporting = asyncio.create_task(self.export.run())
        self.journal = Journal(self.store, self.export, lambda: self.now)
        swarm = await self.records.swarm()
        self.lineage = self._lineage or (
            await self._make() if swarm is None else Lineage.open(self.folder / "lineage.git")
        )
        swarm = await self.records.swarm()
        assert swarm is not None
        self.swarm = swarm

        def clock() -> int:
            return self.now

        records, journal, lineage = self.records, self.journal, self.lineage
        self.intake = Intake(swarm, records, journal, clock, enrolment=EnrolmentTerms(), approval=Approval.AUTO)
        chance = Chance(token=lambda: f"{next(_NAMES):032x}", seed=lambda: 1)
        self.dispatch = Dispatch(
            swarm, records, journal, self.key, now_ms=clock, chance=chance, lease_ms=60_000, touched=lambda line: None
        )
        self.promoter = Promoter(swarm, records, journal, lineage, clock)
        self.decider = Decider(swarm, records, journal, self.promoter, clock)
        self.confirmer = Confirmer(swarm, records, self.decider, self.promoter)
        self.watch = Watch(swarm, records, journal, self.decider, clock)
        self.register = Register(swarm, records, journal, clock)
        self.follower = Follower(records, self.decider, self.confirmer, self.watch, self.promoter)
        self.queries = Queries(
            swarm, records, self.decider, self.confirmer, watch=self.watch, lineage=lineage, export=self.export,
            now_ms=clock,
        )  # fmt: skip
        return self

    async def _make(self) -> Lineage:
        files = {"train.py": SOURCE.encode()}
        message, at = commits.first_message(CHALLENGE.name), commits.committed_at(self.now)
        lineage = Lineage.create(self.folder / "lineage.git", files, message=message, at=at)
        swarm = Swarm(
            swarm_id="5" * 32,
            schema=SCHEMA,
            challenge=b64encode(CHALLENGE.SerializeToString(deterministic=True)).decode(),
            rule=self.rule.to_json(),
            noise_prior_bpb=0.002,
            first_baselines=1,
            coordinator_key=envelope.public_bytes(self.key).hex(),
            created_at_ms=self.now,
        )
        await genesis.begin(swarm, lineage, files, self.journal)
        return lineage

    async def stop(self) -> None:
        await self._stop_exporting()
        self.export.close()
        await self.store.close()

    async def _stop_exporting(self) -> None:
        while not self._exporting.done():  # again: redis-py may swallow a cancellation (Python 3.11)
            self._exporting.cancel()
            await asyncio.wait({self._exporting}, timeout=0.1)

    @contextlib.asynccontextmanager
    async def file_stuck(self) -> AsyncIterator[None]:
        """While the block runs, the ledger's file takes nothing."""
        await self._stop_exporting()
        yield
        self._exporting = asyncio.create_task(self.export.run())

    # --- what people do ---

    async def juror(self, name: str, *classes: str) -> Juror:
        """A new identity with a machine of each class."""
        juror = Juror(name)
        for device in classes or ("H100",):
            await self.enroll(juror, device)
        return juror

    async def jurors(self, *names: str) -> list[Juror]:
        return [await self.juror(name) for name in names]

    async def enroll(self, juror: Juror, device: str, *, invitation: str = "") -> None:
        hardware = trial_pb2.Hardware(
            device_kind="cuda", device_name=device, device_memory_bytes=24 << 30, threads=8, operating_system="Linux"
        )
        machine_id = f"{next(_NAMES):032x}"
        message = Enrolment(
            protocol=1, swarm_id=self.swarm.swarm_id, name=juror.name, machine_id=machine_id, hardware=hardware,
            invitation=invitation,
        )  # fmt: skip
        _, machine = await self.intake.enroll(envelope.sign(message, envelope.ENROLMENT, juror.key))
        assert machine is not None
        juror.machines[device] = machine

    async def submit(self, author: Juror, changes: dict[str, str], base: str = "", title: str = "try it") -> Patch:
        """Signs and submits a change of the commit (the best, if none is given)."""
        commit = base or (await self.records.best()).commit
        before = self.lineage.source_at(commit)
        after = before
        for old, new in changes.items():
            assert old in after
            after = after.replace(old, new)
        diff = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "a/train.py", "b/train.py")
        message = PatchSubmission(
            protocol=1, swarm_id=self.swarm.swarm_id, base_commit=commit, diff="".join(diff).encode(), title=title,
            author_name=author.name,
        )  # fmt: skip
        self.now += 1_000
        return await self.intake.submit(envelope.sign(message, envelope.PATCH, author.key))

    async def rotate(self, juror: Juror) -> None:
        """The juror has a new key from now on."""
        new = Ed25519PrivateKey.generate()
        signed = succession.sign(self.swarm.swarm_id, juror.identity_id, juror.key, new)
        await Keys(self.swarm, self.records, self.journal).rotate(signed)
        juror.key, juror.named = new, juror.identity_id

    async def withdraw(self, author: Juror, patch: Patch) -> Patch:
        message = Withdrawal(protocol=1, swarm_id=self.swarm.swarm_id, patch_id=patch.patch_id)
        return await self.intake.withdraw(envelope.sign(message, envelope.WITHDRAWAL, author.key))

    async def trial(self, juror: Juror, patch: Patch, value: "float | str", device: str = "") -> None:
        """The juror runs the patch's candidate: a val_bpb, or the name of another outcome."""
        order = Order("", patch.patch_id, patch.candidate_sha256, patch.base_sha256)
        await self.run(juror, order, value, device)

    async def baseline(self, juror: Juror, source_sha256: str, value: "float | str", device: str = "") -> None:
        """The juror runs a best."""
        await self.run(juror, Order("", "", source_sha256, source_sha256), value, device)

    async def run(self, juror: Juror, terms: Order, value: "float | str", device: str = "") -> None:
        """The juror fills an order of these terms."""
        machine = juror.machines[device or next(iter(juror.machines))]
        order = replace(terms, machine_id="" if terms.patch_id else machine.machine_id)
        order = replace(order, order_id=f"{order.line}-{await self.records.orders_made(order.line)}")
        self.now += 1_000
        patch = await self.records.patch(order.patch_id) if order.patch_id else None
        granted = await self.dispatch.grant(Offer(order, patch, new=True), machine)
        assert granted is not None
        lease, signed = granted
        result = self.result(juror, machine, lease, signed, value)
        receipt = await self.dispatch.accept(result, machine.identity_id)
        assert receipt.status == ResultStatus.RESULT_STATUS_ACCEPTED, receipt.reason

    def result(self, juror: Juror, machine: Machine, lease: Lease, signed: Envelope, value: "float | str") -> Envelope:
        """What the juror signs for the trial that was leased to it; `signed`: its order."""
        order = trial_pb2.Order.FromString(signed.payload)
        result = trial_pb2.Result(
            protocol=1,
            swarm_id=self.swarm.swarm_id,
            lease_id=lease.lease_id,
            order_sha256=sha256_hex(signed.payload),
            source_sha256=order.source_sha256,
            challenge_sha256=order.challenge_sha256,
            trial_code_sha256=order.trial_code_sha256,
            machine_id=machine.machine_id,
            seed=order.seed,
            outcome=trial_pb2.OUTCOME_COMPLETED,
            train_ms=10_000,
            tokens_served=1_000,
        )
        if isinstance(value, str):
            result.outcome = trial_pb2.Outcome.Value(f"OUTCOME_{value.upper()}")
        else:
            result.val_bpb = value
        return envelope.sign(result, envelope.RESULT, juror.key)

    async def order(self, reason: str = "because", **action: Any) -> int:
        """The operator gives an instruction (the field of Instruction.action); its ledger entry."""
        operator_id = key_id(envelope.public_bytes(self.operator))
        first = RoleChange(identity_id=operator_id, role=ROLE_OPERATOR)
        terms = {"protocol": 1, "swarm_id": self.swarm.swarm_id, "signed_at_ms": self.now}
        found = Instruction(**terms, instruction_id="0" * 32, grant=first)
        await self.register.found(operator_id, envelope.sign(found, envelope.INSTRUCTION, self.key))
        order = Instruction(**terms, instruction_id=f"{next(_NAMES):032x}", reason=reason, **action)
        done = await self.register.instruct(envelope.sign(order, envelope.INSTRUCTION, self.operator))
        await self.follow()
        return done.sequence

    # --- what the coordinator does ---

    async def follow(self) -> None:
        """Everything that follows from the ledger until now."""

        async def heed(entry: Entry) -> None:
            self.heard.append(entry)

        await self.follower.catch_up(heed)

    async def patch(self, patch: Patch) -> Patch:
        found = await self.records.patch(patch.patch_id)
        assert found is not None
        return found

    async def entries(self) -> list[Entry]:
        return [ledger.parse(line) for line in await self.store.items("ledger")]

    async def promote(self, patch: Patch, jurors: list[Juror], value: float = 0.98) -> Patch:
        """All of them run it and its base, with a clear gain."""
        for juror in jurors:
            await self.baseline(juror, patch.base_sha256, 1.0)
            await self.trial(juror, patch, value)
        await self.follow()
        return await self.patch(patch)


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, *, name: str = "", rule: Rule = RULE) -> AsyncIterator[Desk]:
    """`name`: of a desk that was closed before, to go on with it."""
    desk = await Desk(url, name or f"desk-{next(_NAMES)}-{folder.name}", folder, rule=rule).start()
    try:
        yield desk
    finally:
        await desk.stop()
