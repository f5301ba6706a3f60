"""Builds a coordinator from its settings and runs it. The only place where clock, chance and threads are made."""

import asyncio
import contextlib
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.digest import key_id
from autoresearch.v1 import operator_pb2
from coordinator import branch, filling, genesis, keys, listening, redis_store, tokens, upgrading
from coordinator.app import App
from coordinator.background import Background
from coordinator.checkpoints import Checkpoints
from coordinator.dispatch import Chance
from coordinator.edge import Edge
from coordinator.embedded import EmbeddedStore
from coordinator.errors import CoordinatorError, OperatorError
from coordinator.export import LedgerExport
from coordinator.gate import Gate
from coordinator.hub import Hub
from coordinator.journal import Journal
from coordinator.keyring import Keys
from coordinator.leading import Lead
from coordinator.records import Records, Swarm
from coordinator.register import Register
from coordinator.settings import (
    ADDRESS,
    LEDGER,
    LINEAGE,
    OPERATOR_KEY,
    SIGNING_KEY,
    STORE_NAME,
    Enrolment,
    Settings,
    Terms,
    split_address,
)
from coordinator.store import LostLeadError
from coordinator.wiring import Ground, Outside, use_cases

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Running:
    """A coordinator at work."""

    swarm: Swarm
    background: Background  # over: this one is to end, since another coordinator leads or it cannot go on
    app: App
    address: str  # the join address
    store: str
    ledger: Path
    lineage: Path
    operator_key: Path


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def _seed() -> int:
    return secrets.randbits(63)


def _nonce() -> bytes:
    return secrets.token_bytes(limits.NONCE_BYTES)


def _draw() -> float:
    return secrets.randbits(53) / 2**53


def _token() -> str:
    return secrets.token_hex(16)


class EndedError(CoordinatorError):
    """It was told to end before it led."""


@contextlib.asynccontextmanager
async def running(
    settings: Settings, terms: Terms, tell: Callable[[str], None], ended: asyncio.Event | None = None
) -> AsyncIterator[Running]:
    """A coordinator, serving until the block ends. While another one leads the swarm, it waits for its turn.

    Raises:
        EndedError: `ended` was set while it started or waited.
        OperatorError, StoreError: it cannot start; the message says what to mend.
    """
    settings = replace(settings, data_dir=settings.data_dir.absolute())  # git works in folders of its own
    _make_folder(settings.data_dir)
    await asyncio.to_thread(upgrading.upgrade_folder, settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        background = Background(stack)
        ended = ended or asyncio.Event()
        url = settings.store or await _unless(ended, stack.enter_async_context(EmbeddedStore(settings.data_dir, tell)))
        tls = _tls(settings)
        start = Start(settings, url, stack, background, tell, ended)
        ground = await _ground(start, terms)
        edge = await _edge(start, ground, tls)
        port = await listening.serve(settings.listen, tls, edge, stack)
        _note_address(settings, port)
        yield Running(
            ground.swarm,
            background,
            edge.app,
            address=f"{_public(settings, port)}#{key_id(envelope.public_bytes(ground.key))}",
            store=redis_store.shown(url),
            ledger=ground.export.path,
            lineage=ground.lineage.path,
            operator_key=settings.data_dir / OPERATOR_KEY,
        )


@dataclass(frozen=True, slots=True)
class Start:
    """What a coordinator starts with. `stack`: unwound at its end; `ended`: it is told to end."""

    settings: Settings
    url: str  # of the store
    stack: contextlib.AsyncExitStack
    background: Background
    tell: Callable[[str], None]
    ended: asyncio.Event


async def _ground(start: Start, terms: Terms) -> Ground:
    """What is kept of the swarm, once this coordinator leads it."""
    data_dir, stack = start.settings.data_dir, start.stack
    store = redis_store.RedisStore(redis_store.connect(start.url), STORE_NAME)
    stack.push_async_callback(store.close)
    if start.settings.store and (said := await store.may_lose()):
        start.tell(f"warning: {said}; what it loses has to be made again from the ledger")
    await filling.check(store, redis_store.shown(start.url))
    export = LedgerExport(data_dir / LEDGER, store)
    stack.callback(export.close)
    await export.start()
    start.background.start(export.run())
    key = keys.load_or_make_signing_key(data_dir / SIGNING_KEY)
    key_hex = envelope.public_bytes(key).hex()
    await _lead(start, store, key_hex)
    records, journal = Records(store), Journal(store, export, now_ms)
    finding = genesis.find_or_make(
        terms,
        records,
        journal,
        lineage_path=data_dir / LINEAGE,
        datasets_dir=data_dir / "datasets",
        coordinator_key=key_hex,
        now_ms=now_ms(),
        token=_token,
        tell=start.tell,
    )
    swarm, lineage = await _unless(start.ended, finding)
    return Ground(swarm, records, journal, export, lineage, key)


async def _edge(start: Start, ground: Ground, tls: keys.TlsIdentity) -> Edge:
    """What calls are answered with, its work under way."""
    swarm, records, journal, key = ground.swarm, ground.records, ground.journal, ground.key
    checkpoints = Checkpoints(swarm.swarm_id, ground.export, journal, key, now_ms)
    await checkpoints.start()
    start.stack.push_async_callback(checkpoints.stop)
    start.background.start(checkpoints.run())
    register = Register(swarm, records, journal, now_ms)
    await _first_operator(start.settings, swarm, key, register)
    hub = Hub()
    outside = Outside(now_ms, Chance(token=_token, seed=_seed), _draw)
    made = use_cases(ground, start.settings, outside, register, hub.tell)
    await made.app.recover()
    start.background.start(made.app.work())
    token_key = tokens.key_of(key, "session token")
    return Edge(
        swarm,
        made.app,
        made.queries,
        checkpoints,
        hub,
        key,
        tls.key_sha256,
        nonce=_nonce,
        gate=Gate(records.store, register, token_key, now_ms),
        register=register,
        keys=Keys(swarm, records, journal),
        token_key=token_key,
        now_ms=now_ms,
        enrolment=Enrolment.of(start.settings.enrolment),
    )


async def serve(
    settings: Settings, terms: Terms, tell: Callable[[str], None], started: Callable[[Running], None]
) -> None:
    """Runs until SIGINT or SIGTERM: leads the swarm, or stands by while another coordinator does.

    Raises:
        OperatorError, StoreError: it cannot start, or cannot go on; the message says what to mend.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    with contextlib.suppress(EndedError):
        while not ended.is_set():
            try:
                async with running(settings, terms, tell, ended) as coordinator:
                    started(coordinator)
                    await _first(ended, coordinator.background.over)
                    coordinator.background.check()
                    tell(
                        "stopping: calls under way end, then the store is closed"
                        if ended.is_set()
                        else "this coordinator was silent for too long, and another one leads now"
                    )
            except LostLeadError as error:  # between taking the lead and serving
                tell(str(error))


async def _unless(ended: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Does what takes its time at a start.

    Raises:
        EndedError: it was told to end meanwhile.
    """
    own, told = asyncio.create_task(work), asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({own, told}, return_when=asyncio.FIRST_COMPLETED)
        if not own.done():
            raise EndedError
        return await own
    finally:
        for task in (own, told):
            task.cancel()
        await asyncio.wait({own, told})


async def _first(*events: asyncio.Event) -> None:
    """Returns when one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _lead(start: Start, store: redis_store.RedisStore, coordinator_key: str) -> None:
    """Waits for the lead, and keeps it until the stack unwinds; brings the store up."""
    data_dir = start.settings.data_dir
    line = redis_store.RedisStore(redis_store.connect(start.url), STORE_NAME)  # a flood must not silence a leader
    start.stack.push_async_callback(line.close)
    lead = Lead(line, _token(), f"the coordinator in {data_dir} on {socket.gethostname()}")
    records = Records(store)
    mirror = branch.Mirror(records, data_dir / LINEAGE)

    async def keep_up() -> None:
        swarm = await genesis.find(records, coordinator_key)
        if swarm is not None:
            await mirror.follow(swarm)

    await keep_up()  # first: what is wrong with this folder is said at once, not when its turn has come
    winning = lead.win(start.ended, start.tell, keep_up, alone=not start.settings.store)
    if not await start.background.beside(winning):
        raise EndedError
    store.epoch = line.epoch
    start.stack.push_async_callback(lead.leave)
    start.background.start(lead.keep())
    await upgrading.upgrade_store(store)


async def _first_operator(settings: Settings, swarm: Swarm, key: Ed25519PrivateKey, register: Register) -> None:
    """The operator whose key the first start makes; the coordinator's key vouches for it in the ledger."""
    operator = keys.load_or_make_signing_key(settings.data_dir / OPERATOR_KEY)
    operator_id = key_id(envelope.public_bytes(operator))
    grant = operator_pb2.RoleChange(identity_id=operator_id, role=operator_pb2.ROLE_OPERATOR)
    order = operator_pb2.Instruction(
        protocol=limits.PROTOCOL, swarm_id=swarm.swarm_id, instruction_id=_token(), signed_at_ms=now_ms(), grant=grant
    )
    await register.found(operator_id, envelope.sign(order, envelope.INSTRUCTION, key))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"cannot make the data folder {path}: {error.strerror}; choose another with --data"
        ) from error


def _tls(settings: Settings) -> keys.TlsIdentity:
    now = datetime.now(UTC)
    if settings.tls_certificate is not None and settings.tls_key is not None:
        return keys.load_tls(settings.tls_certificate, settings.tls_key, now)
    return keys.load_or_make_tls(settings.data_dir, now)


def _note_address(settings: Settings, port: int) -> None:
    """For the operator's own commands."""
    host, _ = split_address("--listen", settings.listen)
    path = settings.data_dir / ADDRESS
    try:
        path.write_text(f"{_reachable(host)}:{port}\n")
    except OSError as error:
        raise OperatorError(f"cannot write {path}: {error.strerror}; mend that and start again") from error


def _public(settings: Settings, port: int) -> str:
    if settings.public:
        return settings.public
    host, _ = split_address("--listen", settings.listen)
    return f"{_reachable(host)}:{port}"


def _reachable(host: str) -> str:
    """Where one reaches what listens on `host` from this machine."""
    return "127.0.0.1" if host in ("0.0.0.0", "[::]") else host  # noqa: S104 - compared, not bound
