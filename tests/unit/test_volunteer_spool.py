"""Undelivered results survive crashes; damaged files are set aside and said, never delivered and never lost."""

import errno
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope
from autoresearch.digest import key_id, sha256_hex
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.trial_pb2 import Result
from volunteer import durable, spool
from volunteer.errors import DiskError, HomeError
from volunteer.spool import Spool

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ME = key_id(envelope.public_bytes(KEY))


def result(lease_id: str, swarm_id: str = "swarm", key: Ed25519PrivateKey = KEY) -> Envelope:
    return envelope.sign(Result(lease_id=lease_id, swarm_id=swarm_id), envelope.RESULT, key)


def opened(folder: Path) -> Spool:
    return Spool(folder, ME, "swarm")


def test_a_kept_result_is_there_for_the_next_process(tmp_path: Path) -> None:
    kept = opened(tmp_path).keep(result("lease-1"))
    again = opened(tmp_path)
    assert again.kept == (kept,)
    assert kept.lease_id == "lease-1"
    assert again.get(kept.sha256) == result("lease-1")
    again.forget(kept.sha256)
    assert opened(tmp_path).kept == ()
    assert again.get(kept.sha256) is None


def test_results_come_back_in_the_order_they_were_kept(tmp_path: Path) -> None:
    first = opened(tmp_path)
    names = [first.keep(result(f"lease-{number}")).sha256 for number in range(5)]
    for age, name in enumerate(names):
        os.utime(tmp_path / f"{name}.result", (1000 + age, 1000 + age))
    assert [kept.sha256 for kept in opened(tmp_path).kept] == names


def test_keeping_the_same_result_twice_is_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store.keep(result("lease-1")) == store.keep(result("lease-1"))
    assert len(opened(tmp_path).kept) == 1


def test_a_write_that_a_crash_cut_short_leaves_nothing(tmp_path: Path) -> None:
    kept = opened(tmp_path).keep(result("lease-1"))
    (tmp_path / f".{'0' * 64}.result.77.part").write_bytes(b"half a res")
    assert opened(tmp_path).kept == (kept,)
    assert [path.name for path in tmp_path.iterdir()] == [f"{kept.sha256}.result"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        result("a").SerializeToString()[:-5],
        result("a", swarm_id="other").SerializeToString(),
        result("a", key=Ed25519PrivateKey.generate()).SerializeToString(),
        b"x" * 3_000_000,
    ],
)
def test_a_damaged_or_foreign_file_is_set_aside_with_a_message(tmp_path: Path, data: bytes) -> None:
    good = opened(tmp_path).keep(result("lease-1"))
    name = f"{sha256_hex(result('a').payload)}.result"
    (tmp_path / name).write_bytes(data)
    store = opened(tmp_path)
    assert store.kept == (good,)
    assert len(store.complaints) == 1
    assert str(tmp_path / "damaged" / name) in store.complaints[0]
    assert (tmp_path / "damaged" / name).read_bytes() == data
    assert opened(tmp_path).complaints == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(result("a").SerializeToString())
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / f"{sha256_hex(result('a').payload)}.result").symlink_to(elsewhere)
    assert opened(folder).kept == ()


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(DiskError, match=r"No space left on device.*free some space"):
        store.keep(result("lease-1"))
    assert store.kept == ()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_turned_read_only_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    kept = store.keep(result("lease-1"))

    def read_only(*given: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(durable.os, "unlink", read_only)
    with pytest.raises(DiskError, match="Read-only file system"):
        store.forget(kept.sha256)


def test_the_number_of_waiting_results_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "MOST_RESULTS", 2)
    store = opened(tmp_path)
    store.keep(result("lease-1"))
    store.keep(result("lease-2"))
    with pytest.raises(HomeError, match="2 results wait for delivery already: wait until the coordinator takes them"):
        store.keep(result("lease-3"))
