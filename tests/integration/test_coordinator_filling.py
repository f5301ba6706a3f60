"""A store of the operator's own that a restore or rebuild filled only in part: no coordinator takes it for a swarm."""

import asyncio
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator import backups, restoring, upkeep
from coordinator.archive import Archive
from coordinator.embedded import EmbeddedStore
from coordinator.errors import OperatorError
from coordinator.filling import MARK
from coordinator.redis_store import RedisStore, connect
from coordinator.settings import LEDGER, LINEAGE, STORE_NAME
from tests.integration.swarm_on_wire import Starter
from tests.integration.swarm_that_lived import settled
from tests.integration.test_coordinator_backup import NOW_MS, run
from tests.integration.test_coordinator_rebuild import history, rebuild, stripped

IN_PART = "was filled only in part"
HALF_WAY = 10  # entries

# The command, which comes so far and no further: how long it takes must not decide where it is killed.
STUCK = f"""
import time
from coordinator.cli import main
from coordinator.rebuilding.rebuilder import Rebuilder

async def take(rebuilder, line, entry, really=Rebuilder.take):
    await really(rebuilder, line, entry)
    if entry.seq + 1 == {HALF_WAY}:
        await rebuilder._flush()
        time.sleep(3600)

Rebuilder.take = take
main()
"""


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """Of an empty store."""
    async with EmbeddedStore(tmp_path / "server") as address:
        yield address


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    made = RedisStore(connect(url), STORE_NAME)
    yield made
    await made.close()


@pytest.fixture
def backup(lived: Path, tmp_path: Path) -> Path:
    backups.write(lived, tmp_path / "backup", with_keys=True, now_ms=NOW_MS)
    return tmp_path / "backup"


def stuck(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", STUCK, *words], stderr=subprocess.PIPE, text=True)


async def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code, and what it said on standard error."""
    _, said = await asyncio.to_thread(process.communicate)
    return process.returncode, said


async def refused(url: str, folder: Path) -> None:
    """A coordinator says one line, and writes no ledger."""
    words = ["serve", "--store", url, "--data", str(folder), "--listen", "127.0.0.1:0"]
    code, said = await ended(run(*words))
    assert (code, said.count("\n")) == (1, 1), said
    assert said.startswith("error: ")
    assert IN_PART in said
    assert not (folder / LEDGER).exists()


async def test_a_killed_restore_is_nobodys_swarm_and_the_next_one_starts_over(
    lived: Path, backup: Path, url: str, store: RedisStore, tmp_path: Path
) -> None:
    words = ["restore", str(backup), "--store", url, "--data", str(tmp_path / "swarm")]
    process = stuck(*words)
    try:
        async with asyncio.timeout(120):
            while await store.length("ledger") < HALF_WAY and process.poll() is None:
                await asyncio.sleep(0.01)
    finally:
        process.kill()
    code, said = await ended(process)
    assert code == -signal.SIGKILL, said
    assert await store.get(*MARK) is not None
    await refused(url, tmp_path / "other")
    code, said = await ended(run(*words))
    assert code == 0, said
    assert "starting over" in said
    assert await store.items("ledger") == list(Archive(backup).lines())
    assert history(tmp_path / "swarm") == history(lived)
    starter = Starter(tmp_path)
    starter.store = url
    async with starter() as swarm:
        await settled(swarm)


async def test_a_whole_store_without_its_folder_is_not_taken_either(
    lived: Path, url: str, store: RedisStore, tmp_path: Path
) -> None:
    """A death after the last entry and before the folder is in its place: everything is there but the end."""
    folder = stripped(lived, tmp_path / "swarm")

    def die() -> None:
        raise OSError(5, "the disk died")

    with pytest.raises(OperatorError, match="the disk died"):
        await asyncio.to_thread(upkeep.rebuild, folder, url, lambda line: None, "t", die)
    assert await store.get("meta", "swarm") is not None
    await refused(url, tmp_path / "other")
    shutil.rmtree(folder / LINEAGE)
    made = await asyncio.to_thread(rebuild, folder, url)
    assert await store.length("ledger") == made.entries
    assert await store.get(*MARK) is None


async def test_nothing_of_a_swarm_at_work_is_emptied(backup: Path, url: str, store: RedisStore, tmp_path: Path) -> None:
    wish = restoring.Wish(NOW_MS, "t", store_url=url)
    await asyncio.to_thread(restoring.restore, backup, tmp_path / "swarm", wish, lambda line: None)
    starter = Starter(tmp_path)
    starter.store = url
    async with starter():
        entries = await store.length("ledger")
        again = restoring.Wish(NOW_MS, "u", store_url=url)
        with pytest.raises(OperatorError, match="holds a swarm"):
            await asyncio.to_thread(restoring.restore, backup, tmp_path / "again", again, lambda line: None)
        assert not (tmp_path / "again").exists()
    assert await store.length("ledger") >= entries
