"""Fixtures of the integration tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.swarm_on_wire import Starter, Swarm


@pytest.fixture
def starter(tmp_path: Path) -> Starter:
    return Starter(tmp_path)


@pytest.fixture
async def swarm(starter: Starter) -> AsyncIterator[Swarm]:
    async with starter() as running:
        yield running
