"""The mark of a store that is being filled, on a real server: who gets in, who is kept out, and what a death leaves."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from coordinator import filling
from coordinator.errors import OperatorError
from coordinator.filling import MARK, Filling
from coordinator.leading import Lead
from coordinator.redis_store import RedisStore, connect
from coordinator.store import Append, Change, Guard, Operation, Put, Rank

NAMES = itertools.count()


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[RedisStore]:
    made = RedisStore(connect(store_url), f"filling-{next(NAMES)}")
    yield made
    await made.close()


async def begun(store: RedisStore, token: str, *operations: Operation) -> Filling:
    made = Filling(store, token, "redis://here")
    await made.begin()
    await made.apply(Change((), operations))
    return made


async def test_a_store_counts_when_its_filling_has_ended(store: RedisStore) -> None:
    await filling.check(store, "redis://here")
    own = await begun(store, "one", Put("meta", "swarm", b"{}"))
    with pytest.raises(OperatorError, match="redis://here was filled only in part"):
        await filling.check(store, "redis://here")
    await own.end()
    await filling.check(store, "redis://here")
    assert await store.entries("meta") == {"swarm": b"{}"}


@pytest.mark.parametrize("held", [Append("ledger", b"line"), Put("meta", "swarm", b"{}"), Put("meta", "best", b"{}")])
async def test_what_is_not_a_fillings_is_left_alone(store: RedisStore, held: Operation) -> None:
    await store.apply(Change((), (held,)))
    names = await store.names()
    with pytest.raises(OperatorError, match="redis://here holds a swarm, whole or in part"):
        await begun(store, "one")
    assert await store.names() == names
    assert await store.get(*MARK) is None


async def test_the_next_one_starts_over(store: RedisStore) -> None:
    many = [Rank(f"jury:{number}", "a", 1.0) for number in range(2_500)]
    await begun(store, "dead", Append("ledger", b"line"), Put("meta", "swarm", b"{}"), Put("orders", "a", b"1"), *many)
    again = Filling(store, "next", "redis://here")
    assert await again.begin()
    assert await store.names() == [("table", "meta")]
    assert list(await store.entries("meta")) == [MARK[1]]
    await again.end()
    assert await store.names() == []


async def test_one_that_was_thought_dead_gets_nothing_in(store: RedisStore) -> None:
    slow = await begun(store, "slow", Append("ledger", b"old"))
    other = await begun(store, "other", Append("ledger", b"new"))
    for late in (slow.apply(Change((), (Append("ledger", b"late"),))), slow.end()):
        with pytest.raises(OperatorError, match="uses the store redis://here"):
            await late
    assert await store.items("ledger") == [b"new"]
    await other.end()


class Doubling(RedisStore):
    """Sends every change twice, as a client does that lost the answer."""

    async def apply(self, change: Change) -> Guard | None:
        await super().apply(change)
        return await super().apply(change)


async def test_a_change_that_is_sent_twice_counts_once(store: RedisStore, store_url: str) -> None:
    doubling = Doubling(connect(store_url), store._name)
    own = await begun(doubling, "one", Append("ledger", b"line"))
    await own.end()
    assert await store.items("ledger") == [b"line"]
    assert await store.get(*MARK) is None
    await doubling.close()


async def test_a_coordinator_that_leads_is_not_disturbed(store: RedisStore, store_url: str) -> None:
    own = await begun(store, "one")
    leading = RedisStore(connect(store_url), store._name)

    async def nothing() -> None:
        """Between looks."""

    assert await Lead(leading, "token", "somebody").win(asyncio.Event(), lambda line: None, nothing, alone=True)
    with pytest.raises(OperatorError, match="uses the store"):
        await own.apply(Change((), (Append("ledger", b"line"),)))
    assert await store.items("ledger") == []
    await leading.close()
