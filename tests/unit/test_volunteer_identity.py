"""The key and machine id are made once, kept private, and never silently replaced."""

import os
import secrets
import stat
from pathlib import Path

import pytest

from volunteer import home, identity, pin
from volunteer.address import parse
from volunteer.errors import HomeError
from volunteer.pin import Pin


def test_the_identity_stays_the_same(tmp_path: Path) -> None:
    first = identity.load_or_make(tmp_path / "home", secrets.token_bytes)
    again = identity.load_or_make(tmp_path / "home", secrets.token_bytes)
    assert (first.identity_id, first.machine_id) == (again.identity_id, again.machine_id)
    assert len(first.identity_id) == 32
    assert len(first.machine_id) == 32


def test_nobody_else_can_read_the_key(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        identity.load_or_make(tmp_path / "home", secrets.token_bytes)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "home").iterdir())


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    identity.load_or_make(tmp_path, secrets.token_bytes)
    key = tmp_path / "identity.pem"
    key.chmod(0o640)
    with pytest.raises(HomeError, match=f"chmod 600 {key}"):
        identity.load_or_make(tmp_path, secrets.token_bytes)


@pytest.mark.parametrize(
    ("name", "content"), [("identity.pem", b"junk"), ("machine-id", b"junk"), ("identity.pem", b"")]
)
def test_a_damaged_file_is_not_replaced(tmp_path: Path, name: str, content: bytes) -> None:
    identity.load_or_make(tmp_path, secrets.token_bytes)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HomeError, match="damaged"):
        identity.load_or_make(tmp_path, secrets.token_bytes)
    assert (tmp_path / name).read_bytes() == content


def test_a_home_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    with pytest.raises(Exception, match="cannot write") as caught:
        identity.load_or_make(tmp_path / "home", secrets.token_bytes)
    assert "--home" in str(caught.value)


def test_two_volunteers_cannot_share_a_home(tmp_path: Path) -> None:
    with home.only_volunteer(tmp_path), pytest.raises(HomeError, match="--home"), home.only_volunteer(tmp_path):
        pass
    with home.only_volunteer(tmp_path):
        pass  # free again


def test_the_swarm_is_remembered(tmp_path: Path) -> None:
    assert pin.load(tmp_path) is None
    pinned = Pin(parse("localhost:7070#" + "a" * 32), "swarm", "bob")
    pin.save(tmp_path, pinned)
    assert pin.load(tmp_path) == pinned


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"address": 1}', '{"address": "localhost:1", "swarm_id": "", "name": ""}']
)
def test_a_damaged_memory_of_the_swarm_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "swarm.json").write_text(text)
    with pytest.raises(HomeError, match="remove it and join"):
        pin.load(tmp_path)
