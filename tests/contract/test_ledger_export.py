"""The ledger on a real store and a real disk: what was acknowledged is in the file, whatever ended in the middle."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from autoresearch.judging import ledger
from coordinator import export as export_module
from coordinator.embedded import EmbeddedStore
from coordinator.errors import OperatorError
from coordinator.export import LedgerExport, LostEntriesError
from coordinator.journal import Draft, Journal, Note
from coordinator.redis_store import RedisStore, connect
from coordinator.store import Append, Bump, Change, Holds, Put

NOTE = Note("result", {"val_bpb": 1.0})


@pytest.fixture
async def store(store_url: str, tmp_path: Path) -> AsyncIterator[RedisStore]:
    made = RedisStore(connect(store_url), f"export-{tmp_path}")
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def exporting(path: Path, store: RedisStore) -> AsyncIterator[LedgerExport]:
    """An export at work, as the program runs it."""
    export = LedgerExport(path, store)
    try:
        await export.start()
        work = asyncio.create_task(export.run())
        try:
            yield export
        finally:
            while not work.done():  # again and again, as the program does: redis-py may swallow a cancellation
                work.cancel()
                await asyncio.wait({work}, timeout=0.1)
            assert work.cancelled()
    finally:
        export.close()


def a_journal(store: RedisStore, export: LedgerExport) -> Journal:
    return Journal(store, export, lambda: 1_000)


async def written(store: RedisStore, count: int, body: str = "x") -> list[bytes]:
    """That many entries in the store and in no file."""
    head = ledger.verify(await store.items("ledger"))
    for n in range(count):
        line, head = ledger.append(head, "result", {body: n}, 1)
        assert await store.apply(Change((), (Append("ledger", line),))) is None
    return await store.items("ledger")


def text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


# --- copying ---


async def test_what_is_in_the_store_at_the_start_is_in_the_file_before_anything_is_served(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "GROUP_LINES", 7)
    lines = await written(store, 30)
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        assert export.path.read_bytes() == text(lines)


async def test_an_acknowledged_entry_is_in_the_file(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        journal = a_journal(store, export)
        for n in range(5):
            seq = await journal.commit([NOTE], [], [])
            assert seq == n
            await journal.durable(n)
            assert len(export.path.read_bytes().splitlines()) == n + 1
        assert export.path.read_bytes() == text(await store.items("ledger"))
        ledger.verify(export.path.read_bytes().splitlines())


async def test_waiting_ends_only_when_the_disk_has_it(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is synced before the waiter goes on, and all who waited meanwhile share the next sync."""
    go, syncs = threading.Event(), []

    def fsync(descriptor: int) -> None:
        assert go.wait(20)
        syncs.append(descriptor)
        os_fsync(descriptor)

    os_fsync = os.fsync
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        journal = a_journal(store, export)
        monkeypatch.setattr(os, "fsync", fsync)
        await journal.commit([NOTE], [], [])
        first = asyncio.create_task(journal.durable(0))
        async with asyncio.timeout(20):
            while not export.path.read_bytes():  # written, not yet synced
                await asyncio.sleep(0.01)
        for _ in range(50):
            await journal.commit([NOTE], [], [])
        rest = [asyncio.create_task(journal.durable(n)) for n in range(1, 51)]
        await asyncio.sleep(0)
        assert not first.done()
        go.set()
        await asyncio.gather(first, *rest)
        assert len(syncs) == 2  # group commit: fifty entries, one sync


async def test_entries_of_another_coordinator_are_copied_too(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        lines = await written(store, 3)
        await export.durable(2)  # found by looking, not by being told
        assert export.path.read_bytes() == text(lines)


async def test_everything_in_the_store_can_be_waited_for(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        journal = a_journal(store, export)
        await journal.all_durable()  # nothing at all
        lines = await written(store, 3)
        await journal.all_durable()
        assert export.path.read_bytes() == text(lines)


# --- the file after a crash ---


async def test_a_half_written_end_is_mended_wherever_it_ends(store: RedisStore, tmp_path: Path) -> None:
    lines = await written(store, 4)
    whole = text(lines)
    path = tmp_path / "ledger.jsonl"
    ends = {0, 1, len(whole) - 1, len(whole), *range(0, len(whole), 17)}
    for end in sorted(ends | {at + 1 for at, byte in enumerate(whole) if byte == ord("\n")}):
        path.write_bytes(whole[:end])
        async with exporting(path, store):
            assert path.read_bytes() == whole, end


async def test_garbage_after_the_last_whole_line_is_cut_off(store: RedisStore, tmp_path: Path) -> None:
    whole = text(await written(store, 2))
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(whole + b"\x00" * 5000)  # a file system that grew the file and lost its pages
    async with exporting(path, store):
        assert path.read_bytes() == whole


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


async def refused(path: Path, store: RedisStore) -> str:
    before = content(path)
    with pytest.raises(OperatorError) as error:
        async with exporting(path, store):
            pass
    assert content(path) == before
    return str(error.value)


async def test_a_store_that_lost_entries_is_refused(store: RedisStore, tmp_path: Path) -> None:
    lines = await written(store, 3)
    head = ledger.verify(lines)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(text([*lines, ledger.append(head, "result", {"acknowledged": 1}, 1)[0]]))
    assert "entry 3" in await refused(path, store)
    assert "lost data" in await refused(path, store)


async def test_an_empty_store_beside_a_ledger_is_refused(store: RedisStore, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(text([ledger.append(ledger.EMPTY, "genesis", {}, 1)[0]]))
    assert "another swarm" in await refused(path, store)


async def test_another_swarms_store_is_refused(store: RedisStore, tmp_path: Path) -> None:
    await written(store, 3)
    other, head = [], ledger.EMPTY
    for n in range(3):
        line, head = ledger.append(head, "result", {"other": n}, 1)
        other.append(line)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(text(other))
    assert "entry 2" in await refused(path, store)


async def test_a_ledger_that_cannot_be_written_is_the_operators_to_mend(store: RedisStore, tmp_path: Path) -> None:
    assert "Is a directory" in await refused(tmp_path, store)
    assert "No such file" in await refused(tmp_path / "gone" / "ledger.jsonl", store)
    (tmp_path / "file").touch()
    assert "Not a directory" in await refused(tmp_path / "file" / "ledger.jsonl", store)


# --- a full disk ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", os.fspath(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("making a small disk needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@contextlib.contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to grow files of this process beyond the size: a full disk without the right to mount."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def fails_then_goes_on(store: RedisStore, path: Path, full: contextlib.AbstractContextManager[None]) -> None:
    async with exporting(path, store) as export:
        journal = a_journal(store, export)
        await journal.durable(int(str(await journal.commit([NOTE], [], []))))
        with full:
            big = Note("result", {"log": "x" * 3000})
            seqs = [await journal.commit([big], [], []) for _ in range(40)]
            with pytest.raises(OperatorError, match="cannot write the ledger"):
                await journal.durable(int(str(seqs[-1])))
            lines = (await untried(path)).splitlines()
            ledger.verify(lines)  # whole lines only
            assert lines == (await store.items("ledger"))[: len(lines)]
        await durable_soon(journal, int(str(seqs[-1])))
        assert content(path) == text(await store.items("ledger"))


async def untried(path: Path) -> bytes:
    """What is in the file between two tries to write more: one under way takes back what it has written of a line."""
    async with asyncio.timeout(20):
        while not (found := content(path)).endswith(b"\n"):
            await asyncio.sleep(0.01)
    return found


async def durable_soon(journal: Journal, seq: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OperatorError):
                return await journal.durable(seq)
            await asyncio.sleep(0.05)


async def test_a_full_disk_is_told_to_who_waits_and_leaves_no_half_line(store: RedisStore, small_disk: Path) -> None:
    @contextlib.contextmanager
    def filled() -> Iterator[None]:
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 512)
        os.truncate(filler, filler.stat().st_size - 16_384)  # some lines fit, not all
        yield
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=1m", os.fspath(small_disk)], check=True)

    await fails_then_goes_on(store, small_disk / "ledger.jsonl", filled())


async def test_a_file_that_may_not_grow_is_told_likewise(store: RedisStore, tmp_path: Path) -> None:
    await fails_then_goes_on(store, tmp_path / "ledger.jsonl", largest_file(20_000))


async def test_the_store_may_be_away_for_longer_than_calls_wait(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path) as url:
        store = RedisStore(connect(url, patience_s=0.0), "export")
        async with exporting(tmp_path / "ledger.jsonl", store) as export:
            os.kill(int((tmp_path / "store" / "valkey.pid").read_text()), signal.SIGKILL)
            patient = RedisStore(connect(url), "export")
            lines = await written(patient, 2)
            await asyncio.wait_for(export.durable(1), 20)
            assert export.path.read_bytes() == text(lines)
            await patient.close()
        await store.close()


# --- the journal ---


async def test_several_coordinators_write_one_chain(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path / "a.jsonl", store) as one, exporting(tmp_path / "b.jsonl", store) as two:
        journals = [a_journal(store, one), a_journal(store, two)]
        seqs = await asyncio.gather(
            *(journals[n % 2].commit([NOTE] * (1 + n % 3), [], [Bump("n", "n", 1)]) for n in range(60))
        )
        lines = await store.items("ledger")
        assert ledger.verify(lines).length == len(lines) == 120
        assert len(set(seqs)) == 60
        assert await store.score("n", "n") == 60.0
        for journal, export in zip(journals, (one, two), strict=True):
            await journal.all_durable()
            assert export.path.read_bytes() == text(lines)


async def test_a_failed_guard_writes_nothing_and_is_returned(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        journal = a_journal(store, export)
        guard = Holds("patches", "p", b"something")
        assert await journal.commit([NOTE], [guard], [Put("patches", "p", b"new")]) == guard
        assert await store.length("ledger") == 0
        assert await journal.commit([NOTE], [Holds("patches", "p", None)], [Put("patches", "p", b"new")]) == 0


async def test_a_change_may_name_its_own_entry_whoever_writes_in_between(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        journal, told = a_journal(store, export), []

        async def draft(seq: int) -> Draft:
            told.append(seq)
            if len(told) == 1:
                await written(store, 2)
            return Draft([NOTE, NOTE], [], [Put("meta", "entry", b"%d" % seq)])

        assert await journal.commit_at(draft) == 3  # the last of its two
        assert told == [0, 2]
        assert await store.get("meta", "entry") == b"2"


async def test_a_journal_goes_on_after_a_change_of_unknown_fate(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store took it, the answer was lost for good: the next entry continues from what is really there."""
    async with exporting(tmp_path / "ledger.jsonl", store) as export:
        journal = a_journal(store, export)
        await journal.commit([NOTE], [], [])
        await written(store, 1)  # as if it were that change
        assert await journal.commit([NOTE], [], []) == 2
        ledger.verify(await store.items("ledger"))


# --- a store that lost entries while we wrote to it ---


async def lose_last(store_url: str, tmp_path: Path, count: int) -> None:
    """As a server does that comes back with an older state."""
    client = connect(store_url)
    await client.rpop(f"{{export-{tmp_path}}}:list:ledger", count)
    await client.aclose()


async def test_nothing_is_written_to_a_store_that_lost_entries(
    store: RedisStore, store_url: str, tmp_path: Path
) -> None:
    export = LedgerExport(tmp_path / "ledger.jsonl", store)
    await export.start()
    work = asyncio.create_task(export.run())
    journal = a_journal(store, export)
    for _ in range(4):
        await journal.settle(settled)
    await lose_last(store_url, tmp_path, 2)
    with pytest.raises(LostEntriesError, match="does not hold entry 3"):
        await journal.commit([NOTE], [], [])
    with pytest.raises(LostEntriesError):
        await asyncio.wait_for(work, 20)
    with pytest.raises(LostEntriesError):
        await journal.durable(0)
    assert await store.length("ledger") == 2
    lines = export.path.read_bytes().splitlines()
    assert len(lines) == 4
    ledger.verify(lines)
    export.close()


async def test_another_history_in_the_store_is_found_by_looking(
    store: RedisStore, store_url: str, tmp_path: Path
) -> None:
    export = LedgerExport(tmp_path / "ledger.jsonl", store)
    lines = await written(store, 4)
    await export.start()
    await lose_last(store_url, tmp_path, 2)
    await written(store, 5, body="another")
    with pytest.raises(LostEntriesError, match="does not hold entry 3"):
        await asyncio.wait_for(export.run(), 20)
    assert export.path.read_bytes() == text(lines)
    export.close()


async def test_an_entry_that_was_lost_before_it_was_on_disk_is_noticed_too(
    store: RedisStore, store_url: str, tmp_path: Path
) -> None:
    """Whoever read it meanwhile goes by something that is not there any more."""
    export = LedgerExport(tmp_path / "ledger.jsonl", store)
    await export.start()
    journal = a_journal(store, export)
    assert await journal.commit([NOTE], [], []) == 0
    await lose_last(store_url, tmp_path, 1)
    with pytest.raises(LostEntriesError, match="does not hold entry 0"):
        await journal.commit([NOTE], [], [])
    export.close()


async def settled(_: int) -> Draft:
    return Draft([NOTE], [], [])
