"""What reading a large swarm costs: an answer looks at so much and no more, and says where to go on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoresearch import limits
from autoresearch.judging.model import Order
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from coordinator import app, queries
from coordinator.leasing import Offer
from coordinator.refusals import InvalidRequestError, NotFoundError
from tests.integration.desk import PLACES, Desk, edit, opened
from tests.integration.swarm_on_wire import Swarm


@pytest.fixture
async def desk(store_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(store_url, tmp_path / "desk") as made:
        yield made


async def test_one_page_looks_through_so_many_patches_and_the_next_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_ITEMS", 2)
    monkeypatch.setattr(queries, "LOOKED_AT", 3)
    author = await desk.juror("author")
    made = [await desk.submit(author, edit(**{f"A{place}": 1})) for place in range(PLACES)]
    wanted = [made[0], made[1], made[-1]]
    for patch in wanted:
        await desk.withdraw(author, patch)
    found, pages, token = [], 0, ""
    while pages == 0 or token:
        page, token = await desk.queries.patches(["withdrawn"], 2, token)
        found += [patch.patch_id for patch in page]
        pages += 1
    assert found == [patch.patch_id for patch in reversed(wanted)]
    assert pages == PLACES / 4 + 1  # two looks of two patches make more than three


async def test_a_patch_is_found_by_the_beginning_of_its_id_whenever_it_came(desk: Desk) -> None:
    author = await desk.juror("author")

    async def found(patch_id: str) -> bool:
        return (await desk.queries.patch(patch_id[:8])).patch_id == patch_id

    first = await desk.submit(author, edit(A1=1))
    assert await found(first.patch_id)
    second = await desk.submit(author, edit(A2=1))
    assert await found(second.patch_id)
    desk.now -= 3_600_000  # the clock was set back
    third = await desk.submit(author, edit(A3=1))
    for patch in (first, second, third):
        assert await found(patch.patch_id)
    known = {patch.patch_id for patch in (first, second, third)}
    with pytest.raises(NotFoundError):
        await desk.queries.patch(next(f"{n:04x}" for n in range(9) if not any(i.startswith(f"{n:04x}") for i in known)))


async def test_an_ambiguous_beginning_asks_for_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def alike() -> list[str]:
        return sorted(("abcd" + "0" * 12, "abcd" + "1" * 12, "abce" + "0" * 12))

    monkeypatch.setattr(desk.records, "_every_patch_id", alike)
    with pytest.raises(InvalidRequestError, match="several patches begin with abcd"):
        await desk.queries.patch("abcd")


async def test_readers_of_the_lineage_share_one_bundle_until_the_best_moves(desk: Desk) -> None:
    one, other = await asyncio.gather(desk.queries.lineage_bundle(), desk.queries.lineage_bundle())
    assert one is other
    patch = await desk.submit(await desk.juror("author"), edit(A1=1))
    assert (await desk.promote(patch, await desk.jurors("ada", "bea", "cyd"))).verdict == "promoted"
    after = await desk.queries.lineage_bundle()
    assert after != one
    assert after is await desk.queries.lineage_bundle()


async def test_the_status_shows_some_trials_and_says_how_many_there_are(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_ITEMS", 2)
    best = await desk.records.best()
    for juror in await desk.jurors("ada", "bea", "cyd"):
        (machine,) = juror.machines.values()
        order = Order(f"@{machine.machine_id}-0", "", best.source_sha256, best.source_sha256, machine.machine_id)
        assert await desk.dispatch.grant(Offer(order, None, new=True), machine) is not None
    status = await desk.queries.status()
    assert (len(status.live), status.live_trials) == (2, 3)


async def test_many_idle_machines_ask_less_often(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [await swarm.peer(name).start() for name in ("ada", "bea")]
    for peer in peers:
        await peer.work(lambda order: 1.0)  # the best: then there is nothing to do
    assert await asked(peers[0].ask()) == app.RETRY_MS
    monkeypatch.setattr(app, "IDLE_ASKS_MS", 10_000)
    assert await asked(peers[0].ask()) == 20_000


async def asked(answer: "object") -> int:
    none = await answer  # type: ignore[misc]
    assert isinstance(none, volunteer_pb2.NoOrder)
    return none.retry_after_ms
