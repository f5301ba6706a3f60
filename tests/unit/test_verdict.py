"""What a user sees the verdict core do: promotions, parking, crashes, exam failures, doubts, sentences, audits."""

import dataclasses
import json

import pytest

from autoresearch.judging.verdict import (
    DEFAULT,
    FAST,
    SOLO,
    STRICT,
    Decision,
    EvidenceError,
    Row,
    Rule,
    Verdict,
    audit,
    decide,
    wanted_in_flight,
)

SIGMA = {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020, "3060": 0.0045}
ONE_CLASS = dataclasses.replace(DEFAULT, min_classes=1)
TWO_CLASSES = dataclasses.replace(DEFAULT, min_classes=2)
GOOD_BPB = 0.006  # a gain that every card sees as a full vote for


def ran(identity: str, hardware_class: str, gain_bpb: float, machine: str = "m", **reports: int) -> Row:
    return Row(identity, machine, hardware_class, (1.0 - gain_bpb,), (1.0, 1.0), **reports)


def crashed(identity: str, hardware_class: str, times: int = 1) -> Row:
    return Row(identity, "m", hardware_class, (), (1.0,), crashes=times)


def disqualified(identity: str, hardware_class: str = "H100") -> Row:
    return Row(identity, "m", hardware_class, (), (1.0,), disqualifications=1)


def verdict(*rows: Row, rule: Rule = DEFAULT) -> Verdict:
    return decide(rows, SIGMA, rule).verdict


WINNERS = (ran("ann", "H100", GOOD_BPB), ran("bob", "A100", GOOD_BPB), ran("cem", "4090", GOOD_BPB))


class TestWinning:
    def test_three_identities_on_three_classes_win(self) -> None:
        decision = decide(WINNERS, SIGMA)
        assert decision.verdict is Verdict.PROMOTED
        assert decision.odds >= 100.0
        assert decision.progress == 1.0
        assert (decision.identities, decision.classes, decision.trials) == (3, ("4090", "A100", "H100"), 3)
        assert decision.hangs_on == ("ann", "bob", "cem")
        assert decision.sentence.startswith("won: 3 volunteers on 3 kinds of hardware put the odds that it helps at ")

    def test_many_classes_of_one_identity_are_one_vote(self) -> None:
        decision = decide(
            [dataclasses.replace(row, identity="ann", machine=row.hardware_class) for row in WINNERS], SIGMA
        )
        assert decision.verdict is Verdict.OPEN
        assert decision.identities == len(decision.votes) == 1
        assert decision.odds == pytest.approx(6.0)

    def test_two_identities_are_not_enough_even_where_their_votes_are(self) -> None:
        second_machine = Row("bob", "m2", "4090", (1.0 - GOOD_BPB,), (1.0, 1.0))
        decision = decide([*WINNERS[:2], second_machine], SIGMA, FAST)
        assert decision.odds > 1.0 / FAST.alpha
        assert (decision.verdict, len(decision.classes)) == (Verdict.OPEN, 3)

    def test_strict_wants_a_fourth(self) -> None:
        assert verdict(*WINNERS, rule=STRICT) is Verdict.OPEN
        assert verdict(*WINNERS, ran("dee", "A100", GOOD_BPB), rule=STRICT) is Verdict.PROMOTED

    def test_alone_only_in_solo(self) -> None:
        many = Row("ann", "m", "H100", (0.99, 0.99, 0.99), (1.0, 1.0, 1.0))
        assert verdict(many, rule=SOLO) is Verdict.PROMOTED
        assert verdict(many, rule=FAST) is Verdict.OPEN

    def test_one_saboteur_does_not_stop_a_good_patch(self) -> None:
        saboteur = ran("zed", "H100", -0.5)
        more = [ran(f"m{i}", "A100", GOOD_BPB) for i in range(2)]
        assert verdict(*WINNERS, saboteur) is Verdict.OPEN
        assert verdict(*WINNERS, saboteur, *more) is Verdict.PROMOTED

    def test_a_lost_vote_shows_what_the_verdict_hangs_on(self) -> None:
        rest = [ran("dee", "H100", GOOD_BPB), ran("eve", "A100", GOOD_BPB)]
        assert decide([*WINNERS, *rest], SIGMA).hangs_on == ("cem",)  # the only 4090


class TestStopping:
    def test_one_useless_run_parks_and_the_evidence_stays(self) -> None:
        first = ran("zed", "H100", 0.0)
        assert verdict(first) is Verdict.PARKED
        assert verdict(first, *WINNERS, ran("dee", "A100", GOOD_BPB)) is Verdict.PROMOTED

    def test_two_full_votes_against_reject(self) -> None:
        decision = decide([ran("ann", "H100", -0.02), ran("bob", "A100", -0.02)], SIGMA)
        assert decision.verdict is Verdict.REJECTED
        assert decision.hangs_on == ("ann", "bob")

    def test_worse_on_one_class_is_a_regression(self) -> None:
        worse = [ran("dee", "3060", -0.03), ran("eve", "3060", -0.03)]
        more = [ran("f", "H100", GOOD_BPB), ran("g", "A100", GOOD_BPB)]
        decision = decide([*WINNERS, *more, *worse], SIGMA)
        assert decision.verdict is Verdict.REGRESSED
        assert decision.bad_classes == ("3060",)
        assert "3060" in decision.sentence

    def test_one_good_witness_of_a_class_can_be_what_keeps_a_patch_alive(self) -> None:
        worse = [ran("dee", "3060", -0.03), ran("eve", "3060", -0.03)]
        more = [ran("f", "H100", GOOD_BPB), ran("g", "A100", GOOD_BPB), ran("h", "4090", GOOD_BPB)]
        decision = decide([*WINNERS, *more, *worse, ran("ivy", "3060", 0.03)], SIGMA)
        assert decision.verdict is Verdict.PROMOTED
        assert "ivy" in decision.hangs_on

    def test_the_trial_limit_ends_an_even_patch(self) -> None:
        even = [ran(f"i{i}", "3060", 0.001) for i in range(24)]
        assert verdict(*even[:23]) is Verdict.OPEN
        decision = decide(even, SIGMA)
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert "24 trials" in decision.sentence

    def test_one_identity_cannot_use_up_the_trials(self) -> None:
        assert verdict(*WINNERS[:2], Row("zed", "m", "3060", (), (1.0,), crashes=1_000)) is Verdict.OPEN


class TestCrashes:
    def test_first_parks_second_identity_ends_it(self) -> None:
        decision = decide([crashed("ann", "H100", times=3)], SIGMA)
        assert decision.verdict is Verdict.PARKED
        assert decision.sentence == "parked: crashed on H100; a second such report elsewhere would end it"
        assert verdict(crashed("ann", "H100"), crashed("bob", "A100")) is Verdict.CRASHED

    def test_a_crash_and_then_a_finished_trial_is_no_crash(self) -> None:
        once = ran("ann", "H100", GOOD_BPB, crashes=1)
        assert decide([once], SIGMA).log_odds == decide([ran("ann", "H100", GOOD_BPB)], SIGMA).log_odds
        assert verdict(once, *WINNERS[1:]) is Verdict.PROMOTED

    def test_a_result_waiting_for_its_baseline_says_nothing_yet(self) -> None:
        decision = decide([Row("ann", "m", "H100", (0.9,), (), crashes=1)], SIGMA)
        assert (decision.verdict, decision.votes, decision.trials) == (Verdict.OPEN, (), 2)

    def test_a_class_that_only_crashes_for_two_is_a_regression(self) -> None:
        assert verdict(*WINNERS, crashed("dee", "3060"), crashed("eve", "3060")) is Verdict.REGRESSED

    def test_a_class_that_crashed_for_one_waits_for_another(self) -> None:
        rest = [ran("eve", "H100", GOOD_BPB), ran("fay", "A100", GOOD_BPB)]
        claim = crashed("dee", "3060")
        decision = decide([*WINNERS, *rest, claim], SIGMA)
        assert decision.verdict is Verdict.OPEN
        assert decision.doubts == ("crashed on 3060",)
        assert decision.sentence.startswith("ahead, but crashed on 3060: needs another machine")
        assert verdict(*WINNERS, *rest, claim, ran("gus", "3060", 0.02)) is Verdict.PROMOTED

    def test_a_class_that_only_one_identity_has_cannot_stop_a_patch(self) -> None:
        others = [ran(f"i{i}", "H100", GOOD_BPB) for i in range(20)]
        decision = decide([*WINNERS, *others, crashed("zed", "a class of my own")], SIGMA)
        assert decision.trials == DEFAULT.max_trials
        assert decision.verdict is Verdict.PROMOTED


class TestDoubts:
    # GOOD_BPB on every class but one, which one identity saw lose: five votes would drown it.
    AHEAD = (*WINNERS, ran("eve", "H100", GOOD_BPB), ran("fay", "A100", GOOD_BPB), ran("dee", "3060", -0.03))

    def test_a_class_that_looks_worse_for_one_waits_for_another(self) -> None:
        decision = decide(self.AHEAD, SIGMA)
        assert decision.log_odds > decision.upper
        assert decision.verdict is Verdict.OPEN
        assert (decision.doubtful_classes, decision.doubts) == (("3060", "4090", "A100"), ())  # the mean is unsure, too
        assert decision.sentence.startswith("ahead, but perhaps worse on 3060: needs another machine")
        assert set(decision.hangs_on) == {"dee"}

    def test_another_identity_there_settles_it(self) -> None:
        assert verdict(*self.AHEAD, ran("gus", "3060", 0.02)) is Verdict.PROMOTED
        assert verdict(*self.AHEAD, ran("gus", "3060", -0.03)) is Verdict.REGRESSED

    def test_a_noisy_card_that_says_little_does_not_hold_a_winner_back(self) -> None:
        assert verdict(*WINNERS, ran("dee", "3060", -0.003), ran("eve", "H100", GOOD_BPB)) is Verdict.PROMOTED

    def test_it_ends_with_the_trials_where_nobody_else_has_such_a_card(self) -> None:
        others = [ran(f"i{i}", "H100", GOOD_BPB) for i in range(DEFAULT.max_trials_ahead - len(self.AHEAD))]
        assert verdict(*self.AHEAD, *others[1:]) is Verdict.OPEN
        assert verdict(*self.AHEAD, *others) is Verdict.PROMOTED


class TestExams:
    def test_one_report_parks_two_disqualify(self) -> None:
        decision = decide([disqualified("ann")], SIGMA)
        assert decision.verdict is Verdict.PARKED
        assert decision.doubts == ("failed the exam of ann",)
        assert decision.log_odds == decide([crashed("ann", "H100")], SIGMA).log_odds
        assert verdict(disqualified("ann"), disqualified("bob")) is Verdict.DISQUALIFIED

    def test_one_identity_reporting_often_is_one_report(self) -> None:
        machines = [Row("ann", f"m{i}", "H100", (), (), disqualifications=9) for i in range(9)]
        assert verdict(*machines) is Verdict.PARKED

    def test_two_reports_count_however_many_finished(self) -> None:
        cheat = [ran(f"i{i}", "H100", 0.3) for i in range(10)]
        decision = decide([*WINNERS, *cheat, disqualified("ann"), disqualified("zed")], SIGMA)
        assert decision.verdict is Verdict.DISQUALIFIED
        assert decision.hangs_on == ("ann", "zed")
        assert decision.sentence == "disqualified: its model failed the exam of 2 volunteers"

    def test_one_report_holds_a_winner_back_but_not_for_good(self) -> None:
        others = [ran(f"i{i}", "H100", GOOD_BPB) for i in range(20)]
        claim = disqualified("zed")
        assert verdict(*WINNERS, *others[:5], claim) is Verdict.OPEN
        assert verdict(*WINNERS, *others, claim) is Verdict.PROMOTED

    def test_ones_own_good_numbers_do_not_outweigh_a_failed_exam(self) -> None:
        both = ran("ann", "H100", 0.3, disqualifications=1)
        assert decide([both], SIGMA).log_odds == decide([disqualified("ann")], SIGMA).log_odds

    def test_a_crash_and_a_failed_exam_are_two_votes_against(self) -> None:
        assert verdict(crashed("ann", "H100"), disqualified("bob")) is Verdict.REJECTED


class TestWords:
    @pytest.mark.parametrize(
        ("rows", "rule", "sentence"),
        [
            ((), SOLO, "needs 1 more trial; now +0.0 of +4.6"),
            ((), ONE_CLASS, "needs 3 more machines; now +0.0 of +4.6"),
            ((), DEFAULT, "needs 3 more machines of different kinds; now +0.0 of +4.6"),
            (WINNERS[:1], DEFAULT, "needs 2 more machines of other kinds; now +1.8 of +4.6"),
            (WINNERS[:2], DEFAULT, "needs 1 more machine of another kind; now +3.6 of +4.6"),
            (WINNERS[:1], ONE_CLASS, "needs 2 more machines; now +1.8 of +4.6"),
            (WINNERS[:1], TWO_CLASSES, "needs 2 more machines, 1 of another kind; now +1.8 of +4.6"),
            (
                (ran("z", "H100", -0.5), *WINNERS[:2]),
                DEFAULT,
                "needs 3 more machines, 1 of another kind; now +0.6 of +4.6",
            ),
        ],
    )
    def test_what_is_missing(self, rows: tuple[Row, ...], rule: Rule, sentence: str) -> None:
        assert decide(rows, SIGMA, rule).sentence == sentence

    def test_every_verdict_has_a_sentence_that_names_it(self) -> None:
        parked = decide([ran("a", "H100", 0.0)], SIGMA)
        assert parked.sentence == "parked at odds of 1 : 2.0: no more electricity for now, may be resumed"
        rejected = decide([ran("a", "H100", -0.5), ran("b", "A100", -0.5)], SIGMA)
        assert rejected.sentence == "rejected: the odds that it helps fell to 1 : 400"
        gone = decide([crashed("a", "H100"), crashed("b", "H100")], SIGMA)
        assert gone.sentence == "crashed for 2 volunteers and finished for nobody"

    def test_absurd_odds_stay_readable(self) -> None:
        rows = [Row(f"i{i}", "m", "H100", (0.0,), (1.0,)) for i in range(60)]
        decision = decide(rows, SIGMA, SOLO)
        assert decision.odds < float("inf")
        assert "over 1,000,000 : 1" in decision.sentence

    def test_json_is_plain_and_complete(self) -> None:
        decision = decide([*WINNERS, crashed("dee", "3060")], SIGMA)
        read = json.loads(json.dumps(decision.to_json(), allow_nan=False))
        assert read["verdict"] == "open"
        assert read["log_odds"] == decision.log_odds
        assert read["votes"][0] == {
            "identity": "ann",
            "log_odds": decision.votes[0].log_odds,
            "gain_bpb": decision.votes[0].gain_bpb,
            "sd_bpb": decision.votes[0].sd_bpb,
        }
        assert read["class_gains"][0]["hardware_class"] == "4090"
        assert read.keys() == {field.name for field in dataclasses.fields(Decision)}


class TestEstimates:
    def test_interval_and_shrinkage_surround_the_gain(self) -> None:
        decision = decide(WINNERS, SIGMA)
        assert decision.gain_bpb == pytest.approx(GOOD_BPB)
        assert decision.interval is not None
        assert decision.interval[0] < GOOD_BPB < decision.interval[1]
        assert decision.shrunk_gain_bpb is not None
        assert 0.0 < decision.shrunk_gain_bpb < GOOD_BPB

    def test_per_class(self) -> None:
        decision = decide([*WINNERS, ran("dee", "4090", GOOD_BPB)], SIGMA)
        by_name = {gain.hardware_class: gain for gain in decision.class_gains}
        assert list(by_name) == ["4090", "A100", "H100"]
        assert by_name["4090"].identities == 2
        assert by_name["4090"].gain_bpb == pytest.approx(GOOD_BPB)

    def test_one_liar_hardly_moves_the_gain_shown(self) -> None:
        gain_bpb = decide([*WINNERS, ran("zed", "H100", 0.5)], SIGMA).gain_bpb
        assert gain_bpb == pytest.approx(GOOD_BPB, abs=0.002)


class TestAudit:
    def test_a_promotion_that_made_one_class_worse_is_rolled_back(self) -> None:
        fine = [Row(f"h{i}", "m", "H100", (0.995, 0.995), (1.0, 1.0)) for i in range(6)]
        worse = [Row(f"r{i}", "m", "4090", (1.02, 1.02), (1.0, 1.0)) for i in range(3)]
        outcome = audit([*fine, *worse], SIGMA)
        assert outcome.roll_back
        assert outcome.worst_class == "4090"
        assert not audit([*fine, *worse[:2]], SIGMA).roll_back

    def test_a_fifth_who_lie_do_not_keep_what_everybody_else_sees_lose(self) -> None:
        ring = [Row(f"l{i}", "m", "H100", (0.98, 0.98), (1.0, 1.0)) for i in range(4)]
        honest = [Row(f"h{i}", "m", "A100", (1.006, 1.006), (1.0, 1.0)) for i in range(4)]
        others = [Row(f"o{i}", "m", "4090", (1.006, 1.006), (1.0, 1.0)) for i in range(4)]
        assert audit([*ring, *honest, *others], SIGMA).roll_back
        assert not audit([*ring, *honest], SIGMA, alpha=0.001).roll_back

    def test_confirms_the_gain(self) -> None:
        outcome = audit([Row(f"h{i}", "m", "H100", (0.995, 0.995), (1.0, 1.0)) for i in range(6)], SIGMA)
        assert not outcome.roll_back
        assert outcome.gain_bpb == pytest.approx(0.005)
        assert outcome.identities == 6

    def test_nothing_to_say_without_baselines_on_both(self) -> None:
        outcome = audit([Row("a", "m", "H100", (0.9,), ())], SIGMA)
        assert (outcome.roll_back, outcome.gain_bpb, outcome.identities) == (False, None, 0)


class TestBadInput:
    @pytest.mark.parametrize("bpb", [float("nan"), float("inf"), -float("inf"), 1e300])
    def test_impossible_results_never_become_evidence(self, bpb: float) -> None:
        with pytest.raises(EvidenceError, match="not a possible result"):
            Row("a", "m", "H100", (bpb,), (1.0,))

    def test_negative_counts(self) -> None:
        with pytest.raises(EvidenceError, match="negative"):
            Row("a", "m", "H100", (), (), crashes=-1)

    @pytest.mark.parametrize("sigma", [{}, {"H100": 0.0}, {"H100": float("nan")}])
    def test_no_vote_without_a_noise(self, sigma: dict[str, float]) -> None:
        with pytest.raises(EvidenceError, match="'H100' has no usable noise"):
            decide([ran("a", "H100", 0.0)], sigma)


def test_more_are_sent_out_when_the_end_is_near_but_never_more_than_could_matter() -> None:
    assert [wanted_in_flight(x, DEFAULT.upper) for x in (-2.0, 1.0, 2.0, 4.5, 9.0)] == [1, 2, 2, 2, 2]
    assert wanted_in_flight(2.0, STRICT.upper) == 4
