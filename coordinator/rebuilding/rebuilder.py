"""Takes a ledger's entries one after the other and writes what they make, in changes of bounded size.

Every commit must come out with the id that the ledger names, every candidate with its digest; anything else stops the
work. Undecided patches are looked at again at the coordinator's next start, as after any other.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoresearch.admission_errors import AdmissionError
from autoresearch.judging.ledger import Entry
from coordinator import upgrading
from coordinator.errors import OperatorError
from coordinator.lineage import LineageError
from coordinator.rebuilding import believing, bests, patches, people
from coordinator.rebuilding.made import Made
from coordinator.store import Append, Bump, Change, Drop, Erase, Guard, Operation, Put, Rank, Unrank

OPERATIONS_AT_ONCE = 5_000  # one change of the store: a few megabytes


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was made."""

    swarm_id: str
    entries: int
    generation: int
    commit: str
    patches: int
    results: int


class Filled(Protocol):
    """What is needed of a store, or of the filling of one."""

    async def apply(self, change: Change) -> Guard | None:
        """See `Store.apply`."""
        ...

    async def get(self, table: str, key: str) -> bytes | None:
        """See `Store.get`."""
        ...


class Rebuilder:
    """Takes the entries of a ledger in, from the first. `store` must be empty, and nothing lie at `lineage_path`."""

    def __init__(self, store: Filled, lineage_path: Path) -> None:
        self._store = store
        self._made = Made(lineage_path)
        self._operations: list[Operation] = []

    async def take(self, line: bytes, entry: Entry) -> None:
        """The next entry.

        Raises:
            OperatorError: what it says cannot be made again.
        """
        if entry.kind == "promotion":
            await self._recall(entry)
        try:
            self._note(Append("ledger", line), *_TAKE.get(entry.kind, _unknown)(self._made, entry))
        except (KeyError, TypeError, ValueError, AdmissionError, LineageError) as error:
            raise OperatorError(f"ledger entry {entry.seq} ({entry.kind}) cannot be made again: {error}") from error
        self._made.length += 1
        if len(self._operations) >= OPERATIONS_AT_ONCE:
            await self._flush()

    async def finish(self) -> Rebuilt:
        """Writes what is left; the swarm's own record last."""
        made = self._made
        if made.swarm is None:
            raise OperatorError("the ledger is empty: there is nothing to make a swarm from")
        counts = [Bump("orders_made", line, count) for line, count in sorted(made.orders.items())]
        self._note(*counts, Put("meta", "followed", str(made.followed()).encode()))
        await self._flush()
        await self._store.apply(Change((), (Put("meta", "swarm", made.swarm.to_bytes()), upgrading.numbered())))
        best = made.bests[-1]
        return Rebuilt(
            made.swarm.swarm_id, made.length, best.generation, best.commit, len(made.patches), made.results
        )  # fmt: skip

    def _note(self, *operations: Operation) -> None:
        """Remembers what is to be written, and the patches as they are after it."""
        self._operations += operations
        for operation in operations:
            if isinstance(operation, Put) and operation.table == "patches":
                self._made.patches[operation.key] = operation.value

    async def _recall(self, entry: Entry) -> None:
        """Fetches the text of a candidate that becomes the best: those of all others need not be kept in memory."""
        digest = str(entry.body.get("source_sha256"))
        if "source" not in entry.body and digest not in self._made.sources:
            await self._flush()
            text = await self._store.get("sources", digest)
            if text is not None:
                self._made.sources[digest] = text.decode()

    async def _flush(self) -> None:
        operations, self._operations = self._operations, []
        await self._store.apply(Change((), collapsed(operations)))


def collapsed(operations: Iterable[Operation]) -> list[Operation]:
    """Fewer operations with the same outcome: of those that set one thing the last, of counts their sum. What is about
    one table, list or ranking stands together, which a store takes in one step."""
    kept: dict[str, list[Operation]] = {}
    last: dict[tuple[str, str], dict[str, Operation]] = {}
    for operation in operations:
        match operation:
            case Put(table, key, _) | Drop(table, key):
                last.setdefault(("table", table), {})[key] = operation
            case Rank(ranking, member, _) | Unrank(ranking, member):
                last.setdefault(("rank", ranking), {})[member] = operation
            case Bump(ranking, member, by) if ranking != "gain":
                counts = last.setdefault(("bump", ranking), {})
                known = counts.get(member)
                counts[member] = Bump(ranking, member, by + (known.by if isinstance(known, Bump) else 0))
            case Append(name, _) | Bump(name, _, _) | Erase(_, name):  # in their order: sums of fractions round
                kept.setdefault(name, []).append(operation)
    together = itertools.chain(kept.values(), (own.values() for own in last.values()))
    return list(itertools.chain.from_iterable(together))


def _unknown(_made: Made, _entry: Entry) -> Sequence[Operation]:
    raise ValueError("this version does not know that kind: use the coordinator's own, or a newer one")


_TAKE: Mapping[str, Callable[[Made, Entry], Sequence[Operation]]] = {
    "genesis": bests.genesis,
    "identity": people.identity,
    "patch": patches.patch,
    "result": patches.result,
    "verdict": patches.verdict,
    "promotion": bests.promotion,
    "withdrawal": patches.withdrawal,
    "quarantine": believing.quarantine,
    "reinstatement": believing.reinstatement,
    "proposal": believing.proposal,
    "rollback": bests.rollback,
    "restoration": bests.restoration,
    "instruction": people.instruction,
    "rotation": people.rotation,
}
