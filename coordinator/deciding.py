"""Turns evidence into verdicts, and a winner into the new best.

Loads, asks the pure rules (`verdict`, `noise`), writes. Anything written is a function of the ledger. What should run
next is `scheduling.py`'s business.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from autoresearch.digest import sha256_hex
from coordinator import merging, noise
from coordinator.intake import UNDECIDED
from coordinator.journal import Draft, Journal, Note
from coordinator.lineage import Lineage
from coordinator.model import Best, Patch
from coordinator.periods import periods_by_machine, rows
from coordinator.records import Records, Swarm
from coordinator.store import Append, Bump, Change, Guard, Holds, Operation, Put, Rank, Unrank
from coordinator.verdict import Decision, Verdict, decide

NOISE_GENERATIONS = 8  # baselines of this many bests are repeats that the noise is estimated from


@dataclass(frozen=True, slots=True)
class Judged:
    """A patch after looking at its evidence. `ended`: it needs no more trials."""

    patch: Patch
    ended: bool


class Decider:
    """Decides and plans."""

    def __init__(
        self, swarm: Swarm, records: Records, journal: Journal, lineage: Lineage, now_ms: Callable[[], int]
    ) -> None:
        self._swarm = swarm
        self._rule = swarm.parsed_rule()
        self._records = records
        self._store = records.store
        self._journal = journal
        self._lineage = lineage
        self._now_ms = now_ms

    # --- evidence ---

    async def sigma(self) -> dict[str, float]:
        """Noise of one trial per hardware class, from one machine's repeated baselines on one best."""
        groups: dict[str, list[list[float]]] = {}
        for base, _ in await self._store.ranked("bases", NOISE_GENERATIONS, highest_first=True):
            for (_, name), own in periods_by_machine(await self._records.baseline_trials(base)).items():
                repeats = [[t.val_bpb for t in period.baselines if t.val_bpb is not None] for period in own]
                groups.setdefault(name, []).extend(repeats)
        prior = {name: self._prior(name) for name in groups}
        return noise.estimate(groups, prior)

    def _prior(self, hardware_class: str) -> float:
        return self._swarm.noise_prior_bpb or noise.prior_for(hardware_class)

    async def decision(self, patch: Patch) -> tuple[Decision, dict[str, float]]:
        """The decision on a patch by all its evidence, and the noise it was made with."""
        sigma = await self.sigma()
        candidate = await self._records.candidate_trials(patch.patch_id)
        baseline = await self._records.baseline_trials(patch.base_sha256)
        sigma |= {t.hardware_class: self._prior(t.hardware_class) for t in candidate if t.hardware_class not in sigma}
        rule = replace(self._rule, min_classes=max(1, min(self._rule.min_classes, len(sigma))))
        return decide(rows(candidate, baseline), sigma, rule), sigma

    async def judge(self, patch_id: str) -> Judged | None:
        """Looks at a patch's evidence and writes what follows from it; None for an unknown or ended patch."""
        while True:
            patch = await self._records.patch(patch_id)
            if patch is None or patch.verdict not in UNDECIDED:
                return None
            decision, sigma = await self.decision(patch)
            if decision.verdict is Verdict.PROMOTED:
                judged = await self._promote(patch, decision, sigma)
            else:
                judged = await self._write_verdict(patch, decision.verdict, decision.sentence, decision, sigma)
            if judged is not None:
                return judged

    async def _write_verdict(
        self, patch: Patch, verdict: Verdict, reason: str, decision: Decision, sigma: Mapping[str, float]
    ) -> Judged | None:
        """Records a verdict; None when the patch changed meanwhile."""
        ended = verdict.value not in UNDECIDED
        after = replace(
            patch,
            verdict=verdict.value,
            reason=reason,
            decision=decision.to_json(),
            decided_at_ms=patch.decided_at_ms if verdict.value == patch.verdict == "open" else self._now_ms(),
        )
        operations: list[Operation] = [Put("patches", patch.patch_id, after.to_bytes()), *_place(after, decision)]
        guard = Holds("patches", patch.patch_id, patch.to_bytes())
        if verdict.value == patch.verdict:  # nothing that the ledger does not imply
            failed: Guard | int | None = await self._store.apply(Change((guard,), operations))
            return Judged(after, ended) if failed is None else None
        note = Note("verdict", _verdict_body(patch, verdict, reason, decision, sigma))
        outcome = await self._journal.commit([note], [guard], operations)
        return await self._durably(outcome, Judged(after, ended))

    # --- promotion ---

    async def _promote(self, patch: Patch, decision: Decision, sigma: Mapping[str, float]) -> Judged | None:
        """Merges a winner onto the best and moves it: commit made, ledger entry and best written, branch advanced."""
        best = await self._records.best()
        merged = await self._merge(patch, best)
        if isinstance(merged, merging.Conflict):
            reason = f"won, but does not merge onto generation {best.generation}: {merged.reason}"
            return await self._write_verdict(patch, Verdict.CONFLICT, reason, decision, sigma)
        won, after = patch, best

        async def crown(seq: int) -> Draft:
            nonlocal won, after
            after = await self._next_best(patch, best, merged, decision, ledger_entry=seq + 1)
            won = replace(
                patch,
                verdict=Verdict.PROMOTED.value,
                reason=decision.sentence,
                decision=decision.to_json(),
                decided_at_ms=after.promoted_at_ms,
                promoted_generation=after.generation,
            )
            notes = [
                Note("verdict", _verdict_body(patch, Verdict.PROMOTED, decision.sentence, decision, sigma)),
                Note("promotion", _promotion_body(after, best)),
            ]
            guards = [Holds("patches", patch.patch_id, patch.to_bytes()), Holds("meta", "best", best.to_bytes())]
            operations: list[Operation] = [
                Put("patches", patch.patch_id, won.to_bytes()),
                *_place(won, decision),
                Put("sources", after.source_sha256, merged.encode()),
                *crowning(after),
                Bump("promotions", patch.author_id, 1),
                Bump("gain", patch.author_id, decision.gain_bpb or 0.0),
            ]
            return Draft(notes, guards, operations)

        outcome = await self._journal.commit_at(crown)
        judged = await self._durably(outcome, Judged(won, ended=True))
        if judged is not None:
            await asyncio.to_thread(self._lineage.advance, after.commit, best.commit)
        return judged

    async def _next_best(self, patch: Patch, best: Best, source: str, decision: Decision, *, ledger_entry: int) -> Best:
        now = self._now_ms()
        commit = await asyncio.to_thread(
            self._build_commit, patch, best, source, decision, now_ms=now, ledger_entry=ledger_entry
        )
        return Best(
            generation=best.generation + 1,
            commit=commit,
            source_sha256=sha256_hex(source.encode()),
            patch_id=patch.patch_id,
            title=patch.title,
            author_name=patch.author_name,
            promoted_at_ms=now,
            trials=sum(int(score) for _, score in await self._store.ranked("trials")),
        )

    async def _merge(self, patch: Patch, best: Best) -> str | merging.Conflict:
        candidate = await self._text(patch.candidate_sha256)
        if patch.base_sha256 == best.source_sha256:
            return candidate
        base, current = await self._text(patch.base_sha256), await self._text(best.source_sha256)
        return await asyncio.to_thread(merging.merge, base, current, candidate)

    def _build_commit(
        self, patch: Patch, best: Best, source: str, decision: Decision, *, now_ms: int, ledger_entry: int
    ) -> str:
        gain = "unknown" if decision.gain_bpb is None else f"{decision.gain_bpb:+.6f} bpb"
        trailers = (
            ("Patch", patch.patch_id),
            ("Author-Identity", patch.author_id),
            ("Generation", str(best.generation + 1)),
            (
                "Evidence",
                f"log odds {decision.log_odds:.3f}, {decision.trials} trials, {decision.identities} identities",
            ),
            ("Gain", gain),
            ("Ledger-Entry", str(ledger_entry)),
        )
        return self._lineage.build_promotion(
            best.commit,
            source,
            title=patch.title,
            trailers=trailers,
            author_name=patch.author_name,
            at=datetime.fromtimestamp(now_ms / 1000, UTC),
        )

    async def _text(self, sha256: str) -> str:
        source = await self._records.source(sha256)
        assert source is not None, f"source {sha256} is gone from the store"
        return source.decode()

    async def reconcile_lineage(self) -> None:
        """Moves branch `best` to where the store says it is: a crash may have come between ledger and branch."""
        best = await self._records.best()
        tip = await asyncio.to_thread(self._lineage.tip)
        if tip != best.commit:
            await asyncio.to_thread(self._lineage.advance, best.commit, tip)

    async def _durably(self, outcome: Guard | int, judged: Judged) -> Judged | None:
        if not isinstance(outcome, int):
            return None
        await self._journal.durable(outcome)
        return judged


def _place(patch: Patch, decision: Decision) -> list[Operation]:
    """Where a patch waits: with the open ones, with the parked ones, or nowhere."""
    doubted = patch.verdict == "parked" and decision.doubts
    if patch.verdict == "open" or doubted:
        return [Rank("open", patch.patch_id, patch.submitted_at_ms), Unrank("parked", patch.patch_id)]
    if patch.verdict == "parked":
        return [Unrank("open", patch.patch_id), Rank("parked", patch.patch_id, decision.log_odds)]
    return [Unrank("open", patch.patch_id), Unrank("parked", patch.patch_id)]


def crowning(best: Best) -> list[Operation]:
    """What makes a source the best."""
    return [
        Put("meta", "best", best.to_bytes()),
        Append("lineage", best.to_bytes()),
        Rank("bases", best.source_sha256, best.generation),
    ]


def _verdict_body(
    patch: Patch, verdict: Verdict, reason: str, decision: Decision, sigma: Mapping[str, float]
) -> dict[str, object]:
    return {
        "patch_id": patch.patch_id,
        "verdict": verdict.value,
        "reason": reason,
        "decision": decision.to_json(),
        "noise_bpb": dict(sigma),
    }


def _promotion_body(after: Best, before: Best) -> dict[str, object]:
    return {
        "patch_id": after.patch_id,
        "generation": after.generation,
        "commit": after.commit,
        "parent": before.commit,
        "source_sha256": after.source_sha256,
        "title": after.title,
    }
