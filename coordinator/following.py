"""Follows the ledger: works out what follows from each entry, in their order, and writes it as further entries.

A result has the patches judged that it is evidence about, or promotions audited; a verdict, or a trial with a known
answer, has everybody's reporting reviewed; a change of the quarantine, or of which results count, has the verdicts that
it touched recomputed; an operator's order of a roll-back is carried out. How far it has come is kept in the store.
After a crash some entries are followed again, which is harmless: everything looked at is marked as such, and every move
is guarded. So what follows from a ledger depends on neither the coordinator's haste nor its deaths.

Decides nothing: `deciding`, `confirming` and `watching` do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from autoresearch.digest import is_key_id
from autoresearch.judging import ledger
from autoresearch.judging.ledger import Entry
from autoresearch.judging.verdict import UNDECIDED
from coordinator.confirming import Confirmer
from coordinator.deciding import Decider
from coordinator.errors import OperatorError
from coordinator.promoting import Promoter
from coordinator.records import Records
from coordinator.store import Change, Put, StoreError
from coordinator.watching import Watch

log = logging.getLogger(__name__)
PAGE = 200  # entries read at once
Heed = Callable[[Entry], Awaitable[None]]


class Follower:
    """Follows the ledger in one process."""

    def __init__(
        self,
        records: Records,
        decider: Decider,
        confirmer: Confirmer,
        watch: Watch,
        promoter: Promoter,
    ) -> None:
        self._records = records
        self._store = records.store
        self._decider = decider
        self._confirmer = confirmer
        self._watch = watch
        self._promoter = promoter
        self._next: int | None = None  # entry to follow next; None: as the store says
        self._unsure = True  # something failed half-way: branch `best` may be behind the store

    async def behind(self) -> bool:
        """Whether there are entries that were not followed yet."""
        return self._next is None or self._next < await self._store.length("ledger")

    async def begin(self) -> None:
        """After a start: everybody's reputation is worked out, which is kept nowhere else."""
        await self._watch.review(await self._store.length("ledger"))

    async def catch_up(self, heed: Heed) -> None:
        """Follows every entry that there is, those written meanwhile too; `heed` gets each one after what follows
        from it is written."""
        try:
            await self._catch_up(heed)
        except (StoreError, OperatorError, asyncio.CancelledError):
            self._unsure = True
            raise

    async def _catch_up(self, heed: Heed) -> None:
        if self._unsure:
            await self._promoter.reconcile()
            self._unsure = False
        at = self._next if self._next is not None else int(await self._store.get("meta", "followed") or 0)
        while lines := await self._store.items("ledger", at, at + PAGE - 1):
            for line in lines:
                await self._follow_safely(ledger.parse(line), heed)
                at = self._next = at + 1
            await self._store.apply(Change((), (Put("meta", "followed", str(at).encode()),)))
        self._next = at

    async def _follow_safely(self, entry: Entry, heed: Heed) -> None:
        try:
            await self._follow(entry)
            await heed(entry)
        except (StoreError, OperatorError):
            raise
        except Exception:  # a fault of ours over one entry must not keep all others from their verdicts
            self._unsure = True
            log.exception("what follows from ledger entry %d cannot be worked out: report this", entry.seq)

    async def _follow(self, entry: Entry) -> None:
        body = entry.body
        match entry.kind:
            case "result" if body["patch_id"]:
                await self._decider.judge(body["patch_id"], entry.seq)
            case "result" if body.get("known_answer"):
                await self._watch.review(entry.seq + 1)
            case "result":
                await self._judge_pairs(body, entry.seq)
                await self._confirmer.audit(entry.seq + 1, body["source_sha256"])
            case "verdict" if body["verdict"] in UNDECIDED:  # it goes on, perhaps with evidence that it has already
                afresh = "rollback" in body or "rollback_fell" in body
                await self._decider.judge(body["patch_id"], entry.seq, afresh=afresh)
            case "verdict":
                if await self._store.score("decided", body["patch_id"]) == entry.seq:
                    await self._watch.review(entry.seq + 1)
            case "quarantine" | "reinstatement":
                await self._recheck(body["identity_id"], entry.seq)
            case "instruction":
                await self._obey(entry)

    async def _obey(self, order: Entry) -> None:
        """What an operator's order means for verdicts and the best."""
        match order.body["action"]:
            case "invalidate" | "restore" if is_key_id(order.body["subject"]):
                await self._recheck(order.body["subject"], order.seq)
                await self._watch.review(order.seq + 1)
            case "restore":
                await self._confirmer.recheck()
            case "roll_back":
                await self._confirmer.roll_back_as_ordered(order)

    async def _judge_pairs(self, baseline: Mapping[str, Any], entry: int) -> None:
        """Patches that the machine of a baseline has run, the one submitted first, first: if one baseline makes several
        win, they are promoted in this order."""
        ranking = f"ran:{baseline['source_sha256']}:{baseline['machine_id']}"
        ran = await self._records.patches([patch_id for patch_id, _ in await self._store.ranked(ranking)])
        for patch in sorted(ran, key=lambda patch: patch.entry):
            if patch.verdict in UNDECIDED:
                await self._decider.judge(patch.patch_id, entry)

    async def _recheck(self, identity_id: str, entry: int) -> None:
        """Everything that the identity's results had a part in, in the order in which the ledger took the patches."""
        touched = await self._records.patches([one for one, _ in await self._store.ranked(f"jury:{identity_id}")])
        for patch in sorted(touched, key=lambda patch: patch.entry):
            await self._decider.recheck(patch.patch_id, entry)
        await self._confirmer.recheck()
        await self._confirmer.audit(entry + 1)
