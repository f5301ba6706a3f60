"""Packing: no token wasted or repeated, every row begins with BOS, the seed decides the order."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import DataDamagedError, DataMissingError
from trainer.packing import BUFFER_PIECES, Packer, cut_rows, pack_documents, seeded_order
from trainer.shard import MOST_OPEN, MemoryShard, OpenFiles, StoredShard

BOS = 60_000


def shard(lengths: list[int], first: int = 0) -> MemoryShard:
    """Documents of distinct tokens, so that each can be recognised wherever it lands."""
    offsets = np.cumsum([0, *lengths]).astype("<u8")
    return MemoryShard(np.arange(first, first + int(offsets[-1]), dtype="<u2"), offsets)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(3, 17), st.integers(0, 1000))
def test_every_token_is_served_soon(lengths: list[int], row_tokens: int, seed: int):
    packer = Packer([shard(lengths)], row_tokens=row_tokens, bos_id=BOS, seed=seed)
    soon = sum(lengths) + BUFFER_PIECES  # rows: an epoch's at most, and the turn of all that waited before
    served = packer.batch(soon)
    assert set(range(sum(lengths))) <= set(served.ravel().tolist())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(3, 17), st.integers(0, 1000))
def test_rows_are_full_and_begin_with_bos(lengths: list[int], row_tokens: int, seed: int):
    rows = Packer([shard(lengths)], row_tokens=row_tokens, bos_id=BOS, seed=seed).batch(20)
    assert rows.shape == (20, row_tokens)
    assert (rows[:, 0] == BOS).all()
    # Text is always consecutive: what follows a token is its successor in the document, or a new beginning.
    left, right = rows[:, :-1].astype(int), rows[:, 1:].astype(int)
    assert ((right == left + 1) | (right == BOS) | (left == BOS)).all()


def test_a_long_document_is_cut_into_whole_rows():
    packer = Packer([shard([1000])], row_tokens=11, bos_id=BOS, seed=1)
    rows = packer.batch(100)
    assert (rows != BOS).sum() == 1000
    assert len(np.unique(rows[rows != BOS])) == 1000


def test_the_seed_decides_the_order():
    def rows(seed: int) -> np.ndarray:
        return Packer([shard([50] * 40)], row_tokens=9, bos_id=BOS, seed=seed).batch(30)

    assert (rows(1) == rows(1)).all()
    assert (rows(1) != rows(2)).any()


def test_the_order_does_not_depend_on_how_rows_are_asked_for():
    packers = [Packer([shard([7, 30, 4, 12] * 20)], row_tokens=9, bos_id=BOS, seed=5) for _ in range(2)]
    together = packers[0].batch(12)
    apart = np.concatenate([packers[1].batch(rows) for rows in (1, 5, 2, 4)])
    assert (together == apart).all()


def test_all_shards_are_served():
    packer = Packer([shard([500]), shard([500], first=10_000)], row_tokens=11, bos_id=BOS, seed=3)
    served = packer.batch(100)
    assert {bool(token >= 10_000) for token in served[served != BOS]} == {True, False}


def test_a_seeded_order_is_the_same_on_every_machine_and_version():
    assert seeded_order(8, 1, "a").tolist() == [7, 0, 1, 6, 4, 3, 5, 2]
    assert sorted(seeded_order(1000, 7).tolist()) == list(range(1000))


def test_cut_rows_leaves_short_ends_out():
    documents = [np.arange(10, dtype="<u2"), np.arange(100, 103, dtype="<u2"), np.arange(200, 204, dtype="<u2")]
    rows = cut_rows(documents, 5, BOS)
    assert rows.tolist() == [[BOS, 0, 1, 2, 3], [BOS, 4, 5, 6, 7], [BOS, 200, 201, 202, 203]]


def stored(folder: Path, lengths: list[int], count: int) -> list[StoredShard]:
    files = OpenFiles()
    shards = []
    for number in range(count):
        made = shard(lengths, first=1000 * number)
        paths = folder / f"{number}.bin", folder / f"{number}.idx"
        for path, array in zip(paths, (made.tokens, made.offsets), strict=True):
            path.write_bytes(array.tobytes())
        shards.append(StoredShard(*paths, files))
    return shards


def test_stored_shards_are_served_like_those_in_memory(tmp_path: Path):
    lengths = [7, 30, 4, 12, 200]
    on_disk = Packer(stored(tmp_path, lengths, 12), row_tokens=17, bos_id=BOS, seed=5)
    in_memory = Packer([shard(lengths, 1000 * number) for number in range(12)], row_tokens=17, bos_id=BOS, seed=5)
    assert (on_disk.batch(500) == in_memory.batch(500)).all()


def test_few_files_are_open_however_many_shards_there_are(tmp_path: Path):
    shards = stored(tmp_path, [50], 40)
    Packer(shards, row_tokens=9, bos_id=BOS, seed=5).batch(1000)
    opened = [str(entry.resolve()) for entry in Path("/proc/self/fd").iterdir()]
    assert 1 <= sum(path.startswith(str(tmp_path)) for path in opened) <= MOST_OPEN


def test_a_shard_that_shrinks_or_goes_is_an_error(tmp_path: Path):
    made, gone = stored(tmp_path, [50], 2)
    os.truncate(made.tokens_path, 60)
    gone.tokens_path.unlink()
    with pytest.raises(DataDamagedError, match="shorter"):
        made.copy(20, np.empty(20, dtype="<u2"))
    with pytest.raises(DataMissingError, match="trainer prepare"):
        gone.copy(0, np.empty(20, dtype="<u2"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=400), st.integers(3, 17))
def test_documents_are_packed_from_their_beginnings_each_once(lengths: list[int], row_tokens: int):
    made = shard(lengths) if lengths else None
    bounds = made.offsets.tolist() if made else [0]
    documents = [made.tokens[first:end] for first, end in pairwise(bounds)] if made else []
    rows = list(pack_documents(documents, row_tokens, BOS))
    begun = []
    for row in rows:
        assert len(row) == row_tokens
        assert row[0] == BOS
        starts = np.flatnonzero(row[:-1] == BOS) + 1
        begun += row[starts[row[starts] != BOS]].tolist()
        text = row.astype(int)
        assert ((text[1:] == text[:-1] + 1) | (text[1:] == BOS) | (text[:-1] == BOS)).all()
    assert len(begun) == len(set(begun))
    assert set(begun) <= set(bounds)
    room = row_tokens - 1
    assert len(rows) >= sum(min(length, room) for length in lengths) // (2 * row_tokens) - 1  # little is left out


def test_no_document_waits_forever():
    """The longest, which best fit alone would leave for last, begins the row whose turn it is."""
    documents = [np.full(length, number, dtype="<u2") for number, length in enumerate([90] + [8] * 600)]
    first = next(pack_documents(documents, 50, BOS))
    assert (first[1:] == 0).all()
