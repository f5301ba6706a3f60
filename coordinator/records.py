"""Typed reading of the store: records by their ids. Changes nothing and decides nothing.

Every read raises StoreError when the store cannot be used or holds records of another version of this program.
"""

import base64
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from autoresearch.digest import sha256_hex
from autoresearch.judging.model import (
    Belief,
    Best,
    Held,
    Identity,
    Invitation,
    Lease,
    Machine,
    Order,
    Patch,
    Progress,
    Proposal,
    Record,
    Roles,
    Trial,
    Tried,
    Void,
)
from autoresearch.judging.rule import Rule
from autoresearch.judging.voids import Voids
from autoresearch.v1.challenge_pb2 import Challenge
from coordinator.store import Holds, Store, StoreError

R = TypeVar("R", bound=Record)
LISTS_KEPT = 5_000  # lists of records kept in memory, most of a few hundred bytes: the open patches of a large swarm
SCHEMA = 1  # of the ledger, named by its first entry; a newer one is refused


@dataclass(frozen=True, slots=True)
class Swarm(Record):
    """What was fixed when the swarm was made. Recorded in the ledger's first entry."""

    swarm_id: str
    schema: int
    challenge: str  # the serialised Challenge in base64
    rule: Mapping[str, Any]
    noise_prior_bpb: float  # standard deviation of one trial on a hardware class that nothing is known of
    first_baselines: int  # measured by a machine before its first candidate on a base
    coordinator_key: str  # hex of the raw public key that signs orders
    created_at_ms: int

    @property
    def challenge_bytes(self) -> bytes:
        """The challenge as it is hashed."""
        return base64.b64decode(self.challenge)

    @property
    def challenge_sha256(self) -> str:
        """The challenge's name."""
        return sha256_hex(self.challenge_bytes)

    def parsed_challenge(self) -> Challenge:
        """The challenge."""
        return Challenge.FromString(self.challenge_bytes)

    def parsed_rule(self) -> Rule:
        """The rule."""
        return Rule.from_json(self.rule)


@dataclass(frozen=True, slots=True)
class Jury:
    """Whose results count: the identities in quarantine, those that an operator vouches for, the results that one
    invalidated; and the mark that changes whenever any of it does."""

    mark: bytes | None
    held: Mapping[str, Held]
    vouched: frozenset[str]
    voids: Voids

    @property
    def unchanged(self) -> Holds:
        """Guard: it is as it was."""
        return Holds("meta", "trust", self.mark)


class Records:
    """Reads records. `None` or an empty sequence where there is nothing."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._jury: Jury | None = None
        self._lists: dict[str, list[Any]] = {}  # records of lists, the last used ones last
        self._patch_ids: list[str] = []  # sorted; some may be missing

    async def swarm(self) -> Swarm | None:
        """The swarm's fixed terms."""
        return await self._one(Swarm, "meta", "swarm")

    async def best(self) -> Best:
        """The current best. Only after genesis."""
        best = await self._one(Best, "meta", "best")
        assert best is not None
        return best

    async def identity(self, identity_id: str) -> Identity | None:
        """By id."""
        return await self._one(Identity, "identities", identity_id)

    async def roles(self, identity_id: str) -> Roles | None:
        """What was ordered of an identity's roles."""
        return await self._one(Roles, "roles", identity_id)

    async def every_roles(self) -> dict[str, Roles]:
        """By identity."""
        return {key: _read(Roles, item) for key, item in (await self.store.entries("roles")).items()}

    async def invitation(self, code_sha256: str) -> Invitation | None:
        """By the digest of its code."""
        return await self._one(Invitation, "invitations", code_sha256)

    async def names(self, identity_ids: Iterable[str]) -> dict[str, str]:
        """Names of identities, by id; unknown ones are missing."""
        wanted = sorted(set(identity_ids))
        found = await self._many(Identity, "identities", wanted)
        return {identity.identity_id: identity.name for identity in found}

    async def machine(self, machine_id: str) -> Machine | None:
        """By id."""
        return await self._one(Machine, "machines", machine_id)

    async def machines(self, machine_ids: Sequence[str]) -> list[Machine]:
        """By ids; unknown ones are left out."""
        return await self._many(Machine, "machines", machine_ids)

    async def patch(self, patch_id: str) -> Patch | None:
        """By id."""
        return await self._one(Patch, "patches", patch_id)

    async def patches(self, patch_ids: Sequence[str]) -> list[Patch]:
        """By ids, in their order."""
        return await self._many(Patch, "patches", patch_ids)

    async def source(self, sha256: str) -> bytes | None:
        """Text of a source."""
        return await self.store.get("sources", sha256)

    async def candidate_trials(self, patch_id: str) -> list[Trial]:
        """Accepted results of a patch, in order of acceptance."""
        return await self._list(Trial, f"trials:{patch_id}")

    async def baseline_trials(self, source_sha256: str) -> list[Trial]:
        """Accepted baseline results of a best, in order of acceptance."""
        return await self._list(Trial, f"baselines:{source_sha256}")

    async def tried(self, base_sha256: str, machine_id: str) -> list[Tried]:
        """A machine's finished trials of candidates on a base, in order of acceptance."""
        return await self._list(Tried, f"tried:{base_sha256}:{machine_id}")

    async def known_answers(self) -> list[Trial]:
        """Accepted results of trials with a known answer, in order of acceptance."""
        return await self._list(Trial, "known")

    async def orders(self, line: str) -> list[tuple[Order, str]]:
        """Orders under way of a line (see `Order.line`) with their states."""
        ids = [order_id for order_id, _ in await self.store.ranked(f"underway:{line}")]
        states = [(state or b"").decode() for state in await self.store.get_many("order_state", ids)]
        orders = await self._many(Order, "orders", ids)
        return list(zip(orders, states, strict=True))

    async def orders_made(self, line: str) -> int:
        """How many orders were ever made of a line."""
        return int(await self.store.score("orders_made", line) or 0)

    async def order(self, order_id: str) -> Order | None:
        """By id."""
        return await self._one(Order, "orders", order_id)

    async def lease(self, lease_id: str) -> Lease | None:
        """A live lease."""
        return await self._one(Lease, "leases", lease_id)

    async def ended_lease(self, lease_id: str) -> Lease | None:
        """A lease that expired or was given back."""
        return await self._one(Lease, "ended", lease_id)

    async def live_leases(self, lease_ids: Sequence[str]) -> list[Lease]:
        """Those of the leases that live."""
        return await self._many(Lease, "leases", lease_ids)

    async def leases_on(self, machine_id: str) -> list[Lease]:
        """The live leases of a machine."""
        return await self.live_leases([lease_id for lease_id, _ in await self.store.ranked(f"leased:{machine_id}")])

    async def leases_of(self, patch_id: str) -> list[Lease]:
        """The live leases of a patch."""
        states = [state for _, state in await self.orders(patch_id)]
        return await self.live_leases([state.removeprefix("leased:") for state in states if ":" in state])

    async def leases(self) -> list[Lease]:
        """Every live lease: as many as there are machines at work."""
        return [_read(Lease, item) for item in (await self.store.entries("leases")).values()]

    async def progress(self, lease_ids: Sequence[str]) -> dict[str, Progress]:
        """What leases' trials were doing at their last heartbeat."""
        found = await self.store.get_many("progress", lease_ids)
        return {key: _read(Progress, item) for key, item in zip(lease_ids, found, strict=True) if item is not None}

    async def lineage(self) -> list[Best]:
        """Every best, oldest first."""
        return await self._list(Best, "lineage")

    async def jury(self) -> Jury:
        """Whose results do not count now."""
        mark = await self.store.get("meta", "trust")  # first: what is read after it may only be newer
        if self._jury is None or self._jury.mark != mark:
            held = await self.store.entries("quarantine")
            vouched = await self.store.entries("vouched")
            self._jury = Jury(
                mark,
                {identity_id: _read(Held, item) for identity_id, item in sorted(held.items())},
                frozenset(vouched),
                Voids(await self.every_void()),
            )
        return self._jury

    async def void(self, entry: int) -> Void | None:
        """The invalidation that a ledger entry ordered."""
        return await self._one(Void, "voids", str(entry))

    async def every_void(self) -> list[Void]:
        """Every invalidation, those taken back too, oldest first."""
        found = [_read(Void, item) for item in (await self.store.entries("voids")).values()]
        return sorted(found, key=lambda void: void.entry)

    async def quarantined(self) -> frozenset[str]:
        """Ids of the identities whose results do not count now."""
        return frozenset((await self.jury()).held)

    async def beliefs(self) -> list[Belief]:
        """Every change of the quarantine, oldest first."""
        return await self._list(Belief, "beliefs")

    async def proposals(self) -> list[Proposal]:
        """Promotions that no longer stand, the oldest generation first."""
        found = [_read(Proposal, item) for item in (await self.store.entries("proposals")).values()]
        return sorted(found, key=lambda proposal: proposal.generation)

    async def match_patch(self, beginning: str) -> list[str]:
        """Ids of the patches whose id starts so, at most two."""
        if await self.store.get("patches", beginning) is not None:
            return [beginning]
        known = await self._every_patch_id()
        at = bisect_left(known, beginning)
        return [patch_id for patch_id in known[at : at + 2] if patch_id.startswith(beginning)]

    async def _every_patch_id(self) -> list[str]:
        """In their order. Patches are only ever added: those known before are kept, and only the newest are read."""
        more = await self.store.size("patches") - len(self._patch_ids)
        newest = await self.store.ranked("patches", more, highest_first=True) if more > 0 else []
        fresh = {patch_id for patch_id, _ in newest}.difference(self._patch_ids)
        if len(fresh) < more:  # some were submitted by a clock that was set back
            fresh = {patch_id for patch_id, _ in await self.store.ranked("patches")}.difference(self._patch_ids)
        if fresh:
            self._patch_ids = sorted([*self._patch_ids, *fresh])
        return self._patch_ids

    async def _list(self, kind: type[R], name: str) -> list[R]:
        """A whole list. Lists only grow: what was read before is kept, and only their new items are read."""
        known: list[Any] = self._lists.pop(name, [])
        self._lists[name] = known  # the last used ones are kept
        start = len(known)
        items = await self.store.items(name, start)
        known += [_read(kind, item) for item in items[len(known) - start :]]  # somebody else may have read meanwhile
        while len(self._lists) > LISTS_KEPT:
            self._lists.pop(next(iter(self._lists)))
        return list(known)

    async def _one(self, kind: type[R], table: str, key: str) -> R | None:
        data = await self.store.get(table, key)
        return None if data is None else _read(kind, data)

    async def _many(self, kind: type[R], table: str, keys: Sequence[str]) -> list[R]:
        found = await self.store.get_many(table, keys)
        return [_read(kind, item) for item in found if item is not None]


def _read(kind: type[R], data: bytes) -> R:
    try:
        return kind.from_bytes(data)
    except ValueError as error:
        raise StoreError(f"{error}; run the version of the coordinator that wrote it, or a newer one") from error
