"""Store and lineage made again from a real swarm's ledger alone: the same records, byte for byte, the same commits.

What lives only while trials run is excepted: orders, leases, queues, progress, who was heard of when.
"""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoresearch.v1 import trial_pb2
from coordinator import redis_store, upkeep
from coordinator.embedded import EmbeddedStore
from coordinator.errors import OperatorError
from coordinator.live_file import lock
from coordinator.settings import LEDGER, LINEAGE, STORE_NAME
from tests.integration.swarm_on_wire import Starter
from tests.integration.swarm_that_lived import settled
from tests.integration.test_coordinator_main_job import three

TABLES = (
    "identities", "patches", "sources", "diffs", "logs", "machines", "fingerprints", "changes", "meta", "filled",
    "results", "quarantine", "proposals",
)  # fmt: skip
RANKINGS = ("patches", "open", "parked", "decided", "trials", "train_ms", "promotions", "gain")


async def dump(data_dir: Path) -> dict[str, Any]:
    """Everything in the store that is a function of the ledger."""
    with_store = EmbeddedStore(data_dir)
    async with with_store as url:
        store = redis_store.RedisStore(redis_store.connect(url), STORE_NAME)
        found: dict[str, Any] = {f"table {name}": dict(await store.entries(name)) for name in TABLES}
        found |= {f"rank {name}": await store.ranked(name) for name in RANKINGS}
        found["ledger"] = await store.items("ledger")
        found["lineage"] = await store.items("lineage")
        found["beliefs"] = await store.items("beliefs")
        found["trials"] = {name: await store.items(f"trials:{name}") for name in found["table patches"]}
        found["baselines"] = {name: await store.items(f"baselines:{name}") for name in found["table sources"]}
        for identity_id in found["table identities"]:
            found[f"jury {identity_id}"] = await store.ranked(f"jury:{identity_id}")
        await store.close()
    found["table meta"].pop(b"followed", None)
    found["table meta"].pop("followed", None)
    for patch_id, record in found["table patches"].items():
        patch = json.loads(record)
        if patch["verdict"] == "parked":  # rests anew when it was looked at in vain, which is no entry's business
            found["table patches"][patch_id] = patch | {"decided_at_ms": 0}
    return found


def stripped(lived: Path, folder: Path) -> Path:
    """A folder with the swarm's ledger and keys, and nothing else."""
    shutil.copytree(lived, folder, ignore=shutil.ignore_patterns("store", LINEAGE, "datasets"))
    return folder


def history(folder: Path) -> str:
    command = ["git", "-C", str(folder / LINEAGE), "log", "--format=%H %T %an %ae %ad %cd %B", "best"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def rebuild(folder: Path, url: str = "") -> Any:
    return upkeep.rebuild(folder, url, lambda line: None, "t")


@pytest.fixture
def ledger_only(lived: Path, tmp_path: Path) -> Path:
    return stripped(lived, tmp_path / "swarm")


async def restarted(folder: Path) -> None:
    """The coordinator starts on it, follows up what is left to follow, and stops."""
    async with Starter(folder.parent)() as swarm:
        await settled(swarm)


async def test_store_and_lineage_come_out_the_same(lived: Path, ledger_only: Path) -> None:
    made = await asyncio.to_thread(rebuild, ledger_only)
    assert made.generation == 2
    assert history(ledger_only) == history(lived)
    assert made.commit in history(lived)
    await restarted(ledger_only)
    original = await dump(lived)
    assert len(original["table patches"]) == 6
    verdicts = {json.loads(patch)["verdict"] if isinstance(patch, bytes) else patch["verdict"]
                for patch in original["table patches"].values()}  # fmt: skip
    assert {"promoted", "withdrawn", "open"} < verdicts
    rebuilt = await dump(ledger_only)
    for name, content in original.items():
        assert rebuilt[name] == content, name
    assert rebuilt.keys() == original.keys()


async def test_the_swarm_goes_on(ledger_only: Path) -> None:
    """Machines come back, the open patch is decided, and nothing is ordered under a name that was used."""
    await asyncio.to_thread(rebuild, ledger_only)
    async with Starter(ledger_only.parent)() as swarm:
        before = set(await swarm.running.app.records.store.entries("order_state"))
        assert before
        await settled(swarm)
        peers = await three(swarm)
        answers = [await peer.ask() for peer in peers]
        orders = [answer for answer in answers if isinstance(answer, trial_pb2.Order)]
        assert orders
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, trial_pb2.Order):
                ack = await peer.deliver(peer.result(answer, 1.0))
                assert ack.status == 1, ack.reason
        await settled(swarm)
    upkeep.verify(ledger_only)


async def test_a_store_of_ones_own_is_filled_when_it_is_empty(ledger_only: Path, tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path / "other") as url:
        made = await asyncio.to_thread(rebuild, ledger_only, url)
        store = redis_store.RedisStore(redis_store.connect(url), STORE_NAME)
        assert await store.length("ledger") == made.entries
        await store.close()
        shutil.rmtree(ledger_only / LINEAGE)
        with pytest.raises(OperatorError, match="holds a swarm"):
            await asyncio.to_thread(rebuild, ledger_only, url)
        assert not (ledger_only / LINEAGE).exists()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"autoresearch.lock"}


@pytest.mark.parametrize("place", ["store", LINEAGE])
def test_nothing_that_exists_is_overwritten(ledger_only: Path, place: str) -> None:
    (ledger_only / place).mkdir()
    (ledger_only / place / "something").write_bytes(b"mine")
    before = names(ledger_only)
    with pytest.raises(OperatorError, match="is not empty: move it away"):
        rebuild(ledger_only)
    assert names(ledger_only) == before
    assert (ledger_only / place / "something").read_bytes() == b"mine"


def test_no_ledger_and_a_running_coordinator_are_told(ledger_only: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(OperatorError, match="there is no ledger"):
        rebuild(tmp_path / "empty")
    with lock(ledger_only / LEDGER), pytest.raises(OperatorError, match="another coordinator writes"):
        rebuild(ledger_only)


def test_a_ledger_that_does_not_hold_leaves_nothing_behind(ledger_only: Path) -> None:
    before = names(ledger_only)
    path = ledger_only / LEDGER
    good = path.read_bytes()
    lines = good.splitlines()
    for bad, why in (
        (good.replace(b'"val_bpb":1.0', b'"val_bpb":0.9', 1), "ledger entry"),
        (b"\n".join([*lines[:-3], lines[-2], lines[-1], b""]), "carries the sequence number"),
        (b"\n".join([*lines[:-2], b""]), "were signed for"),
        (b"", "the ledger is empty"),
    ):
        assert bad != good
        path.write_bytes(bad)
        with pytest.raises(OperatorError, match=why):
            rebuild(ledger_only)
        assert names(ledger_only) == before


def test_from_the_command_line(ledger_only: Path) -> None:
    command = [sys.executable, "-m", "coordinator"]
    for words in (["verify"], ["rebuild"]):
        whole = [*command, *words, "--data", str(ledger_only), "--json"]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entries"] > 20
    done = subprocess.run(
        [*command, "rebuild", "--data", str(ledger_only)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
