"""Confirms promotions by the baselines that every machine runs anyway, and has them rolled back where they harm.

Loads, asks the pure rules (`spans`, `audit`), and the promoter to act.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from autoresearch.judging import pairing, spans
from autoresearch.judging.audit import Audit, audit
from autoresearch.judging.evidence import Row, spoken_odds
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Best
from autoresearch.judging.spans import Span
from autoresearch.judging.verdict import Verdict
from coordinator.deciding import Decider
from coordinator.promoting import Promoter
from coordinator.records import Jury, Records, Swarm


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the audit of some promotions says now."""

    span: Span
    audit: Audit
    rows: Sequence[Row]
    noise_bpb: dict[str, float]


class Confirmer:
    """Audits."""

    def __init__(self, swarm: Swarm, records: Records, decider: Decider, promoter: Promoter) -> None:
        self._rule = swarm.parsed_rule()
        self._prior_bpb = swarm.noise_prior_bpb
        self._records = records
        self._decider = decider
        self._promoter = promoter
        self._over: set[tuple[int, int, bytes | None]] = set()  # audits that are over, with the jury that said so

    async def audits(self, entry: int, source: str = "", *, all_of_them: bool = True) -> list[Confirmation]:
        """The audits as of a ledger entry, oldest promotion first; only those that a source takes part in, if given.
        `all_of_them`: those too that are known to be over."""
        lineage = spans.before(await self._records.lineage(), entry)[-spans.AUDITED_BESTS :]
        sources = {best.source_sha256 for best in lineage}
        if len(lineage) < 2 or (source and source not in sources):
            return []
        baselines = {name: await self._records.baseline_trials(name) for name in sources}
        jury, noise_bpb = await self._records.jury(), await self._decider.noise(entry)
        valid = {source: jury.voids.counting(trials) for source, trials in baselines.items()}
        found = []
        for span in spans.spans(lineage, spans.measured(baselines, entry)):
            over = not all_of_them and (span.old.generation, span.new.generation, jury.mark) in self._over
            if not over and source in ("", span.old.source_sha256, span.new.source_sha256):
                rows = spans.audit_rows(span, valid, entry, jury.held)
                classes = {row.hardware_class for row in rows}
                noise = pairing.with_priors(noise_bpb, classes, self._prior_bpb)
                found.append(Confirmation(span, audit(rows, noise, self._rule), rows, noise))
        return found

    async def audit(self, entry: int, source: str = "") -> None:
        """Rolls the oldest promotion back that its audit speaks against; the ledger entry it writes has the rest
        looked at again."""
        while True:
            jury = await self._records.jury()
            found = await self.audits(entry, source, all_of_them=False)
            ended = [own.span for own in found if own.audit.identities > spans.ENOUGH_IDENTITIES]
            self._over |= {(span.old.generation, span.new.generation, jury.mark) for span in ended}
            failed = next((own for own in found if _failed(own)), None)
            if failed is None or await self._roll_back(failed, entry, jury):
                return

    async def _roll_back(self, failed: Confirmation, entry: int, jury: Jury) -> bool:
        facts = {
            "audit": asdict(failed.audit),
            "noise_bpb": failed.noise_bpb,
            "evidence_before": entry,
            "old_generation": failed.span.old.generation,
            "new_generation": failed.span.new.generation,
        }
        return await self._promoter.roll_back(failed.span.old, failed.span.new, why(failed.audit), facts, jury)

    async def roll_back_as_ordered(self, order: Entry) -> None:
        """Takes the promotion back that an operator's instruction names, unless it was taken back since."""
        body = order.body
        lineage = await self._records.lineage()
        old, new = lineage[body["generation"] - 1], lineage[body["generation"]]
        why = f"ordered by an operator: {body['reason']}" if body["reason"] else "ordered by an operator"
        facts = {
            "instruction": order.seq,
            "evidence_before": order.seq,
            "old_generation": old.generation,
            "new_generation": new.generation,
        }
        while not await self._promoter.roll_back(old, new, why, facts, await self._records.jury()):
            pass  # something changed meanwhile: look again

    async def recheck(self) -> None:
        """Lets patches that were rolled back lately go on with their evidence, if their audit no longer speaks against
        them now that others are believed."""
        lineage = await self._records.lineage()
        recent = lineage[-spans.AUDITED_BESTS :]
        for rollback in [best for best in lineage if best.undone and (best.ordered or best in recent)]:
            while not await self._recheck(rollback):
                pass  # something changed meanwhile: look again

    async def _recheck(self, rollback: Best) -> bool:
        jury, lineage = await self._records.jury(), await self._records.lineage()
        reason = await self._fell(rollback)
        if not reason:
            return True
        undone = [best.patch_id for best in lineage if best.generation in rollback.undone]
        for patch in await self._records.patches(undone):
            if patch.rolled_back_generation == rollback.generation:
                evidence = await self._decider.evidence(patch, patch.evidence_before, patch.noise_bpb)
                finding = replace(
                    self._decider.finding(evidence),
                    verdict=Verdict.OPEN,
                    reason=f"its roll-back as generation {rollback.generation} {reason}: goes on with its evidence",
                )
                if not await self._promoter.restore(patch, finding, rollback, jury):
                    return False
        return True

    async def _fell(self, rollback: Best) -> str:
        """Why a roll-back does not stand; empty if it does."""
        if rollback.ordered:
            fallen = await self._records.store.get("fallen", str(rollback.ordered))
            return "was taken back by an operator" if fallen is not None else ""
        own = [found for found in await self.audits(rollback.entry) if rollback.undone[0] in found.span.generations]
        if not own or own[0].audit.roll_back:
            return ""
        return "does not stand on the results that count now"


def _failed(confirmation: Confirmation) -> bool:
    own = confirmation.audit
    return own.roll_back and own.identities <= spans.ENOUGH_IDENTITIES


def why(own: Audit) -> str:
    """What an audit that fails says, for people."""
    where = f" on {own.worst_class}" if own.worst_class else ""
    gain = "" if own.gain_bpb is None else f"; measured gain {own.gain_bpb:+.4f} bpb by {own.identities} volunteers"
    return f"audited{where}, the odds that it is worse are {spoken_odds(own.worst_log_odds)}{gain}"
