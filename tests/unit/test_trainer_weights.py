"""Weights from a hostile folder: plain, bounded, sound safetensors, or nothing."""

import hashlib
import json
import os
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from trainer.errors import MachineError, NoSpaceError
from trainer.folder import remove_tree, trial_folder
from trainer.result import Outcome, TrialEnded
from trainer.weights import seal_weights, take_weights

LIMIT = 100_000


def written(folder: Path, **tensors: np.ndarray) -> Path:
    path = folder / "weights.safetensors"
    save_file(tensors or {"a": np.zeros((3, 4), np.float32), "b": np.ones(5, np.float16)}, path)
    return path


def outcome(path: Path, folder: Path) -> tuple[Outcome, str]:
    with pytest.raises(TrialEnded) as caught:
        take_weights(path, folder / "copy", LIMIT)
    return caught.value.outcome, caught.value.reason


def test_sound_weights_are_copied_and_named_by_their_digest(tmp_path):
    path = written(tmp_path)
    taken = take_weights(path, tmp_path / "copy", LIMIT)
    assert taken.path.read_bytes() == path.read_bytes()
    assert taken.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert taken.size_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("C64", [2]),
        ("F64", [2]),
        ("BF16", [2, 4]),
        ("F8_E4M3FNUZ", [16]),
        ("F8_E8M0", [4, 4]),
        ("F4", [32]),
        ("I8", [16]),
    ],
)
def test_every_kind_of_number_that_torch_writes_is_taken(tmp_path, dtype, shape):
    path = tmp_path / "weights"
    path.write_bytes(header(a={"dtype": dtype, "shape": shape, "data_offsets": [0, 16]}) + bytes(16))
    assert take_weights(path, tmp_path / "copy", LIMIT).size_bytes == path.stat().st_size


def test_what_is_taken_is_what_was_sealed(tmp_path):
    path = written(tmp_path)
    sealed = seal_weights(path, LIMIT)
    assert take_weights(path, tmp_path / "same", LIMIT, sealed).sha256 == sealed
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x01")
    with pytest.raises(TrialEnded) as caught:
        take_weights(path, tmp_path / "changed", LIMIT, sealed)
    assert caught.value.outcome is Outcome.DISQUALIFIED
    assert caught.value.reason == "the weights were changed after they were handed over"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/etc/passwd")])
def test_only_a_plain_file_is_sealed(tmp_path, make):
    make(tmp_path / "odd")
    with pytest.raises(TrialEnded):
        seal_weights(tmp_path / "odd", LIMIT)


def test_no_weights_is_a_crash(tmp_path):
    assert outcome(tmp_path / "none", tmp_path) == (Outcome.CRASHED, "handed over no weights")


def test_links_pipes_sockets_folders_and_devices_are_refused(tmp_path, monkeypatch):
    good = written(tmp_path)
    link, hard, fifo, folder = (tmp_path / name for name in ("link", "hard", "fifo", "folder"))
    link.symlink_to(good)
    os.mkfifo(fifo)
    folder.mkdir()
    for path in (link, fifo, folder, Path("/dev/zero")):
        assert outcome(path, tmp_path)[0] is Outcome.DISQUALIFIED, path
        (tmp_path / "copy").unlink(missing_ok=True)
    hard.hardlink_to(good)
    assert outcome(hard, tmp_path)[0] is Outcome.DISQUALIFIED
    listening = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    listening.bind("socket")
    listening.close()
    assert outcome(tmp_path / "socket", tmp_path)[0] is Outcome.DISQUALIFIED


def test_a_huge_sparse_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as stream:
        stream.truncate(100 << 30)
    result, reason = outcome(path, tmp_path)
    assert result is Outcome.DISQUALIFIED
    assert "over the limit" in reason
    assert not (tmp_path / "copy").exists()


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "pickle"
    path.write_bytes(b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.")
    assert outcome(path, tmp_path)[0] is Outcome.DISQUALIFIED


def header(**tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"nope",
        header(a=GOOD),  # no data
        header(a=GOOD) + bytes(9),  # too much
        header(a={**GOOD, "shape": [3]}) + bytes(8),
        header(a={**GOOD, "shape": [-2]}) + bytes(8),
        header(a={**GOOD, "shape": [True, 2]}) + bytes(8),
        header(a={**GOOD, "dtype": "OBJECT"}) + bytes(8),
        header(a={**GOOD, "shape": [10**18, 10**18, 0]}) + bytes(8),
        header(a={**GOOD, "shape": [2] + [1] * 20}) + bytes(8),
        header(a={**GOOD, "dtype": ["F32"]}) + bytes(8),
        header(a={**GOOD, "data_offsets": [8, 16]}) + bytes(16),
        header(a=GOOD, b=GOOD) + bytes(8),  # both at the same place
        header(a={"dtype": "F32"}) + bytes(8),
        header(a=7),
        struct.pack("<Q", 100_000) + b"[" * 90_000,
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(tmp_path, content):
    path = tmp_path / "weights"
    path.write_bytes(content)
    assert outcome(path, tmp_path)[0] is Outcome.DISQUALIFIED


@given(noise=st.binary(max_size=200))
def test_noise_is_refused_and_never_an_unexpected_error(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("noise")
    (folder / "weights").write_bytes(noise)
    with pytest.raises(TrialEnded):
        take_weights(folder / "weights", folder / "copy", LIMIT)


def test_a_trial_leaves_nothing_behind_whatever_was_left_in_it(tmp_path, monkeypatch):
    with trial_folder(tmp_path, 1) as folder:
        deep = folder
        for _ in range(1200):  # deeper than Python's stack and than a path may be long
            monkeypatch.chdir(folder if deep is folder else "deeper")
            deep = Path("deeper")
            deep.mkdir()
        monkeypatch.undo()
        locked = folder / "locked"
        locked.mkdir()
        (locked / "file").write_text("x")
        locked.chmod(0o000)
        (folder / "link").symlink_to(tmp_path)
        outside = tmp_path / "outside"
        outside.write_text("mine")
        (folder / "to-outside").symlink_to(outside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]
    assert outside.read_text() == "mine"


def test_the_folder_goes_when_the_trial_raises(tmp_path):
    with pytest.raises(RuntimeError), trial_folder(tmp_path, 1):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_and_no_right_to_write_are_said_before_anything_runs(tmp_path):
    with pytest.raises(NoSpaceError, match="free some space"), trial_folder(tmp_path, 1 << 60):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="another work folder"), trial_folder(tmp_path / "file", 1):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_may_have_the_names_that_removing_gives_them(tmp_path):
    root = tmp_path / "root"
    for name in ("a", "b", ".removed-1", ".removed-2", ".removed-3/.removed-4"):
        (root / name / "more").mkdir(parents=True)
    remove_tree(root)
    assert not root.exists()


def test_remove_tree_follows_no_link(tmp_path):
    target, root = tmp_path / "target", tmp_path / "root"
    target.mkdir()
    (target / "keep").write_text("")
    root.mkdir()
    (root / "link").symlink_to(target)
    remove_tree(root)
    assert (target / "keep").exists()
    assert not root.exists()
