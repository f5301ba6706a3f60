"""What tests of every room need: waiting for a condition, and a real store server. Nothing about any one room."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from coordinator.embedded import EmbeddedStore

Until = Callable[..., None]

# A busy machine is slow now and then: no example fails for that.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# What a shell runs in the background ignores Ctrl-C, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def until() -> Until:
    """`until(condition, timeout_s=60)` returns when `condition()` is true and fails at the deadline."""

    def wait(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {condition}"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of one real server for the whole run. Tests keep apart by the swarm id in their keys."""
    folder: Path = tmp_path_factory.mktemp("swarm")
    store = EmbeddedStore(folder)
    yield store.start(timeout_s=60)
    store.stop()
