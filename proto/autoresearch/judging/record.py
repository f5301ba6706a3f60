"""What a ledger records, entry by entry, and what follows from it by the rules that decide. Pure.

What is recorded counts as a fact. Left out: whether it follows from what stands before it (`replay.py`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch.judging import known, pairing, reviewing, spans, trust
from autoresearch.judging.agreement import FEWEST_OTHERS
from autoresearch.judging.audit import Audit, audit
from autoresearch.judging.evidence import Row
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Belief, Best, Trial, Tried
from autoresearch.judging.orders import Orders
from autoresearch.judging.periods import tried
from autoresearch.judging.rule import Rule
from autoresearch.judging.trust import Change, DecidedPatch, Quarantine, believed
from autoresearch.judging.verdict import UNDECIDED, Decision, Verdict, decide

NOISE_KEPT = 16  # estimates kept


@dataclass(slots=True)
class PatchState:
    """A patch as the ledger has it."""

    patch_id: str
    author_id: str
    entry: int
    base_sha256: str
    candidate_sha256: str
    trials: list[Trial] = field(default_factory=list)
    verdict: str = "open"
    verdict_entry: int = 0
    decision: Mapping[str, Any] | None = None
    evidence_before: int = 0
    noise_bpb: Mapping[str, float] | None = None
    jurors: int = 0
    promoted_generation: int = 0
    rolled_back_generation: int = 0

    @property
    def speaks_of_its_jurors(self) -> bool:
        """Whether it is among the decided patches by which everybody is judged."""
        return self.verdict not in ("open", "withdrawn", "waiting", "refused") and self.jurors > FEWEST_OTHERS


@dataclass(slots=True)
class Standing:
    """One identity's contribution."""

    trials: int = 0
    train_ms: int = 0
    promotions: int = 0
    gain_bpb: float = 0.0


class Record:
    """A swarm as its ledger tells it."""

    def __init__(self) -> None:
        self.length = 0
        self.patches: dict[str, PatchState] = {}
        self.lineage: list[Best] = []
        self.held: dict[str, Quarantine] = {}
        self.orders = Orders()
        self.proposals: set[int] = set()  # generations that should be rolled back
        self.standings: defaultdict[str, Standing] = defaultdict(Standing)
        self._rule = Rule()
        self._prior_bpb = 0.0
        self._baselines: defaultdict[str, list[Trial]] = defaultdict(list)  # by source
        self._measured: defaultdict[tuple[str, str], list[Trial]] = defaultdict(list)  # the same by source and machine
        self._tried: defaultdict[tuple[str, str], list[Tried]] = defaultdict(list)  # candidates, likewise
        self._known: list[Trial] = []  # with a known answer
        self._beliefs: list[Belief] = []
        self._touched: dict[str, int] = {}  # patch -> entry after which it was looked at without new evidence
        self._jury: defaultdict[str, dict[str, int]] = defaultdict(dict)  # identity -> patch -> entry of its last trial
        self._noise: dict[int, dict[str, float]] = {}
        self._rollbacks: dict[int, Mapping[str, Any]] = {}  # by generation

    @property
    def best(self) -> Best:
        """The source at the tip of the lineage."""
        return self.lineage[-1]

    # --- facts ---

    def _genesis(self, entry: Entry) -> None:
        self._rule = Rule.from_json(entry.body["rule"])
        self._prior_bpb = entry.body["noise_prior_bpb"]
        created = entry.body["created_at_ms"]
        self.lineage = [Best(0, entry.body["commit"], entry.body["source_sha256"], "", "", "", created, 0, entry.seq)]

    def _nothing(self, entry: Entry) -> None:
        """Nothing follows from it."""

    def _patch(self, entry: Entry) -> None:
        body = entry.body
        base = next(best for best in self.lineage if best.generation == body["base_generation"])
        patch = PatchState(body["patch_id"], body["author_id"], entry.seq, base.source_sha256, body["candidate_sha256"])
        patch.verdict = body["verdict"]
        self.patches[patch.patch_id] = patch

    def _result(self, entry: Entry) -> None:
        body = entry.body
        trial = Trial(
            result_sha256=body["result_sha256"],
            order_id="",
            identity_id=body["identity_id"],
            machine_id=body["machine_id"],
            hardware_class=body["hardware_class"],
            source_sha256=body["source_sha256"],
            patch_id=body["patch_id"],
            outcome=body["outcome"],
            val_bpb=body["val_bpb"],
            train_ms=body["train_ms"],
            disturbed=body["disturbed"],
            accepted_at_ms=entry.at_ms,
            tokens=body["tokens"],
            setting=body["setting"],
            base_sha256=body.get("base_sha256", ""),  # absent before there were trials with a known answer
            known_answer=body.get("known_answer", ""),
            known_effect_bpb=body.get("known_effect_bpb", 0.0),
            earlier=body.get("earlier", 0),  # absent before anything hung on it
            entry=entry.seq,
        )
        if trial.known_answer:
            self._known.append(trial)
        elif trial.patch_id:
            patch = self.patches[trial.patch_id]
            if (own := tried(trial)) is not None:
                self._tried[patch.base_sha256, trial.machine_id].append(own)
            patch.trials.append(trial)
            self._jury[trial.identity_id][trial.patch_id] = entry.seq
        else:
            self._baselines[trial.source_sha256].append(trial)
            self._measured[trial.source_sha256, trial.machine_id].append(trial)
        self.standings[trial.identity_id].trials += 1
        self.standings[trial.identity_id].train_ms += trial.train_ms

    def _withdrawal(self, entry: Entry) -> None:
        self.patches[entry.body["patch_id"]].verdict = "withdrawn"

    def _instruction(self, entry: Entry) -> None:
        after = {"approve": "open", "refuse": "refused"}.get(entry.body["action"])
        if after is not None:
            self.patches[entry.body["subject"]].verdict = after
        if self.orders.take(entry):
            self._touched |= dict.fromkeys(self._jury[entry.body["subject"]], entry.seq)

    def _credit(self, patch: PatchState, sign: int) -> None:
        own = self.standings[patch.author_id]
        own.promotions += sign
        own.gain_bpb += sign * ((patch.decision or {}).get("gain_bpb") or 0.0)

    def _believe(self, entry: Entry, *, counts: bool) -> None:
        identity_id = entry.body["identity_id"]
        self.orders.changed(entry)
        self._beliefs.append(Belief(identity_id, entry.seq, counts))
        self._touched |= dict.fromkeys(self._jury[identity_id], entry.seq)

    # --- what follows for a patch ---

    def _rows(self, patch: PatchState, entry: int) -> list[Row]:
        """`pairing.evidence`, without going through the baselines of machines that did not run the patch."""
        counting, base = self.orders.voids.counting, patch.base_sha256
        then = counting(pairing.before(patch.trials, entry))
        machines = sorted({trial.machine_id for trial in then})
        measured = [trial for own in machines for trial in counting(pairing.before(self._measured[base, own], entry))]
        ran = {own: counting(self._tried[base, own]) for own in machines if self._rule.own_trials}
        return pairing.evidence(then, measured, ran, entry, self._rule)

    def noise(self, entry: int, rows: Iterable[Row | Trial] = ()) -> dict[str, float]:
        """The noise per hardware class as of a ledger entry, with priors for their classes that have none."""
        at = pairing.noise_entry(entry)
        if at not in self._noise:
            valid = self.orders.voids.before(at).counting
            repeats = [valid(self._baselines[source]) for source in pairing.noise_sources(self.lineage, at, self._rule)]
            held = pairing.held_before(self._beliefs, at)
            self._noise[at] = pairing.estimate_noise(repeats, at, held, self._prior_bpb)
            while len(self._noise) > NOISE_KEPT:
                self._noise.pop(next(iter(self._noise)))
        return pairing.with_priors(self._noise[at], (row.hardware_class for row in rows), self._prior_bpb)

    def _decide(self, rows: Sequence[Row], noise_bpb: Mapping[str, float]) -> Decision:
        return decide(believed(rows, self.held), noise_bpb, pairing.rule_for(self._rule, noise_bpb))

    def decision(self, patch_id: str) -> Decision | None:
        """What follows for a patch from everything until now; None before there is evidence."""
        patch = self.patches[patch_id]
        entries = pairing.looks(patch.trials, self._baselines[patch.base_sha256], 0, self.length)
        if not entries:
            return None
        at = 1 + max(entries[-1], self._touched.get(patch_id, -1))
        rows = self._rows(patch, at)
        return self._decide(rows, self.noise(at, rows))

    def unsettled(self) -> list[str]:
        """Undecided patches whose evidence says something else than the last verdict in the ledger: the coordinator has
        not come to them yet, or keeps a verdict back."""
        undecided = [patch for patch in self.patches.values() if patch.verdict in UNDECIDED]
        found = [(patch, self.decision(patch.patch_id)) for patch in undecided]
        return [patch.patch_id for patch, decision in found if decision and decision.verdict.value != patch.verdict]

    # --- what follows for the best ---

    def _audit(self, rollback: Mapping[str, Any], entry: int, lineage: Sequence[Best]) -> Audit | None:
        """The audit that a roll-back rests on, by what is known as of an entry and by those who are believed now."""
        known = spans.before(lineage, entry)[-spans.AUDITED_BESTS :]
        baselines = {best.source_sha256: self._baselines[best.source_sha256] for best in known}
        for span in spans.spans(known, spans.measured(baselines, entry)):
            if span.old.generation <= rollback["old_generation"] and span.new.generation >= rollback["new_generation"]:
                valid = {source: self.orders.voids.counting(trials) for source, trials in baselines.items()}
                rows = spans.audit_rows(span, valid, entry, self.held)
                return audit(rows, self.noise(entry, rows), self._rule)
        return None

    def _verdict_of_rollback(self, patch: PatchState, rollback: Mapping[str, Any]) -> str:
        faulty = rollback["old_generation"] < patch.promoted_generation <= rollback["new_generation"]
        return Verdict.REGRESSED.value if faulty else Verdict.OPEN.value

    def _still_rolled_back(self, patch: PatchState) -> bool:
        rollback = self._rollbacks[patch.rolled_back_generation]
        if "instruction" in rollback:
            return not self.orders.fell(rollback["instruction"])
        at = next(best.entry for best in self.lineage if best.generation == patch.rolled_back_generation)
        found = self._audit(rollback, at, self.lineage)
        return found is None or found.roll_back

    # --- what follows for an identity ---

    def review(self, entry: int) -> Sequence[Change]:
        """Who should enter or leave quarantine, by what the ledger held before that entry."""
        decided = {one.patch_id: one.verdict_entry for one in self.patches.values() if one.speaks_of_its_jurors}
        recent = sorted(decided.items(), key=lambda item: (item[1], item[0]), reverse=True)
        own: dict[str, int] = {}
        for identity_id in self.held:
            latest = sorted(self._jury[identity_id].items(), key=lambda item: (item[1], item[0]), reverse=True)
            own |= {name: decided[name] for name, _ in latest[: reviewing.OWN_HISTORY] if name in decided}
        history = [self._as_decided(self.patches[name]) for name, _ in reviewing.history(recent, own, entry)]
        counting = self.orders.voids.counting
        known_trials = counting(pairing.before(self._known, entry))
        noise_bpb = self.noise(entry, [*(row for patch in history for row in patch.rows), *known_trials])
        baselines = {source: counting(pairing.before(trials, entry)) for source, trials in self._baselines.items()}
        answers = known.answers(known_trials, baselines, noise_bpb)
        heard = dict.fromkeys(self.orders.voids.identities & self.held.keys(), ()) | answers
        return trust.review(history, heard, self.held, noise_bpb, self.orders.vouched)[1]

    def _as_decided(self, patch: PatchState) -> DecidedPatch:
        assert patch.noise_bpb is not None
        rule = pairing.rule_for(self._rule, patch.noise_bpb)
        return DecidedPatch(patch.base_sha256, tuple(self._rows(patch, patch.evidence_before)), patch.noise_bpb, rule)
