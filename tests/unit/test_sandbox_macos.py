"""The profile the macOS sandbox is given, as text; whether a Mac keeps it is for `self_test` on that Mac."""

from pathlib import Path

import pytest

from trainer.sandbox import Policy, SandboxError
from trainer.sandbox.macos import profile


def policy(folder: Path, **changes) -> Policy:
    values = {"read_paths": (), "write_dir": folder, "memory_bytes": 1, "file_bytes": 1, "processes": 1, "cpu_s": 1}
    return Policy(**(values | changes))


def balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def test_everything_is_denied_that_is_not_named(tmp_path):
    lines = profile(policy(tmp_path)).splitlines()
    assert lines[:3] == ["(version 1)", "(deny default)", "(deny network*)"]
    assert not [line for line in lines if "allow network" in line or "allow default" in line]
    assert balanced(profile(policy(tmp_path, gpu_devices=("mps",))))


def test_only_the_write_folder_is_written(tmp_path):
    written = [line for line in profile(policy(tmp_path)).splitlines() if "file-write*" in line]
    assert written == [f'(allow file-read* file-write* file-map-executable (subpath "{tmp_path.resolve()}"))']


def test_links_pipes_sockets_and_devices_are_denied_after_the_folder_is_allowed(tmp_path):
    text = profile(policy(tmp_path))
    for kind in ("SYMLINK", "FIFO", "SOCKET", "BLOCK-DEVICE", "CHARACTER-DEVICE"):
        assert text.index(f"(deny file-write-create (vnode-type {kind}))") > text.index("file-write* ")


def test_processes_are_started_only_where_the_policy_has_several(tmp_path):
    assert "(deny process-fork)" in profile(policy(tmp_path))
    assert "(allow process-fork)" in profile(policy(tmp_path, processes=2))


def test_the_gpu_is_reached_only_where_one_is_leased(tmp_path):
    assert "iokit-open" not in profile(policy(tmp_path))
    assert "iokit-open" in profile(policy(tmp_path, gpu_devices=("mps",)))


def test_read_paths_are_given_with_links_followed_too(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = profile(policy(tmp_path, read_paths=(tmp_path / "link",)))
    assert f'(subpath "{tmp_path}/link")' in text
    assert f'(subpath "{(tmp_path / "real").resolve()}")' in text
    assert f'(allow file-read-metadata (literal "{tmp_path}"))' in text


def test_a_path_cannot_add_rules(tmp_path):
    folder = tmp_path / 'a") (allow default) ("'
    folder.mkdir()
    assert '(subpath "' + str(tmp_path.resolve()) + r"/a\") (allow default) (\"" in profile(policy(folder))
    with pytest.raises(SandboxError, match="control characters"):
        profile(policy(tmp_path / "a\n(allow default)"))
