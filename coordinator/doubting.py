"""What a change of whose results count writes: a quarantine, its end, an invalidation, its end. Pure.

The same functions serve when it happens (`watching`, `discounting`) and when a store is made again from the ledger
(`rebuilding`). Left out: why it happens, and what follows for the verdicts.
"""

from dataclasses import replace

from autoresearch.judging.model import Belief, Held, Void
from coordinator.store import Append, Drop, Operation, Put


def _mark(entry: int) -> Operation:
    """By which everybody notices the change."""
    return Put("meta", "trust", str(entry).encode())


def held(own: Held) -> list[Operation]:
    """An identity enters quarantine, or does so for another reason; nobody vouches for it any more."""
    return [
        Append("beliefs", Belief(own.identity_id, own.entry, counts=False).to_bytes()),
        Put("quarantine", own.identity_id, own.to_bytes()),
        Drop("vouched", own.identity_id),
        _mark(own.entry),
    ]


def believed_again(identity_id: str, entry: int, *, vouched: bool) -> list[Operation]:
    """It leaves quarantine. `vouched`: an operator says so, against the evidence."""
    word: list[Operation] = [Put("vouched", identity_id, b"%d" % entry)] if vouched else []
    return [
        Append("beliefs", Belief(identity_id, entry, counts=True).to_bytes()),
        Drop("quarantine", identity_id),
        *word,
        _mark(entry),
    ]


def voided(own: Void) -> list[Operation]:
    """Results do not count any more."""
    return [Put("voids", str(own.entry), own.to_bytes()), _mark(own.entry)]


def restored(own: Void, entry: int) -> list[Operation]:
    """They do again."""
    return [Put("voids", str(own.entry), replace(own, restored=entry).to_bytes()), _mark(entry)]
