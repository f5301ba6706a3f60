"""The port to what holds a swarm's state: tables, lists, rankings, and one atomic guarded change.

Everything that alters state is a `Change`: guards that must hold and operations that then happen together or not at
all, together with the ledger lines that record them. What to change is decided by the callers; a store only moves
values. `redis_store.py` is the adapter.

Tables (id -> JSON unless said otherwise)
    identities   identity id -> Identity            machines    machine id -> Machine
    patches      patch id -> Patch                  fingerprints  candidate's fingerprint -> patch id
    enrolments   sha256 of an enrolment's payload in the ledger -> identity id
    changes      digest of what a patch changes -> the last patch that did
    sources      sha256 -> text of a train.py       meta        "swarm" -> settings, "best" -> Best,
                                                                "followed" -> ledger entries that were followed up,
                                                                "trust" -> ledger entry that last changed what counts
                                                                "paused" -> why, "schema" -> number (see `upgrading`),
                                                                "filling" -> by which command (see `filling`)
    lead         "sign" -> Sign of life of the coordinator that leads, "epoch" -> its number
    diffs        patch id -> the author's diff
    logs         sha256 of a result that did not complete -> the end of the candidate's output
    orders       order id -> Order
    order_state  order id -> "ready" | "leased:<lease>" | "done" | "cancelled"
    leases       lease id -> Lease (live)           progress    lease id -> Progress (live)
    ended        lease id -> Lease (expired or given back; a late result may still fill its order)
    running      "<patch id>/<identity id>" -> lease id, so that one identity runs a patch once at a time
    roles        identity id -> Roles               bans        identity id -> why it was shut out
    instructions instruction id -> ledger entry     invitations sha256 of the code -> Invitation
    filled       lease id -> sha256 of its result   results     sha256 of an accepted result -> its patch or ""
    quarantine   identity id -> Held                proposals   generation -> Proposal to roll it back
    keys         key id -> identity id that it speaks for, not of its own name; empty: another key came after it
    vouched      identity id -> ledger entry; in quarantine by an operator's word alone
    voids        ledger entry of the instruction -> Void
    fallen       ledger entry of the order of a roll-back -> that of the instruction that took it back
Lists
    ledger       ledger lines                       lineage     Best, one per generation
    beliefs      Belief: every change of the quarantine
    trials:<patch id>       Trial of the candidate  baselines:<source sha256>  Trial of a best
    known                   Trial with a known answer
    tried:<source sha256>:<machine id>  Tried: its finished trials of candidates tested against that source
Rankings (member -> score)
    waiting      patch id -> submitted at, waits for an approver
    authored:<identity id>  patch id -> submitted at
    patches      patch id -> submitted at           open        patch id -> submitted at, still worth trials
    expiry       lease id -> expires at             seen        machine id -> last heard of
    ended        lease id -> ended at               parked      patch id -> log odds, undecided but resting
    bases        source sha256 -> generation
    leased:<machine id>     lease id -> granted at, live ones
    enrolled     machine id -> last enrolled at; failures before do not tell against the machine
    decided      patch id -> ledger entry of its verdict, not open; for those that say something about the identities
    improves:<hardware class>  patch id -> gain on that class, of those that harm another class
    jury:<identity id>      patch id -> ledger entry of the identity's last trial of it
    ran:<source sha256>:<machine id>  patch id tested against that source -> ledger entry of the machine's last trial
    underway:<line>         order id -> 0, ready or leased ones; a line is a patch id or "@" and a machine id
    orders_made  line -> orders ever made of it, so that every order has its own id
    trials, train_ms  identity id -> leaderboard    promotions, gain  identity id -> leaderboard
Counters (bucket -> when it is empty again; they vanish by themselves)
    <quota>:address:<address>  <quota>:identity:<id>  nonce:<digest>
Times are Unix milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class StoreError(Exception):
    """The store cannot be used: unreachable, full, or holding something of another version. The operator's to mend."""


class LostLeadError(StoreError):
    """Another coordinator leads the swarm now: nothing of this one is written any more."""


@dataclass(frozen=True, slots=True)
class Holds:
    """Guard: the table's entry equals `value`; None means that there is none."""

    table: str
    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class RankedUpTo:
    """Guard: the member is in the ranking with a score of at most `most`."""

    ranking: str
    member: str
    most: float


@dataclass(frozen=True, slots=True)
class LedgerIs:
    """Guard: the ledger has exactly this many lines."""

    length: int


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a table's entry."""

    table: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """Removes a table's entry; none there is fine."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Append:
    """Appends to a list."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Rank:
    """Sets a member's score."""

    ranking: str
    member: str
    score: float


@dataclass(frozen=True, slots=True)
class Unrank:
    """Removes a member; none there is fine."""

    ranking: str
    member: str


@dataclass(frozen=True, slots=True)
class Bump:
    """Adds to a member's score."""

    ranking: str
    member: str
    by: float


@dataclass(frozen=True, slots=True)
class Erase:
    """Removes a whole table, list, ranking or counter, as `Store.names` names it; none there is fine."""

    kind: str
    name: str


Guard = Holds | RankedUpTo | LedgerIs
Operation = Put | Drop | Append | Rank | Unrank | Bump | Erase


@dataclass(frozen=True, slots=True)
class Change:
    """Guards and, if all hold, operations: one atomic step."""

    guards: Sequence[Guard] = field(default=())
    operations: Sequence[Operation] = field(default=())


class Store(Protocol):
    """What the coordinator needs of a store. Every method raises StoreError when the store cannot be used."""

    async def apply(self, change: Change) -> Guard | None:
        """Applies the change, or returns the first guard that did not hold and changes nothing."""
        ...

    async def get(self, table: str, key: str) -> bytes | None:
        """One entry."""
        ...

    async def get_many(self, table: str, keys: Sequence[str]) -> list[bytes | None]:
        """Entries in the order of `keys`."""
        ...

    async def entries(self, table: str) -> Mapping[str, bytes]:
        """A whole table. Only for tables that stay small (live leases, machines)."""
        ...

    async def count(self, table: str) -> int:
        """Number of entries of a table."""
        ...

    async def items(self, name: str, start: int = 0, stop: int = -1) -> list[bytes]:
        """Items `start` to `stop` of a list, both included, negative from the end."""
        ...

    async def length(self, name: str) -> int:
        """Length of a list."""
        ...

    async def ranked(
        self, ranking: str, limit: int = -1, *, offset: int = 0, highest_first: bool = False
    ) -> list[tuple[str, float]]:
        """Members with scores in order; ties by member."""
        ...

    async def ranked_between(self, ranking: str, low: float, high: float, limit: int) -> list[tuple[str, float]]:
        """Members with low <= score <= high, lowest first."""
        ...

    async def score(self, ranking: str, member: str) -> float | None:
        """A member's score; None when it is not in the ranking."""
        ...

    async def scores(self, ranking: str, members: Sequence[str]) -> list[float | None]:
        """Scores in the order of `members`."""
        ...

    async def size(self, ranking: str) -> int:
        """Number of members of a ranking."""
        ...

    async def size_between(self, ranking: str, low: float, high: float) -> int:
        """Number of members with low <= score <= high."""
        ...

    async def names(self) -> list[tuple[str, str]]:
        """Kind and name of everything of this swarm: "table", "list", "rank" or "count", and what it is called."""
        ...

    async def throttle(self, bucket: str, *, every_ms: int, burst: int, now_ms: int) -> int:
        """Takes one from a bucket that holds `burst` and gets one back every `every_ms`.

        Returns 0, or the milliseconds until there is one again; nothing is taken then.
        """
        ...

    async def close(self) -> None:
        """Closes connections."""
        ...
