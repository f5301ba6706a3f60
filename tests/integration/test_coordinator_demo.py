"""The demo's folder: one demo at a time, and never a folder that cannot be one."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coordinator import demo
from coordinator.demo_processes import Process
from coordinator.demo_settings import DemoSettings
from coordinator.errors import OperatorError


@pytest.fixture
def in_use(tmp_path: Path) -> Iterator[Path]:
    """A folder as a running demo holds it."""
    (tmp_path / "patches.json").write_text("{}")
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    yield tmp_path
    os.close(folder)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_second_demo_in_a_folder_is_refused_and_leaves_it_alone(in_use: Path, fresh: bool) -> None:
    with pytest.raises(OperatorError, match=r"a demo runs in .* already: stop that one, or choose another folder"):
        demo.run(DemoSettings(in_use, fresh=fresh))
    assert [path.name for path in in_use.iterdir()] == ["patches.json"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match=r"cannot use the folder .*; choose another with --data"):
        demo.run(DemoSettings(tmp_path / "file"))


def test_a_report_without_a_place_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"cannot write the report .*: choose a file in a folder that exists"):
        demo.run(DemoSettings(tmp_path / "swarm", report=tmp_path / "missing" / "report.json"))
    assert not (tmp_path / "swarm").exists()


def test_who_was_killed_is_started_again_and_that_is_said(tmp_path: Path, until: Callable[..., None]) -> None:
    process = Process("sleeper", ["-c", "import time; time.sleep(60)"], tmp_path / "log")
    said: list[str] = []
    process.start()
    try:
        first = process.running
        assert first is not None
        assert not process.revive(said.append)
        first.kill()
        until(lambda: first.poll() is not None, 20)
        assert process.revive(said.append)
        assert process.running is not first
        assert said == ["sleeper is gone (exit code -9): starting it again"]
    finally:
        process.end()
