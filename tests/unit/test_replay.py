"""What follows from a ledger, whatever stands in it: a coordinator in few lines that looks after every entry, driven by
facts that Hypothesis makes up, and the fold that recomputes it.
"""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging import pairing
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Trial, Tried
from autoresearch.judging.periods import tried
from autoresearch.judging.replay import Replay
from autoresearch.judging.trust import believed
from autoresearch.judging.verdict import DEFAULT, Decision, Verdict, decide

unhurried = settings(deadline=None, max_examples=25)
CLASSES = ("H100", "A100", "4090")
ENDED = {"rejected", "regressed", "crashed", "disqualified", "inconclusive"}


def entry(seq: int, kind: str, **body: Any) -> Entry:
    return Entry(seq, "", 1_000 * seq, kind, body)


def genesis() -> Entry:
    return entry(
        0, "genesis", rule=DEFAULT.to_json(), noise_prior_bpb=0.002, created_at_ms=0, commit="c0", source_sha256="s0"
    )


def patch(seq: int, name: str) -> Entry:
    return entry(
        seq,
        "patch",
        patch_id=name,
        author_id="author",
        base_generation=0,
        candidate_sha256=f"of {name}",
        verdict="open",
    )


@dataclasses.dataclass(frozen=True)
class Fact:
    """A result: of a patch, or of the best when there is no name."""

    patch_id: str
    identity: str
    bpb: float | None  # None: it crashed

    def as_entry(self, seq: int) -> Entry:
        return entry(
            seq,
            "result",
            result_sha256=f"r{seq}",
            identity_id=self.identity,
            machine_id=f"machine of {self.identity}",
            hardware_class=CLASSES[ord(self.identity[0]) % 3],
            source_sha256=f"of {self.patch_id}" if self.patch_id else "s0",
            patch_id=self.patch_id,
            outcome="completed" if self.bpb is not None else "crashed",
            val_bpb=self.bpb,
            train_ms=1,
            tokens=0,
            setting="",
            disturbed=False,
        )


class Coordinator:
    """Writes what follows from facts, each after the entry that brings it, as `coordinator.deciding` does."""

    def __init__(self) -> None:
        self.entries = [genesis(), patch(1, "p"), patch(2, "q")]
        self.verdicts = {"p": "open", "q": "open"}
        self.trials: dict[str, list[Trial]] = {"p": [], "q": [], "": []}
        self.tried: dict[str, list[Tried]] = {}  # by machine

    def take(self, fact: Fact) -> None:
        """A result comes in and is looked at."""
        entry = self.accept(fact)
        for name in "pq":
            if entry in pairing.looks(self.trials[name], self.trials[""], entry, entry):
                self._look(name)

    def accept(self, fact: Fact) -> int:
        """A result comes in."""
        made = fact.as_entry(len(self.entries))
        self.entries.append(made)
        body = {name: value for name, value in made.body.items() if name in Trial.__dataclass_fields__}
        trial = Trial(order_id="", accepted_at_ms=made.at_ms, entry=made.seq, **body)
        if fact.patch_id and (own := tried(trial)) is not None:
            self.tried.setdefault(own.machine_id, []).append(own)
        self.trials[fact.patch_id].append(trial)
        return made.seq

    def decision(self, name: str) -> tuple[Decision, dict[str, float]]:
        """What follows from all that there is, and the noise then."""
        at = len(self.entries)
        rows = pairing.evidence(self.trials[name], self.trials[""], self.tried, at, DEFAULT)
        noise = pairing.estimate_noise([self.trials[""]], pairing.noise_entry(at), (), 0.002)
        noise = pairing.with_priors(noise, {row.hardware_class for row in rows}, 0.002)
        return decide(believed(rows, ()), noise, pairing.rule_for(DEFAULT, noise)), noise

    def _look(self, name: str) -> None:
        if self.verdicts[name] not in ("open", "parked"):
            return
        at = len(self.entries)
        decision, noise = self.decision(name)
        if decision.verdict.value == self.verdicts[name]:
            return
        won = decision.verdict is Verdict.PROMOTED  # there are no texts to merge here
        self.verdicts[name] = "conflict" if won else decision.verdict.value
        body = {
            "patch_id": name,
            "verdict": self.verdicts[name],
            "reason": "",
            "decision": decision.to_json(),
            "noise_bpb": noise,
            "evidence_before": at,
            "excluded": [],
        }
        self.entries.append(entry(at, "verdict", **body))


values = st.sampled_from([0.9, 0.98, 0.995, 0.999, 1.0, 1.001, 1.01, 1.2]) | st.floats(0.9, 1.1) | st.none()
facts = st.builds(Fact, st.sampled_from(["", "p", "q"]), st.sampled_from("abcde"), values)


def read_back(entries: Sequence[Entry]) -> list[Entry]:
    """As they come from a file."""
    return [dataclasses.replace(one, body=json.loads(json.dumps(one.body))) for one in entries]


def followed(entries: Sequence[Entry], *cuts: int) -> Replay:
    replay = Replay()
    for first, last in itertools.pairwise((0, *sorted(cuts), len(entries))):
        replay.follow(entries[first:last])
    return replay


def state(replay: Replay) -> object:
    return (
        {name: dataclasses.asdict(own) for name, own in replay.patches.items()}, replay.lineage, dict(replay.standings),
        replay.held, replay.differences, replay.length,
    )  # fmt: skip


@unhurried
@given(st.lists(facts, max_size=25))
def test_everything_that_was_decided_follows_and_nothing_is_missing(made: list[Fact]) -> None:
    coordinator = Coordinator()
    for fact in made:
        coordinator.take(fact)
    replay = followed(read_back(coordinator.entries))
    assert replay.differences == []
    assert replay.unsettled() == []
    assert {name: own.verdict for name, own in replay.patches.items()} == coordinator.verdicts


@unhurried
@given(st.lists(facts, max_size=25), st.data())
def test_a_log_split_anywhere_and_resumed_gives_the_same(made: list[Fact], data: st.DataObject) -> None:
    coordinator = Coordinator()
    for fact in made:
        coordinator.take(fact)
    entries = read_back(coordinator.entries)
    cuts = data.draw(st.lists(st.integers(0, len(entries)), max_size=3))
    assert state(followed(entries, *cuts)) == state(followed(entries))


@unhurried
@given(st.lists(facts, max_size=10), st.lists(facts, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_results_that_arrived_at_the_same_stage_is_no_matter(
    before: list[Fact], together: list[Fact], chance: Any
) -> None:
    """Whoever looks only after all of them finds the same, in whatever order they came."""
    shuffled = list(together)
    chance.shuffle(shuffled)
    decisions = []
    for order in (together, shuffled):
        coordinator = Coordinator()
        for fact in before:
            coordinator.take(fact)
        for fact in order:
            coordinator.accept(fact)
        decisions.append([coordinator.decision(name) for name in "pq"])
    assert decisions[0] == decisions[1]


@unhurried
@given(st.lists(st.builds(Fact, st.sampled_from(["", "p"]), st.sampled_from("ab"), values), max_size=40))
def test_no_two_identities_promote_a_patch_whatever_their_results(made: list[Fact]) -> None:
    coordinator = Coordinator()
    for fact in made:
        coordinator.take(fact)
    assert coordinator.verdicts["p"] != "conflict"  # what a winner is here


@unhurried
@given(st.lists(st.builds(Fact, st.sampled_from(["", "p"]), st.just("a"), values), max_size=60))
def test_no_single_identity_ends_a_patch_for_good(made: list[Fact]) -> None:
    coordinator = Coordinator()
    for fact in made:
        coordinator.take(fact)
    assert coordinator.verdicts["p"] not in ENDED


@unhurried
@given(st.lists(facts, max_size=20), st.sampled_from("abcde"), st.floats(0.0, 0.2))
def test_a_worse_result_instead_of_another_never_helps(made: list[Fact], who: str, worse_by: float) -> None:
    def log_odds(bpb: float) -> float:
        replay = Replay()
        replay.follow([genesis(), patch(1, "p"), patch(2, "q")])
        more = [*made, Fact("", who, 1.0), Fact("p", who, bpb)]
        replay.follow(fact.as_entry(seq) for seq, fact in enumerate(more, start=3))
        found = replay.decision("p")
        assert found is not None
        return found.log_odds

    assert log_odds(1.0 + worse_by) <= log_odds(1.0) + 1e-9


WRONG = {
    "verdict": "promoted",
    "noise_bpb": {"H100": 1.0},
    "evidence_before": 3,
    "excluded": ["a"],
}


@pytest.mark.parametrize("field", WRONG)
def test_what_does_not_follow_is_named(field: str) -> None:
    coordinator = Coordinator()
    for fact in (Fact("", "a", 1.0), Fact("p", "a", 1.1), Fact("", "b", 1.0), Fact("p", "b", 1.1)):
        coordinator.take(fact)
    at = next(one.seq for one in coordinator.entries if one.kind == "verdict")
    entries = read_back(coordinator.entries)
    entries[at] = dataclasses.replace(entries[at], body={**entries[at].body, field: WRONG[field]})
    assert at in {difference.entry for difference in followed(entries).differences}


def test_a_verdict_kept_back_is_named() -> None:
    coordinator = Coordinator()
    for fact in (Fact("", "a", 1.0), Fact("p", "a", 1.1)):
        coordinator.take(fact)
    facts_only = [one for one in coordinator.entries if one.kind != "verdict"]
    assert followed(read_back(facts_only)).unsettled() == ["p"]


@pytest.mark.parametrize("kind", ["quarantine", "reinstatement", "rollback", "promotion"])
def test_what_nothing_asks_for_is_named(kind: str) -> None:
    bodies: dict[str, dict[str, object]] = {
        "quarantine": {
            "identity_id": "a", "suspicion": "flatters", "log_odds": 9.0, "reason": "", "evidence_before": 3,
        },
        "reinstatement": {"identity_id": "a", "reason": "", "evidence_before": 3},
        "rollback": {
            "generation": 1, "commit": "c1", "parent": "c0", "source_sha256": "s", "title": "", "undone": [1],
            "audit": {}, "evidence_before": 3, "old_generation": 0, "new_generation": 1,
        },
        "promotion": {
            "patch_id": "p", "generation": 1, "commit": "c1", "parent": "c0", "source_sha256": "of p", "title": "",
        },
    }  # fmt: skip
    made = [genesis(), patch(1, "p"), patch(2, "q"), entry(3, kind, **bodies[kind])]
    assert {difference.entry for difference in followed(made).differences} == {3}


@pytest.mark.parametrize("body", [{}, {"patch_id": "nobody's"}, {"patch_id": 7}, {"patch_id": "p", "verdict": "open"}])
def test_an_entry_that_lacks_what_its_kind_says_is_an_error(body: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"ledger entry 3 \(verdict\) is not what it should be"):
        followed([genesis(), patch(1, "p"), patch(2, "q"), entry(3, "verdict", **body)])
    with pytest.raises(ValueError, match="entry 5 came where entry 0 is expected"):
        followed([patch(5, "p")])
