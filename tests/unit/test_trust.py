"""Who is believed: liars are found by what they do, honest machines are left alone, and everything can be undone."""

import json
import math
import random  # noqa: TID251  # always seeded: the same worlds every time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.agreement import Deviation, Residual, alarms, deviations, residuals
from autoresearch.judging.trust import (
    QUARANTINE_AT,
    DecidedPatch,
    KnownAnswer,
    Quarantine,
    Reputation,
    Suspicion,
    alarm_votes,
    believed,
    bias_votes,
    known_answer_votes,
    next_change,
    recheck,
    review,
    suspicion,
)
from autoresearch.judging.verdict import DEFAULT, Row, Verdict, decide

HELPERS = json.loads((Path(__file__).parents[1] / "golden" / "verdict.json").read_text())["helpers"]
SIGMA = {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020, "3060": 0.0045}
GOOD_BPB = 0.006
Lie = Callable[[float], float]


def ran(identity: str, hardware_class: str = "H100", gain_bpb: float = GOOD_BPB) -> Row:
    return Row(identity, "m", hardware_class, (1.0 - gain_bpb,), (1.0, 1.0))


def crashed(identity: str, hardware_class: str = "H100") -> Row:
    return Row(identity, "m", hardware_class, (), (1.0,), crashes=1)


def disqualified(identity: str) -> Row:
    return Row(identity, "m", "H100", (), (1.0,), disqualifications=1)


class TestGolden:
    """The project's own vectors, which call an identity an owner and take plain sums."""

    def test_bias(self) -> None:
        flatterer = [(0.006, 2, 2), (0.007, 1, 1), (0.005, 3, 2), (0.006, 2, 1)]
        honest = [(0.001, 2, 2), (-0.0012, 1, 1), (0.0004, 3, 2)]
        for name, found in (("flatterer", flatterer), ("honest", honest)):
            own = [Deviation(gain, patches, baselines, 1e-6, 0.0015) for gain, patches, baselines in found]
            sums = [math.fsum(bias_votes(own, sign)) for sign in (1.0, -1.0)]
            assert sums == pytest.approx(HELPERS[f"owner_bias {name}"], abs=1e-9)

    def test_known_answer(self) -> None:
        for name, found in (("honest", [(-0.0093, 2), (-0.0111, 1)]), ("lazy", [(0.0004, 2), (-0.0008, 1)])):
            votes = known_answer_votes([KnownAnswer(gain, baselines, 0.002) for gain, baselines in found])
            assert math.fsum(votes) == pytest.approx(HELPERS[f"known_answer {name}"], abs=1e-9)


class TestResiduals:
    def test_everybody_is_measured_against_the_others(self) -> None:
        found = residuals([ran("ann"), ran("bob"), ran("zed", gain_bpb=0.012)], SIGMA, "base", DEFAULT)
        by_name = {own.identity: own.gain_bpb for own in found}
        assert by_name == pytest.approx({"ann": -0.003, "bob": -0.003, "zed": 0.006})

    def test_where_the_others_contradict_each_other_nobody_looks_odd(self) -> None:
        """A ring's member among those whom an honest identity is measured against says nothing about that one."""
        liar, ann, bob = ran("zed", gain_bpb=0.006), ran("ann", gain_bpb=-0.008), ran("bob", gain_bpb=-0.008)
        own = deviations([r for r in residuals([liar, ann, bob], SIGMA, "b", DEFAULT) if r.identity == "ann"], SIGMA)
        assert max(bias_votes(own, -1.0)) < 0.2
        found = deviations([r for r in residuals([liar, ann, bob], SIGMA, "b", DEFAULT) if r.identity == "zed"], SIGMA)
        assert min(bias_votes(found, 1.0)) > 1.9  # the two agree, so that the liar does

    def test_ones_own_second_machine_is_no_witness(self) -> None:
        lone = [ran("zed", gain_bpb=0.012), Row("zed", "m2", "A100", (0.9,), (1.0,)), ran("ann")]
        assert residuals(lone, SIGMA, "base", DEFAULT) == ()
        both = residuals([*lone, ran("bob")], SIGMA, "base", DEFAULT)
        assert max(both).gain_bpb == pytest.approx(0.1 - GOOD_BPB)  # zed's A100 against ann and bob alone

    def test_one_base_is_one_deviation(self) -> None:
        own = [Residual("zed", "m", "H100", base, gain, 2, 1e-6) for base, gain in (("x", 0.1), ("y", 0.5), ("x", 0.3))]
        assert [(d.gain_bpb, d.patches) for d in deviations(own, SIGMA)] == [(pytest.approx(0.2), 2), (0.5, 1)]


class TestAlarms:
    def test_a_crash_is_refuted_by_two_who_finished_on_that_class(self) -> None:
        rows = [ran("ann"), ran("bob", "A100"), ran("cem", "4090"), crashed("zed")]
        assert "zed" not in alarms(rows)
        assert alarms([*rows, ran("dee")])["zed"] is True
        assert alarms(rows)["ann"] is False

    def test_a_crash_that_somebody_shares_is_none(self) -> None:
        finished = [ran("ann"), ran("bob"), ran("cem")]
        assert "zed" not in alarms([*finished, crashed("zed"), crashed("eve")])

    def test_a_failed_exam_takes_four_to_refute(self) -> None:
        finished = [ran("ann"), ran("bob"), ran("cem"), ran("dee")]
        assert "zed" not in alarms([*finished[:3], disqualified("zed")])
        assert alarms([*finished, disqualified("zed")])["zed"] is True
        assert "zed" not in alarms([*finished, disqualified("zed"), disqualified("eve")])

    def test_nothing_to_say_about_a_patch_that_nobody_finished(self) -> None:
        assert alarms([crashed("ann"), crashed("bob")]) == {}

    def test_three_refuted_alarms_are_enough_and_a_flaky_machine_is_left_alone(self) -> None:
        assert suspicion(alarm_votes([True, True, True])) >= QUARANTINE_AT
        flaky = ([False] * 12 + [True]) * 20
        assert max(suspicion(alarm_votes(flaky[:n])) for n in range(len(flaky))) < QUARANTINE_AT


class TestSuspicion:
    def test_a_long_honest_past_is_not_a_licence_to_lie(self) -> None:
        past = [Deviation(0.0, 2, 2, 1e-6, 0.0015)] * 1_000
        lies = [Deviation(0.008, 2, 2, 1e-6, 0.0015)] * 6
        assert suspicion(bias_votes([*past, *lies[:2]], 1.0)) < QUARANTINE_AT
        assert suspicion(bias_votes([*past, *lies], 1.0)) >= QUARANTINE_AT
        assert math.fsum(bias_votes([*past, *lies], 1.0)) < 0.0  # what the plain sum would say

    @settings(deadline=None)
    @given(gains=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2))
    def test_no_two_votes_are_enough(self, gains: list[float]) -> None:
        own = [Deviation(gain, 3, 3, 0.0, 0.001) for gain in gains]
        assert suspicion(bias_votes(own, 1.0)) < QUARANTINE_AT
        assert suspicion(bias_votes(own, -1.0)) < QUARANTINE_AT

    def test_one_known_answer_is_not_enough_two_are(self) -> None:
        invented = [KnownAnswer(0.0, 4, 0.001)] * 2
        assert suspicion(known_answer_votes(invented[:1])) < QUARANTINE_AT
        assert suspicion(known_answer_votes(invented)) >= QUARANTINE_AT


def world(seed: int, lies: dict[str, Lie]) -> list[DecidedPatch]:
    """Eight identities on four kinds of cards, some of whom lie about gains, run 64 patches on 8 generations."""
    chance = random.Random(seed)
    cards = {
        name: list(SIGMA)[i % 4] for i, name in enumerate(["ann", "bob", "cem", "dee", "eve", "fay", "gus", "zed"])
    }
    history = []
    for patch in range(64):
        true_bpb, rows = chance.choice([-0.004, 0.0, 0.0, 0.003]), []
        for identity, card in chance.sample(sorted(cards.items()), 5):
            gain_bpb = lies.get(identity, honest)(true_bpb + chance.gauss(0.0, SIGMA[card]))
            baseline = tuple(chance.gauss(1.0, SIGMA[card]) for _ in range(3))
            rows.append(Row(identity, "m", card, (1.0 - gain_bpb,), baseline))
        history.append(DecidedPatch(f"generation {patch // 8}", tuple(rows), SIGMA, DEFAULT))
    return history


def honest(gain_bpb: float) -> float:
    return gain_bpb


def flatter(gain_bpb: float) -> float:
    return gain_bpb + 0.010


def run_down(gain_bpb: float) -> float:
    return gain_bpb - 0.010


class TestReview:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize(("lie", "kind"), [(flatter, Suspicion.FLATTERS), (run_down, Suspicion.RUNS_DOWN)])
    @pytest.mark.parametrize("liar", ["ann", "bob", "cem"])  # on an H100, an A100, a 4090
    def test_a_daily_liar_is_found_and_nobody_else(self, seed: int, lie: Lie, kind: Suspicion, liar: str) -> None:
        _, changes = review(world(seed, {liar: lie}), {}, {}, SIGMA)
        found = [(change.identity, change.quarantine and change.quarantine.suspicion) for change in changes]
        assert found == [(liar, kind)]
        assert "everybody else measures on the same patches; the odds of that are" in changes[0].reason

    @pytest.mark.parametrize("seed", range(20))
    def test_an_honest_swarm_is_left_alone(self, seed: int) -> None:
        reputations, changes = review(world(seed, {}), {}, {}, SIGMA)
        assert changes == ()
        assert all(own.agreement is not None and own.agreement > 0.6 for own in reputations.values())

    def test_one_who_was_suspected_because_of_a_liar_comes_back(self) -> None:
        """The liar of this world runs everything down; measured against it, honest ones seemed to flatter."""
        wrongly = Quarantine("eve", Suspicion.FLATTERS, 7.0, "larger gains than zed's")
        reputations, changes = review(world(3, {"bob": run_down}), {}, {"eve": wrongly}, SIGMA)
        assert [(change.identity, change.quarantine is None) for change in changes] == [("bob", False), ("eve", True)]
        assert set(reputations) == {"ann", "bob", "cem", "dee", "eve", "fay", "gus", "zed"}

    def test_who_invents_and_who_cries_wolf(self) -> None:
        finished = (ran("ann"), ran("bob"), ran("cem"), ran("dee"))
        history = [DecidedPatch("x", (*finished, crashed("zed")), SIGMA, DEFAULT)] * 3
        answers = {"eve": [KnownAnswer(0.0, 2, 0.0013)] * 2, "ann": [KnownAnswer(-0.010, 2, 0.0013)] * 2}
        reputations, changes = review(history, answers, {}, SIGMA)
        found = {change.identity: change.quarantine and change.quarantine.suspicion for change in changes}
        assert found == {"zed": Suspicion.CRIES_WOLF, "eve": Suspicion.INVENTS}
        assert (reputations["zed"].alarms, reputations["ann"].known_answers) == (3, 2)

    def test_nothing_known_nothing_changed(self) -> None:
        assert review([], {}, {}, SIGMA) == ({}, ())


class TestQuarantine:
    HELD = Quarantine("zed", Suspicion.FLATTERS, 7.0, "because")

    def reputation(self, log_odds: float) -> Reputation:
        return Reputation("zed", dict.fromkeys(Suspicion, -9.0) | {Suspicion.FLATTERS: log_odds}, 9, 0, 0, 0.5)

    def test_comes_and_goes_with_a_reason_and_does_not_flap(self) -> None:
        assert next_change([self.reputation(QUARANTINE_AT - 0.1)], {}) is None
        entered = next_change([self.reputation(QUARANTINE_AT)], {})
        assert entered is not None
        assert entered.quarantine is not None
        assert entered.reason.endswith("the odds of that are 500 : 1")
        held = {"zed": entered.quarantine}
        assert next_change([self.reputation(QUARANTINE_AT - 0.1)], held) is None
        left = next_change([self.reputation(0.5)], held)
        assert left is not None
        assert left.quarantine is None
        assert left.reason == "reinstated: the evidence that it flatters no longer holds; the odds of that are 1.6 : 1"

    def test_what_a_person_decided_only_a_person_lifts(self) -> None:
        banned = Quarantine("zed", Suspicion.OPERATOR, 0.0, "sold its key")
        assert next_change([self.reputation(-9.0)], {"zed": banned}) is None

    def test_is_recorded_whole(self) -> None:
        recorded = json.loads(json.dumps(self.HELD.to_json()))
        assert Quarantine(**{**recorded, "suspicion": Suspicion(recorded["suspicion"])}) == self.HELD


class TestRecheck:
    ROWS = (ran("ann", "H100"), ran("bob", "A100"), ran("zed", "4090"))

    def test_a_promotion_that_hung_on_a_liar_is_proposed_for_roll_back(self) -> None:
        assert decide(self.ROWS, SIGMA).verdict is Verdict.PROMOTED
        again = recheck(self.ROWS, SIGMA, DEFAULT, {"zed"}, Verdict.PROMOTED)
        assert again.roll_back
        assert again.after.identities == 2
        assert again.reason.startswith("its promotion does not stand without zed: needs 1 more machine")

    def test_one_that_did_not_stands(self) -> None:
        again = recheck([*self.ROWS, ran("cem", "4090")], SIGMA, DEFAULT, {"zed"}, Verdict.PROMOTED)
        assert not again.roll_back
        assert again.reason == "promoted stands without zed"

    def test_a_parked_patch_may_come_back_when_its_saboteur_goes(self) -> None:
        rows = [ran("ann"), ran("zed", gain_bpb=-0.5)]
        before = decide(rows, SIGMA).verdict
        again = recheck(rows, SIGMA, DEFAULT, {"zed"}, before)
        assert (before, again.after.verdict, again.roll_back) == (Verdict.PARKED, Verdict.OPEN, False)
        assert again.reason.startswith("parked becomes open without zed: needs")

    def test_an_authors_withdrawal_stays(self) -> None:
        again = recheck(self.ROWS, SIGMA, DEFAULT, {"zed"}, Verdict.WITHDRAWN)
        assert not again.roll_back
        assert again.reason == "withdrawn stands without zed"

    def test_reinstating_gives_the_same_decision_back(self) -> None:
        assert recheck(self.ROWS, SIGMA, DEFAULT, (), Verdict.PROMOTED).after == decide(self.ROWS, SIGMA)
        assert believed(self.ROWS, ()) == self.ROWS
        assert believed(self.ROWS, {"ann", "zed"}) == self.ROWS[1:2]
