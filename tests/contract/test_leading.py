"""Who leads, on a real store: one at a time, the next when the last is silent; nothing of an earlier one is written."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable

import pytest

from coordinator import leading
from coordinator.leading import Lead
from coordinator.redis_store import RedisStore, connect
from coordinator.store import Append, Change, LostLeadError, Put

NAMES = itertools.count()
WRITE = Change((), (Append("ledger", b"line"),))


class Coordinator:
    """As much of one as leading takes."""

    def __init__(self, url: str, swarm: str, name: str) -> None:
        self.store = RedisStore(connect(url), swarm)
        self.lead = Lead(self.store, f"token of {name}", name)
        self.ended = asyncio.Event()
        self.told: list[str] = []
        self.kept_up = 0

    async def win(self, *, alone: bool = False) -> bool:
        async def keep_up() -> None:
            self.kept_up += 1

        return await self.lead.win(self.ended, self.told.append, keep_up, alone=alone)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "BEAT_S", 0.02)
    monkeypatch.setattr(leading, "LOOK_S", 0.05)


@pytest.fixture
async def coordinator(store_url: str) -> AsyncIterator[Callable[[str], Coordinator]]:
    swarm, made = f"leading-{next(NAMES)}", []

    def make(name: str) -> Coordinator:
        made.append(Coordinator(store_url, swarm, name))
        return made[-1]

    yield make
    for one in made:
        await one.store.close()


Make = Callable[[str], Coordinator]


async def ended(keeping: "asyncio.Task[None]") -> None:
    """Its signs of life are over, before its store is closed."""
    while not keeping.done():  # again: redis-py may swallow a cancellation (Python 3.11)
        keeping.cancel()
        await asyncio.wait({keeping}, timeout=0.1)


async def test_the_first_leads_at_once_and_every_change_is_its_own(coordinator: Make) -> None:
    first = coordinator("first")
    async with asyncio.timeout(60):
        assert await first.win()
    assert await first.store.apply(WRITE) is None
    assert first.store.epoch == 1


async def test_who_never_led_writes_nothing_once_there_is_a_leader(coordinator: Make) -> None:
    first, other = coordinator("first"), coordinator("other")
    assert await other.store.apply(WRITE) is None  # nobody has ever led: as a store that is being rebuilt
    assert await first.win()
    with pytest.raises(LostLeadError, match="another coordinator leads"):
        await other.store.apply(WRITE)
    with pytest.raises(LostLeadError):
        await other.store.throttle("bucket", every_ms=1000, burst=1, now_ms=1)
    assert await first.store.throttle("bucket", every_ms=1000, burst=1, now_ms=1) == 0
    assert await first.store.length("ledger") == 1


async def test_a_second_one_stands_by_while_the_first_gives_signs_of_life(coordinator: Make) -> None:
    first, second = coordinator("first"), coordinator("second")
    assert await first.win()
    keeping, waiting = asyncio.create_task(first.lead.keep()), asyncio.create_task(second.win())
    async with asyncio.timeout(60):
        while second.kept_up <= 3 * leading.LOOKS and not waiting.done():
            await asyncio.sleep(leading.LOOK_S)
    assert not waiting.done()
    assert second.told == ["first leads this swarm: standing by"]
    second.ended.set()
    assert not await waiting
    await ended(keeping)


async def test_silence_is_followed_by_another_leader_and_the_first_never_writes_again(coordinator: Make) -> None:
    first, second = coordinator("first"), coordinator("second")
    assert await first.win()
    async with asyncio.timeout(60):
        assert await second.win()
    assert second.store.epoch == 2
    assert await second.store.apply(WRITE) is None
    with pytest.raises(LostLeadError):  # it was only frozen, and wakes up in the middle of something
        await first.store.apply(WRITE)
    assert await first.store.length("ledger") == 1
    await first.lead.keep()  # returns: it has learnt that it is over
    assert first.lead.lost.is_set()
    await first.lead.leave()  # and does not give up what is another's
    third = coordinator("third")
    third.ended.set()
    assert not await third.win()
    assert await second.store.apply(WRITE) is None


async def test_of_many_who_wait_one_wins(coordinator: Make) -> None:
    first = coordinator("first")
    assert await first.win()
    others = [coordinator(f"other {n}") for n in range(5)]
    waiting = {asyncio.create_task(other.win()): other for other in others}
    async with asyncio.timeout(60):
        done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (won,) = done
    keeping = asyncio.create_task(waiting[won].lead.keep())
    await asyncio.wait(rest, timeout=3 * leading.LOOKS * leading.LOOK_S)
    assert not any(task.done() for task in rest)
    for other in others:
        other.ended.set()
    assert [task.result() for task in rest if await task] == []
    await ended(keeping)


async def test_one_that_leaves_is_followed_at_once(coordinator: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "LOOKS", 1_000_000)
    first, second = coordinator("first"), coordinator("second")
    assert await first.win()
    await first.lead.leave()
    async with asyncio.timeout(60):
        assert await second.win()


async def test_one_that_can_only_be_alone_waits_for_nobody(coordinator: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "LOOKS", 1_000_000)
    killed, again = coordinator("killed"), coordinator("started again")
    assert await killed.win()
    async with asyncio.timeout(60):
        assert await again.win(alone=True)
    assert again.store.epoch == 2


async def test_a_sign_of_another_version_is_said_and_never_overruled(coordinator: Make) -> None:
    first, second = coordinator("first"), coordinator("second")
    assert await first.win()
    await first.store.apply(Change((), (Put("lead", "sign", b'{"newer":1}'),)))
    waiting = asyncio.create_task(second.win())
    await asyncio.wait({waiting}, timeout=2 * leading.LOOKS * leading.LOOK_S)
    assert not waiting.done()
    second.ended.set()
    assert not await waiting
