"""The ledger's form: one JSON object a line, each naming the sha256 of the line before it. Pure.

What is decided elsewhere is only recorded here. Writing, exporting and reading it back are the store's and
`export.py`'s work. An entry: {"seq", "prev", "at_ms", "kind", "body"}; seq counts from 0; the first entry's prev is
64 zeros. Lines are hashed as stored, without the newline.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch import limits
from autoresearch.digest import sha256_hex
from autoresearch.judging.model import encode

FIRST = "0" * 64
KINDS = (
    "genesis", "identity", "patch", "result", "verdict", "promotion", "withdrawal", "quarantine", "reinstatement",
    "proposal", "rollback", "instruction", "rotation", "restoration",
)  # fmt: skip

_TYPES = {"seq": int, "prev": str, "at_ms": int, "kind": str, "body": dict}


class LedgerError(Exception):
    """A ledger that does not hold together. `seq` is the first entry that is wrong."""

    def __init__(self, seq: int, text: str) -> None:
        super().__init__(f"ledger entry {seq}: {text}")
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Head:
    """Where the next entry goes."""

    length: int
    last_sha256: str


EMPTY = Head(0, FIRST)


@dataclass(frozen=True, slots=True)
class Entry:
    """One parsed entry."""

    seq: int
    prev: str
    at_ms: int
    kind: str
    body: Mapping[str, Any]


def append(head: Head, kind: str, body: Mapping[str, Any], at_ms: int) -> tuple[bytes, Head]:
    """The next line and the head after it.

    Raises:
        ValueError: unknown kind, or the line would be over its limit.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown ledger kind {kind!r}")
    line = encode({"seq": head.length, "prev": head.last_sha256, "at_ms": at_ms, "kind": kind, "body": body})
    if len(line) > limits.LEDGER_LINE_BYTES:
        raise ValueError(f"ledger line of {len(line)} bytes; at most {limits.LEDGER_LINE_BYTES} allowed")
    return line, Head(head.length + 1, sha256_hex(line))


def parse(line: bytes) -> Entry:
    """An entry from its line, which must be written exactly as `append` writes it: no two readings of one hash.

    Raises:
        ValueError: too large, not JSON, not an entry, or written otherwise.
    """
    if len(line) > limits.LEDGER_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes; at most {limits.LEDGER_LINE_BYTES} allowed")
    try:
        value = json.loads(line)
        if not _is_entry(value):
            raise ValueError("not a ledger entry")
        if encode(value) != line:
            raise ValueError("not written as ledger entries are: compact, ASCII, keys sorted and each once")
    except RecursionError as error:
        raise ValueError("not a ledger entry: nested too deeply") from error
    if value["kind"] not in KINDS:
        raise ValueError(f"unknown ledger kind {value['kind']!r}")
    return Entry(**value)


def _is_entry(value: object) -> bool:
    """Whether names and types are those of an entry; bool is no number here."""
    return isinstance(value, dict) and {name: type(item) for name, item in value.items()} == _TYPES


def read(line: bytes, head: Head) -> tuple[Entry, Head]:
    """The entry that comes after `head`, and the head after it.

    Raises:
        LedgerError: it does not parse, is out of order or breaks the chain.
    """
    try:
        entry = parse(line)
    except ValueError as error:
        raise LedgerError(head.length, str(error)) from error
    if entry.seq != head.length:
        raise LedgerError(head.length, f"carries the sequence number {entry.seq}")
    if entry.prev != head.last_sha256:
        before = f"entry {head.length - 1}: one of the two was changed" if head.length else "64 zeros as the first does"
        raise LedgerError(head.length, f"does not continue {before}")
    return entry, Head(head.length + 1, sha256_hex(line))


def verify(lines: Iterable[bytes], head: Head = EMPTY) -> Head:
    """Checks the chain from `head` on and returns the head after the last line.

    Raises:
        LedgerError: names the first entry that does not parse, is out of order or breaks the chain.
    """
    for line in lines:
        _, head = read(line, head)
    return head
