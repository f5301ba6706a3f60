"""Two coordinators of one swarm, each with a folder of its own on one store: one leads, the other takes over."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from autoresearch.v1 import patch_service_pb2 as patches_pb2
from coordinator import leading
from coordinator import main as program
from coordinator.app import App
from coordinator.archive import Archive
from coordinator.embedded import EmbeddedStore
from coordinator.errors import OperatorError
from coordinator.leading import Lead
from coordinator.lineage import Lineage
from coordinator.redis_store import RedisStore, connect
from coordinator.settings import STORE_NAME
from coordinator.store import Change
from tests.integration.swarm_on_wire import Starter, Swarm, change
from tests.integration.swarm_that_lived import settled

SHARED = ("signing.key", "operator.key", "tls.key", "tls.crt")  # what the operator copies


@dataclass
class Pair:
    """Two folders and their store."""

    first: Starter
    second: Starter
    url: str


@pytest.fixture
def pair(tmp_path: Path, made_swarm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(leading, "LOOK_S", 0.1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "swarm").mkdir(parents=True)
    first, second = Starter(tmp_path / "a", made_swarm), Starter(tmp_path / "b")
    shutil.move(tmp_path / "a" / "swarm" / "store", tmp_path / "shared" / "store")
    for name in SHARED:
        shutil.copy(made_swarm / name, tmp_path / "b" / "swarm")
    store = EmbeddedStore(tmp_path / "shared")
    try:
        first.store = second.store = store.start(timeout_s=60)
        yield Pair(first, second, first.store)
    finally:
        store.stop()


async def promote(swarm: Swarm) -> str:
    """Three machines find a patch better; returns the new best's commit."""
    patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))

    async def work(name: str) -> None:
        peer = await swarm.peer(name, device=f"GPU of {name}").start()
        for _ in range(20):
            if (await swarm.patch(patch.patch_id)).promoted_generation:
                return
            await peer.work(lambda order: 0.9 if order.source_sha256 == patch.candidate_sha256 else 1.0)

    await asyncio.gather(*(work(name) for name in ("ada", "bea", "cyd", "dan")), return_exceptions=True)
    await swarm.verdict(patch.patch_id, "promoted")
    return (await swarm.patches.GetBest(patches_pb2.GetBestRequest())).best.commit


async def steal(url: str) -> RedisStore:
    """As a second coordinator would that saw the first one silent."""
    store = RedisStore(connect(url), STORE_NAME)

    async def nothing() -> None: ...

    assert await Lead(store, "a token", "another").win(asyncio.Event(), lambda line: None, nothing, alone=True)
    return store


async def test_the_second_follows_and_takes_over_with_everything(pair: Pair) -> None:
    second = pair.second()
    async with pair.first() as leader:
        waiting = asyncio.create_task(second.__aenter__())
        commit = await promote(leader)
        lineage = pair.second.folder / "swarm" / "lineage.git"

        def followed() -> bool:
            return lineage.exists() and Lineage.open(lineage).tip() == commit

        await leader.until(lambda: asyncio.to_thread(followed))
        assert not waiting.done()
        await settled(leader)  # whatever it writes is in its file when it ends
    async with asyncio.timeout(60):
        follower = await waiting
    try:
        best = (await follower.patches.GetBest(patches_pb2.GetBestRequest())).best
        assert (best.generation, best.commit) == (1, commit)
        assert follower.running.address.partition("#")[2] == leader.running.address.partition("#")[2]
        await (await follower.peer("eve").start()).work(lambda order: 1.0)
        store = RedisStore(connect(pair.url), STORE_NAME)
        lines = await store.items("ledger")
        await store.close()
        assert list(Archive(pair.second.folder / "swarm").lines()) == lines
        assert list(Archive(pair.first.folder / "swarm").lines()) == lines[:-2]  # eve came, and her result
    finally:
        await second.__aexit__(None, None, None)


async def test_one_that_is_overtaken_while_it_starts_stands_by_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was frozen after it had taken the lead, before it served."""
    recover, thieves, told, serving = App.recover, [], [], asyncio.Event()

    async def slow(app: App) -> None:
        if not thieves:
            thieves.append(await steal(pair.url))
        await recover(app)
        await app.records.store.apply(Change())

    monkeypatch.setattr(App, "recover", slow)
    start = pair.first()
    work = asyncio.create_task(program.serve(start.settings, start.terms, told.append, lambda _: serving.set()))
    try:
        async with asyncio.timeout(120):
            await serving.wait()
        assert any("another coordinator leads this swarm" in line for line in told), told
        assert any("another leads this swarm: standing by" in line for line in told), told
    finally:
        work.cancel()
        await asyncio.wait({work})
        await thieves[0].close()


async def test_one_that_was_overtaken_writes_nothing_more_and_says_so(pair: Pair) -> None:
    async with pair.first() as leader:
        peer = await leader.peer("ada").start()
        other = await steal(pair.url)
        length = await other.length("ledger")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await leader.peer("bea").enroll()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(60):
            await leader.running.background.over.wait()
        assert await other.length("ledger") == length
        await peer.close()
        await other.close()


async def test_a_folder_without_the_swarms_key_is_refused_at_once(pair: Pair) -> None:
    (pair.second.folder / "swarm" / "signing.key").unlink()
    async with pair.first():
        with pytest.raises(OperatorError, match="another coordinator key"):
            await pair.second().__aenter__()


async def test_one_that_stands_by_ends_when_it_is_told_to(pair: Pair) -> None:
    second = pair.second()
    ended, told = asyncio.Event(), []

    async def stand_by() -> None:
        async with program.running(second.settings, second.terms, told.append, ended):
            raise AssertionError("it led beside another one")

    async def said() -> bool:
        return bool(told)

    async with pair.first() as leader:
        waiting = asyncio.create_task(stand_by())
        await leader.until(said)
        assert "leads this swarm: standing by" in told[0]
        ended.set()
        with pytest.raises(program.EndedError):
            await waiting
