"""The demo's folder: one demo at a time, and never a folder that cannot be one."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import demo
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
