"""Stores and data folders of other versions: older ones are brought up step by step, newer ones refused."""

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from coordinator import upgrading
from coordinator.cli import main as command
from coordinator.embedded import EmbeddedStore
from coordinator.errors import OperatorError
from coordinator.redis_store import RedisStore, connect
from coordinator.settings import STORE_NAME
from coordinator.store import Append, Change, Drop, Operation, Put, Store
from tests.integration.swarm_on_wire import Starter


@pytest.fixture
async def store(store_url: str, tmp_path: Path) -> AsyncIterator[RedisStore]:
    made = RedisStore(connect(store_url), f"upgrade-{tmp_path.name}")
    yield made
    await made.close()


async def schema(store: Store) -> bytes | None:
    return await store.get("meta", "schema")


async def leading(store: RedisStore) -> RedisStore:
    """Writes as the coordinator would that leads."""
    return store.at(int(await store.get("lead", "epoch") or 0))


async def test_a_swarm_from_before_there_were_numbers_goes_on_and_has_them(starter: Starter) -> None:
    data_dir = starter.folder / "swarm"
    async with EmbeddedStore(data_dir) as url:
        old = RedisStore(connect(url), STORE_NAME)
        assert await schema(old) == b"1"  # a new swarm has one
        await (await leading(old)).apply(Change((), (Drop("meta", "schema"),)))
        await old.close()
    (data_dir / upgrading.FOLDER_FILE).unlink()
    assert upgrading.check_folder(data_dir) == 0
    async with starter() as swarm:
        assert await schema(swarm.running.app.records.store) == b"1"
        assert swarm.running.swarm.swarm_id
    assert upgrading.check_folder(data_dir) == upgrading.FOLDER_SCHEMA


async def test_a_newer_store_is_refused_and_stays_as_it_is(starter: Starter) -> None:
    data_dir = starter.folder / "swarm"
    async with EmbeddedStore(data_dir) as url:
        newer = RedisStore(connect(url), STORE_NAME)
        await (await leading(newer)).apply(Change((), (Put("meta", "schema", b"7"),)))
        await newer.close()
    with pytest.raises(OperatorError, match=r"the store was written by a newer version \(schema 7, this one knows 1\)"):
        async with starter():
            pass


@pytest.mark.parametrize("words", [["serve", "--listen", "127.0.0.1:0"], ["verify"], ["rebuild"], ["export", "OUT"],
                                   ["backup", "OUT"]])  # fmt: skip
def test_a_newer_folder_is_refused_by_every_command(made_swarm: Path, tmp_path: Path, words: list[str]) -> None:
    data_dir = tmp_path / "swarm"
    shutil.copytree(made_swarm, data_dir, ignore=shutil.ignore_patterns("datasets"))
    (data_dir / upgrading.FOLDER_FILE).write_text(json.dumps({"schema": 9}))
    arguments = [word if word != "OUT" else str(tmp_path / "out") for word in words]
    done = CliRunner().invoke(command, [*arguments, "--data", str(data_dir)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: the data folder {data_dir} was written by a newer version (schema 9, this one knows 1): "
        "upgrade this coordinator\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_damaged_number_is_told(tmp_path: Path) -> None:
    (tmp_path / upgrading.FOLDER_FILE).write_text("9")
    with pytest.raises(OperatorError, match="is damaged"):
        upgrading.check_folder(tmp_path)


async def test_steps_are_taken_in_their_order_once_and_from_where_the_store_is(store: RedisStore) -> None:
    def step(number: int) -> upgrading.StoreStep:
        async def act(found: Store) -> Sequence[Operation]:
            assert await schema(found) == (b"%d" % number if number else None)
            return [Append("steps", b"%d" % number)]

        return act

    steps = [step(number) for number in range(4)]
    assert await upgrading.upgrade_store(store, steps) == 0  # empty: there is nothing to bring up
    await store.apply(Change((), (Put("meta", "swarm", b"{}"),)))
    assert await upgrading.upgrade_store(store, steps[:2]) == 2
    assert await upgrading.upgrade_store(store, steps) == 2
    assert await upgrading.upgrade_store(store, steps) == 0
    assert await store.items("steps") == [b"0", b"1", b"2", b"3"]
    with pytest.raises(OperatorError, match="newer version"):
        await upgrading.upgrade_store(store, steps[:3])


async def test_a_step_that_fails_leaves_the_schema_before(store: RedisStore) -> None:
    async def fails(_: Store) -> Sequence[Operation]:
        raise OperatorError("no")

    async def works(_: Store) -> Sequence[Operation]:
        return [Append("steps", b"done")]

    await store.apply(Change((), (Put("meta", "swarm", b"{}"),)))
    with pytest.raises(OperatorError, match="no"):
        await upgrading.upgrade_store(store, [works, fails])
    assert (await schema(store), await store.items("steps")) == (b"1", [b"done"])
    assert await upgrading.upgrade_store(store, [works, works]) == 1


def test_a_folders_steps_are_taken_once(tmp_path: Path) -> None:
    taken: list[int] = []
    (tmp_path / upgrading.FOLDER_FILE).write_text(json.dumps({"schema": 0}))
    for _ in range(2):
        upgrading.upgrade_folder(tmp_path, [lambda folder: taken.append(len(list(folder.iterdir())))])
    assert taken == [1]
