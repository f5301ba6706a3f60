"""Where a machine's level is: baselines alone give their mean, other candidates narrow it, and nothing odd moves it."""

import math
import random  # noqa: TID251  # seeded

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.evidence import EvidenceError, Row, paired
from autoresearch.judging.level import DOUBT, MIXES, OtherTrial, level
from autoresearch.judging.rule import DEFAULT

NOISE, DELTA = 0.002, DEFAULT.delta_bpb
SIGMA = {"4090": NOISE}


def still(count: int, bpb: float = 1.0, seed: int = 1) -> list[OtherTrial]:
    """Candidates that do nothing, each run for the first time."""
    chance = random.Random(seed)
    return [OtherTrial(bpb + chance.gauss(0.0, NOISE), 0) for _ in range(count)]


def drawn(count: int, seed: int, *, harmful: float = 0.5) -> list[OtherTrial]:
    """Fresh candidates as they come: half of them harm, the rest do nothing."""
    chance = random.Random(seed)
    losses = [0.004 * math.exp(chance.gauss(0.0, 1.0)) * (chance.random() < harmful) for _ in range(count)]
    return [OtherTrial(1.0 + loss + chance.gauss(0.0, NOISE), 0) for loss in losses]


def test_baselines_alone_are_their_mean() -> None:
    assert level([1.0, 1.002], [], NOISE, DELTA) == pytest.approx((1.001, NOISE**2 / 2))


def test_a_row_without_others_is_the_plain_paired_difference() -> None:
    row = Row("a", "m", "4090", (0.996,), (1.0, 1.002))
    pair = paired(row, SIGMA, DEFAULT)
    assert pair is not None
    assert pair.gain_bpb == pytest.approx(0.005)
    assert pair.variance == pytest.approx(NOISE**2 * 1.5 + DEFAULT.tau_bpb**2)


def test_candidates_that_do_nothing_say_nearly_as_much_as_baselines() -> None:
    alone, helped = level([1.004], [], NOISE, DELTA), level([1.004], still(24), NOISE, DELTA)
    assert helped.variance < DOUBT * alone.variance / 10
    assert helped.bpb == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(("harmful", "most"), [(0.2, 0.3), (0.5, 0.3), (0.7, 0.5)])
def test_harmful_ones_among_them_move_it_little(harmful: float, most: float) -> None:
    """Over many machines; the mix is assumed to be 0.49."""
    off = [
        level([1.0 + random.Random(seed).gauss(0.0, NOISE)], drawn(24, seed, harmful=harmful), NOISE, DELTA).bpb - 1.0
        for seed in range(200)
    ]
    assert abs(sum(off) / len(off)) < most * NOISE
    assert math.sqrt(sum(one * one for one in off) / len(off)) < 0.6 * NOISE  # one baseline alone: 1.0


def test_its_variance_is_what_it_says() -> None:
    found = [
        (level([1.0 + random.Random(seed).gauss(0.0, NOISE)], drawn(12, seed, harmful=0.49), NOISE, DELTA))
        for seed in range(300)
    ]
    squares = sum((one.bpb - 1.0) ** 2 / one.variance for one in found) / len(found)
    assert 0.6 < DOUBT * squares < 2.0  # it allows for more than normal noise


def test_a_slow_baseline_is_seen_through() -> None:
    assert level([1.02], still(12), NOISE, DELTA).bpb == pytest.approx(1.0, abs=0.002)


@pytest.mark.parametrize("gain_bpb", [0.01, 0.015, 0.02])
def test_one_good_candidate_hides_no_other(gain_bpb: float) -> None:
    found = level([1.0], [OtherTrial(1.0 - gain_bpb, 0)], NOISE, DELTA)
    assert found.bpb == pytest.approx(1.0, abs=NOISE / 2)
    assert found.variance < DOUBT * 2.0 * NOISE**2


@pytest.mark.parametrize("odd", [-1e6, 0.0, 0.9, 2.0, 1e6])
def test_a_single_odd_score_decides_nothing(odd: float) -> None:
    others = still(12)
    with_it = level([1.0], [*others, OtherTrial(odd, 0)], NOISE, DELTA)
    assert with_it.bpb == pytest.approx(level([1.0], others, NOISE, DELTA).bpb, abs=NOISE / 2)


def test_who_flatters_every_candidate_takes_its_own_level_along() -> None:
    """The more it has flattered, the less it says."""
    flattered = [OtherTrial(other.val_bpb - 0.006, other.earlier) for other in still(24)]
    row = Row("a", "m", "4090", (0.994,), (1.0,), others=tuple(flattered))
    pair, by_baselines = paired(row, SIGMA, DEFAULT), paired(row, SIGMA, DEFAULT, by_baselines=True)
    assert pair is not None
    assert by_baselines is not None
    assert pair.gain_bpb < 0.002
    assert by_baselines.gain_bpb == pytest.approx(0.006)


scores = st.floats(-1e6, 1e6)
trials = st.builds(OtherTrial, scores, st.integers(0, 9))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(scores, min_size=1, max_size=3), st.lists(trials, max_size=48), st.randoms(use_true_random=False),
    st.sampled_from([1e-9, 1e-4, 0.002, 1.0, 1e3]), st.sampled_from([1e-6, 0.002, 1.0]),
)  # fmt: skip
def test_whatever_the_scores_it_is_a_number_and_their_order_is_no_matter(
    baselines: list[float], others: list[OtherTrial], chance: random.Random, noise_bpb: float, delta_bpb: float
) -> None:
    found = level(baselines, others, noise_bpb, delta_bpb)
    assert math.isfinite(found.bpb)
    assert 0.0 <= found.variance < math.inf
    shuffled = list(others)
    chance.shuffle(shuffled)
    assert level(baselines[::-1], shuffled, noise_bpb, delta_bpb) == found


@pytest.mark.parametrize("odd", [math.nan, math.inf, 2e6])
def test_impossible_scores_are_refused(odd: float) -> None:
    with pytest.raises(EvidenceError, match="not a possible result"):
        Row("a", "m", "4090", (1.0,), (1.0,), others=(OtherTrial(odd, 0),))
    with pytest.raises(EvidenceError, match="negative number"):
        Row("a", "m", "4090", (1.0,), (1.0,), others=(OtherTrial(1.0, -1),))


def test_every_mix_is_one() -> None:
    for mix in MIXES:
        assert 0.0 < mix.harmful + mix.helpful + mix.very_helpful < 1.0
