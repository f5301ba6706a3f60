"""Whether a patch with enough votes may harm the mean over the hardware classes: what holds it back, for how long, and
that nobody can hold it back alone."""

import dataclasses
import random  # noqa: TID251  # seeded
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.evidence import Moments
from autoresearch.judging.overall import Harm, Heard, harm, harm_without_each
from autoresearch.judging.verdict import DEFAULT, Decision, Row, Rule, Verdict, decide

SIGMA = {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020, "3090": 0.0028, "3060": 0.0045}
NEVER = dataclasses.replace(DEFAULT, harm_alpha=1.0)
unhurried = settings(deadline=None)


def said(hardware_class: str, gain_bpb: float, trials: int = 1) -> Moments:
    information = trials / (1.5 * SIGMA[hardware_class] ** 2)
    return Moments(information, information * gain_bpb)


def ran(identity: str, hardware_class: str, gain_bpb: float) -> Row:
    return Row(identity, "m", hardware_class, (1.0 - gain_bpb,), (1.0,) * 4)


def many(hardware_class: str, gain_bpb: float, count: int) -> list[Row]:
    return [ran(f"{hardware_class} {at}", hardware_class, gain_bpb) for at in range(count)]


# Helps three classes plainly, and harms two that hardly vote.
UNLIKE = [
    ran("ann", "H100", 0.006), ran("bob", "A100", 0.006), ran("cem", "4090", 0.006),
    ran("dee", "3090", 0.0), ran("eve", "3060", -0.006),
]  # fmt: skip


class TestTheChance:
    def test_it_is_that_of_a_normal_mean(self) -> None:
        heard = {
            "H100": {"ann": said("H100", 0.002)},
            "3060": {"bob": said("3060", -0.001), "cem": said("3060", 0.003)},
        }
        sd = (1.5 * (SIGMA["H100"] ** 2 + SIGMA["3060"] ** 2 / 2)) ** 0.5
        assert harm(heard, DEFAULT, late=False).chance == pytest.approx(NormalDist(0.003, sd).cdf(0.0), rel=1e-12)

    def test_every_class_counts_once_however_often_it_was_heard(self) -> None:
        heard = {"H100": {f"i{at}": said("H100", 0.002) for at in range(20)}, "3060": {"bob": said("3060", -0.006)}}
        assert harm(heard, DEFAULT, late=False).chance > 0.5

    def test_of_one_class_nothing_is_said(self) -> None:
        assert harm({"H100": {"ann": said("H100", -1.0)}}, DEFAULT, late=True) == Harm(0.0, classes=("H100",))

    def test_another_word_is_wanted_where_the_mean_is_least_sure(self) -> None:
        heard = {name: {"i": said(name, 0.001)} for name in SIGMA} | {"3060": {"i": said("3060", 0.001, trials=40)}}
        assert harm(heard, DEFAULT, late=False).classes == ("3090", "4090", "A100")

    @pytest.mark.parametrize("gain_bpb", [-1e6, -0.006])
    def test_one_identity_moves_a_class_by_three_delta_at_most(self, gain_bpb: float) -> None:
        heard = {name: {"ann": said(name, 0.004)} for name in ("H100", "A100", "4090")}
        lied = heard | {"3090": {"zed": said("3090", gain_bpb)}}
        limit = heard | {"3090": {"zed": said("3090", -3 * DEFAULT.delta_bpb)}}
        assert harm(lied, DEFAULT, late=False) == harm(limit, DEFAULT, late=False)

    @unhurried
    @given(
        gains=st.dictionaries(
            st.tuples(st.sampled_from("abcdef"), st.sampled_from(sorted(SIGMA))), st.floats(-1.0, 1.0), max_size=12
        ),
        late=st.booleans(),
    )
    def test_leaving_somebody_out_is_as_if_they_had_said_nothing(
        self, gains: dict[tuple[str, str], float], late: bool
    ) -> None:
        def heard(without: str = "") -> Heard:
            found: dict[str, dict[str, Moments]] = {}
            for (who, name), gain_bpb in gains.items():
                if who != without:
                    found.setdefault(name, {})[who] = said(name, gain_bpb)
            return found

        for who, left in harm_without_each(heard(), DEFAULT, late=late).items():
            fresh = harm(heard(without=who), DEFAULT, late=late)
            assert left.chance == pytest.approx(fresh.chance, abs=1e-12)
            assert (left.likely, left.one_word) == (fresh.likely, fresh.one_word)


class TestTheVerdict:
    def test_a_patch_that_may_harm_the_mean_waits_for_the_classes_that_say_so(self) -> None:
        decision = decide(UNLIKE, SIGMA)
        assert (decision.verdict, decision.progress) == (Verdict.OPEN, 1.0)
        assert (decision.harm or 0.0) > DEFAULT.harm_alpha
        assert decision.doubtful_classes == ("3060", "3090", "4090")
        assert decision.sentence.startswith("ahead, but ")
        assert (
            "likely to lose on the mean over kinds of hardware: needs another 3060 or 3090 or 4090" in decision.sentence
        )

    def test_older_ledgers_promoted_it(self) -> None:
        assert decide(UNLIKE, SIGMA, NEVER).verdict is Verdict.PROMOTED
        assert decide(UNLIKE, SIGMA, NEVER).harm is None

    def test_it_wins_when_they_were_only_unlucky(self) -> None:
        more = [row for name in ("3090", "3060") for row in many(name, 0.006, 4)]
        assert decide([*UNLIKE, *more], SIGMA).verdict is Verdict.PROMOTED

    def test_it_never_wins_while_they_say_it_again(self) -> None:
        more = [*many("3090", -0.001, 3), *many("3060", -0.006, 3)]
        for count in range(1, len(more) + 1):
            assert decide([*UNLIKE, *more[:count]], SIGMA).verdict is not Verdict.PROMOTED

    def test_it_may_take_as_many_trials_again_before_it_ends(self) -> None:
        """All votes from one class, and a mean that stays near zero."""
        less = [*many("4090", 0.0045, 16), *many("H100", 0.0, 2), *many("A100", 0.0, 2), *many("3090", -0.001, 3)]
        unsure = many("3060", -0.0015, 30)
        decisions = [decide([*less, *unsure[:count]], SIGMA) for count in range(1, len(unsure) + 1)]
        trials = [own.trials for own in decisions if own.verdict is Verdict.OPEN and own.harm is not None]
        assert max(trials) == DEFAULT.max_trials_ahead - 1
        ended = next(own for own in decisions if own.verdict is Verdict.INCONCLUSIVE)
        assert ended.trials == DEFAULT.max_trials_ahead
        assert len(ended.hangs_on) == ended.identities  # without any of them a trial would be left
        assert ended.sentence.startswith("inconclusive: ahead, but ")
        assert f"when its {DEFAULT.max_trials_ahead} trials were spent" in ended.sentence

    def test_it_ends_where_there_are_three_identities(self) -> None:
        """Of one identity at most a third of the trials counts, also of twice as many."""
        names = (("ann", "H100", 0.004), ("bob", "A100", 0.004), ("cem", "3060", -0.0015))

        def after(trials: int) -> Decision:
            rows = [Row(who, "m", name, (1.0 - gain,) * (trials // 3), (1.0,) * 4) for who, name, gain in names]
            return decide(rows, SIGMA, dataclasses.replace(DEFAULT, cap=20.0 - 1e-9, harm_alpha=1e-6))

        before = after(DEFAULT.max_trials_ahead - 3)
        assert (before.verdict, before.harm is not None) == (Verdict.OPEN, True)
        assert after(DEFAULT.max_trials_ahead).verdict in {Verdict.INCONCLUSIVE, Verdict.PROMOTED}

    def test_nobody_ends_a_good_patch_by_a_class_that_only_they_have(self) -> None:
        small = dataclasses.replace(DEFAULT, max_trials=6)
        fleet = [*many("H100", 0.0022, 4), *many("A100", 0.0022, 4), *many("4090", 0.0022, 4)]
        liar = [Row("zed", f"m{at}", "3060", (1.02,), (1.0,) * 4) for at in range(20)]
        assert decide(fleet, SIGMA, small).verdict is Verdict.PROMOTED
        decision = decide([*fleet, *liar], SIGMA, small)
        assert (decision.harm or 0.0) > small.harm_alpha
        assert decision.verdict is Verdict.PROMOTED
        assert decision.hangs_on == ()


@unhurried
@given(seed=st.integers(0, 10**6), better_by=st.floats(0.0, 0.05))
def test_no_worse_result_makes_a_patch_win_among_classes_that_are_unlike(seed: int, better_by: float) -> None:
    chance = random.Random(seed)
    names = [chance.choice(sorted(SIGMA)) for _ in range(chance.randint(3, 14))]
    rows = [ran(f"i{at}", name, chance.gauss(0.004, 0.004)) for at, name in enumerate(names)]
    which = chance.randrange(len(rows))
    better = [*rows]
    better[which] = dataclasses.replace(rows[which], candidate=(rows[which].candidate[0] - better_by,))
    assert decide(rows, SIGMA).verdict is not Verdict.PROMOTED or decide(better, SIGMA).verdict is Verdict.PROMOTED


@unhurried
@given(seed=st.integers(0, 10**6), rule=st.sampled_from([DEFAULT, dataclasses.replace(DEFAULT, max_trials=4)]))
def test_it_hangs_on_exactly_those_without_whom_the_mean_would_be_sure(seed: int, rule: Rule) -> None:
    chance = random.Random(seed)
    rows = [
        dataclasses.replace(ran(f"i{chance.randrange(9)}", name, chance.gauss(0.004, 0.004)), machine=f"m{at}")
        for at, name in enumerate(chance.choices(sorted(SIGMA), k=chance.randint(3, 14)))
    ]

    def decided(without: str) -> Decision:
        return decide([row for row in rows if row.identity != without], SIGMA, rule)

    decision = decided("")
    others = {row.identity for row in rows}
    assert set(decision.hangs_on) == {who for who in others if decided(who).verdict is not decision.verdict}
