"""Builds a coordinator from its settings and runs it. The only place where clock, chance and threads are made."""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from autoresearch import envelope, limits
from autoresearch.digest import key_id
from autoresearch.v1 import (
    access_service_pb2,
    leaderboard_service_pb2,
    operator_pb2,
    operator_service_pb2,
    patch_service_pb2,
    volunteer_service_pb2,
)
from coordinator import branch, filling, genesis, keys, listening, redis_store, tokens, upgrading
from coordinator.app import App
from coordinator.checkpoints import Checkpoints
from coordinator.dispatch import Chance
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
from coordinator.service import Edge, register
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
from coordinator.wiring import Ground, Outside, use_cases

log = logging.getLogger(__name__)
GRACE_S = 2.0  # calls under way get this long at the end
SERVICES = (
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"].full_name,
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name,
    volunteer_service_pb2.DESCRIPTOR.services_by_name["VolunteerService"].full_name,
    patch_service_pb2.DESCRIPTOR.services_by_name["PatchService"].full_name,
    leaderboard_service_pb2.DESCRIPTOR.services_by_name["LeaderboardService"].full_name,
)


@dataclass(frozen=True, slots=True)
class Running:
    """A coordinator at work."""

    swarm: Swarm
    lost: asyncio.Event  # another coordinator leads: this one is to end
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
        EndedError: `ended` was set while it waited.
        OperatorError, StoreError: it cannot start; the message says what to mend.
    """
    settings = replace(settings, data_dir=settings.data_dir.absolute())  # git works in folders of its own
    _make_folder(settings.data_dir)
    await asyncio.to_thread(upgrading.upgrade_folder, settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        url = settings.store or await _embedded(settings.data_dir, stack, tell)
        tls = _tls(settings)
        ground, lost = await _ground(settings, terms, url, stack=stack, tell=tell, ended=ended or asyncio.Event())
        swarm, key = ground.swarm, ground.key
        checkpoints = Checkpoints(swarm.swarm_id, ground.export, ground.journal, key, now_ms)
        await checkpoints.start()
        stack.push_async_callback(checkpoints.stop)
        await _background(checkpoints.run(), stack)
        register_ = Register(swarm, ground.records, ground.journal, now_ms)
        await _first_operator(settings, swarm, key, register_)
        hub = Hub()
        outside = Outside(now_ms, Chance(token=_token, seed=_seed), _draw)
        made = use_cases(ground, settings, outside, register_, hub.tell)
        await made.app.recover()
        await _background(made.app.work(), stack)
        token_key = tokens.key_of(key, "session token")
        edge = Edge(
            swarm,
            made.app,
            made.queries,
            checkpoints,
            hub,
            key,
            tls.key_sha256,
            nonce=_nonce,
            gate=Gate(ground.records.store, register_, token_key, now_ms),
            register=register_,
            keys=Keys(swarm, ground.records, ground.journal),
            token_key=token_key,
            now_ms=now_ms,
            enrolment=Enrolment.of(settings.enrolment),
        )
        port = await _serve(settings, tls, edge, stack)
        yield Running(
            swarm,
            lost,
            made.app,
            address=f"{_public(settings, port)}#{key_id(envelope.public_bytes(key))}",
            store=redis_store.shown(url),
            ledger=ground.export.path,
            lineage=ground.lineage.path,
            operator_key=settings.data_dir / OPERATOR_KEY,
        )


async def _ground(
    settings: Settings,
    terms: Terms,
    url: str,
    *,
    stack: contextlib.AsyncExitStack,
    tell: Callable[[str], None],
    ended: asyncio.Event,
) -> tuple[Ground, asyncio.Event]:
    """What is kept of the swarm, once this coordinator leads it, and what is set when it does not any more."""
    store = redis_store.RedisStore(redis_store.connect(url), STORE_NAME)
    stack.push_async_callback(store.close)
    await filling.check(store, redis_store.shown(url))
    export = LedgerExport(settings.data_dir / LEDGER, store)
    stack.callback(export.close)
    await export.start()
    await _background(export.run(), stack)
    key = keys.load_or_make_signing_key(settings.data_dir / SIGNING_KEY)
    key_hex = envelope.public_bytes(key).hex()
    lost = await _lead(settings, url, store, key_hex, stack=stack, tell=tell, ended=ended)
    records, journal = Records(store), Journal(store, export, now_ms)
    swarm, lineage = await genesis.find_or_make(
        terms,
        records,
        journal,
        lineage_path=settings.data_dir / LINEAGE,
        datasets_dir=settings.data_dir / "datasets",
        coordinator_key=key_hex,
        now_ms=now_ms(),
        token=_token,
        tell=tell,
    )
    return Ground(swarm, records, journal, export, lineage, key), lost


async def serve(
    settings: Settings, terms: Terms, tell: Callable[[str], None], started: Callable[[Running], None]
) -> None:
    """Runs until SIGINT or SIGTERM: leads the swarm, or stands by while another coordinator does."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    with contextlib.suppress(EndedError):
        while not ended.is_set():
            async with running(settings, terms, tell, ended) as coordinator:
                started(coordinator)
                await _first(ended, coordinator.lost)
                tell(
                    "stopping: calls under way end, then the store is closed"
                    if ended.is_set()
                    else "this coordinator was silent for too long, and another one leads now"
                )


async def _first(*events: asyncio.Event) -> None:
    """Returns when one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _lead(
    settings: Settings,
    url: str,
    store: redis_store.RedisStore,
    coordinator_key: str,
    *,
    stack: contextlib.AsyncExitStack,
    tell: Callable[[str], None],
    ended: asyncio.Event,
) -> asyncio.Event:
    """Waits for the lead, and keeps it until the stack unwinds; brings the store up. Returns what is set when it is
    lost."""
    line = redis_store.RedisStore(redis_store.connect(url), STORE_NAME)  # a flood of calls must not silence a leader
    stack.push_async_callback(line.close)
    lead = Lead(line, _token(), f"the coordinator in {settings.data_dir} on {socket.gethostname()}")
    records = Records(store)
    mirror = branch.Mirror(records, settings.data_dir / LINEAGE)

    async def keep_up() -> None:
        swarm = await genesis.find(records, coordinator_key)
        if swarm is not None:
            await mirror.follow(swarm)

    await keep_up()  # first: what is wrong with this folder is said at once, not when its turn has come
    if not await lead.win(ended, tell, keep_up, alone=not settings.store):
        raise EndedError
    store.epoch = line.epoch
    stack.push_async_callback(lead.leave)
    await _background(lead.keep(), stack)
    await upgrading.upgrade_store(store)
    return lead.lost


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


async def _embedded(data_dir: Path, stack: contextlib.AsyncExitStack, tell: Callable[[str], None]) -> str:
    embedded = EmbeddedStore(data_dir, tell)
    stack.push_async_callback(asyncio.to_thread, embedded.stop)
    return await asyncio.to_thread(embedded.start)


def _tls(settings: Settings) -> keys.TlsIdentity:
    now = datetime.now(UTC)
    if settings.tls_certificate is not None and settings.tls_key is not None:
        return keys.load_tls(settings.tls_certificate, settings.tls_key, now)
    return keys.load_or_make_tls(settings.data_dir, now)


async def _background(work: "asyncio._CoroutineLike[None]", stack: contextlib.AsyncExitStack) -> None:
    task = asyncio.create_task(work)

    async def end() -> None:
        while not task.done():  # again: redis-py sends inside wait_for, which may swallow a cancellation (Python 3.11)
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)

    task.add_done_callback(_report)
    stack.push_async_callback(end)


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("a background task ended; restart the coordinator", exc_info=task.exception())


async def _serve(settings: Settings, tls: keys.TlsIdentity, edge: Edge, stack: contextlib.AsyncExitStack) -> int:
    server = grpc.aio.server(
        interceptors=(edge.gate,),
        options=listening.options(listening.connections_allowed()),
    )
    register(server, edge)
    healthy = health.aio.HealthServicer()
    add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server)
    credentials = grpc.ssl_server_credentials([(tls.key_pem, tls.certificate_pem)])
    try:
        port = server.add_secure_port(settings.listen, credentials)
    except RuntimeError as error:
        raise _no_port(settings.listen) from error
    if port == 0:
        raise _no_port(settings.listen)
    await server.start()
    host, _ = split_address("--listen", settings.listen)
    (settings.data_dir / ADDRESS).write_text(f"{_reachable(host)}:{port}\n")  # for the operator's own commands
    for name in ("", *SERVICES):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    stack.push_async_callback(server.stop, GRACE_S)
    return port


def _no_port(listen: str) -> OperatorError:
    return OperatorError(f"cannot listen on {listen}: the port is taken or not yours; choose another with --listen")


def _public(settings: Settings, port: int) -> str:
    if settings.public:
        return settings.public
    host, _ = split_address("--listen", settings.listen)
    return f"{_reachable(host)}:{port}"


def _reachable(host: str) -> str:
    """Where one reaches what listens on `host` from this machine."""
    return "127.0.0.1" if host in ("0.0.0.0", "[::]") else host  # noqa: S104 - compared, not bound
