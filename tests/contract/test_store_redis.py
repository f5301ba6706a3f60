"""The `Store` port on a real server: every method, guard and operation, and what happens when the server goes away."""

import asyncio
import contextlib
import datetime
import ipaddress
import itertools
import math
import os
import signal
import socket
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from autoresearch.judging.model import Identity
from coordinator.embedded import EmbeddedStore
from coordinator.embedded_server import find_binary
from coordinator.records import Records
from coordinator.redis_store import RedisStore, connect, shown
from coordinator.store import (
    Append,
    Bump,
    Change,
    Drop,
    Erase,
    Guard,
    Holds,
    LedgerIs,
    Operation,
    Put,
    Rank,
    RankedUpTo,
    Store,
    StoreError,
    Unrank,
)

NAMES = itertools.count()
BYTES = [
    b"",
    b"\x00",
    b"\xff\xfe\x00\r\n",
    bytes(range(256)),
    "žluťoučký 🦊".encode(),
    b"0",
    b"false",
    b"x" * 1_000_000,
]
SCORES = [0.0, 9e15, -9e15, 9007199254740991.0, 0.1, -1e-300, 1.7976931348623157e308, 1_795_000_000_123.0, 2.0**-1074]
A, B = Put("patches", "a", b"1"), Put("patches", "b", b"2")


def a_store(url: str, patience_s: float = 10.0) -> RedisStore:
    return RedisStore(connect(url, patience_s=patience_s), f"contract-{next(NAMES)}")


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[RedisStore]:
    made = a_store(store_url)
    yield made
    await made.close()


async def do(store: Store, *operations: Operation) -> None:
    assert await store.apply(Change((), operations)) is None


# --- every method ---


async def test_a_new_store_is_empty(store: RedisStore) -> None:
    assert await store.get("patches", "a") is None
    assert await store.get_many("patches", ["a", "b"]) == [None, None]
    assert await store.get_many("patches", []) == []
    assert await store.entries("patches") == {}
    assert await store.count("patches") == 0
    assert await store.items("ledger") == []
    assert await store.length("ledger") == 0
    assert await store.ranked("open") == []
    assert await store.ranked_between("open", -math.inf, math.inf, 10) == []
    assert await store.score("open", "a") is None
    assert await store.size("open") == 0


async def test_tables(store: RedisStore) -> None:
    await do(store, A, B, Put("sources", "a", b"other table"))
    assert await store.get("patches", "a") == b"1"
    assert await store.get_many("patches", ["b", "none", "a"]) == [b"2", None, b"1"]
    assert await store.entries("patches") == {"a": b"1", "b": b"2"}
    assert await store.count("patches") == 2
    await do(store, Put("patches", "a", b"new"), Drop("patches", "b"), Drop("patches", "never there"))
    assert await store.entries("patches") == {"a": b"new"}
    assert await store.get("sources", "a") == b"other table"


async def test_lists(store: RedisStore) -> None:
    await do(store, *(Append("ledger", b"%d" % n) for n in range(5)))
    assert await store.length("ledger") == 5
    assert await store.items("ledger") == [b"0", b"1", b"2", b"3", b"4"]
    assert await store.items("ledger", 1, 2) == [b"1", b"2"]
    assert await store.items("ledger", -2, -1) == [b"3", b"4"]
    assert await store.items("ledger", 5, 100) == []
    assert await store.items("lineage") == []


async def test_rankings(store: RedisStore) -> None:
    await do(store, Rank("open", "b", 2.0), Rank("open", "c", 1.0), Rank("open", "a", 2.0), Rank("open", "d", 3.0))
    assert await store.ranked("open") == [("c", 1.0), ("a", 2.0), ("b", 2.0), ("d", 3.0)]
    assert await store.ranked("open", 2) == [("c", 1.0), ("a", 2.0)]
    assert await store.ranked("open", 2, offset=3) == [("d", 3.0)]
    assert await store.ranked("open", offset=2) == [("b", 2.0), ("d", 3.0)]
    assert await store.ranked("open", 0) == []
    assert await store.ranked("open", 1, highest_first=True) == [("d", 3.0)]
    assert await store.ranked_between("open", 1.0, 2.0, 10) == [("c", 1.0), ("a", 2.0), ("b", 2.0)]
    assert await store.ranked_between("open", 1.0, 2.0, 1) == [("c", 1.0)]
    assert await store.size("open") == 4
    assert await store.size_between("open", 1.0, 2.0) == 3
    assert await store.scores("open", ["d", "nobody", "a"]) == [3.0, None, 2.0]
    assert await store.scores("open", []) == []
    await do(store, Rank("open", "c", 9.0), Unrank("open", "d"), Unrank("open", "never there"))
    assert await store.ranked("open", 1, highest_first=True) == [("c", 9.0)]
    assert await store.score("open", "d") is None


async def test_a_bump_adds_and_starts_at_zero(store: RedisStore) -> None:
    await do(store, Bump("gain", "ada", 0.25), Bump("gain", "ada", -1.0), Bump("gain", "bea", 3))
    assert await store.score("gain", "ada") == -0.75
    assert await store.score("gain", "bea") == 3.0


@pytest.mark.parametrize("score", SCORES + [-score for score in SCORES if score])
async def test_scores_are_exact(store: RedisStore, score: float) -> None:
    await do(store, Rank("expiry", "lease", score))
    assert await store.score("expiry", "lease") == score
    assert await store.ranked("expiry") == [("lease", score)]
    assert await store.ranked_between("expiry", score, score, 1) == [("lease", score)]
    assert await store.apply(Change((RankedUpTo("expiry", "lease", score),))) is None
    below = math.nextafter(score, -math.inf)
    if abs(below) != math.inf:
        assert await store.apply(Change((RankedUpTo("expiry", "lease", below),))) is not None


@pytest.mark.parametrize("value", BYTES, ids=[f"{len(value)} bytes from {value[:4]!r}" for value in BYTES])
async def test_values_are_bytes_of_any_kind(store: RedisStore, value: bytes) -> None:
    await do(store, Put("diffs", "a", value), Append("ledger", value))
    assert await store.get("diffs", "a") == value
    assert await store.items("ledger") == [value]
    assert await store.apply(Change((Holds("diffs", "a", value),))) is None
    assert await store.apply(Change((Holds("diffs", "a", value + b"!"),))) is not None


async def test_names_are_text_of_any_kind(store: RedisStore) -> None:
    for name in ("a b", "ready:NVIDIA GeForce RTX 4090 24 GB", "ž{}\n", "", "*", "0"):
        await do(store, Put("patches", name, b"1"), Rank(f"ready:{name}", name, 1.0), Append(f"trials:{name}", b"1"))
        assert await store.get("patches", name) == b"1"
        assert await store.ranked(f"ready:{name}") == [(name, 1.0)]
        assert await store.items(f"trials:{name}") == [b"1"]


async def test_everything_has_a_kind_and_a_name_and_can_be_erased(store_url: str) -> None:
    store, other = (RedisStore(connect(store_url), f"[{kind}]*-{next(NAMES)}") for kind in "ab")
    await do(other, A)
    await do(store, A, Append("trials:a:b", b"1"), Rank("open", "a", 1.0), Put("meta", "x", b"1"))
    assert await store.throttle("address", every_ms=10_000, burst=1, now_ms=0) == 0
    everything = [("count", "address"), ("list", "trials:a:b"), ("rank", "open"), ("table", "meta")]
    assert await store.names() == [*everything, ("table", "patches")]
    await do(store, *(Erase(*own) for own in everything), Erase("list", "never there"))
    assert await store.names() == [("table", "patches")] == await other.names()
    await store.close()
    await other.close()


async def test_two_swarms_on_one_server_share_nothing(store: RedisStore, store_url: str) -> None:
    other = a_store(store_url)
    await do(store, A, Append("ledger", b"line"), Rank("open", "a", 1.0))
    assert (await other.count("patches"), await other.length("ledger"), await other.size("open")) == (0, 0, 0)
    await other.close()


# --- guards: the first that fails is named, and nothing happened ---


@pytest.mark.parametrize(
    ("guard", "holds"),
    [
        (Holds("patches", "a", b"1"), True),
        (Holds("patches", "a", b"2"), False),
        (Holds("patches", "a", b""), False),
        (Holds("patches", "a", None), False),
        (Holds("patches", "z", None), True),
        (Holds("patches", "z", b""), False),
        (Holds("no such table", "a", None), True),
        (RankedUpTo("expiry", "lease", 100.0), True),
        (RankedUpTo("expiry", "lease", 100.5), True),
        (RankedUpTo("expiry", "lease", 99.999), False),
        (RankedUpTo("expiry", "other", 1e300), False),
        (RankedUpTo("no such ranking", "lease", 1e300), False),
        (LedgerIs(2), True),
        (LedgerIs(1), False),
        (LedgerIs(3), False),
        (LedgerIs(0), False),
    ],
    ids=str,
)
async def test_a_guard(store: RedisStore, guard: Guard, holds: bool) -> None:
    await do(store, A, Rank("expiry", "lease", 100.0), Append("ledger", b"0"), Append("ledger", b"1"))
    failed = await store.apply(Change((LedgerIs(2), guard, LedgerIs(2)), (B,)))
    assert failed == (None if holds else guard)
    assert await store.get("patches", "b") == (b"2" if holds else None)


async def test_of_several_failing_guards_the_first_is_named(store: RedisStore) -> None:
    guards = (LedgerIs(0), Holds("patches", "a", b"1"), LedgerIs(7))
    assert await store.apply(Change(guards, (A,))) == guards[1]
    assert await store.count("patches") == 0


async def test_a_failed_guard_leaves_every_kind_of_operation_undone(store: RedisStore) -> None:
    await do(store, A, Rank("open", "a", 1.0), Append("ledger", b"0"))
    operations = (Put("patches", "a", b"9"), Drop("patches", "a"), Append("ledger", b"1"), Rank("open", "b", 2.0))
    more = (Unrank("open", "a"), Bump("open", "a", 5.0))
    assert await store.apply(Change((LedgerIs(5),), (*operations, *more))) == LedgerIs(5)
    assert await store.entries("patches") == {"a": b"1"}
    assert await store.items("ledger") == [b"0"]
    assert await store.ranked("open") == [("a", 1.0)]


async def test_operations_happen_in_their_order(store: RedisStore) -> None:
    await do(store, A, Drop("patches", "a"), Put("patches", "a", b"last"), Rank("open", "a", 5.0), Bump("open", "a", 1))
    assert await store.get("patches", "a") == b"last"
    assert await store.score("open", "a") == 6.0


async def test_an_empty_change_is_fine(store: RedisStore) -> None:
    assert await store.apply(Change()) is None


async def test_a_large_change_is_one_step(store: RedisStore) -> None:
    await do(store, *(Put("orders", str(n), b"x" * 1000) for n in range(3000)))
    assert await store.count("orders") == 3000


# --- atomicity ---


async def test_of_many_concurrent_changes_under_one_guard_one_wins(store: RedisStore, store_url: str) -> None:
    others = [store, *(RedisStore(connect(store_url), store._name) for _ in range(3))]

    async def take(n: int) -> bool:
        change = Change((Holds("order_state", "o", None),), (Put("order_state", "o", b"%d" % n), Bump("won", "o", 1)))
        return await others[n % 4].apply(change) is None

    won = await asyncio.gather(*(take(n) for n in range(80)))
    assert sum(won) == 1
    assert await store.get("order_state", "o") == b"%d" % won.index(True)
    assert await store.score("won", "o") == 1.0
    for other in others[1:]:
        await other.close()


async def test_concurrent_writers_lose_no_line_of_the_ledger(store: RedisStore, store_url: str) -> None:
    async def write(writer: RedisStore, name: int) -> None:
        for n in range(20):
            while True:
                length = await writer.length("ledger")
                line = b"%d %d %d" % (length, name, n)
                if await writer.apply(Change((LedgerIs(length),), (Append("ledger", line),))) is None:
                    break

    writers = [RedisStore(connect(store_url), store._name) for _ in range(4)]
    await asyncio.gather(*(write(writer, name) for name, writer in enumerate(writers)))
    lines = [tuple(map(int, line.split())) for line in await store.items("ledger")]
    assert [at for at, _, _ in lines] == list(range(80))
    assert sorted((name, n) for _, name, n in lines) == [(name, n) for name in range(4) for n in range(20)]
    for writer in writers:
        await writer.close()


async def test_a_reader_never_sees_half_a_change(store: RedisStore, store_url: str) -> None:
    reader = RedisStore(connect(store_url), store._name)
    done = asyncio.Event()

    async def write() -> None:
        for n in range(150):
            await do(store, Put("meta", "x", b"%d" % n), Put("meta", "y", b"%d" % n))
        done.set()

    async def read() -> None:
        while not done.is_set():
            x, y = await reader.get_many("meta", ["x", "y"])
            assert x == y

    await asyncio.gather(write(), read())
    await reader.close()


# --- the server goes away ---


async def test_scripts_may_be_flushed_at_any_time(store: RedisStore) -> None:
    await do(store, A)
    await store._client.script_flush()
    assert await store.apply(Change((Holds("patches", "a", b"1"),), (B,))) is None
    await store._client.script_flush()
    assert await asyncio.gather(*(store.apply(Change((), (Bump("n", "n", 1),))) for _ in range(20))) == [None] * 20
    assert await store.score("n", "n") == 20.0


async def test_scripts_may_be_forgotten_between_being_loaded_and_being_run(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0

    async def forgotten_twice(script: str) -> str:
        nonlocal loads
        loads += 1
        digest = await Redis.script_load(store._client, script)
        if loads <= 2:
            await Redis.script_flush(store._client)  # as a restart does
        return str(digest)

    await store._client.script_flush()
    monkeypatch.setattr(store._client, "script_load", forgotten_twice)
    assert await store.apply(Change((Holds("patches", "a", None),), (A,))) is None
    assert loads == 3
    assert await store.get("patches", "a") == b"1"


async def test_calls_wait_while_an_embedded_server_is_killed_and_starts_again(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as url:
        store = a_store(url)
        await do(store, A)
        pid = int((tmp_path / "store" / "valkey.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        once = [
            store.apply(Change((Holds("patches", f"k{n}", None),), (Put("patches", f"k{n}", b""), Bump("n", "n", 1))))
            for n in range(10)
        ]
        done = await asyncio.gather(*once)
        assert await store.get("patches", "a") == b"1"
        assert await store.count("patches") == 11
        assert await store.score("n", "n") == 10.0  # a change that was sent twice still happened once
        assert all(failed is None or isinstance(failed, Holds) for failed in done)
        await store.close()


class Between:
    """A relay between a client and a server's socket, which a test may make to lose answers or fall silent."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.lose_answers = 0
        self.silent = False
        self._changes = False
        self._serving: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """For `start_server`."""
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def close(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_server = await asyncio.open_unix_connection(self._target)
        both = {asyncio.create_task(self._up(reader, to_server)), asyncio.create_task(self._down(theirs, writer))}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            for stream in (writer, to_server):
                stream.close()
                with contextlib.suppress(OSError):
                    await stream.wait_closed()

    async def _up(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self._changes = b"EVALSHA" in data
            to_server.write(data)

    async def _down(self, theirs: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await theirs.read(65536):
            if self._changes and self.lose_answers:
                self.lose_answers -= 1
                return  # the server has done it, the client never hears so: its connection breaks
            if not self.silent:
                writer.write(data)


@contextlib.asynccontextmanager
async def between(
    store_url: str, folder: Path, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Between, str]]:
    """A relay, and its address without the scheme: a unix socket, or with `tls` a port."""
    relay = Between(store_url.removeprefix("unix://"))
    if tls is None:
        server = await asyncio.start_unix_server(relay.accept, folder / "relay.sock")
        address = f"{folder / 'relay.sock'}"
    else:
        server = await asyncio.start_server(relay.accept, "127.0.0.1", 0, ssl=tls)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay, address
    finally:
        server.close()
        await relay.close()


async def test_a_change_whose_answer_was_lost_happens_once_and_says_so(store_url: str, tmp_path: Path) -> None:
    async with between(store_url, tmp_path) as (relay, path):
        store = a_store(f"unix://{path}")
        await do(store, A)
        relay.lose_answers = 1
        guard = Holds("patches", "b", None)
        assert await store.apply(Change((guard,), (B, Bump("n", "n", 1)))) == guard
        assert await store.get("patches", "b") == b"2"
        assert await store.score("n", "n") == 1.0
        await store.close()


async def test_a_server_that_falls_silent_fails_calls_within_the_patience(store_url: str, tmp_path: Path) -> None:
    async with between(store_url, tmp_path) as (relay, path):
        store = a_store(f"unix://{path}")
        hasty = RedisStore(store._client, store._name, answer_within_s=0.5)  # on the same connections
        await do(store, A)
        relay.silent = True
        with pytest.raises(StoreError, match="does not answer"):
            await hasty.get("patches", "a")
        with pytest.raises(StoreError, match="does not answer"):
            await hasty.apply(Change((), (B,)))
        relay.silent = False
        assert await store.get("patches", "a") == b"1"  # no answer of an earlier call is taken for this one's
        assert await store.apply(Change((Holds("patches", "a", b"1"),), (B,))) is None
        await store.close()


CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "apply": lambda store: store.apply(Change((), (A,))),
    "get": lambda store: store.get("patches", "a"),
    "get_many": lambda store: store.get_many("patches", ["a"]),
    "entries": lambda store: store.entries("patches"),
    "count": lambda store: store.count("patches"),
    "items": lambda store: store.items("ledger"),
    "length": lambda store: store.length("ledger"),
    "ranked": lambda store: store.ranked("open"),
    "ranked_between": lambda store: store.ranked_between("open", 0.0, 1.0, 1),
    "score": lambda store: store.score("open", "a"),
    "size": lambda store: store.size("open"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_an_unreachable_server_is_a_store_error(name: str, tmp_path: Path) -> None:
    store = a_store(f"unix://{tmp_path}/nobody.sock", patience_s=0.2)
    with pytest.raises(StoreError, match="does not answer"):
        await CALLS[name](store)
    await store.close()


async def test_a_closed_port_and_an_unknown_host_are_store_errors() -> None:
    for url in (f"redis://127.0.0.1:{free_port()}", "redis://no-such-host.invalid:6379"):
        store = a_store(url, patience_s=0.2)
        with pytest.raises(StoreError):
            await store.get("patches", "a")
        await store.close()


@pytest.mark.parametrize(
    "url",
    ["", "localhost:6379", "http://localhost:6379", "valkey://localhost", "redis:/localhost", "redis://host:port/0",
     "redis://host:99999/0", "redis://[::1/0", "unix://"],
)  # fmt: skip
def test_a_wrong_address_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(StoreError, match="address"):
        connect(url)


async def test_an_address_never_shows_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as wrong:
        connect("http://:hunter2@localhost:6379")
    assert "hunter2" not in str(wrong.value)
    with pytest.raises(StoreError) as malformed:
        connect("redis://:hunter2@localhost:port/0")
    assert "hunter2" not in str(malformed.value)
    for url in (
        "redis://:hunter2@localhost:6379/0",
        "redis://ada:hunter2@hunter2@localhost/0",
        "unix:///run/s.sock?db=0&password=hunter2",
        "unix:///run/s.sock?password=hunter2&db=0",
    ):
        assert "hunter2" not in shown(url)
    assert shown("unix:///run/s.sock?password=hunter2&db=0") == "unix:///run/s.sock?password=…&db=0"


async def test_a_server_that_may_lose_what_it_was_told_is_found_out(store: RedisStore) -> None:
    """What every operator's server says of itself; the embedded one keeps everything."""
    assert await store.may_lose() == ""
    client = store._client
    try:
        await client.config_set("maxmemory-policy", "allkeys-lru")
        assert await store.may_lose() == ""  # there is no limit at which it would begin
        await client.config_set("maxmemory", 1 << 30)
        with pytest.raises(StoreError, match="set maxmemory-policy noeviction"):
            await store.may_lose()
        await client.config_set("maxmemory-policy", "volatile-lru")  # only counters, which vanish anyway
        assert await store.may_lose() == ""
    finally:
        await client.config_set("maxmemory", 0)
        await client.config_set("maxmemory-policy", "noeviction")


async def test_a_service_that_lets_nobody_ask_is_taken_at_its_word(store: RedisStore, store_url: str) -> None:
    await store._client.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", "-info")
    guest = a_store(f"{store_url}?username=guest&password=word")
    assert await guest.may_lose() == ""
    await guest.close()
    await store._client.execute_command("ACL", "DELUSER", "guest")


async def test_keys_of_another_kind_are_a_store_error(store: RedisStore) -> None:
    await store._client.set(store._key("table", "patches"), "text")
    with pytest.raises(StoreError, match="refused"):
        await store.get("patches", "a")
    with pytest.raises(StoreError, match="refused"):
        await store.apply(Change((), (A,)))


async def test_a_record_of_another_version_is_the_operators_to_mend(store: RedisStore) -> None:
    identity = Identity("ada", "Ada", 1)
    newer = identity.to_bytes().replace(b"{", b'{"added later":1,', 1)
    for written in (newer, b"{}", b"not JSON", b"[]", b"\xff"):
        await do(store, Put("identities", "ada", written))
        with pytest.raises(StoreError, match="version"):
            await Records(store).identity("ada")
    await do(store, Put("identities", "ada", identity.to_bytes()))
    assert await Records(store).identity("ada") == identity


# --- every kind of address, with a server of one's own ---


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def tcp_port(tmp_path_factory: pytest.TempPathFactory, until: Callable[..., None]) -> Iterator[int]:
    """A server as an operator may run it: on a port, with a password."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", "sesame", "--save", "", "--dir", "."]
    folder = tmp_path_factory.mktemp("tcp")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([find_binary(), *options], stdout=log, stderr=log, cwd=folder)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(listens)
    yield port
    server.kill()
    server.wait()


async def round_trip(url: str) -> None:
    store = a_store(url)
    assert await store.apply(Change((Holds("patches", "a", None),), (A,))) is None
    assert await store.get("patches", "a") == b"1"
    await store.close()


async def test_over_tcp(tcp_port: int) -> None:
    await round_trip(f"redis://:sesame@127.0.0.1:{tcp_port}/0")
    await round_trip(f"redis://default:sesame@localhost:{tcp_port}")


async def test_over_a_unix_socket(store_url: str) -> None:
    assert store_url.startswith("unix://")
    await round_trip(store_url)


async def test_a_wrong_password_is_a_store_error(tcp_port: int) -> None:
    for url in (f"redis://127.0.0.1:{tcp_port}", f"redis://:wrong@127.0.0.1:{tcp_port}"):
        store = a_store(url, patience_s=0.2)
        with pytest.raises(StoreError):
            await store.get("patches", "a")
        await store.close()


async def test_something_else_on_the_port_is_a_store_error(tmp_path: Path) -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    store = a_store(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", patience_s=0.2)
    with pytest.raises(StoreError):
        await store.get("patches", "a")
    await store.close()
    server.close()


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a store for tests")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    basic = x509.BasicConstraints(ca=True, path_length=0)
    signed = builder.add_extension(alternative, False).add_extension(basic, True).sign(key, hashes.SHA256())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "store.pem"
    path.write_bytes(key.private_bytes(*form) + signed.public_bytes(serialization.Encoding.PEM))
    return path


async def test_over_tls(store_url: str, tmp_path: Path) -> None:
    """The bundled server speaks no TLS, so a real TLS end stands in front of it, as stunnel does for an operator."""
    pem = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    async with between(store_url, tmp_path, context) as (_, address):
        await round_trip(f"rediss://{address}/0?ssl_ca_certs={pem}")
        stranger = a_store(f"rediss://{address}/0", patience_s=0.2)  # no authority vouches for that certificate
        with pytest.raises(StoreError, match="certificate"):
            await stranger.get("patches", "a")
        await stranger.close()


# --- buckets ---


async def test_a_bucket_gives_its_burst_and_then_one_at_a_time(store_url: str) -> None:
    store = a_store(store_url)
    bucket = f"read:address:{uuid.uuid4()}"

    async def take(now_ms: int) -> int:
        return await store.throttle(bucket, every_ms=100, burst=3, now_ms=now_ms)

    assert [await take(1_000) for _ in range(5)] == [0, 0, 0, 100, 100]
    assert [await take(1_099), await take(1_100), await take(1_100)] == [1, 0, 100]
    assert [await take(10_000) for _ in range(4)] == [0, 0, 0, 100]  # full again, and not fuller
    assert [await take(1_000) for _ in range(4)] == [0, 0, 0, 100]  # a clock set back shuts nobody out
    assert await store.throttle(bucket + "other", every_ms=100, burst=1, now_ms=10_000) == 0
    await store.close()


async def test_many_takers_get_no_more_than_there_is(store_url: str) -> None:
    bucket = f"read:address:{uuid.uuid4()}"
    stores = [RedisStore(connect(store_url), "shared") for _ in range(4)]
    takes = (stores[n % 4].throttle(bucket, every_ms=1_000, burst=10, now_ms=5_000) for n in range(60))
    assert sum(wait == 0 for wait in await asyncio.gather(*takes)) == 10
    for store in stores:
        await store.close()
