"""Packing: no token wasted or repeated, every row begins with BOS, the seed decides the order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.manifest import Shard
from trainer.packing import BUFFER_PIECES, Packer, cut_rows, seeded_order

BOS = 60_000


def shard(lengths: list[int], first: int = 0) -> Shard:
    """Documents of distinct tokens, so that each can be recognised wherever it lands."""
    offsets = np.cumsum([0, *lengths]).astype("<u8")
    return Shard(np.arange(first, first + int(offsets[-1]), dtype="<u2"), offsets)


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
