"""Options win over the environment, the environment over defaults."""

import os
from pathlib import Path

import pytest

from volunteer.settings import load


@pytest.mark.parametrize(
    ("environment", "home"),
    [
        ({}, Path("~/.local/share/autoresearch-swarm").expanduser()),
        ({"XDG_DATA_HOME": "/srv/data"}, Path("/srv/data/autoresearch-swarm")),
        ({"XDG_DATA_HOME": "relative"}, Path("~/.local/share/autoresearch-swarm").expanduser()),
        ({"XDG_DATA_HOME": "/srv/data", "AUTORESEARCH_HOME": "/srv/mine"}, Path("/srv/mine")),
    ],
)
def test_where_home_is(environment: dict[str, str], home: Path) -> None:
    assert load(environment).home == home
    assert load(environment, home=Path("/chosen")).home == Path("/chosen")


def test_the_swarm_may_come_from_the_environment() -> None:
    assert load({}).swarm is None
    assert load({"AUTORESEARCH_SWARM": ""}).swarm is None
    assert load({"AUTORESEARCH_SWARM": "a:1"}).swarm == "a:1"
    assert load({"AUTORESEARCH_SWARM": "a:1"}, swarm="b:2").swarm == "b:2"


def test_git_is_not_pointed_at_another_repository() -> None:
    given = load({"GIT_DIR": "/elsewhere", "PATH": "/bin"}).git_environment
    assert "GIT_DIR" not in given
    assert given["PATH"] == "/bin"
    assert given["GIT_TERMINAL_PROMPT"] == "0"


def test_volunteers_of_a_user_share_a_runtime_folder(tmp_path: Path) -> None:
    assert load({"XDG_RUNTIME_DIR": str(tmp_path)}).runtime_dir == tmp_path / "autoresearch-swarm"
    assert load({}).runtime_dir.parent == Path(f"/run/user/{os.getuid()}")
    assert load({"XDG_RUNTIME_DIR": "relative"}).runtime_dir == load({}).runtime_dir
    assert load({}).spare_runtime_dir.parent == Path("/tmp")
