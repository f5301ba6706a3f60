"""What a coordinator does when its store comes back without what it held, and when a part of itself ends."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import redis

from coordinator import main as program
from coordinator.archive import Archive
from coordinator.background import Background
from coordinator.embedded_server import find_binary
from coordinator.errors import OperatorError
from tests.integration.swarm_on_wire import Starter, Swarm, change

LEDGER = f"{{{program.STORE_NAME}}}:list:ledger"


class Forgetful:
    """A server of the operator's own that is not durable: it comes back with its last snapshot."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.url = f"unix://{folder}/s"
        self.client = redis.Redis(unix_socket_path=str(folder / "s"))
        self.start()

    def start(self) -> None:
        words = ["--port", "0", "--unixsocket", "s", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([find_binary(), *words], cwd=self._folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def die(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[Forgetful]:
    server = Forgetful(tmp_path / "server")
    yield server
    server.die()


async def test_a_store_that_comes_back_older_is_not_gone_on_with(
    tmp_path: Path, made_swarm: Path, forgetful: Forgetful
) -> None:
    """Nobody is told that something is durable that continues another history than the one that was acknowledged."""
    starter = Starter(tmp_path)
    starter.store = forgetful.url
    async with starter() as swarm:
        await swarm.peer("ada").start()
        forgetful.client.save()
        await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
        before = [*Archive(tmp_path / "swarm").lines()]
        forgetful.die()
        forgetful.start()
        assert forgetful.client.llen(LEDGER) < len(before)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await swarm.peer("grace").enroll()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(20):
            await swarm.running.background.over.wait()
        with pytest.raises(OperatorError, match="does not hold entry"):
            swarm.running.background.check()
    assert [*Archive(tmp_path / "swarm").lines()] == before
    with pytest.raises(OperatorError, match="does not hold entry"):  # and started again it says the same
        async with starter():
            pass


async def test_the_command_warns_of_such_a_store_and_ends_with_what_it_lost(
    tmp_path: Path, made_swarm: Path, forgetful: Forgetful
) -> None:
    starter = Starter(tmp_path)
    starter.store = forgetful.url
    planned, said, serving = starter(), [], asyncio.Event()
    work = program.serve(planned.settings, planned.terms, said.append, lambda running: serving.set())
    served = asyncio.create_task(work)
    async with asyncio.timeout(60):
        await serving.wait()
        forgetful.client.rpop(LEDGER)
        with pytest.raises(OperatorError, match="does not hold entry 1"):
            await served
    assert "the store keeps no append-only file" in said[0]


async def test_a_coordinator_ends_when_a_part_of_it_does(swarm: Swarm, caplog: pytest.LogCaptureFixture) -> None:
    async def faulty() -> None:
        raise ValueError("a fault of ours")

    swarm.running.background.start(faulty())
    async with asyncio.timeout(20):
        await swarm.running.background.over.wait()
    with pytest.raises(OperatorError, match="report the lines above"):
        swarm.running.background.check()
    assert "a fault of ours" in caplog.text


async def test_a_start_ends_with_a_part_of_it_though_a_cancellation_is_swallowed() -> None:
    """As redis-py may swallow one while a coordinator waits for the lead."""

    async def waits() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def faulty() -> None:
        raise OperatorError("a full disk")

    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(60):
        background = Background(stack)
        background.start(faulty())
        with pytest.raises(OperatorError, match="a full disk"):
            await background.beside(waits())
