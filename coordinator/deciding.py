"""Judges a patch by its evidence and writes what follows from it: the verdict, or by the promoter the new best.

Loads, asks the pure rules (`pairing`, `verdict`, `trust`), writes. A patch is looked at after every ledger entry that
brought evidence about it, in their order, each time with what the ledger held until then: so the verdicts do not depend
on when the coordinator came to it, and anyone can recompute them (`replay`). What runs next is `scheduling.py`'s
business, whose results count `watching.py`'s.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from autoresearch.judging import pairing, trust
from autoresearch.judging.evidence import Row
from autoresearch.judging.model import Patch, Trial, Tried
from autoresearch.judging.trust import believed
from autoresearch.judging.verdict import UNDECIDED, Decision, Verdict, decide
from coordinator import settling
from coordinator.journal import Draft, Journal, Note
from coordinator.promoting import Promoter
from coordinator.records import Jury, Records, Swarm
from coordinator.settling import Finding
from coordinator.store import Change, Holds

NOISE_KEPT = 16  # estimates kept: one for each stretch of the ledger that is looked at now
AT_ONCE = 64  # machines whose trials are read at once


class Trials(NamedTuple):
    """What a patch is judged by. `tried`: by machine, see `pairing.evidence`."""

    candidate: Sequence[Trial]
    baseline: Sequence[Trial]
    tried: Mapping[str, Sequence[Tried]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the ledger held about a patch before one of its entries. Rows of everybody."""

    rows: Sequence[Row]
    noise_bpb: Mapping[str, float]
    entry: int
    jury: Jury


class Decider:
    """Judges patches."""

    def __init__(
        self, swarm: Swarm, records: Records, journal: Journal, promoter: Promoter, now_ms: Callable[[], int]
    ) -> None:
        self._swarm = swarm
        self._rule = swarm.parsed_rule()
        self._records = records
        self._store = records.store
        self._journal = journal
        self._promoter = promoter
        self._now_ms = now_ms
        self._noise: dict[int, dict[str, float]] = {}

    # --- evidence ---

    async def noise(self, entry: int) -> dict[str, float]:
        """Noise of one trial per hardware class, as of a ledger entry."""
        entry = pairing.noise_entry(entry)
        if entry not in self._noise:
            sources = pairing.noise_sources(await self._records.lineage(), entry, self._rule)
            valid = (await self._records.jury()).voids.before(entry).counting
            repeats = [valid(await self._records.baseline_trials(source)) for source in sources]
            held = pairing.held_before(await self._records.beliefs(), entry)
            self._noise[entry] = pairing.estimate_noise(repeats, entry, held, self._swarm.noise_prior_bpb)
            while len(self._noise) > NOISE_KEPT:
                self._noise.pop(next(iter(self._noise)))
        return self._noise[entry]

    async def noise_now(self) -> dict[str, float]:
        """As of the newest entry."""
        return await self.noise(await self._store.length("ledger"))

    async def evidence(self, patch: Patch, entry: int, noise_bpb: Mapping[str, float] | None = None) -> Evidence:
        """What the ledger held about a patch before that entry; with another noise than that of then, if given."""
        return await self._evidence(await self._trials(patch), entry, noise_bpb)

    async def _trials(self, patch: Patch) -> Trials:
        candidate = await self._records.candidate_trials(patch.patch_id)
        baseline = await self._records.baseline_trials(patch.base_sha256)
        machines = sorted({trial.machine_id for trial in candidate}) if self._rule.own_trials else []
        tried: dict[str, Sequence[Tried]] = {}
        for at in range(0, len(machines), AT_ONCE):
            some = machines[at : at + AT_ONCE]
            lists = await asyncio.gather(*(self._records.tried(patch.base_sha256, machine) for machine in some))
            tried |= dict(zip(some, lists, strict=True))
        return Trials(candidate, baseline, tried)

    async def _evidence(self, trials: Trials, entry: int, noise_bpb: Mapping[str, float] | None) -> Evidence:
        jury = await self._records.jury()
        counting = jury.voids.counting
        tried = {machine: counting(own) for machine, own in trials.tried.items()}
        rows = pairing.evidence(counting(trials.candidate), counting(trials.baseline), tried, entry, self._rule)
        if noise_bpb is None:
            classes = {row.hardware_class for row in rows}
            noise_bpb = pairing.with_priors(await self.noise(entry), classes, self._swarm.noise_prior_bpb)
        return Evidence(rows, noise_bpb, entry, jury)

    def _weigh(self, evidence: Evidence) -> Decision:
        """What the evidence of those who are believed says."""
        rule = pairing.rule_for(self._rule, evidence.noise_bpb)
        return decide(believed(evidence.rows, evidence.jury.held), evidence.noise_bpb, rule)

    def finding(self, evidence: Evidence) -> Finding:
        """What the evidence says, as a verdict is recorded."""
        return _finding(self._weigh(evidence), evidence)

    async def decision(self, patch: Patch) -> Decision:
        """The decision on a patch by all its evidence until now."""
        return self._weigh(await self.evidence(patch, await self._store.length("ledger")))

    # --- verdicts ---

    async def judge(self, patch_id: str, until: int, *, afresh: bool = False) -> None:
        """Looks at a patch after each ledger entry, up to `until`, that brought evidence since the last look, and
        writes what follows. `afresh`: after `until` it is looked at whether that brought evidence or not."""
        while True:
            patch = await self._records.patch(patch_id)
            if patch is None or patch.verdict not in UNDECIDED:
                return
            trials = await self._trials(patch)
            entries = pairing.looks(trials.candidate, trials.baseline, patch.looked, until)
            if afresh and until >= patch.looked and until not in entries:
                entries.append(until)
            if not entries:
                return
            for entry in entries:
                evidence = await self._evidence(trials, entry + 1, None)
                finding = self.finding(evidence)
                if finding.verdict.value != patch.verdict or entry == entries[-1]:
                    await self._write(patch, finding, evidence.jury)
                    break  # and look again: at what is left, or at a patch that changed meanwhile

    async def recheck(self, patch_id: str, because: int) -> None:
        """Recomputes a verdict after ledger entry `because` changed whose results count: an ended patch on the evidence
        that it was given on, which may bring it back to life; a promotion that no longer stands is proposed to be
        rolled back."""
        while True:
            patch = await self._records.patch(patch_id)
            if patch is None:
                return
            if patch.verdict in UNDECIDED:
                await self.judge(patch_id, because, afresh=True)
                return
            if patch.noise_bpb is None or patch.rolled_back_generation:  # no evidence ended it, or an audit did
                return
            evidence = await self.evidence(patch, patch.evidence_before, patch.noise_bpb)
            rule = pairing.rule_for(self._rule, evidence.noise_bpb)
            held = evidence.jury.held
            again = trust.recheck(evidence.rows, evidence.noise_bpb, rule, held, Verdict(patch.verdict))
            if patch.verdict == Verdict.PROMOTED:
                done = await self._promoter.propose(patch, again, evidence.jury)
            elif again.stands:
                return
            else:
                finding = replace(_finding(again.after, evidence), reason=again.reason)
                done = await self._write(patch, finding, evidence.jury)
            if done:
                return

    async def _write(self, patch: Patch, finding: Finding, jury: Jury) -> bool:
        """Records what a look found; False when the patch, or whose results count, changed meanwhile."""
        if finding.verdict is Verdict.PROMOTED:
            won = await self._promoter.promote(patch, finding, jury)
            if isinstance(won, bool):
                return won
            finding = replace(finding, verdict=Verdict.CONFLICT, reason=won.reason)
        guards = [Holds("patches", patch.patch_id, patch.to_bytes()), jury.unchanged]
        if finding.verdict.value == patch.verdict:  # nothing that the ledger does not imply
            _, operations = settling.kept(patch, finding, now_ms=self._now_ms())
            return await self._store.apply(Change(guards, operations)) is None

        async def entered(seq: int) -> Draft:
            now_ms = self._now_ms()
            _, operations = settling.settled(patch, finding, entry=seq, now_ms=now_ms)
            return Draft([Note("verdict", settling.verdict_body(patch, finding))], guards, operations, now_ms)

        return await self._journal.settle(entered)


def _finding(decision: Decision, evidence: Evidence) -> Finding:
    return settling.found(decision, evidence.rows, evidence.noise_bpb, evidence.entry, evidence.jury.held)
