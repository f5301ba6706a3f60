"""A volunteer remembers what a coordinator signed for, and finds out one that rewrites its ledger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import checkpoint
from tests.integration.test_volunteer_fake import SWARM_ID, FakeCoordinator
from tests.integration.test_volunteer_join import Lines, ScriptedTrials, at_work, ended, make_settings
from volunteer import address, witness
from volunteer.client import Client
from volunteer.errors import HomeError, WrongCoordinatorError


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator() as fake:
        fake.ledger = [b"one", b"two", b"three"]
        yield fake


async def watch(coordinator: FakeCoordinator, home: Path) -> int:
    async with await Client.open(address.parse(coordinator.address)) as client:
        return (await witness.watch(client, home)).size


async def found_out(coordinator: FakeCoordinator, home: Path) -> str:
    with pytest.raises(WrongCoordinatorError) as error:
        await watch(coordinator, home)
    return str(error.value)


async def test_a_ledger_that_grows_is_followed(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    for size in (3, 3, 4, 9):
        coordinator.ledger += [b"more"] * (size - len(coordinator.ledger))
        assert await watch(coordinator, tmp_path) == size
        seen = witness.remembered(tmp_path, SWARM_ID, coordinator.fingerprint)
        assert seen is not None
        assert seen.size == size


async def test_a_rewritten_ledger_is_found_out_again_and_again(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    await watch(coordinator, tmp_path)
    true = list(coordinator.ledger)
    for rewritten in (
        [b"one", b"changed", b"three"],
        [b"one", b"changed", b"three", b"four"],
        [b"one", b"three", b"two", b"four"],
        [b"one", b"put in", b"two", b"three"],
        [b"one", b"three", b"four"],
        [b"one", b"two"],
        [],
    ):
        coordinator.ledger = rewritten
        told = await found_out(coordinator, tmp_path)
        assert "rewrote its ledger" in told
        assert "3 " in told
        assert "\n" not in told
    (seen,) = (tmp_path / "checkpoints").glob("*.seen")
    (contrary,) = (tmp_path / "checkpoints").glob("*.contrary")
    for path in (seen, contrary):  # each signed by the coordinator: together they are the proof
        assert checkpoint.read(path.read_bytes(), SWARM_ID, coordinator.fingerprint)
    coordinator.ledger = [*true, b"four"]
    assert await watch(coordinator, tmp_path) == 4


async def test_a_proof_that_was_made_up_does_not_help(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watch(coordinator, tmp_path)
    coordinator.ledger += [b"four"]

    async def made_up(self: Client, old_size: int, new_size: int) -> list[bytes]:
        return [bytes(32)] * 2

    monkeypatch.setattr(Client, "consistency", made_up)
    assert "rewrote its ledger" in await found_out(coordinator, tmp_path)


async def test_a_checkpoint_by_another_key_is_not_believed(
    coordinator: FakeCoordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forged(self: Client) -> bytes:
        return checkpoint.sign(SWARM_ID, 3, bytes(32), 1, Ed25519PrivateKey.generate()).signed

    monkeypatch.setattr(Client, "checkpoint", forged)
    assert "cannot be believed" in await found_out(coordinator, tmp_path)


async def test_a_damaged_memory_is_not_taken_for_none(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    await watch(coordinator, tmp_path)
    (seen,) = (tmp_path / "checkpoints").glob("*.seen")
    seen.write_bytes(seen.read_bytes()[:-1])
    with pytest.raises(HomeError, match="damaged"):
        await watch(coordinator, tmp_path)


async def test_nobody_joins_a_swarm_whose_ledger_was_rewritten(coordinator: FakeCoordinator, tmp_path: Path) -> None:
    settings, trials, show = make_settings(tmp_path, coordinator.address, max_trials=1), ScriptedTrials(), Lines()
    trials.gate.set()
    coordinator.orders = ["0" * 64]
    async with at_work(settings, trials, show) as (workday, task):
        workday.stop()
        await ended(task)
    assert "ledger of 3 entries" in show.text()
    coordinator.ledger[1] = b"changed"
    with pytest.raises(WrongCoordinatorError, match="rewrote its ledger"):
        async with at_work(settings, trials, Lines()):
            pass
