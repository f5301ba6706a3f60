"""The exam's arithmetic: bits per byte, secret positions, and what counts as a disagreement."""

import math

import numpy as np
import pytest

from trainer.examiner import TOLERANCE_EACH, TOLERANCE_MEAN, bits_per_byte, draw_probes, judge, loss_of
from trainer.report import block, comparison, interval, spread, summary, summary_json
from trainer.result import Outcome, TrialEnded, TrialResult
from trainer.source import source_problem


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
    logits = np.array([1.0, 2.0, 3.0])
    expected = -math.log(math.exp(2) / sum(math.exp(x) for x in logits))
    assert loss_of(logits, 1) == pytest.approx(expected)
    assert loss_of(logits + 1000, 1) == pytest.approx(expected)  # no overflow, no gain by shifting
    assert not math.isfinite(loss_of(np.array([np.nan, 0.0]), 1))


def test_probes_are_one_a_row_and_depend_on_the_secret():
    probes = draw_probes(256, 129, 128, np.random.default_rng(1))
    assert len({probe.row for probe in probes}) == 128
    assert all(0 <= probe.position < 128 for probe in probes)
    assert probes != draw_probes(256, 129, 128, np.random.default_rng(2))
    assert len(draw_probes(10, 129, 128, np.random.default_rng(1))) == 10


def test_an_honest_model_passes_with_room():
    noise = np.random.default_rng(0).normal(0, 1e-5, 128)
    assert judge(noise) < 0.01


@pytest.mark.parametrize(
    "lie",
    [
        np.full(128, -TOLERANCE_MEAN * 1.1),  # a little everywhere
        np.r_[np.zeros(127), -TOLERANCE_EACH * 1.1],  # much at one position
        np.full(128, -2.0),  # looking ahead
        np.full(128, TOLERANCE_MEAN * 1.1),  # disagreement is disagreement, to its favour or not
    ],
)
def test_a_lie_is_a_disqualification_with_a_reason(lie):
    with pytest.raises(TrialEnded) as caught:
        judge(lie)
    assert caught.value.outcome is Outcome.DISQUALIFIED
    assert "\n" not in caught.value.reason


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
    [(b"", "empty"), (b"  \n", "empty"), (b"x" * 101, "limit is 100"), (b"\xff\xfe", "not UTF-8"), (b"x = 1", "")],
)
def test_what_can_be_no_source(source, problem):
    assert problem in source_problem(source, 100)
    assert bool(source_problem(source, 100)) == bool(problem)
