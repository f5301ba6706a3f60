"""Every kind of ledger entry and every instruction, made again: each key of the store byte for byte, and each commit.

The swarm that other tests rebuild lives on the wire, where some kinds take many trials to come about; this one lives
at a desk.
"""

from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from autoresearch.judging import ledger
from autoresearch.judging.auditing import Auditor
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Patch
from autoresearch.v1.operator_pb2 import Instruction
from coordinator.rebuilding.rebuilder import Rebuilder
from coordinator.redis_store import RedisStore, connect
from tests.integration import desk_that_lived
from tests.integration.desk import Desk, opened
from tests.integration.test_coordinator_rebuild import history

# What lives only while trials run, is heard anew, or says how far the coordinator has come.
PASSING = ("table:orders", "table:leases", "table:ended", "table:progress", "table:running", "rank:expiry",
           "rank:ended", "rank:seen", "rank:enrolled", "rank:underway:")  # fmt: skip


async def dump(url: str, name: str) -> dict[str, Any]:
    """Every key of a swarm's store but the passing ones, as it is."""
    client: Redis = connect(url)
    readers = {
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"string": client.get,
    }
    found = {}
    prefix = f"{{{name}}}:"
    async for key in client.scan_iter(match=f"{prefix}*".replace("[", r"\["), count=1000):
        short = key.decode().removeprefix(prefix)
        if not short.startswith(PASSING):
            found[short] = await readers[await client.type(key)](key)
    await client.aclose()
    return found


def patches_of(found: dict[str, Any]) -> dict[str, Patch]:
    return {key.decode(): Patch.from_bytes(value) for key, value in found["table:patches"].items()}


async def rebuilt(desk: Desk, url: str, folder: Path) -> Desk:
    """Another store and lineage, from the lines alone; checked as an auditor does."""
    folder.mkdir()  # noqa: ASYNC240 - one folder, on this disk
    store = RedisStore(connect(url), f"{desk.name}-again")
    rebuilder, auditor = Rebuilder(store, folder / "lineage.git"), Auditor(decisions=True)
    for line in await desk.store.items("ledger"):
        await rebuilder.take(line, auditor.take(line))
    auditor.finish()
    made = await rebuilder.finish()
    assert made.entries == await desk.store.length("ledger")
    await store.close()
    return Desk(url, f"{desk.name}-again", folder)


def said(entries: list[Entry]) -> tuple[set[str], set[str], set[str]]:
    """Kinds, instructions, and special kinds of verdicts."""
    kinds = {entry.kind for entry in entries}
    instructions = {entry.body["action"] for entry in entries if entry.kind == "instruction"}
    return kinds, instructions, {entry.body["verdict"] for entry in entries if entry.kind == "verdict"}


async def test_every_kind_of_entry_comes_out_the_same(store_url: str, tmp_path: Path) -> None:
    async with opened(store_url, tmp_path / "lived") as desk:
        await desk_that_lived.live(desk)
        kinds, instructions, verdicts = said(await desk.entries())
        assert kinds == set(ledger.KINDS) - {"restoration"}  # which a restored swarm has
        assert instructions == {"found", *(field.name for field in Instruction.DESCRIPTOR.oneofs[0].fields)}
        assert {"promoted", "parked", "open", "regressed", "rejected"} <= verdicts
        again = await rebuilt(desk, store_url, tmp_path / "again")
        assert history(again.folder) == history(desk.folder)
        await again.start()  # a coordinator follows up what may be missing, and finds nothing to add
        await again.follow()
        assert await again.store.length("ledger") == await desk.store.length("ledger")
        original, copy = await dump(store_url, desk.name), await dump(store_url, again.name)
        await again.stop()
    assert copy.keys() == original.keys()
    known, made = patches_of(original), patches_of(copy)
    for patch_id, patch in known.items():
        assert made[patch_id] == patch, patch.title
    for name, content in original.items():
        assert copy[name] == content, name
