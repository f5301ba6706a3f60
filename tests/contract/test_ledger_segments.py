"""Closing segments of the ledger, and statements about all of it, on a real store and a real disk."""

import asyncio
import contextlib
import gzip
import hashlib
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import checkpoint, envelope, merkle
from autoresearch.digest import key_id
from autoresearch.judging import ledger
from coordinator import checkpoints, live_file, segments
from coordinator.checkpoints import CHECKPOINTS, Checkpoints
from coordinator.errors import OperatorError
from coordinator.export import LedgerExport
from coordinator.journal import Journal
from coordinator.redis_store import RedisStore, connect
from coordinator.refusals import InvalidRequestError
from coordinator.segments import MANIFEST
from coordinator.store import Append, Change

EACH = 4
KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
SIGNER = key_id(envelope.public_bytes(KEY))


@pytest.fixture
async def store(store_url: str, tmp_path: Path) -> AsyncIterator[RedisStore]:
    made = RedisStore(connect(store_url), f"segments-{tmp_path}")
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def exporting(folder: Path, store: RedisStore) -> AsyncIterator[LedgerExport]:
    """An export at work, as the program runs it, with segments of four entries."""
    export = LedgerExport(folder / "autoresearch.jsonl", store, segment_entries=EACH)
    try:
        await export.start()
        work = asyncio.create_task(export.run())
        try:
            yield export
        finally:
            while not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=0.1)
            assert work.cancelled()
    finally:
        export.close()


async def written(store: RedisStore, count: int) -> list[bytes]:
    """So many more entries in the store; returns all."""
    head = ledger.verify(await store.items("ledger"))
    for n in range(count):
        line, head = ledger.append(head, "result", {"text": "x" * (37 * n % 200)}, 1)
        assert await store.apply(Change((), (Append("ledger", line),))) is None
    return await store.items("ledger")


async def until(condition: "object") -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def read(export: LedgerExport, start: int = 0) -> list[bytes]:
    return [line async for line in export.lines(start)]


def unpacked(folder: Path) -> list[bytes]:
    """The ledger by its files alone, with nothing of ours."""
    packed = b"".join(gzip.decompress(path.read_bytes()) for path in sorted(folder.glob("autoresearch-*.jsonl.gz")))
    return (packed + (folder / "autoresearch.jsonl").read_bytes()).splitlines()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- closing ---


async def test_a_full_segment_is_closed_and_nothing_else_changes(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path, store) as export:
        lines = await written(store, 2 * EACH + 1)
        await export.durable(len(lines) - 1)
        await until(lambda: len(export.closed) == 2)
        assert (tmp_path / "autoresearch.jsonl").read_bytes() == lines[-1] + b"\n"
        assert unpacked(tmp_path) == lines == await read(export)
        for start in range(len(lines) + 2):
            assert await read(export, start) == lines[start:]
        assert export.tree.root == merkle.root_of([merkle.leaf_hash(line) for line in lines])
        more = await written(store, 1)
        await export.durable(len(more) - 1)
        assert await read(export) == more


async def test_the_manifest_names_what_it_says(store: RedisStore, tmp_path: Path) -> None:
    lines = await written(store, 3 * EACH)
    async with exporting(tmp_path, store):
        listed = json.loads((tmp_path / MANIFEST).read_bytes())["segments"]
    assert [entry["first"] for entry in listed] == [0, EACH, 2 * EACH]
    for entry in listed:
        path = tmp_path / f"autoresearch-{entry['number']:07}.jsonl.gz"
        content = gzip.decompress(path.read_bytes())
        own = lines[entry["first"] : entry["first"] + entry["entries"]]
        assert content.splitlines() == own
        assert entry["content_bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["root"] == merkle.root_of([merkle.leaf_hash(line) for line in own]).hex()
        assert entry["last_sha256"] == hashlib.sha256(own[-1]).hexdigest()


async def test_the_same_ledger_makes_the_same_files(store: RedisStore, tmp_path: Path) -> None:
    """So that two copies can be compared, whenever their coordinators closed the segments."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with exporting(one, store) as export:
        for count in (3, 2, 5):
            await export.durable(len(await written(store, count)) - 1)
        await until(lambda: len(export.closed) == 2)
    async with exporting(two, store):
        pass
    assert files(one) == files(two)


async def test_a_reader_sees_every_entry_once_while_segments_are_closed(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path, store) as export:
        await written(store, 3)
        await export.durable(2)

        async def follow() -> list[bytes]:
            found: list[bytes] = []
            while len(found) < 60:
                found += await read(export, len(found))
                await asyncio.sleep(0)
            return found

        readers = [asyncio.create_task(follow()) for _ in range(3)]
        for _ in range(19):
            await written(store, 3)
            export.wake()
        lines = await store.items("ledger")
        assert await asyncio.gather(*readers) == [lines] * 3
        await until(lambda: len(export.closed) == 60 // EACH)


# --- a death at any step ---


async def closed_folder(store: RedisStore, folder: Path) -> None:
    """A stopped coordinator's folder with one closed segment, and one entry of the next in the live file."""
    await written(store, EACH + 1)
    async with exporting(folder, store):
        pass


async def test_a_death_between_the_steps_of_closing_loses_and_doubles_nothing(
    store: RedisStore, tmp_path: Path
) -> None:
    await closed_folder(store, tmp_path)
    lines, after = await store.items("ledger"), files(tmp_path)
    whole = b"".join(line + b"\n" for line in lines)
    segment = segments.segment_name(0)
    deaths = {
        "while the segment was written": {"autoresearch.jsonl": whole, f".{segment}.1-1.part": after[segment][:30]},
        "before the manifest": {"autoresearch.jsonl": whole, segment: after[segment]},
        "with an older manifest's successor half written": {
            "autoresearch.jsonl": whole, segment: after[segment], f".{MANIFEST}.1-2.part": b'{"segm',
        },
        "before the live file was cut": {
            "autoresearch.jsonl": whole, segment: after[segment], MANIFEST: after[MANIFEST],
        },
        "while the live file was cut": {
            "autoresearch.jsonl": whole, segment: after[segment], MANIFEST: after[MANIFEST],
            ".autoresearch.jsonl.1-3.part": lines[-1][:9],
        },
        "while the next entry was written": {**after, "autoresearch.jsonl": lines[-1] + b"\n" + b'{"at_ms":1,"bo'},
        "and the live file is gone": {segment: after[segment], MANIFEST: after[MANIFEST]},
        "and an older live file came back": {**after, "autoresearch.jsonl": whole[: len(lines[0]) + 1]},
        "and everything is gone": {},
    }  # fmt: skip
    for death, state in deaths.items():
        folder = tmp_path / "again"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in state.items():
            (folder / name).write_bytes(content)
        async with exporting(folder, store) as export:
            assert await read(export) == lines, death
        assert files(folder) == after, death


async def refused(folder: Path, store: RedisStore) -> str:
    before = files(folder)
    with pytest.raises(OperatorError) as error:
        async with exporting(folder, store):
            pass
    assert files(folder) == before
    return str(error.value)


async def test_files_that_do_not_belong_together_are_refused(store: RedisStore, tmp_path: Path) -> None:
    await closed_folder(store, tmp_path)
    lines, live, manifest = await store.items("ledger"), tmp_path / "autoresearch.jsonl", tmp_path / MANIFEST
    good = files(tmp_path)
    other = ledger.append(ledger.EMPTY, "genesis", {"another": 1}, 1)[0]
    live.write_bytes(b"".join(line + b"\n" for line in [other, *lines[1:]]))
    assert "differ" in await refused(tmp_path, store)
    live.write_bytes(b"".join(line + b"\n" for line in [*lines[1:]]))
    assert "begins with entry 1, but 4 should follow" in await refused(tmp_path, store)
    live.write_bytes(b"garbage\n")
    assert "damaged" in await refused(tmp_path, store)
    live.write_bytes(good["autoresearch.jsonl"])
    for text in (b"", b"{}", b'{"segments":[{}]}', good[MANIFEST].replace(b'"first": 0', b'"first": 4')):
        manifest.write_bytes(text)
        assert "restore" in await refused(tmp_path, store)
    manifest.write_bytes(good[MANIFEST])
    (tmp_path / segments.segment_name(0)).unlink()
    assert "missing" in await refused(tmp_path, store)


async def test_a_damaged_segment_is_told_to_who_reads_it(store: RedisStore, tmp_path: Path) -> None:
    await closed_folder(store, tmp_path)
    path = tmp_path / segments.segment_name(0)
    good = path.read_bytes()
    short = gzip.compress(b"\n".join(gzip.decompress(good).split(b"\n")[1:]), mtime=0)
    for bad in (good[:-9], good[:40] + b"\x00" * 20 + good[60:], b"no gzip", short, gzip.compress(b"x" * 5_000_000)):
        path.write_bytes(bad)
        async with exporting(tmp_path, store) as export:
            with pytest.raises(OperatorError, match="restore it from a copy"):
                await read(export)
            with pytest.raises(OperatorError, match="was changed"):
                segments.check_file(tmp_path, export.closed[0])


async def test_a_disk_too_full_for_a_segment_stops_no_acknowledgement(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async with exporting(tmp_path, store) as export:
        monkeypatch.setattr(segments, "compress", full)
        await written(store, EACH + 1)
        await export.durable(EACH)
        await until(lambda: "cannot close a segment" in caplog.text)
        lines = await written(store, 3)
        await export.durable(len(lines) - 1)
        assert await read(export) == lines
        monkeypatch.undo()
        export._close_after = 0.0  # a minute later
        await until(lambda: len(export.closed) == 2)
        assert await read(export) == lines == unpacked(tmp_path)


@pytest.mark.parametrize(
    ("where", "name"),
    [(live_file.LiveFile, "write"), (segments, "compress"), (segments, "save")],
    ids=["write", "compress", "save"],
)
async def test_what_the_disk_is_doing_is_ended_before_the_files_are_closed(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    """A coordinator that ends lets go of its folder: no thread of it may write there, or hold a file, any more."""
    begun, go = threading.Event(), threading.Event()
    really: Callable[..., object] = getattr(where, name)

    def slow(*arguments: object) -> object:
        begun.set()
        assert go.wait(20)
        return really(*arguments)

    export = LedgerExport(tmp_path / "autoresearch.jsonl", store, segment_entries=EACH)
    await export.start()
    lines = await written(store, EACH)  # before anything is copied: else a part of them may be written alone
    monkeypatch.setattr(where, name, slow)
    work = asyncio.create_task(export.run())
    try:
        assert await asyncio.to_thread(begun.wait, 20)
        for _ in range(3):
            work.cancel()
            done, _ = await asyncio.wait({work}, timeout=0.05)
            assert not done
        go.set()
        await asyncio.wait({work}, timeout=20)
        assert work.cancelled()
        assert await read(export) == lines
    finally:
        go.set()
        work.cancel()
        export.close()
    monkeypatch.undo()
    async with exporting(tmp_path, store) as export:
        await until(lambda: len(export.closed) == 1)
        assert await read(export) == lines == unpacked(tmp_path)


# --- checkpoints ---


def stating(export: LedgerExport, store: RedisStore, now_ms: int = 1000) -> Checkpoints:
    return Checkpoints("swarm", export, Journal(store, export, lambda: now_ms), KEY, lambda: now_ms)


async def test_every_proof_holds_across_segments(store: RedisStore, tmp_path: Path) -> None:
    lines = await written(store, 21)
    leaves = [merkle.leaf_hash(line) for line in lines]
    async with exporting(tmp_path, store) as export:
        assert len(export.closed) == 5
        stated = stating(export, store)
        await stated.start()
        head = await stated.current()
        assert (head.size, head.root, head.signer_id) == (21, merkle.root_of(leaves), SIGNER)
        for size in range(1, 22):
            root = merkle.root_of(leaves[:size])
            for seq in range(size):
                proof = await stated.inclusion(seq, size)
                assert merkle.root_from_inclusion(leaves[seq], seq, size, proof) == root
            merkle.check_consistency(size, root, 21, head.root, await stated.consistency(size, 21))
        for seq, size in ((21, 21), (5, 22), (5, 5)):
            with pytest.raises(InvalidRequestError):
                await stated.inclusion(seq, size)
        for old, new in ((3, 22), (5, 4)):
            with pytest.raises(InvalidRequestError):
                await stated.consistency(old, new)


async def test_proofs_hold_while_the_live_file_is_longer_than_a_segment(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with exporting(tmp_path, store) as export:
        monkeypatch.setattr(export, "_close_after", float("inf"))
        lines = await written(store, 19)
        await export.durable(18)
        leaves, stated = [merkle.leaf_hash(line) for line in lines], stating(export, store)
        for seq in range(19):
            proof = await stated.inclusion(seq, 19)
            assert merkle.root_from_inclusion(leaves[seq], seq, 19, proof) == export.tree.root


async def test_a_checkpoint_is_of_everything_that_is_in_the_store(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path, store) as export:
        stated = stating(export, store)
        for count in range(1, 4):
            await written(store, 1)
            assert (await stated.current()).size == count


async def test_what_is_kept_is_signed_and_once_for_each_tree(store: RedisStore, tmp_path: Path) -> None:
    async with exporting(tmp_path, store) as export:
        for length in (2, 4):
            await written(store, 2)
            await export.durable(length - 1)
            stated = stating(export, store)
            await stated.start()
            await stated.stop()
        kept = list(checkpoints.read_kept(tmp_path / CHECKPOINTS, "swarm", SIGNER))
    assert [head.size for head in kept] == [2, 4]
    record = json.loads((tmp_path / CHECKPOINTS).read_bytes().splitlines()[-1])
    assert (record["tree_size"], record["root"]) == (4, kept[-1].root.hex())


async def test_the_ledgers_growth_is_kept_while_it_runs(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(checkpoints, "KEEP_EVERY_ENTRIES", 3)
    async with exporting(tmp_path, store) as export:
        stated = stating(export, store)
        await stated.start()
        work = asyncio.create_task(stated.run())
        await written(store, 7)
        await export.durable(6)
        await until(lambda: [*checkpoints.read_kept(stated.path, "swarm", SIGNER)][-1].size >= 5)
        work.cancel()


async def test_a_checkpoint_under_way_is_finished_before_another_is_begun(
    store: RedisStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, go, begun = checkpoints._append, threading.Event(), threading.Event()

    def slowly(path: Path, head: checkpoint.TreeHead) -> None:
        begun.set()
        go.wait()
        append(path, head)

    async with exporting(tmp_path, store) as export:
        await written(store, 2)
        await export.durable(1)
        stated = stating(export, store)
        monkeypatch.setattr(checkpoints, "_append", slowly)
        work = asyncio.create_task(stated.start())
        try:
            await asyncio.to_thread(begun.wait)
            work.cancel()
            asyncio.get_running_loop().call_later(0.1, go.set)
            await asyncio.wait({work})
            await stated.stop()
        finally:
            go.set()
    assert work.cancelled()
    assert [head.size for head in checkpoints.read_kept(stated.path, "swarm", SIGNER)] == [2]


async def test_a_ledger_that_was_set_back_is_not_signed_for_again(store: RedisStore, tmp_path: Path) -> None:
    """A coordinator that lost entries it had signed for must not go on as if they had never been."""
    await written(store, 9)
    async with exporting(tmp_path, store) as export:
        await stating(export, store).start()
    kept = (tmp_path / CHECKPOINTS).read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    (other / CHECKPOINTS).write_bytes(kept)
    shorter = RedisStore(connect(f"{store_url_of(store)}"), f"shorter-{tmp_path}")
    for line in (await store.items("ledger"))[:7]:
        await shorter.apply(Change((), (Append("ledger", line),)))
    async with exporting(other, shorter) as export:
        with pytest.raises(OperatorError, match="has 7 entries, but 9 were signed for"):
            await stating(export, shorter).start()
    line = ledger.append(ledger.verify(await shorter.items("ledger")), "result", {"another": 1}, 1)[0]
    for addition in (line, line, line):
        await shorter.apply(Change((), (Append("ledger", addition),)))
    async with exporting(other, shorter) as export:
        with pytest.raises(OperatorError, match="are not those that were signed for"):
            await stating(export, shorter).start()
    await shorter.close()


def store_url_of(store: RedisStore) -> str:
    return f"unix://{store._client.connection_pool.connection_kwargs['path']}"


async def test_a_half_written_checkpoint_is_cut_off_and_a_damaged_one_refused(
    store: RedisStore, tmp_path: Path
) -> None:
    await written(store, 2)
    async with exporting(tmp_path, store) as export:
        await stating(export, store).start()
        good = (tmp_path / CHECKPOINTS).read_bytes()
        (tmp_path / CHECKPOINTS).write_bytes(good + good[:50])
        await stating(export, store).start()
        assert (tmp_path / CHECKPOINTS).read_bytes() == good
        other = checkpoint.sign("swarm", 2, export.tree.root, 1, Ed25519PrivateKey.generate())
        for bad in (
            b"{}\n",
            b"x\n",
            b"[" * 5000,
            good.replace(b"=", b"!"),
            b'{"envelope":"%s"}\n' % other.signed.hex().encode(),
        ):
            (tmp_path / CHECKPOINTS).write_bytes(bad)
            with pytest.raises(OperatorError, match="damaged"):
                await stating(export, store).start()
