"""The store on Redis or Valkey, through redis-py asyncio. The key space is described in `store.py`.

Keys are `{swarm}:<kind>:<name>`: the hash tag keeps a swarm in one cluster slot. Tables are hashes, lists lists,
rankings sorted sets. A change is one script, `transact.lua`, sent by its digest and loaded again when the server
restarted. While the server is away calls wait and retry for `patience_s`, so that its restart is a pause and not a
failure; a server that takes connections and falls silent fails them after `answer_within_s`. Every change names the
epoch of the leader that it is made for, and is refused under another one (`leading.py`). Retrying a change whose
answer was lost is safe only because every change carries a guard that its own operations invalidate, or is idempotent;
`apply` reports such a repeat as a failed guard.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coordinator.store import (
    Append,
    Bump,
    Change,
    Drop,
    Erase,
    Guard,
    Holds,
    LedgerIs,
    LostLeadError,
    Operation,
    Put,
    Rank,
    RankedUpTo,
    StoreError,
    Unrank,
)

SCHEMES = ("redis://", "rediss://", "unix://")
RETRY_EVERY_S = 0.2
SCRIPT_TRIES = 10  # the server forgets its scripts when it restarts, also between being told one and running it
CONNECTIONS_MOST = 64  # to the store, at once; more calls wait for one, as long as for an answer
ANSWER_WITHIN_S = (
    45.0  # above the default patience: a long fork or a slow disk makes a healthy server pause for seconds
)
_STEP_VALUES = 4_000  # of one command at most: Lua passes a function no more than some 8,000
_GLOB = re.compile(r"[*?\[\]^\\-]")  # means something in a pattern of keys
_PASSWORD = re.compile(r"(?<=//)([^:@/]*):[^/]*(?=@)")
_NAMED_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*")  # as addresses of sockets have it


def connect(url: str, *, patience_s: float = 10.0) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`; nothing is sent yet.

    Raises:
        StoreError: not such an address.
    """
    if not url.startswith(SCHEMES) or url in SCHEMES:
        raise StoreError(f"store address {shown(url)!r} is not one of redis://host:port/0, rediss://… or unix:///path")
    retry = Retry(ConstantBackoff(RETRY_EVERY_S), retries=round(patience_s / RETRY_EVERY_S))
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MOST,
            timeout=None,
            retry=retry,
            retry_on_error=[RedisConnectionError, RedisTimeoutError],
            socket_connect_timeout=5,
            socket_timeout=30,
            health_check_interval=15,
        )
        return Redis.from_pool(pool)
    except ValueError as error:
        raise StoreError(f"store address {shown(url)!r}: {error}") from error


def shown(url: str) -> str:
    """An address as it may stand on a screen or in a log: without its password."""
    return _NAMED_PASSWORD.sub("…", _PASSWORD.sub(r"\1:…", url))


class RedisStore:
    """A `Store` for one swarm. `name` becomes the hash tag of every key.

    `epoch`: of the leader on whose behalf it changes something; 0 while nobody has ever led, as in an empty store.
    """

    def __init__(self, client: Redis, name: str, *, answer_within_s: float = ANSWER_WITHIN_S, epoch: int = 0) -> None:
        self.epoch = epoch
        self._client = client
        self._name = name
        self._answer_within_s = answer_within_s
        self._script = client.register_script(_lua("transact"))
        self._throttle = client.register_script(_lua("throttle"))

    def at(self, epoch: int) -> "RedisStore":
        """The same store in the name of another epoch."""
        return RedisStore(self._client, self._name, answer_within_s=self._answer_within_s, epoch=epoch)

    async def may_lose(self) -> str:
        """How the server may come back without what it was told; empty if by nothing that it tells of.

        Raises:
            StoreError: it drops keys when its memory is full.
        """
        memory, log = await self._facts("memory"), await self._facts("persistence")
        policy = str(memory.get("maxmemory_policy", ""))
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            raise StoreError(
                f"the store drops keys when its memory is full: set maxmemory-policy noeviction, not {policy}"
            )
        if log.get("aof_enabled") == 0:
            return "the store keeps no append-only file: set appendonly yes and appendfsync always"
        return ""

    async def _facts(self, section: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = await self._call(lambda: self._client.info(section))
        except StoreError as error:
            if isinstance(error.__cause__, ResponseError):  # a service that lets nobody ask
                return {}
            raise
        return found

    async def apply(self, change: Change) -> Guard | None:
        """See `Store.apply`.

        Raises:
            LostLeadError: the store is at another epoch.
        """
        guards = (Holds("lead", "epoch", self._fence), *change.guards)
        keys, values, plan = _Encoder(self._key).encode(Change(guards, change.operations))
        failed = await self._call(lambda: _run(self._script, keys, [plan, *values]))
        if failed == 1:
            raise self._overtaken()
        return guards[failed - 1] if failed else None

    async def get(self, table: str, key: str) -> bytes | None:
        """See `Store.get`."""
        found: bytes | None = await self._call(lambda: self._client.hget(self._key("table", table), key))
        return found

    async def get_many(self, table: str, keys: Sequence[str]) -> list[bytes | None]:
        """See `Store.get_many`."""
        if not keys:
            return []
        found: list[bytes | None] = await self._call(lambda: self._client.hmget(self._key("table", table), list(keys)))
        return found

    async def entries(self, table: str) -> Mapping[str, bytes]:
        """See `Store.entries`."""
        found: dict[bytes, bytes] = await self._call(lambda: self._client.hgetall(self._key("table", table)))
        return {key.decode(): value for key, value in found.items()}

    async def count(self, table: str) -> int:
        """See `Store.count`."""
        return int(await self._call(lambda: self._client.hlen(self._key("table", table))))

    async def items(self, name: str, start: int = 0, stop: int = -1) -> list[bytes]:
        """See `Store.items`."""
        found: list[bytes] = await self._call(lambda: self._client.lrange(self._key("list", name), start, stop))
        return found

    async def length(self, name: str) -> int:
        """See `Store.length`."""
        return int(await self._call(lambda: self._client.llen(self._key("list", name))))

    async def ranked(
        self, ranking: str, limit: int = -1, *, offset: int = 0, highest_first: bool = False
    ) -> list[tuple[str, float]]:
        """See `Store.ranked`."""
        stop = offset + limit - 1 if limit >= 0 else -1
        if limit == 0:
            return []
        key = self._key("rank", ranking)
        found = await self._call(lambda: self._client.zrange(key, offset, stop, desc=highest_first, withscores=True))
        return [(member.decode(), float(score)) for member, score in found]

    async def ranked_between(self, ranking: str, low: float, high: float, limit: int) -> list[tuple[str, float]]:
        """See `Store.ranked_between`."""
        key = self._key("rank", ranking)
        found = await self._call(lambda: self._client.zrangebyscore(key, low, high, 0, limit, withscores=True))
        return [(member.decode(), float(score)) for member, score in found]

    async def score(self, ranking: str, member: str) -> float | None:
        """See `Store.score`."""
        found = await self._call(lambda: self._client.zscore(self._key("rank", ranking), member))
        return None if found is None else float(found)

    async def scores(self, ranking: str, members: Sequence[str]) -> list[float | None]:
        """See `Store.scores`."""
        if not members:
            return []
        found = await self._call(lambda: self._client.zmscore(self._key("rank", ranking), list(members)))
        return [None if score is None else float(score) for score in found]

    async def size_between(self, ranking: str, low: float, high: float) -> int:
        """See `Store.size_between`."""
        return int(await self._call(lambda: self._client.zcount(self._key("rank", ranking), low, high)))

    async def size(self, ranking: str) -> int:
        """See `Store.size`."""
        return int(await self._call(lambda: self._client.zcard(self._key("rank", ranking))))

    async def names(self) -> list[tuple[str, str]]:
        """See `Store.names`."""
        own = self._key("", "").removesuffix(":")
        found = await self._call(lambda: self._all(_GLOB.sub(r"\\\g<0>", own) + "*"))
        parted = (key.decode().removeprefix(own).partition(":") for key in found)
        return sorted((kind, name) for kind, _, name in parted)

    async def throttle(self, bucket: str, *, every_ms: int, burst: int, now_ms: int) -> int:
        """See `Store.throttle`."""
        keys = [self._key("count", bucket), self._key("table", "lead")]
        args: list[bytes | int] = [every_ms, burst, now_ms, self._fence or b""]
        wait_ms = int(await self._call(lambda: _run(self._throttle, keys, args)))
        if wait_ms < 0:
            raise self._overtaken()
        return wait_ms

    async def close(self) -> None:
        """See `Store.close`."""
        await self._client.aclose()

    @property
    def _fence(self) -> bytes | None:
        """What the table `lead` holds under "epoch" while this store's leader leads."""
        return str(self.epoch).encode() if self.epoch else None

    def _overtaken(self) -> LostLeadError:
        return LostLeadError(f"another coordinator leads this swarm; this one's epoch {self.epoch} is over")

    async def _call(self, command: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(self._answer_within_s):
                return await cast(Awaitable[Any], command())
        except TimeoutError as error:
            raise StoreError(f"the store does not answer within {self._answer_within_s:g} s") from error
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise StoreError(f"the store does not answer: {error}") from error
        except ResponseError as error:
            raise StoreError(f"the store refused a command: {error}") from error
        except RedisError as error:
            raise StoreError(f"the store failed: {error}") from error

    async def _all(self, pattern: str) -> list[bytes]:
        return [key async for key in self._client.scan_iter(pattern, count=1000)]

    def _key(self, kind: str, name: str) -> str:
        return f"{{{self._name}}}:{kind}:{name}"


async def _run(script: AsyncScript, keys: Sequence[str], args: Sequence[bytes | int]) -> Any:
    """What a script answers. A server that does not know it has run nothing, so it is told again."""
    for _ in range(SCRIPT_TRIES - 1):
        with contextlib.suppress(NoScriptError):
            return await script(keys=keys, args=args)
    return await script(keys=keys, args=args)


def _lua(name: str) -> str:
    return resources.files("coordinator").joinpath(f"{name}.lua").read_text()


class _Encoder:
    """Turns a change into KEYS, ARGV and the plan that points into them by index."""

    def __init__(self, key_of: Callable[[str, str], str]) -> None:
        self._key_of = key_of
        self._keys: dict[tuple[str, str], int] = {}  # kind and name -> index
        self._values: list[bytes] = []
        self._steps: list[Any] = []

    def encode(self, change: Change) -> tuple[list[str], list[bytes], bytes]:
        guards = [self._guard(guard) for guard in change.guards]
        for operation in change.operations:
            self._add(operation)
        return [self._key_of(*own) for own in self._keys], self._values, json.dumps([guards, self._steps]).encode()

    def _guard(self, guard: Guard) -> list[str | int]:
        match guard:
            case Holds(table, key, value):
                wanted = 0 if value is None else self._value(value)
                return ["holds", self._key("table", table), self._value(key), wanted]
            case RankedUpTo(ranking, member, most):
                return ["ranked", self._key("rank", ranking), self._value(member), self._value(repr(most))]
            case LedgerIs(length):
                return ["length", self._key("list", "ledger"), self._value(str(length))]

    def _add(self, operation: Operation) -> None:
        match operation:
            case Put(table, key, value):
                self._step("HSET", "table", table, key, value)
            case Drop(table, key):
                self._step("HDEL", "table", table, key)
            case Append(name, value):
                self._step("RPUSH", "list", name, value)
            case Rank(ranking, member, score):
                self._step("ZADD", "rank", ranking, repr(score), member)
            case Unrank(ranking, member):
                self._step("ZREM", "rank", ranking, member)
            case Bump(ranking, member, by):
                self._step("ZINCRBY", "rank", ranking, repr(by), member)
            case Erase(kind, name):
                self._step("UNLINK", kind, name)

    def _step(self, command: str, kind: str, name: str, *values: str | bytes) -> None:
        """Values for a command; those of one command on one key that follow each other become one step, but for
        ZINCRBY, which takes one member at a time."""
        key, first = self._key(kind, name), len(self._values) + 2  # ARGV[1] is the plan
        self._values += [value.encode() if isinstance(value, str) else value for value in values]
        last = len(self._values) + 1
        step = self._steps[-1] if self._steps else None
        if step and step[0] == command != "ZINCRBY" and step[1] == key and last - step[2] < _STEP_VALUES:
            step[3] = last
        else:
            self._steps.append([command, key, first, last])

    def _key(self, kind: str, name: str) -> int:
        return self._keys.setdefault((kind, name), len(self._keys) + 1)

    def _value(self, value: str | bytes) -> int:
        self._values.append(value.encode() if isinstance(value, str) else value)
        return len(self._values) + 1  # ARGV[1] is the plan
