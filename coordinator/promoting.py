"""Moves the best: a winner is merged onto it, a promotion that does not stand is taken back out of it.

Each move is one atomic change of the store with its ledger entries, guarded by the best that it was made for; the
commit is built before it and branch `best` moved after it, by `reconcile` if a crash came in between. So there is one
move at a time however many ask, and repeating one does nothing. What deserves a move is decided elsewhere (`deciding`,
`confirming`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autoresearch.digest import sha256_hex
from autoresearch.judging import spans
from autoresearch.judging.model import Best, Patch, Proposal
from autoresearch.judging.trust import Recheck
from autoresearch.judging.verdict import Verdict
from coordinator import admission, branch, commits, merging, settling
from coordinator.journal import Draft, Journal, Note
from coordinator.lineage import Lineage
from coordinator.records import Jury, Records, Swarm
from coordinator.settling import Finding
from coordinator.store import Drop, Holds, Operation, Put, Rank, Unrank


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A best without some promotions. `undone`: generations taken back, those that go on being tested among them."""

    source: str
    faulty: tuple[int, ...]  # the promotions that do not stand
    undone: tuple[int, ...]


class Promoter:
    """The only one who moves the best."""

    def __init__(
        self, swarm: Swarm, records: Records, journal: Journal, lineage: Lineage, now_ms: Callable[[], int]
    ) -> None:
        self._source_bytes = swarm.parsed_challenge().source_bytes
        self._records = records
        self._store = records.store
        self._journal = journal
        self._lineage = lineage
        self._now_ms = now_ms

    # --- promotion ---

    async def promote(self, patch: Patch, finding: Finding, jury: Jury) -> bool | merging.Conflict:
        """Merges a winner onto the best; False when the patch, the best or the jury changed meanwhile."""
        best = await self._records.best()
        merged = await self._merge(patch, best)
        if isinstance(merged, merging.Conflict):
            return replace(merged, reason=f"won, but does not merge onto generation {best.generation}: {merged.reason}")
        fingerprint = await asyncio.to_thread(admission.normalised_fingerprint, merged)
        new_code = await self._store.get("fingerprints", fingerprint) is None

        async def crown(seq: int) -> Draft:
            after = await self._next_best(patch, best, merged, finding, entry=seq + 1)
            won, placed = settling.settled(
                replace(patch, promoted_generation=after.generation), finding, entry=seq, now_ms=after.promoted_at_ms
            )
            notes = [
                Note("verdict", settling.verdict_body(patch, finding)),
                Note("promotion", settling.promotion_body(after, best, merged, patch.candidate_sha256)),
            ]
            guards = [
                Holds("patches", patch.patch_id, patch.to_bytes()), Holds("meta", "best", best.to_bytes()),
                jury.unchanged,
            ]  # fmt: skip
            operations: list[Operation] = [
                *placed,
                Put("sources", after.source_sha256, merged.encode()),
                *([Put("fingerprints", fingerprint, patch.patch_id.encode())] if new_code else []),
                *settling.crowning(after),
                *settling.credit(won, 1),
            ]
            return Draft(notes, guards, operations, after.promoted_at_ms)

        return await self._move(crown)

    async def _merge(self, patch: Patch, best: Best) -> str | merging.Conflict:
        candidate = await self._text(patch.candidate_sha256)
        if patch.base_sha256 == best.source_sha256:
            return candidate
        base, current = await self._text(patch.base_sha256), await self._text(best.source_sha256)
        merged = await asyncio.to_thread(merging.merge, base, current, candidate)
        if isinstance(merged, merging.Conflict):
            return merged
        if len(merged.encode()) > self._source_bytes:
            return merging.Conflict(f"with what others added it would exceed {self._source_bytes} bytes")
        if await asyncio.to_thread(_same_program, merged, current):
            return merging.Conflict("the best has the change already")
        return merged

    async def _next_best(self, patch: Patch, best: Best, source: str, finding: Finding, *, entry: int) -> Best:
        decision = finding.decision
        trailers = commits.promotion_trailers(patch, decision, generation=best.generation + 1, entry=entry)
        after = Best(
            generation=best.generation + 1,
            commit="",
            source_sha256="",
            patch_id=patch.patch_id,
            title=patch.title,
            author_name=patch.author_name,
            promoted_at_ms=self._now_ms(),
            trials=await self._trials(),
            entry=entry,
        )
        return await self._committed(after, best, source, trailers)

    # --- roll-back ---

    async def propose(self, patch: Patch, again: Recheck, jury: Jury) -> bool:
        """Proposes to roll a promotion back that no longer stands, or withdraws the proposal if it does again."""
        key = str(patch.promoted_generation)
        known = await self._store.get("proposals", key)
        if (known is None) == again.stands:
            return True
        guards = [Holds("proposals", key, known), Holds("patches", patch.patch_id, patch.to_bytes()), jury.unchanged]
        proposal = Proposal(patch.promoted_generation, patch.patch_id, patch.title, again.reason, self._now_ms())
        body = {
            "patch_id": patch.patch_id,
            "generation": patch.promoted_generation,
            "stands": again.stands,
            "reason": again.reason,
            "decision": again.after.to_json(),
        }

        async def entered(_: int) -> Draft:
            kept: Operation = Drop("proposals", key) if again.stands else Put("proposals", key, proposal.to_bytes())
            return Draft([Note("proposal", body)], guards, [kept], proposal.since_ms)

        return await self._journal.settle(entered)

    async def roll_back(self, old: Best, new: Best, reason: str, facts: Mapping[str, Any], jury: Jury) -> bool:
        """Takes the promotions after `old` up to `new` back out of the best; False when something changed meanwhile.

        What was promoted later stays where it merges without them. Where it does not, the best is `old` again, or the
        newest before it that holds nothing that was taken back since, and the later patches go on with the evidence
        that they have.
        """
        best = await self._records.best()
        lineage = await self._records.lineage()
        gone = {generation for earlier in lineage for generation in earlier.undone}
        faulty = tuple(range(old.generation + 1, new.generation + 1))
        if not gone.isdisjoint(faulty):
            return True
        taken = await self._without(old, new, faulty, lineage)
        promoted = {b.generation: b.patch_id for b in lineage if b.generation in taken.undone}
        patches = await self._records.patches(list(promoted.values()))

        async def crown(seq: int) -> Draft:
            after = await self._best_without(best, new, taken, reason, entry=seq)
            after = replace(after, ordered=facts.get("instruction", 0))
            notes = [Note("rollback", settling.rollback_body(after, best, taken.source, {"reason": reason, **facts}))]
            operations: list[Operation] = [
                Put("sources", after.source_sha256, taken.source.encode()), *settling.crowning(after)
            ]  # fmt: skip
            for patch in patches:
                verdict, why = _after_roll_back(patch, taken, reason)
                notes.append(Note("verdict", _verdict_of_roll_back(patch, verdict, why, after)))
                operations += put_back(patch, verdict, why, after, entry=seq + len(notes) - 1)
            guards = [
                Holds("meta", "best", best.to_bytes()), jury.unchanged,
                *(Holds("patches", patch.patch_id, patch.to_bytes()) for patch in patches),
            ]  # fmt: skip
            return Draft(notes, guards, operations, after.promoted_at_ms)

        return await self._move(crown)

    async def _without(self, old: Best, new: Best, faulty: tuple[int, ...], lineage: Sequence[Best]) -> TakenBack:
        before, with_them = await self._text(old.source_sha256), await self._text(new.source_sha256)
        current = await self._text(lineage[-1].source_sha256)
        merged = await asyncio.to_thread(merging.merge, with_them, current, before)
        if not isinstance(merged, merging.Conflict) and len(merged.encode()) <= self._source_bytes:
            return TakenBack(merged, faulty, faulty)
        holds = spans.held((own.generation, own.undone) for own in lineage)
        standing = holds[lineage[-1].generation]
        ground = spans.ground(holds, standing, old.generation)
        (source,) = [own.source_sha256 for own in lineage if own.generation == ground]
        return TakenBack(await self._text(source), faulty, tuple(sorted(standing - holds[ground])))

    async def _best_without(self, best: Best, new: Best, taken: TakenBack, reason: str, *, entry: int) -> Best:
        title = f"Roll back generation {', '.join(map(str, taken.faulty))}: {new.title}"
        trailers = commits.rollback_trailers(taken.undone, reason, generation=best.generation + 1, entry=entry)
        after = Best(
            generation=best.generation + 1,
            commit="",
            source_sha256="",
            patch_id="",
            title=title,
            author_name="",
            promoted_at_ms=self._now_ms(),
            trials=await self._trials(),
            entry=entry,
            undone=taken.undone,
        )
        return await self._committed(after, best, taken.source, trailers)

    async def restore(self, patch: Patch, finding: Finding, rollback: Best, jury: Jury) -> bool:
        """Lets a patch whose roll-back does not stand go on with its evidence; False when something changed."""
        fresh = replace(patch, promoted_generation=0, rolled_back_generation=0)
        guards = [Holds("patches", patch.patch_id, patch.to_bytes()), jury.unchanged]

        async def entered(seq: int) -> Draft:
            now_ms = self._now_ms()
            _, operations = settling.settled(fresh, finding, entry=seq, now_ms=now_ms)
            body = settling.verdict_body(patch, finding, rollback_fell=rollback.generation)
            return Draft([Note("verdict", body)], guards, operations, now_ms)

        return await self._journal.settle(entered)

    # --- the branch ---

    async def reconcile(self) -> None:
        """Moves branch `best` to where the store says it is: a crash may have come between ledger and branch."""
        await branch.follow(self._records, self._lineage)

    async def _move(self, crown: Callable[[int], Awaitable[Draft]]) -> bool:
        if not await self._journal.settle(crown):
            return False
        await self.reconcile()
        return True

    async def _committed(self, after: Best, best: Best, source: str, trailers: Sequence[tuple[str, str]]) -> Best:
        commit = await asyncio.to_thread(
            self._lineage.build_promotion,
            best.commit,
            source,
            title=after.title,
            trailers=trailers,
            author_name=after.author_name,
            at=commits.committed_at(after.promoted_at_ms),
        )
        return replace(after, commit=commit, source_sha256=sha256_hex(source.encode()))

    async def _trials(self) -> int:
        return sum(int(score) for _, score in await self._store.ranked("trials"))

    async def _text(self, sha256: str) -> str:
        source = await self._records.source(sha256)
        assert source is not None, f"source {sha256} is gone from the store"
        return source.decode()


def _same_program(one: str, other: str) -> bool:
    return admission.normalised_fingerprint(one) == admission.normalised_fingerprint(other)


def _after_roll_back(patch: Patch, taken: TakenBack, reason: str) -> tuple[Verdict, str]:
    if patch.promoted_generation in taken.faulty:
        return Verdict.REGRESSED, f"promoted as generation {patch.promoted_generation} and rolled back: {reason}"
    numbers = ", ".join(map(str, taken.faulty))
    return Verdict.OPEN, f"does not merge without generation {numbers}, now rolled back: goes on with its evidence"


def _verdict_of_roll_back(patch: Patch, verdict: Verdict, reason: str, after: Best) -> dict[str, object]:
    return {
        "patch_id": patch.patch_id,
        "verdict": verdict.value,
        "reason": reason,
        "decision": patch.decision,
        "noise_bpb": patch.noise_bpb,
        "evidence_before": patch.evidence_before,
        "excluded": [],
        "rollback": after.generation,
    }


def put_back(patch: Patch, verdict: Verdict, reason: str, after: Best, *, entry: int) -> list[Operation]:
    """A patch after the roll-back `after` of its promotion, or of one that it does not merge without."""
    goes_on = verdict is Verdict.OPEN
    put_back = replace(
        patch,
        verdict=verdict.value,
        reason=reason,
        decided_at_ms=after.promoted_at_ms,
        promoted_generation=0 if goes_on else patch.promoted_generation,
        rolled_back_generation=0 if goes_on else after.generation,
    )
    listed: list[Operation] = (
        [Rank("open", patch.patch_id, patch.submitted_at_ms), Unrank("decided", patch.patch_id)]
        if goes_on
        else [Rank("decided", patch.patch_id, entry)]
    )
    return [
        Put("patches", patch.patch_id, put_back.to_bytes()),
        *listed,
        Drop("proposals", str(patch.promoted_generation)),
        *settling.credit(patch, -1),
    ]
