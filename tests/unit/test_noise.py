"""Noise per hardware class: what repeats teach, what outliers may not, and the gain that is worth asking about."""

import random  # noqa: TID251  # always seeded: the same worlds every time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging import noise
from autoresearch.judging.evidence import EvidenceError

bpb = st.floats(0.5, 2.0)
repeats = st.lists(st.lists(bpb, max_size=6), max_size=8)


def trials(sd_bpb: float, machines: int, each: int, seed: int = 1) -> list[list[float]]:
    chance = random.Random(seed)
    return [[chance.gauss(1.0 + machine, sd_bpb) for _ in range(each)] for machine in range(machines)]


@pytest.mark.parametrize("true_bpb", [0.0005, 0.002, 0.004])
def test_many_repeats_find_the_noise_whatever_was_assumed(true_bpb: float) -> None:
    found = noise.estimate({"A100": trials(true_bpb, machines=40, each=6)}, {"A100": 0.0015})
    assert found["A100"] == pytest.approx(true_bpb, rel=0.2)


def test_how_good_a_machine_is_does_not_matter() -> None:
    near = noise.estimate({"A100": [[1.0, 1.001], [1.0, 1.002]]}, {"A100": 0.0015})
    apart = noise.estimate({"A100": [[1.0, 1.001], [9.0, 9.002]]}, {"A100": 0.0015})
    assert near["A100"] == pytest.approx(apart["A100"])


def test_a_slow_run_does_not_inflate_it() -> None:
    groups = trials(0.002, machines=30, each=4)
    calm = noise.estimate({"4090": groups}, {"4090": 0.002})["4090"]
    groups[0][0] += 0.5  # unclipped, this one of 120 runs would make the noise 25 times as large
    assert noise.estimate({"4090": groups}, {"4090": 0.002})["4090"] < 1.5 * calm


def test_a_class_nobody_has_measured_has_its_prior() -> None:
    assert noise.estimate({}, {"H100": 0.0013}) == {"H100": pytest.approx(0.0013)}
    single = noise.estimate({"new": [[1.0], [], [1.1]]}, {"H100": 0.0013}, default_prior=0.004)
    assert single == {"H100": pytest.approx(0.0013), "new": pytest.approx(0.004)}


PRIOR = {"H100": 0.0013, "4090": 0.0020, "3060": 0.0045}


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_few_repeats_on_every_class_show_that_all_are_noisier_than_assumed(factor: float) -> None:
    groups = {name: trials(factor * noise_bpb, machines=12, each=2) for name, noise_bpb in PRIOR.items()}
    moved = noise.moved_priors(groups, PRIOR | {"A100": 0.0015})
    assert moved["A100"] == pytest.approx(factor * 0.0015, rel=0.3)  # although nobody has measured it
    assert moved["A100"] / moved["H100"] == pytest.approx(0.0015 / 0.0013)


def test_one_slow_run_moves_no_prior_far() -> None:
    groups = {name: trials(noise_bpb, machines=12, each=2) for name, noise_bpb in PRIOR.items()}
    calm = noise.moved_priors(groups, PRIOR)["H100"]
    groups["4090"][0][0] += 5_000.0
    assert calm <= noise.moved_priors(groups, PRIOR)["H100"] < 1.2 * calm


def test_clipped_tightly_a_slow_run_among_few_repeats_counts_less() -> None:
    groups = trials(0.002, machines=6, each=2)
    groups[0][0] += 0.02
    found = [
        noise.estimate({"4090": groups}, PRIOR, clips_sd=clips)["4090"]
        for clips in (noise.TIGHT_CLIPS_SD, noise.CLIPS_SD)
    ]
    assert found[0] < 0.9 * found[1]


def test_no_prior_moves_without_repeats_nor_by_quiet_ones() -> None:
    assert noise.moved_priors({"H100": [[1.0], []]}, PRIOR) == pytest.approx(PRIOR)
    assert noise.moved_priors({"H100": [[1.0] * 50]}, PRIOR) == pytest.approx(PRIOR)


def test_a_class_that_repeats_exactly_still_has_some_noise() -> None:
    found = noise.estimate({"cpu": [[1.25] * 10] * 10}, {}, default_prior=0.002)["cpu"]
    assert 0.0 < found < 0.002


@settings(deadline=None)
@given(groups=repeats, seed=st.integers(0, 9))
def test_the_order_of_the_repeats_is_no_matter(groups: list[list[float]], seed: int) -> None:
    chance = random.Random(seed)
    shuffled = [chance.sample(group, len(group)) for group in chance.sample(groups, len(groups))]
    prior = {"H100": 0.0013}
    assert noise.estimate({"x": groups}, prior) == noise.estimate({"x": shuffled}, prior)


@settings(deadline=None)
@given(groups=repeats, prior_bpb=st.floats(1e-5, 0.1), weight=st.floats(0.1, 100.0))
def test_it_stays_within_reach_of_the_prior(groups: list[list[float]], prior_bpb: float, weight: float) -> None:
    """Clipping bounds what the wildest reports can do: at most 18 times the prior; the prior's weight, how low."""
    found = noise.estimate({"x": groups}, {"x": prior_bpb}, weight=weight)["x"]
    runs = sum(len(group) for group in groups)
    assert prior_bpb * (weight / (weight + runs)) ** 0.5 * 0.999 <= found <= 18.1 * prior_bpb


@pytest.mark.parametrize(
    ("hardware_class", "model"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA GeForce RTX 4090, 24 GB", "4090"),
        ("RTX3090", "3090"),
        ("nvidia geforce rtx 3060 ti", "3060"),
        ("NVIDIA GH100", "unknown"),
        ("NVIDIA L4, 40900 MiB", "unknown"),
        ("cpu x86_64 2 threads", "unknown"),
        ("", "unknown"),
    ],
)
def test_published_priors_are_found_by_model(hardware_class: str, model: str) -> None:
    assert noise.prior_for(hardware_class) == noise.PRIORS[model]


def test_delta_is_the_median_cards_noise_and_never_below_the_floor() -> None:
    assert noise.delta_for([0.0013, 0.002, 0.0045]) == 0.002
    assert noise.delta_for([0.002, 0.002, 0.002], multiple=1.5) == pytest.approx(0.003)
    assert noise.delta_for([0.0001]) == 0.0005
    assert noise.delta_for([0.0001], floor=0.0002) == 0.0002


@pytest.mark.parametrize("sigmas", [[], [0.0], [-1.0], [float("nan")], [0.002, float("inf")]])
def test_no_delta_from_nothing(sigmas: list[float]) -> None:
    with pytest.raises(EvidenceError):
        noise.delta_for(sigmas)


@pytest.mark.parametrize(
    ("groups", "prior", "weight"),
    [
        ({"x": [[1.0, float("nan")]]}, {"x": 0.002}, 8.0),
        ({"x": [[1.0, 1e300]]}, {"x": 0.002}, 8.0),
        ({"x": []}, {"x": 0.0}, 8.0),
        ({"x": []}, {"x": float("nan")}, 8.0),
        ({"x": []}, {"x": 0.002}, 0.0),
        ({"x": []}, {"x": 0.002}, float("inf")),
    ],
)
def test_impossible_input_is_refused(
    groups: dict[str, list[list[float]]], prior: dict[str, float], weight: float
) -> None:
    with pytest.raises(EvidenceError):
        noise.estimate(groups, prior, weight=weight)
