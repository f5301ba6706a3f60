"""The ledger's chain: whatever is done to a line, the first entry that does not fit is named."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch import limits
from autoresearch.digest import sha256_hex
from autoresearch.judging import ledger
from autoresearch.judging.ledger import EMPTY, FIRST, KINDS, Head, LedgerError
from autoresearch.judging.model import encode
from coordinator import views

BODIES: list[dict[str, Any]] = [
    {"swarm_id": "s" * 32, "source": 'print("žluť 🦊")\n\x00\\'},
    {"identity_id": "a", "name": "Ada"},
    {"patch_id": "p", "candidate_sha256": "c" * 64},
    {"val_bpb": 0.9979, "disturbed": False, "reason": None, "noise_bpb": {"H100": 1e-05}},
    {"val_bpb": 1.0021, "votes": [1, 2.5, -3]},
]


def a_ledger(bodies: list[dict[str, Any]] = BODIES) -> tuple[list[bytes], Head]:
    lines, head = [], EMPTY
    for n, body in enumerate(bodies):
        line, head = ledger.append(head, KINDS[n % len(KINDS)], body, 1000 + n)
        lines.append(line)
    return lines, head


LINES, HEAD = a_ledger()


def wrong(lines: list[bytes], start: Head = EMPTY) -> LedgerError:
    with pytest.raises(LedgerError) as found:
        ledger.verify(lines, start)
    assert str(found.value.seq) in str(found.value)
    return found.value


def verified(lines: list[bytes]) -> Head | int:
    """The head, or the number of the first entry that is wrong."""
    try:
        return ledger.verify(lines)
    except LedgerError as error:
        return error.seq


def test_a_ledger_that_was_written_here_holds_together() -> None:
    assert ledger.verify(LINES) == HEAD == Head(5, sha256_hex(LINES[-1]))
    assert ledger.verify([]) == EMPTY == Head(0, "0" * 64)
    assert [ledger.parse(line).seq for line in LINES] == list(range(5))
    assert ledger.parse(LINES[0]).prev == FIRST
    assert ledger.parse(LINES[3]).body == BODIES[3]


def test_verifying_may_start_anywhere() -> None:
    middle = ledger.verify(LINES[:2])
    assert ledger.verify(LINES[2:], middle) == HEAD


def test_a_line_is_one_line_of_ascii() -> None:
    for line in LINES:
        assert line.isascii()
        assert b"\n" not in line
        assert line == encode(json.loads(line))


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.text(),
            st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=6,
    )
)
def test_whatever_is_recorded_reads_back(bodies: list[dict[str, Any]]) -> None:
    lines, head = a_ledger(bodies)
    assert ledger.verify(lines) == head
    assert [ledger.parse(line).body for line in lines] == bodies


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(LINES) - 1), st.data())
def test_one_byte_changed_anywhere_is_found_there_or_at_the_next_entry(number: int, data: st.DataObject) -> None:
    """An entry that still reads well is told by the link of the one after it; a changed last one by the head."""
    at = data.draw(st.integers(0, len(LINES[number]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != LINES[number][at]))
    changed = bytearray(LINES[number])
    changed[at] = byte
    lines = [*LINES[:number], bytes(changed), *LINES[number + 1 :]]
    if number == len(LINES) - 1:
        found = verified(lines)
        assert found == number if isinstance(found, int) else found != HEAD
    else:
        assert wrong(lines).seq in (number, number + 1)


@pytest.mark.parametrize("number", range(len(LINES) - 1))
def test_an_entry_removed_is_named(number: int) -> None:
    assert wrong([*LINES[:number], *LINES[number + 1 :]]).seq == number


def test_the_last_entry_removed_shows_in_the_head() -> None:
    assert ledger.verify(LINES[:-1]).length == HEAD.length - 1


@pytest.mark.parametrize("number", range(len(LINES)))
def test_an_entry_repeated_is_named(number: int) -> None:
    assert wrong([*LINES[: number + 1], *LINES[number:]]).seq == number + 1


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 3), (2, 4)])
def test_two_entries_exchanged_are_named_from_the_first(first: int, second: int) -> None:
    lines = list(LINES)
    lines[first], lines[second] = lines[second], lines[first]
    assert wrong(lines).seq == first


def test_a_forged_entry_with_the_right_link_breaks_the_next_one() -> None:
    forged, _ = ledger.append(ledger.verify(LINES[:2]), "result", {"val_bpb": 0.5}, 1002)
    error = wrong([*LINES[:2], forged, *LINES[3:]])
    assert error.seq == 3
    assert "entry 2" in str(error)  # one of the two was changed: both are named


def test_an_entry_put_in_is_named() -> None:
    put_in, _ = ledger.append(ledger.verify(LINES[:2]), "result", {"val_bpb": 0.5}, 1002)
    assert wrong([*LINES[:2], put_in, *LINES[2:]]).seq == 3


def test_a_rewritten_tail_holds_together_and_has_another_head() -> None:
    """What a chain cannot tell by itself: whoever holds the old head can."""
    rewritten, _ = ledger.append(ledger.verify(LINES[:4]), "result", {"val_bpb": 0.1}, 1004)
    assert ledger.verify([*LINES[:4], rewritten]) != HEAD


def entry(**fields: Any) -> bytes:
    return encode({"seq": 0, "prev": FIRST, "at_ms": 1, "kind": "genesis", "body": {}, **fields})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"not JSON",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        entry(more=1),
        entry(seq=True),
        entry(seq="0"),
        entry(seq=0.0),
        entry(prev=None),
        entry(at_ms="1"),
        entry(kind="coup"),
        entry(kind=1),
        entry(kind=["genesis"]),
        entry(body=[]),
        entry(body={"x": "y" * limits.LEDGER_LINE_BYTES}),
        entry() + b"\n",
        b" " + entry(),
        entry().replace(b'"body":{}', b'"body":{"x":NaN}'),
        entry().replace(b'"body":{}', b'"body":{"x":1,"x":2}'),
        entry().replace(b'"at_ms":1', b'"at_ms":1e0'),
        entry().replace(b'"at_ms":1', b'"at_ms":' + b"9" * 10_000),
    ],
    ids=lambda line: repr(line[:60]),
)
def test_what_is_no_entry_is_refused_by_its_place(line: bytes) -> None:
    with pytest.raises(ValueError):
        ledger.parse(line)
    start = Head(7, "x" * 64)
    assert wrong([line], start).seq == 7


@pytest.mark.parametrize("line", [entry(seq=-1), entry(seq=1), entry(prev="0" * 63), entry(prev="1" + FIRST[1:])])
def test_an_entry_that_does_not_begin_a_ledger_is_refused_as_its_first(line: bytes) -> None:
    assert wrong([line]).seq == 0


def test_what_cannot_be_recorded_is_refused_before_it_is_written() -> None:
    for body in ({"x": float("nan")}, {"x": float("inf")}, {"x": "y" * limits.LEDGER_LINE_BYTES}):
        with pytest.raises(ValueError):
            ledger.append(EMPTY, "result", body, 1)
    with pytest.raises(ValueError, match="unknown ledger kind"):
        ledger.append(EMPTY, "coup", {}, 1)


def test_people_can_read_every_kind_of_entry() -> None:
    assert set(views._TEXT) == set(KINDS)
