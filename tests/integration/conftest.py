"""Fixtures of the integration tests."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coordinator import main as program
from tests.integration import swarm_that_lived
from tests.integration.swarm_on_wire import Starter, Swarm


@pytest.fixture(scope="session", autouse=True)
def no_known_answers() -> Iterator[None]:
    """Trials with a known answer take candidates' places by chance; here only where a test asks for them."""
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(program, "_draw", lambda: 1.0)
        yield


@pytest.fixture(scope="session")
def made_swarm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of a stopped coordinator that has just made its swarm: preparing data takes seconds, a copy none."""
    starter = Starter(tmp_path_factory.mktemp("made"))

    async def make() -> None:
        async with starter():
            pass

    asyncio.run(make())
    return starter.folder / "swarm"


@pytest.fixture
def starter(tmp_path: Path, made_swarm: Path) -> Starter:
    return Starter(tmp_path, made_swarm)


@pytest.fixture
async def swarm(starter: Starter) -> AsyncIterator[Swarm]:
    async with starter() as running:
        yield running


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory, made_swarm: Path) -> Path:
    """Data folder of a stopped coordinator whose swarm has promoted, parked and lost patches. Copy it: it is shared."""
    return swarm_that_lived.make(tmp_path_factory.mktemp("lived"), made_swarm)
