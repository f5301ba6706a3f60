"""Watches whom to believe: reviews everybody's reputation when a verdict gives new evidence, and records who enters or
leaves quarantine, with the reason and the numbers.

Loads, asks the pure rules (`trust`, `agreement`), writes. What follows for the verdicts is `deciding.py`'s business.
"""

from collections.abc import Callable, Mapping, Sequence

from autoresearch.judging import known, ledger, pairing, trust
from autoresearch.judging.model import Held, Trial
from autoresearch.judging.reviewing import HISTORY, OWN_HISTORY, history
from autoresearch.judging.trust import Change, DecidedPatch, KnownAnswer, Quarantine, Reputation, Suspicion
from coordinator import doubting
from coordinator.deciding import Decider
from coordinator.journal import Draft, Journal, Note
from coordinator.records import Jury, Records, Swarm
from coordinator.store import Operation

DECIDED_KEPT = 5_000  # patches as they were decided, in memory


class Watch:
    """Keeps the quarantine."""

    def __init__(
        self, swarm: Swarm, records: Records, journal: Journal, decider: Decider, now_ms: Callable[[], int]
    ) -> None:
        self.reputations: Mapping[str, Reputation] = {}  # of the last review
        self._swarm = swarm
        self._rule = swarm.parsed_rule()
        self._records = records
        self._store = records.store
        self._journal = journal
        self._decider = decider
        self._now_ms = now_ms
        self._decided: dict[tuple[str, int, tuple[int, ...]], DecidedPatch] = {}
        self._reviewed: tuple[bytes | None, int] = (None, 0)  # by the jury's mark: see `_reviewed_before`

    async def review(self, entry: int) -> None:
        """Judges everybody's reporting by what the ledger held before that entry.

        Does nothing where a later review has changed the quarantine: then this one was done before, and whoever
        follows the ledger again must not judge the jury of today by less than is known of it.
        """
        while True:
            jury = await self._records.jury()
            if entry <= await self._reviewed_before(jury):
                return
            decided = await self._history(entry, jury)
            held = {who: _quarantine(own) for who, own in jury.held.items()}
            known_trials = jury.voids.counting(pairing.before(await self._records.known_answers(), entry))
            classes = {row.hardware_class for patch in decided for row in patch.rows}
            classes |= {trial.hardware_class for trial in known_trials}
            noise_bpb = pairing.with_priors(await self._decider.noise(entry), classes, self._swarm.noise_prior_bpb)
            answers = await self._answers(known_trials, entry, noise_bpb, jury)
            heard = dict.fromkeys(jury.voids.identities & held.keys(), ()) | answers  # of whom nothing may be left
            self.reputations, changes = trust.review(decided, heard, held, noise_bpb, jury.vouched)
            if not changes or await self._record(changes, entry, jury):
                return

    async def _reviewed_before(self, jury: Jury) -> int:
        """The evidence that the last change of the quarantine by a review rests on, as the ledger says; 0 for none."""
        if self._reviewed[0] != jury.mark:
            found = 0
            for belief in reversed(await self._records.beliefs()):
                lines = await self._store.items("ledger", belief.entry, belief.entry)
                if found := int(ledger.parse(lines[0]).body.get("evidence_before", 0)):
                    break
            self._reviewed = (jury.mark, found)
        return self._reviewed[1]

    async def _answers(
        self, known_trials: Sequence[Trial], entry: int, noise_bpb: Mapping[str, float], jury: Jury
    ) -> dict[str, list[KnownAnswer]]:
        """What the trials with a known answer say, by identity, with the baselines that the ledger held then."""
        bases = {trial.base_sha256 for trial in known_trials}
        then = {base: pairing.before(await self._records.baseline_trials(base), entry) for base in sorted(bases)}
        baselines = {base: jury.voids.counting(trials) for base, trials in then.items()}
        return known.answers(known_trials, baselines, noise_bpb)

    async def _history(self, entry: int, jury: Jury) -> list[DecidedPatch]:
        """The patches that say something about those who ran them, in the order of their verdicts."""
        recent = await self._store.ranked("decided", 2 * HISTORY, highest_first=True)  # more: some may be too new
        own: dict[str, int] = {}
        for identity_id in jury.held:
            for patch_id, _ in await self._store.ranked(f"jury:{identity_id}", OWN_HISTORY, highest_first=True):
                decided = await self._store.score("decided", patch_id)
                if decided is not None:
                    own[patch_id] = int(decided)
        chosen = history([(patch_id, int(at)) for patch_id, at in recent], own, entry)
        return [await self._as_decided(patch_id, at, jury) for patch_id, at in chosen]

    async def _as_decided(self, patch_id: str, entry: int, jury: Jury) -> DecidedPatch:
        key = (patch_id, entry, jury.voids.in_force)
        if key not in self._decided:
            patch = await self._records.patch(patch_id)
            assert patch is not None
            assert patch.noise_bpb is not None
            evidence = await self._decider.evidence(patch, patch.evidence_before, patch.noise_bpb)
            rule = pairing.rule_for(self._rule, patch.noise_bpb)
            self._decided[key] = DecidedPatch(patch.base_sha256, tuple(evidence.rows), patch.noise_bpb, rule)
            while len(self._decided) > DECIDED_KEPT:
                self._decided.pop(next(iter(self._decided)))
        return self._decided[key]

    async def _record(self, changes: Sequence[Change], entry: int, jury: Jury) -> bool:
        async def entered(seq: int) -> Draft:
            now = self._now_ms()
            notes = [
                Note("quarantine" if change.quarantine else "reinstatement", _body(change, self.reputations, entry))
                for change in changes
            ]
            operations = [kept for at, change in enumerate(changes) for kept in _kept(change, seq + at, now)]
            return Draft(notes, [jury.unchanged], operations, now)

        return await self._journal.settle(entered)


def _quarantine(held: Held) -> Quarantine:
    return Quarantine(held.identity_id, Suspicion(held.suspicion), held.log_odds, held.reason)


def _kept(change: Change, entry: int, now_ms: int) -> list[Operation]:
    own = change.quarantine
    if own is None:
        return doubting.believed_again(change.identity, entry, vouched=False)
    return doubting.held(Held(own.identity, own.suspicion.value, own.log_odds, own.reason, now_ms, entry))


def _body(change: Change, reputations: Mapping[str, Reputation], entry: int) -> dict[str, object]:
    """A change of the quarantine in the ledger: who, why, and the numbers after the whole review."""
    body: dict[str, object] = {
        "identity_id": change.identity,
        "reason": change.reason,
        "evidence_before": entry,
        "evidence": evidence_of(reputations[change.identity]),
    }
    if change.quarantine is not None:
        body |= {"suspicion": change.quarantine.suspicion.value, "log_odds": change.quarantine.log_odds}
    return body


def evidence_of(own: Reputation) -> dict[str, object]:
    """A reputation in numbers."""
    return {
        "log_odds": {kind.value: odds for kind, odds in own.log_odds.items()},
        "deviations": own.deviations,
        "known_answers": own.known_answers,
        "alarms": own.alarms,
        "agreement": own.agreement,
    }
