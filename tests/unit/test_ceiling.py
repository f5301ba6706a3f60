"""The bound in `tests/benchmarks/ceiling.py` by another way: one trial a patch, drawn and counted."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks import ceiling

ONE_TRIAL = ceiling.Tester(most=1)


@pytest.mark.parametrize(("gain", "price"), [(0.0, 0.0), (0.0, 4.0), (30.0, 2.0)])
def test_one_trial_a_patch_gains_what_a_count_of_drawn_patches_does(gain: float, price: float) -> None:
    chance = np.random.default_rng(3)
    known, count = ceiling.patches(gain), 400_000
    effects = chance.choice(known.effects, count, p=known.shares)
    cards = chance.choice(len(ceiling.SHARES), count, p=ceiling.SHARES)
    steps = np.array(ONE_TRIAL.steps())[cards] * ceiling.STEP
    scores = effects + chance.standard_normal(count) / np.sqrt(steps)
    logs = np.log(known.shares)[:, None] - 0.5 * steps * (scores - known.effects[:, None]) ** 2
    chances = np.exp(logs - logs.max(axis=0))
    chances /= chances.sum(axis=0)
    promoted = ceiling.KEPT * (known.effects @ chances) > price * chances[known.effects <= 0.0].sum(axis=0)
    runs = 1.0 - ceiling.OF_KIND["crash"]
    found = ceiling.solve(gain, price, ONE_TRIAL, 0.0)
    useless = promoted & (effects <= 0.0)
    assert found.worth == pytest.approx(
        runs * float(ceiling.KEPT * (effects * promoted).mean() - price * useless.mean()), rel=0.03
    )
    assert found.promoted == pytest.approx(runs * float(promoted.mean()), rel=0.08)
    assert found.useless == pytest.approx(float(useless.sum() / promoted.sum()), abs=0.03)


def test_more_trials_a_patch_are_worth_more_and_a_price_buys_fewer_useless_promotions() -> None:
    one = ceiling.solve(40.0, 1.0, ONE_TRIAL, 0.05)
    more = ceiling.solve(40.0, 1.0, replace(ONE_TRIAL, most=30), one.worth)
    assert more.worth > 1.05 * one.worth
    dearer = ceiling.solve(40.0, 4.0, replace(ONE_TRIAL, most=30), one.worth)
    assert dearer.useless < 0.5 * more.useless


def test_levels_that_are_not_known_cost_something() -> None:
    error = ceiling.level_error(20)
    assert 0.03 < error < 0.3
    knows = replace(ONE_TRIAL, most=30)
    assert (
        ceiling.solve(40.0, 1.0, replace(knows, level_variance=error), 0.05).worth
        < ceiling.solve(40.0, 1.0, knows, 0.05).worth
    )


def test_choosing_cards_is_worth_something_and_bounded_by_the_quietest_alone() -> None:
    tester = replace(ONE_TRIAL, most=24)
    in_turn = ceiling.solve(40.0, 1.0, tester, 0.05)
    chosen = ceiling.choosing(40.0, 1.0, tester, in_turn.worth, rounds=10)
    free = ceiling.solve(40.0, 1.0, tester, in_turn.worth, np.zeros(len(ceiling.SHARES)))
    assert in_turn.worth < chosen.worth < free.worth


def test_means_go_somewhere_with_chance_one() -> None:
    known = ceiling.patches(20.0)
    ahead = ceiling._ahead(known, ceiling._posterior(known, 10 * ceiling.STEP), 10, 5)
    assert ahead.shape == (len(ceiling.MEANS), len(ceiling.MEANS))
    assert ahead.sum(axis=1) == pytest.approx(1.0)
    assert math.isclose(float(known.shares.sum()), 1.0)
