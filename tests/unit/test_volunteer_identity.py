"""The key and machine id are made once, kept private, and never silently replaced."""

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from volunteer import durable, home, identity, pin
from volunteer.address import parse
from volunteer.errors import DiskError, HomeError
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


def test_what_goes_wrong_while_a_home_is_held_is_not_taken_for_another_volunteer(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="of its own"), home.only_volunteer(tmp_path):
        raise BlockingIOError("of its own")


def test_folders_on_the_way_are_private_too(tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "a" / "b" / "c")
    durable.make_folder(tmp_path / "a" / "b" / "c")
    assert [stat.S_IMODE((tmp_path / way).stat().st_mode) for way in ("a", "a/b", "a/b/c")] == [0o700] * 3


@pytest.mark.parametrize("write", [durable.replace, durable.write_new])
def test_a_disk_that_takes_nothing_is_an_error_that_says_so(
    tmp_path: Path, write: Callable[[Path, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*given: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "unlink", read_only)  # such a disk refuses that too, whether the file is there or not
    with pytest.raises(DiskError, match="Read-only file system"):
        write(tmp_path / "file", b"content")


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
