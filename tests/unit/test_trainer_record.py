"""The record of a trial: written whole, read back the same, and believed only when everything in it holds."""

import hashlib
import json
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batches import BYTES_PER_BATCH, BatchLog, from_bytes
from trainer.errors import MachineError
from trainer.record import Record, RecordError, decode, encode, read_record, write_record


def a_log(*batches: tuple[int, float]) -> BatchLog:
    log = BatchLog()
    for rows, share in batches:
        log.add(rows, share)
    return log


RECORD = Record(
    source=b"def main(session): ...\n",
    seed=2**63 - 1,
    budget_s=12.0,
    device="cpu",
    threads=1,
    dataset="tiny",
    manifest_sha256="a" * 64,
    trial_code_sha256="b" * 64,
    torch="2.13.0",
    val_bpb=2.25,
    weights_sha256="c" * 64,
    batches=a_log((16, 0.0), (16, 0.1 + 0.2), (8, 1.0)),
)


@given(st.lists(st.tuples(st.integers(1, 2**32 - 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_batches_come_back_to_the_last_bit(batches):
    rows = [count for count, _ in batches]
    shares = sorted(share for _, share in batches)
    log = a_log(*zip(rows, shares, strict=True))
    content = log.to_bytes()
    assert len(content) == BYTES_PER_BATCH * len(log)
    again = from_bytes(content)
    assert list(again) == list(log)
    assert again.sha256() == log.sha256()


@pytest.mark.parametrize(
    ("batches", "problem"),
    [
        ([(1, 0.5), (1, 0.4)], "do not rise"),
        ([(1, -0.1)], "do not rise"),
        ([(1, 1.5)], "do not rise"),
        ([(1, float("nan"))], "do not rise"),
        ([(0, 0.0)], "no rows"),
    ],
)
def test_batches_that_cannot_be_are_refused(batches, problem):
    with pytest.raises(ValueError, match=problem):
        from_bytes(a_log(*batches).to_bytes())


@pytest.mark.parametrize("content", [b"", b"1" * 11, b"1" * 13])
def test_a_length_that_is_no_number_of_batches_is_refused(content):
    with pytest.raises(ValueError, match="no list"):
        from_bytes(content)


def test_a_record_comes_back_the_same(tmp_path):
    path = tmp_path / "record"
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    assert list(tmp_path.iterdir()) == [path]


def test_no_byte_can_be_changed_or_lost():
    content = encode(RECORD)
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1
        with pytest.raises(ValueError):
            decode(bytes(damaged))
        with pytest.raises(ValueError):
            decode(content[:at])
    with pytest.raises(ValueError):
        decode(content + b"\0")


def forged(**changes: object) -> bytes:
    """A record with other header fields and a digest that fits."""
    content = encode(RECORD)
    begin = content.index(b"\n") + 1
    header_bytes, source_bytes, batches_bytes = struct.unpack(">III", content[begin : begin + 12])
    rest = content[begin + 12 + header_bytes : -32]
    fields = json.loads(content[begin + 12 : begin + 12 + header_bytes])
    header = json.dumps({name: value for name, value in {**fields, **changes}.items() if value != "gone"}).encode()
    body = content[:begin] + struct.pack(">III", len(header), source_bytes, batches_bytes) + header + rest
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": True},
        {"seed": "gone"},
        {"threads": 0},
        {"budget_s": 1e9},
        {"budget_s": float("nan")},
        {"val_bpb": float("inf")},
        {"device": "cpu\x1b[2J"},
        {"device": "cuda:x"},
        {"dataset": "x" * 1000},
        {"more": 1},
    ],
)
def test_a_header_that_cannot_be_is_refused_whatever_its_digest(changes):
    assert decode(forged()) == RECORD
    with pytest.raises(ValueError):
        decode(forged(**changes))


def test_what_is_no_record_is_named_in_one_line(tmp_path):
    for path, content in ((tmp_path / "weights", b"PK\x03\x04" * 100), (tmp_path / "empty", b"")):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=rf"^{path} is not the record of a trial .*run train.py --record"):
            read_record(path)
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(tmp_path / "missing")


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "record").mkdir()
    with pytest.raises(MachineError, match="choose another file"):
        write_record(tmp_path / "record", replace(RECORD, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["record"]
