"""Makes a lineage what the store says it is: every generation that is missing, with the commit id that the store names.

A coordinator may have died between ledger and branch, a disk may have lost the last commits, or this is the folder of
another coordinator than the one that promoted. Commits are a function of the ledger, so each can make its own.

Leaves out: what becomes the best (`promoting.py`), and a ledger without a store (`rebuilding.py`).
"""

import asyncio
from itertools import pairwise
from pathlib import Path

from autoresearch.judging import ledger
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Best
from autoresearch.unified_diff import PATCHED_FILE
from coordinator import commits
from coordinator.errors import OperatorError
from coordinator.lineage import Lineage, UnknownCommitError
from coordinator.records import Records, Swarm
from coordinator.store import StoreError


async def found(records: Records, swarm: Swarm, path: Path) -> Lineage:
    """The swarm's lineage at the path, begun there if nothing is.

    Raises:
        LineageError: it cannot be used or made, or is another swarm's.
    """
    if not await asyncio.to_thread(path.exists):
        await _begin(records, swarm, path)
    lineage = await asyncio.to_thread(Lineage.open, path)
    await follow(records, lineage)
    return lineage


async def follow(records: Records, lineage: Lineage) -> None:
    """Moves branch `best` to where the store says it is.

    Raises:
        OperatorError: it cannot be moved, or stands where it never should have.
    """
    tip = await asyncio.to_thread(lineage.tip)
    if (await records.best()).commit == tip:
        return
    bests = await records.lineage()
    reached = max((at for at, best in enumerate(bests) if best.commit == tip), default=None)
    if reached is None:
        raise OperatorError(
            f"branch `best` of {lineage.path} stands at {tip[:12]}, which is no generation of this swarm: move the "
            "folder away, and it is made again"
        )
    for before, best in pairwise(bests[reached:]):
        await _make(records, lineage, before, best)
        await asyncio.to_thread(lineage.advance, best.commit, before.commit)


class Mirror:
    """The lineage of a coordinator that stands by."""

    def __init__(self, records: Records, path: Path) -> None:
        self._records = records
        self._path = path
        self._tip = ""  # where the branch was moved to last

    async def follow(self, swarm: Swarm) -> None:
        """Makes it what the store says. Raises as `found`."""
        best = await self._records.best()
        if best.commit != self._tip:
            await found(self._records, swarm, self._path)
            self._tip = best.commit


async def _begin(records: Records, swarm: Swarm, path: Path) -> None:
    """The first commit, from the ledger's first entry."""
    entry = await _entry(records, 0)
    files = {**entry.body["files"], PATCHED_FILE: entry.body["source"]}
    message = commits.first_message(swarm.parsed_challenge().name)
    content = {name: text.encode() for name, text in files.items()}
    at = commits.committed_at(entry.at_ms)
    await asyncio.to_thread(lambda: Lineage.create(path, content, message=message, at=at))


async def _make(records: Records, lineage: Lineage, before: Best, best: Best) -> None:
    """The commit of a generation, unless it is there."""
    try:
        await asyncio.to_thread(lineage.source_at, best.commit)
    except UnknownCommitError:
        source = await records.source(best.source_sha256)
        if source is None:
            raise StoreError(f"the source of generation {best.generation} is gone from the store") from None
        made = await asyncio.to_thread(
            lineage.build_promotion,
            before.commit,
            source.decode(),
            title=best.title,
            trailers=await _trailers(records, best),
            author_name=best.author_name,
            at=commits.committed_at(best.promoted_at_ms),
        )
        if made != best.commit:
            raise OperatorError(
                f"generation {best.generation} comes out as commit {made[:12]} and not as {best.commit[:12]}: run the "
                "version of the coordinator that promoted it"
            ) from None


async def _trailers(records: Records, best: Best) -> commits.Trailers:
    if not best.patch_id:
        reason = (await _entry(records, best.entry)).body["reason"]
        return commits.rollback_trailers(best.undone, reason, generation=best.generation, entry=best.entry)
    patch = await records.patch(best.patch_id)
    verdict = await _entry(records, best.entry - 1)  # written with the promotion
    if patch is None:
        raise StoreError(f"patch {best.patch_id} is gone from the store")
    return commits.promotion_trailers(patch, verdict.body["decision"], generation=best.generation, entry=best.entry)


async def _entry(records: Records, seq: int) -> Entry:
    lines = await records.store.items("ledger", seq, seq)
    if not lines:
        raise StoreError(f"ledger entry {seq} is gone from the store")
    return ledger.parse(lines[0])
