"""The ledger read as facts: everything that was decided is recomputed from it and compared with what it says. Pure.

`Replay.follow` takes the entries one by one, from the first, in as many calls as one likes. Verdicts, changes of the
quarantine and roll-backs are worked out anew by the same pure rules that decided them, each from the entries before its
`evidence_before`; where the ledger says something else, that is a `Difference`. What is recorded counts as a fact from
then on, so that one false entry does not make all later ones look false. What should have followed and did not is named
by `unsettled`.

Leaves out signatures and the chain (`ledger.verify`), commits, and whether texts merge as a promotion claims.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from autoresearch.judging import pairing, trust
from autoresearch.judging.evidence import EvidenceError
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Best
from autoresearch.judging.record import PatchState, Record
from autoresearch.judging.trust import Change, Quarantine, Recheck, Suspicion
from autoresearch.judging.verdict import UNDECIDED, Verdict

SHOWN = 120  # characters of a value in a difference
NEARLY = 1e-9  # numbers closer than this are the same: another machine's mathematics may round otherwise


class Difference(NamedTuple):
    """A ledger entry that says something else than what follows from those before it."""

    entry: int
    text: str


class Replay(Record):
    """A swarm as its ledger tells it, with what does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.differences: list[Difference] = []
        self._expected: tuple[int, list[Change]] = (-1, [])  # evidence of the last review, its changes not seen yet

    def follow(self, entries: Iterable[Entry]) -> None:
        """Takes the next entries in.

        Raises:
            ValueError: an entry is out of its order, or lacks what its kind says.
        """
        for entry in entries:
            if entry.seq != self.length:
                raise ValueError(f"entry {entry.seq} came where entry {self.length} is expected")
            try:
                if objection := self.orders.objection(entry):
                    self._differ(entry, objection)
                if entry.kind == "result":
                    self._check_earlier(entry)
                _TAKE[entry.kind](self, entry)
            except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
                raise ValueError(
                    f"ledger entry {entry.seq} ({entry.kind}) is not what it should be: {error!r}"
                ) from error
            self.length += 1

    def _check_earlier(self, entry: Entry) -> None:
        """A result says how many there were of its patch when it was handed out; not more than there are now."""
        there = len(self.patches[entry.body["patch_id"]].trials) if entry.body["patch_id"] else 0
        if not 0 <= entry.body.get("earlier", 0) <= there:
            self._differ(entry, f"there were {there} results of its patch before, not {entry.body['earlier']}")

    # --- verdicts ---

    def _verdict(self, entry: Entry) -> None:
        body = entry.body
        patch = self.patches[body["patch_id"]]
        if "rollback" in body:
            after = self._verdict_of_rollback(patch, self._rollbacks[body["rollback"]])
            self._check(entry, after, body["verdict"], "verdict after a roll-back")
        elif "rollback_fell" in body:
            self._check(entry, self._still_rolled_back(patch), False, "whether it stays rolled back")
        else:
            try:
                self._check_verdict(entry, patch)
            except EvidenceError as error:  # an earlier entry is false, and was named
                self._differ(entry, f"verdict: cannot be recomputed ({error})")
        generation = patch.promoted_generation
        if "rollback" in body:
            self._credit(patch, -1)
            self.proposals.discard(generation)
            patch.rolled_back_generation = body["rollback"] if body["verdict"] == Verdict.REGRESSED else 0
        if body["verdict"] == Verdict.OPEN:
            if "rollback" in body or "rollback_fell" in body:
                self._touched[patch.patch_id] = entry.seq
            patch.promoted_generation = patch.rolled_back_generation = 0
        patch.verdict, patch.verdict_entry = body["verdict"], entry.seq
        patch.decision, patch.evidence_before = body["decision"], body["evidence_before"]
        patch.noise_bpb = body["noise_bpb"]
        patch.jurors = len(pairing.jurors(self.orders.voids.counting(patch.trials), patch.evidence_before))

    def _check_verdict(self, entry: Entry, patch: PatchState) -> None:
        body = entry.body
        revived = patch.verdict not in UNDECIDED and patch.noise_bpb is not None
        if revived:
            self._check(entry, patch.evidence_before, body["evidence_before"], "evidence of a recomputed verdict")
        rows = self._rows(patch, body["evidence_before"])
        noise_bpb = patch.noise_bpb if revived else self.noise(body["evidence_before"], rows)
        assert noise_bpb is not None
        self._check(entry, noise_bpb, body["noise_bpb"], "noise")
        excluded = sorted({row.identity for row in rows} & self.held.keys())
        self._check(entry, excluded, body["excluded"], "identities left out")
        decision = self._decide(rows, noise_bpb)
        won = body["verdict"] == Verdict.CONFLICT  # only a winner can be one
        self._check(entry, decision.verdict.value, Verdict.PROMOTED.value if won else body["verdict"], "verdict")
        self._check(entry, decision.to_json(), body["decision"], "decision")

    # --- the best ---

    def _promotion(self, entry: Entry) -> None:
        body = entry.body
        patch = self.patches[body["patch_id"]]
        self._check(entry, Verdict.PROMOTED.value, patch.verdict, "verdict of what is promoted")
        if patch.base_sha256 == self.best.source_sha256:
            self._check(entry, patch.candidate_sha256, body["source_sha256"], "source")
        self._move(entry, body["patch_id"], body["title"], ())
        patch.promoted_generation = body["generation"]
        self._credit(patch, 1)

    def _move(self, entry: Entry, patch_id: str, title: str, undone: tuple[int, ...]) -> None:
        body = entry.body
        self._check(entry, self.best.generation + 1, body["generation"], "generation")
        self._check(entry, self.best.commit, body["parent"], "parent")
        trials = sum(own.trials for own in self.standings.values())
        best = Best(
            body["generation"], body["commit"], body["source_sha256"], patch_id, title, "", entry.at_ms, trials,
            entry.seq, undone,
        )  # fmt: skip
        self.lineage.append(best)

    def _rollback(self, entry: Entry) -> None:
        body = entry.body
        undone = tuple(body["undone"])
        self._rollbacks[body["generation"]] = body
        if "instruction" in body:
            if not self.orders.rolls_back(body["instruction"], body["old_generation"], body["new_generation"]):
                self._differ(entry, "no instruction orders this roll-back")
        else:
            found = self._audit(body, body["evidence_before"], self.lineage)
            if found is None or not found.roll_back:
                self._differ(entry, "no audit speaks for this roll-back")
            else:
                self._check(entry, _plain(asdict(found)), body["audit"], "audit")
        self._move(entry, "", body["title"], undone)

    def _proposal(self, entry: Entry) -> None:
        body = entry.body
        patch = self.patches[body["patch_id"]]
        assert patch.noise_bpb is not None
        rows = self._rows(patch, patch.evidence_before)
        rule = pairing.rule_for(self._rule, patch.noise_bpb)
        again: Recheck = trust.recheck(rows, patch.noise_bpb, rule, self.held, Verdict(patch.verdict))
        self._check(entry, again.stands, body["stands"], "proposal")
        (self.proposals.discard if body["stands"] else self.proposals.add)(body["generation"])

    # --- trust ---

    def _quarantine(self, entry: Entry) -> None:
        body = entry.body
        kind = Suspicion(body["suspicion"])
        self._check(entry, "instruction" in body, kind is Suspicion.OPERATOR, "whether it is by hand")
        if "instruction" not in body:
            self._check_change(entry)
        self.held[body["identity_id"]] = Quarantine(body["identity_id"], kind, body["log_odds"], body["reason"])
        self._believe(entry, counts=False)

    def _reinstatement(self, entry: Entry) -> None:
        if "instruction" not in entry.body:
            self._check_change(entry)
        self.held.pop(entry.body["identity_id"], None)
        self._believe(entry, counts=True)

    def _check_change(self, entry: Entry) -> None:
        before, changes = self._expected
        if before != entry.body["evidence_before"] or not changes:
            before, changes = entry.body["evidence_before"], list(self.review(entry.body["evidence_before"]))
        self._expected = (before, changes[1:])
        if not changes:
            self._differ(entry, "no review of everybody's reporting asks for this")
            return
        own = changes[0]
        found = (own.identity, "reinstatement" if own.quarantine is None else "quarantine")
        self._check(entry, found, (entry.body["identity_id"], entry.kind), "change")
        if own.quarantine is not None:
            self._check(entry, own.quarantine.log_odds, entry.body.get("log_odds"), "log odds")

    # --- comparing ---

    def _check(self, entry: Entry, found: object, recorded: object, what: str) -> None:
        if not _alike(_plain(found), _plain(recorded)):
            self._differ(entry, f"{what}: {_short(found)} follows from the entries before, not {_short(recorded)}")

    def _differ(self, entry: Entry, text: str) -> None:
        self.differences.append(Difference(entry.seq, text))


def _plain(value: object) -> Any:
    """As JSON reads it back."""
    return json.loads(json.dumps(value))


def _alike(one: Any, other: Any) -> bool:
    """Equal, numbers nearly."""
    if isinstance(one, float) and isinstance(other, float | int) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=NEARLY, abs_tol=NEARLY)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return type(one) is type(other) and bool(one == other)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


_TAKE: Mapping[str, Callable[[Replay, Entry], None]] = {
    "genesis": Replay._genesis,
    "identity": Replay._nothing,
    "rotation": Replay._nothing,
    "restoration": Replay._nothing,
    "patch": Replay._patch,
    "result": Replay._result,
    "verdict": Replay._verdict,
    "promotion": Replay._promotion,
    "withdrawal": Replay._withdrawal,
    "instruction": Replay._instruction,
    "quarantine": Replay._quarantine,
    "reinstatement": Replay._reinstatement,
    "proposal": Replay._proposal,
    "rollback": Replay._rollback,
}
