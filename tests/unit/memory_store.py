"""The guarded changes of `coordinator.store` on plain dictionaries, for properties that need thousands of them.

What a real server does is `tests/contract/test_store_redis.py`'s to prove; this is the same few rules in memory.
"""

from collections import defaultdict

from coordinator.store import (
    Append,
    Bump,
    Change,
    Drop,
    Guard,
    Holds,
    LedgerIs,
    Operation,
    Put,
    Rank,
    RankedUpTo,
    Unrank,
)


class MemoryStore:
    """Tables, lists and rankings, open to look at."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.lists: dict[str, list[bytes]] = defaultdict(list)
        self.rankings: dict[str, dict[str, float]] = defaultdict(dict)

    def apply(self, change: Change) -> Guard | None:
        """As `Store.apply`."""
        for guard in change.guards:
            if not self._holds(guard):
                return guard
        for operation in change.operations:
            self._do(operation)
        return None

    def _holds(self, guard: Guard) -> bool:
        match guard:
            case Holds(table, key, value):
                return self.tables[table].get(key) == value
            case RankedUpTo(ranking, member, most):
                return self.rankings[ranking].get(member, float("inf")) <= most
            case LedgerIs(length):
                return len(self.lists["ledger"]) == length

    def _do(self, operation: Operation) -> None:
        match operation:
            case Put(table, key, value):
                self.tables[table][key] = value
            case Drop(table, key):
                self.tables[table].pop(key, None)
            case Append(name, value):
                self.lists[name].append(value)
            case Rank(ranking, member, score):
                self.rankings[ranking][member] = score
            case Unrank(ranking, member):
                self.rankings[ranking].pop(member, None)
            case Bump(ranking, member, by):
                self.rankings[ranking][member] = self.rankings[ranking].get(member, 0.0) + by
