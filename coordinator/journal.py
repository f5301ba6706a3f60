"""Writes what matters: ledger entries together with the change they record, then makes them durable.

One `commit` is one atomic change of the store, guarded by the ledger's length: whoever else wrote in between makes it
start over with the new head. A ledger that became shorter is not written to: the store lost entries that somebody may
have been told of. `durable` returns when the export has fsynced the entry. Nothing is decided here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch.digest import sha256_hex
from autoresearch.judging import ledger
from coordinator.export import LedgerExport
from coordinator.store import Append, Change, Guard, LedgerIs, Operation, Store


@dataclass(frozen=True, slots=True)
class Note:
    """A ledger entry to be written."""

    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Draft:
    """Entries with the change that they record."""

    notes: Sequence[Note]
    guards: Sequence[Guard]
    operations: Sequence[Operation]
    at_ms: int | None = None  # when it happened, where the records name it too; None: now


class Journal:
    """The only writer of ledger entries in this process."""

    def __init__(self, store: Store, export: LedgerExport, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._export = export
        self._now_ms = now_ms
        self._head: ledger.Head | None = None
        self._longest = 0  # the ledger as it was seen here
        self._lock = asyncio.Lock()

    async def commit(
        self,
        notes: Sequence[Note],
        guards: Sequence[Guard],
        operations: Sequence[Operation],
        at_ms: int | None = None,
    ) -> Guard | int:
        """Writes the entries and applies the change in one step; `at_ms` as in `Draft`.

        Returns the sequence number of the last entry, or the first of `guards` that did not hold (nothing changed).

        Raises:
            LostEntriesError: the store has fewer entries than it had.
        """

        async def same(_: int) -> Draft:
            return Draft(notes, guards, operations, at_ms)

        return await self.commit_at(same)

    async def commit_at(self, draft: Callable[[int], Awaitable[Draft]]) -> Guard | int:
        """As `commit`, for a change that names its own ledger entry: `draft` is given the first entry's number."""
        async with self._lock:
            while True:
                head = self._head or await self._read_head()
                change = await draft(head.length)
                lines, after = _lines(head, change.notes, self._now_ms() if change.at_ms is None else change.at_ms)
                appends = [Append("ledger", line) for line in lines]
                guards = (*change.guards, LedgerIs(head.length))
                failed = await self._store.apply(Change(guards, (*change.operations, *appends)))
                self._head = after if failed is None else None
                if failed is None:
                    self._longest = after.length
                    self._export.wake()
                    return after.length - 1
                if not isinstance(failed, LedgerIs):
                    return failed

    async def settle(self, draft: Callable[[int], Awaitable[Draft]]) -> bool:
        """As `commit_at`, and waits until it is durable; False when a guard did not hold and nothing changed."""
        outcome = await self.commit_at(draft)
        if not isinstance(outcome, int):
            return False
        await self.durable(outcome)
        return True

    async def durable(self, seq: int) -> None:
        """Returns when entry `seq` is on disk in the export."""
        await self._export.durable(seq)

    async def all_durable(self) -> None:
        """Returns when every entry that is in the store now is on disk in the export."""
        self._export.wake()
        await self._export.durable(await self._store.length("ledger") - 1)

    async def _read_head(self) -> ledger.Head:
        known = max(self._longest, self._export.length)
        length = await self._store.length("ledger")
        if length < known:
            raise self._export.lose(known - 1)
        self._longest = length
        if length == 0:
            return ledger.EMPTY
        last = await self._store.items("ledger", length - 1, length - 1)
        return ledger.Head(length, sha256_hex(last[0]))


def _lines(head: ledger.Head, notes: Sequence[Note], at_ms: int) -> tuple[list[bytes], ledger.Head]:
    lines = []
    for note in notes:
        line, head = ledger.append(head, note.kind, note.body, at_ms)
        lines.append(line)
    return lines, head
