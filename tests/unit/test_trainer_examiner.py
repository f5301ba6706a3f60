"""The exam's arithmetic: bits per byte, secret positions, and what counts as a disagreement."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.agreement import (
    TOLERANCE_EACH,
    TOLERANCE_MEAN,
    bits_per_byte,
    check_claims,
    draw_probes,
    judge,
    judge_trained,
    losses_of,
    same_shape,
)
from trainer.examiner import interview_share
from trainer.report import block, comparison, interval, spread, summary, summary_json
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialResult
from trainer.source import lacking, source_problem


def test_bits_per_byte_by_hand():
    rows = np.array([[9, 0, 1], [9, 2, 9]], dtype="<u2")  # 9 is BOS
    lengths = np.array([1, 3, 4, 0, 0, 0, 0, 0, 0, 0])
    losses = np.log(np.array([[2.0, 4.0], [8.0, 1e9]], dtype="<f4"))  # the last predicts a BOS: not scored
    assert bits_per_byte(losses, rows, lengths) == pytest.approx((1 + 2 + 3) / (1 + 3 + 4))


def test_a_uniform_model_scores_the_vocabulary():
    lengths = np.full(1024, 2)
    rows = np.random.default_rng(0).integers(0, 1024, (10, 129))
    assert bits_per_byte(np.full((10, 128), math.log(1024)), rows, lengths) == pytest.approx(10 / 2)


def test_a_loss_is_normalised_here_whatever_the_logits():
    logits = np.array([[1.0, 2.0, 3.0]])
    expected = -math.log(math.exp(2) / sum(math.exp(x) for x in logits[0]))
    assert losses_of(logits, np.array([1])) == pytest.approx(expected)
    assert losses_of(logits + 1000, np.array([1])) == pytest.approx(expected)  # no overflow, no gain by shifting
    assert not np.isfinite(losses_of(np.array([[np.nan, 0.0], [np.inf, 0.0]]), np.array([1, 0]))).any()


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [([np.nan, 1.0], Outcome.CRASHED), ([np.inf, 1.0], Outcome.CRASHED), ([-0.1, 1.0], Outcome.DISQUALIFIED)],
)
def test_claims_that_cannot_be_losses(losses, outcome):
    with pytest.raises(TrialEnded) as caught:
        check_claims(np.array(losses))
    assert caught.value.outcome is outcome
    assert check_claims(np.array([-1e-6, 3.0]))[1] == 3.0


def everything(rows=256, tokens=128):
    return np.ones((rows, tokens), bool)


def test_probes_are_secret_even_and_never_tell_what_another_asks():
    rounds = draw_probes(everything(), 1024, np.random.default_rng(1))
    assert [len(one) for one in rounds] == [256] * 4
    asked = {}
    for one in rounds:
        assert len(set(one.rows)) == len(one)  # one position of a row at a time
        for row, position in zip(one.rows, one.positions, strict=True):
            assert position > asked.get(row, -1)  # and only ever later ones
            asked[row] = position
    other = draw_probes(everything(), 1024, np.random.default_rng(2))
    assert (rounds[0].positions != other[0].positions).any()
    assert (rounds[0].rows != other[0].rows).any()


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 300), st.integers(0, 2**32))
def test_probes_are_distinct_scored_positions_whatever_the_sizes(rows, tokens, count, seed):
    chance = np.random.default_rng(seed)
    scored = chance.random((rows, tokens)) < 0.7
    rounds = draw_probes(scored, count, chance)
    drawn = [pair for one in rounds for pair in zip(one.rows.tolist(), one.positions.tolist(), strict=True)]
    assert len(set(drawn)) == len(drawn) <= count
    assert all(scored[pair] for pair in drawn)
    assert all(len(set(one.rows.tolist())) == len(one) for one in rounds)
    if scored.sum(axis=1).min() * rows >= count + rows:
        assert abs(len(drawn) - count) <= rows


def test_every_position_is_as_likely_as_another():
    drawn = np.zeros((8, 16))
    for seed in range(2000):
        for one in draw_probes(everything(8, 16), 24, np.random.default_rng(seed)):
            np.add.at(drawn, (one.rows, one.positions), 1)
    expected = 2000 * 24 / drawn.size
    assert ((drawn - expected) ** 2 / expected).sum() < 200  # chi squared, 127 degrees: 1 in 10,000 is above 191


def met(lied, chance):
    """Whether any probe of an exam falls on one of the lied positions, (rows, tokens) bool."""
    return any(
        lied[one.rows, one.positions].any()
        for one in draw_probes(~np.zeros_like(lied), TrialLimits().exam_probes, chance)
    )


def test_a_lie_about_a_whole_row_is_always_met():
    for row in range(0, 256, 16):
        lied = np.zeros((256, 128), bool)
        lied[row] = True
        assert met(lied, np.random.default_rng(row))


def test_a_lie_at_single_positions_is_met_as_often_as_the_arithmetic_says():
    """docs/decisions/exam.md: (1 - 5/128)^n of the exams miss n of them."""
    lied = np.zeros((256, 128), bool)
    lied[np.arange(17) * 11, np.arange(17) * 5] = True
    chance = np.random.default_rng(7)
    missed = sum(not met(lied, chance) for _ in range(200)) / 200
    assert abs(missed - (1 - 5 / 128) ** 17) < 0.15  # 0.51; four standard deviations of 200 coins


def test_questions_have_one_shape_and_the_last_is_filled_with_its_own_rows():
    parts = list(same_shape(np.arange(10).reshape(5, 2), 3))
    assert [part.shape for part in parts] == [(3, 2), (3, 2)]
    assert parts[1].tolist() == [[6, 7], [8, 9], [6, 7]]


@pytest.mark.parametrize(
    ("asked", "trained", "share"),
    [
        (4096, 204_800, 0.02),  # what 12 s of a processor come to
        (4096, 5_000_000, 4 * 4096 / 5_000_000),  # 300 s of one: four times what training on those rows took
        (2048, 40_960, 0.05),  # one long row, whatever part of the training it is
        (2048, 4096, 0.15),
    ],
)
def test_the_interview_may_take_what_its_rows_can_cost(asked, trained, share):
    assert interview_share(asked, trained) == pytest.approx(share)


def test_an_honest_model_passes_with_room():
    noise = np.random.default_rng(0).normal(0, 1e-5, 1024)
    assert judge(noise) < 0.01


@pytest.mark.parametrize(
    "lie",
    [
        np.full(128, -TOLERANCE_MEAN * 1.1),  # a little everywhere
        np.r_[np.zeros(127), -TOLERANCE_EACH * 1.1],  # much at one position
        np.full(128, -2.0),  # looking ahead
        np.full(128, np.nan),
        np.full(128, TOLERANCE_MEAN * 1.1),  # disagreement is disagreement, to its favour or not
    ],
)
def test_a_lie_is_a_disqualification_with_a_reason(lie):
    with pytest.raises(TrialEnded) as caught:
        judge(lie)
    assert caught.value.outcome is Outcome.DISQUALIFIED
    assert "\n" not in caught.value.reason


def test_a_model_trained_further_is_another_model():
    said = np.random.default_rng(0).uniform(0, 9, (32, 128)).astype("<f4")
    rounding = np.random.default_rng(1).normal(0, 0.02, said.shape)
    assert judge_trained(said, said) == 0
    assert judge_trained(said, said + rounding) < 1
    for claims in (said - 0.003, said + np.random.default_rng(2).normal(0, 0.2, said.shape), said * 0.99):
        with pytest.raises(TrialEnded) as caught:
            judge_trained(said, claims)
        assert caught.value.outcome is Outcome.DISQUALIFIED
        assert "not the one that was trained" in caught.value.reason


def result(val_bpb: float | None) -> TrialResult:
    return TrialResult(Outcome.COMPLETED if val_bpb else Outcome.CRASHED, "", val_bpb=val_bpb)


def test_the_familiar_block():
    text = block(result(2.25))
    assert text.splitlines()[0] == "---"
    assert "val_bpb:          2.250000" in text
    for name in ("training_seconds:", "total_seconds:", "peak_memory_mb:", "num_steps:", "total_tokens_M:"):
        assert name in text


def test_a_comparison_is_paired_and_says_when_it_may_be_noise():
    runs = [("a", result(2.0)), ("b", result(2.1)), ("a", result(2.2)), ("b", result(2.32)), ("a", result(2.1))]
    lines = summary(runs, ["a", "b"])
    assert lines[1] == "a: val_bpb 2.1000, standard deviation 0.1000, 3 runs"
    assert lines[3].startswith("a is +0.1100 ± 0.12")
    assert "may be noise" in lines[3]
    assert summary_json(runs, ["a", "b"])["gain"]["pairs"] == 2


def test_a_sure_difference_is_not_called_noise():
    assert "noise" not in comparison("a", "b", [0.1, 0.11, 0.09, 0.1])
    assert "repeat" in comparison("a", "b", [0.1])
    assert "cannot be compared" in comparison("a", "b", [])
    assert interval([0.1])[1] == math.inf
    assert spread([]) == "no run completed"


def test_a_pair_with_a_crash_is_left_out():
    runs = [("a", result(None)), ("b", result(2.1)), ("a", result(2.2)), ("b", result(2.3))]
    assert summary_json(runs, ["a", "b"])["gain"]["mean"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"def main(session): ...", "train.py has no function build_model: define build_model(config), which returns"),
        (b"def build_model(config): ...", "train.py has no function main: define main(session), which trains"),
        (b"from seed import build_model, main", ""),
    ],
)
def test_what_a_source_nowhere_mentions_it_lacks(source, problem):
    assert lacking(source).startswith(problem)
    assert bool(lacking(source)) == bool(problem)


@pytest.mark.parametrize(
    ("source", "problem"),
    [(b"", "empty"), (b"  \n", "empty"), (b"x" * 101, "limit is 100"), (b"\xff\xfe", "not UTF-8"), (b"x = 1", "")],
)
def test_what_can_be_no_source(source, problem):
    assert problem in source_problem(source, 100)
    assert bool(source_problem(source, 100)) == bool(problem)
