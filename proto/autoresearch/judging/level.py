"""Where a machine's level is on a best: what it would score there without luck, by its baselines and by its trials of
other candidates.

A machine runs dozens of candidates on a best, and most of them do nothing, or nearly nothing: so their scores say where
the best itself would score, nearly as well as baselines do, and cost nothing. How much each says follows from what
candidates do as a rule (`MIXES`): half of the fresh ones harm, while whoever was run three times before and is run
again seldom does. The level is the mean of its posterior, from a flat prior: a product of normal mixtures, on a grid.

A machine's level is worked out from its own trials alone, so a vote still hangs on nobody else's numbers. Who lies
about candidates moves its own level along, and says less. Why, how far it is from exact, and what it gains:
docs/decisions/own-trials.md.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, median_low
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class OtherTrial(NamedTuple):
    """The finished trials of another candidate, by the same machine beside the same baselines: one number, for a second
    one says hardly more about the machine."""

    val_bpb: float  # their mean
    earlier: int  # results of that candidate that there were when the first was handed out


def together(trials: Sequence[OtherTrial]) -> OtherTrial:
    """At least one trial of one candidate, in any order."""
    if len(trials) == 1:  # nearly always
        return trials[0]
    return OtherTrial(math.fsum(own.val_bpb for own in trials) / len(trials), min(own.earlier for own in trials))


class Level(NamedTuple):
    """A machine's level in bits per byte, and the variance of that."""

    bpb: float
    variance: float


class Mix(NamedTuple):
    """What candidates do to a machine's score: shares, and sizes in the rule's delta. The rest does nothing."""

    harmful: float
    harm: float  # median of a log-normal loss
    helpful: float  # a little: `SMALL`
    very_helpful: float  # `LARGE`


# By how many trials a candidate had before: 0, 1, 2, more. As in the simulated swarm, where half of all gains are small
# beside delta (`coordinator.simulation.world`); where candidates do something else, see docs/decisions/own-trials.md.
MIXES = (
    Mix(harmful=0.49, harm=1.90, helpful=0.11, very_helpful=0.05),
    Mix(harmful=0.22, harm=0.85, helpful=0.17, very_helpful=0.11),
    Mix(harmful=0.12, harm=0.70, helpful=0.20, very_helpful=0.16),
    Mix(harmful=0.04, harm=0.50, helpful=0.21, very_helpful=0.36),
)
HARM_SPREAD = 1.0  # sd of the logarithm of a loss
MOST_HARM = 30.0  # delta
CLASS_SPREAD = 0.35  # sd of an effect between hardware classes, as a share of it
SMALL, LARGE = (0.075, 0.30), (0.30, 1.50)  # gains, uniform, in delta
HUGE_SHARE, HUGE = 0.03, (1.5, 10.0)  # of all: when a swarm is young
SLOW_SHARE, SLOW = 0.015, (2.5, 20.0)  # trials beside other work lose so much, uniform, in delta ...
SLOW_BASELINES = 0.0003  # ... seldom baselines, which are dropped if they served few tokens
ANYTHING = 1e-4  # density, per noise, of a score that none of this explains: no single one decides ...
ANY_BASELINE = 1e-6  # ... and two good candidates must not look like one odd baseline
DOUBT = 2.5  # times the variance: what candidates do is known roughly, and scores have longer tails than normal ones

STEP = 0.02  # noises between two entries of a table
LOWEST, HIGHEST = -16.0, 44.0  # noises from the level, of a table
GRID = np.arange(-804, 253, 12)  # levels that are looked at, in steps: 16 noises below the baselines to 5 above
RATIO_STEPS = 50.0  # tables for ratios of delta to noise that are 2 % apart


def level(baseline: Sequence[float], others: Sequence[OtherTrial], noise_bpb: float, delta_bpb: float) -> Level:
    """Of a machine, by at least one baseline and any number of trials of other candidates. `noise_bpb`: standard
    deviation of one trial on the machine, `delta_bpb`: the rule's.

    Without other trials: the mean of the baselines, and noise^2 / m for m of them.
    """
    if not others:
        return Level(math.fsum(baseline) / len(baseline), noise_bpb * noise_bpb / len(baseline))
    return _level(tuple(sorted(baseline)), tuple(sorted(others)), noise_bpb, delta_bpb)


@lru_cache(8_192)  # a row is weighed for its verdict, for its reporter, and for those who look
def _level(baseline: tuple[float, ...], others: tuple[OtherTrial, ...], noise_bpb: float, delta_bpb: float) -> Level:
    center = median_low(baseline)  # a slow one is above it
    scores = np.array([*baseline, *(other.val_bpb for other in others)])
    kinds = np.array([0] * len(baseline) + [1 + min(other.earlier, len(MIXES) - 1) for other in others])
    tables = _tables(round(RATIO_STEPS * math.log(delta_bpb / noise_bpb)))
    above = np.clip((scores - center) / noise_bpb, -1e6, 1e6)
    at = np.rint((above - LOWEST) / STEP).astype(np.int64)[:, None] - GRID
    log_likelihood = tables[kinds[:, None], np.clip(at, 0, tables.shape[1] - 1)].sum(axis=0)
    weights = np.exp(log_likelihood - log_likelihood.max())
    weights /= weights.sum()
    noises = GRID * STEP
    mean = float(weights @ noises)
    variance = float(weights @ (noises - mean) ** 2)
    return Level(center + mean * noise_bpb, DOUBT * variance * noise_bpb * noise_bpb)


@lru_cache(64)
def _tables(ratio: int) -> Floats:
    """Log densities of a score above the level, in noises from `LOWEST` on: of a baseline, then of a candidate by how
    many trials it had before."""
    delta = math.exp(ratio / RATIO_STEPS)  # in noises
    x = np.arange(round((HIGHEST - LOWEST) / STEP) + 1) * STEP + LOWEST
    undisturbed, slow = _normals(x, [0.0]), _normals(x, _uniform(SLOW, 15) * delta)
    baseline, still = ((1.0 - share) * undisturbed + share * slow for share in (SLOW_BASELINES, SLOW_SHARE))
    small, large, huge = (_normals(x, -_uniform(sizes, 8) * delta) for sizes in (SMALL, LARGE, HUGE))
    rows = [baseline + ANY_BASELINE]
    for mix in MIXES:
        losses = mix.harm * np.exp([HARM_SPREAD * NormalDist().inv_cdf((at + 0.5) / 24) for at in range(24)])
        harm = _normals(x, np.minimum(losses, MOST_HARM) * delta, CLASS_SPREAD)
        helpful = mix.helpful * small + mix.very_helpful * large + HUGE_SHARE * huge
        nothing = 1.0 - mix.harmful - mix.helpful - mix.very_helpful - HUGE_SHARE
        rows.append(mix.harmful * harm + helpful + nothing * still + ANYTHING)
    return np.log(np.array(rows))


def _uniform(bounds: tuple[float, float], count: int) -> Floats:
    return np.linspace(*bounds, count)


def _normals(x: Floats, means: Sequence[float] | Floats, spread: float = 0.0) -> Floats:
    """Mean density of normals with these means, and with the noise of one trial and their spread as variance."""
    found = np.zeros_like(x)
    for mean in means:
        sd = math.hypot(1.0, spread * mean)
        found += np.exp(-0.5 * ((x - mean) / sd) ** 2) / (sd * math.sqrt(2.0 * math.pi))
    return found / len(means)
