"""Places are given to addresses in turn, and come back whatever becomes of those who had or wanted them."""

import asyncio
from collections.abc import Sequence

from coordinator.places import Places


class Callers:
    """Calls that want places; each stays until it is told to leave."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._leave: list[tuple[str, asyncio.Event]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, addresses: Sequence[str]) -> list[asyncio.Task[None]]:
        """One call of each of these addresses, in this order."""
        made = [asyncio.create_task(self._call(address)) for address in addresses]
        self._tasks += made
        await settled()
        return made

    async def _call(self, address: str) -> None:
        async with self._places.one(address):
            leave = asyncio.Event()
            self._leave.append((address, leave))
            await leave.wait()

    @property
    def inside(self) -> str:
        """The addresses that have had places, in the order in which they came in."""
        return "".join(address for address, _ in self._leave)

    async def leave(self) -> None:
        """All leave, and whoever comes in then."""
        while not all(task.done() for task in self._tasks):
            for _, leave in self._leave:
                leave.set()
            await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_addresses_take_turns() -> None:
    callers = Callers(Places(1, 1))
    await callers.come("aaaabbc")
    assert callers.inside == "a"
    await callers.leave()
    assert callers.inside == "aabcaba"


async def test_an_address_has_its_share_at_most() -> None:
    callers = Callers(Places(3, 2))
    await callers.come("aaa")
    assert callers.inside == "aa"
    await callers.come("bb")
    assert callers.inside == "aab"
    await callers.leave()
    assert sorted(callers.inside) == list("aaabb")


async def test_who_hangs_up_leaves_no_place_taken() -> None:
    places = Places(1, 1)
    callers = Callers(places)
    first, waiting = await callers.come("ab")
    waiting.cancel()
    await settled()
    first.cancel()
    await settled()
    assert places.free == 1
    holder, given = await callers.come("ab")
    holder.cancel()
    while not holder.done():
        await asyncio.sleep(0)
    given.cancel()  # it was given the place, and has not come in
    await settled()
    assert (places.free, callers.inside) == (1, "aa")
    await callers.come("c")
    assert callers.inside == "aac"
    await callers.leave()
