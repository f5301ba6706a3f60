"""What any tester of one patch at a time could gain in the simulated world, beside which `decisions.py` can be read.

    python tests/benchmarks/ceiling.py --quick --json
    python tests/benchmarks/ceiling.py

The tester knows all that can be known but what a patch does: every machine's level and noise, which effects patches
have and how often, and how far gains have shrunk already. Nobody lies, one machine's word is enough, nothing is slow,
and effects are alike on all cards. It stops, promotes or goes on with each patch as dynamic programming says, so no
rule for one patch at a time does better at the same price of a useless promotion, for these machines in turn. What is
computed is the gain per trial at some stages of a campaign (renewal reward, Dinkelbach's iteration), integrated over
the trials. "At today's cost" leaves it a tenth of its trials less (what the swarm spends on baselines and known
answers) and levels as uncertain as a machine's own trials leave them. With --choose-cards it also picks the card of
each trial, while all cards together are used as often as there are: a Lagrange bound, so it is too high, if anything.
"""

import json
import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from autoresearch.judging.level import DOUBT, OtherTrial, level
from autoresearch.judging.rule import DEFAULT
from coordinator.simulation.world import (
    CARDS,
    HARM_MEDIAN_BPB,
    HARM_MOST_BPB,
    KINDS,
    LARGE_BPB,
    MERGE_CONFLICTS,
    MERGE_KEEPS,
    MERGE_WEAKENS,
    MIX,
    SMALL_BPB,
    World,
)

Floats = NDArray[np.float64]

MBPB = 1_000.0  # everything below is in thousandths of a bit per byte
SHARES = np.array([card.share for card in CARDS])
NOISES = np.array([card.noise_bpb for card in CARDS]) * MBPB
STEP = 0.0247  # information, 1 / mbpb^2, of one step: half a trial on the noisiest card
MEANS = np.concatenate([np.arange(-4, -1.5, 0.25), np.arange(-1.5, 4, 0.05), np.arange(4, 14.1, 0.25)])
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(15)  # of a normal noise
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()
STAGES = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 115.0)  # gain so far
MARKS = (2_000, 10_000)  # trials
MOVED = 0.75  # of promotions: of four patches that win on one base three are moved
KEPT = 1.0 - MOVED * (MERGE_CONFLICTS + MERGE_WEAKENS * (1.0 - MERGE_KEEPS))  # of what is promoted
OF_KIND = dict(zip(KINDS, MIX, strict=True))  # shares of fresh patches
TODAY_SPENT = 0.10  # of trials: baselines, known answers (decisions.md)
OTHERS = 24  # candidates of its own that say where a machine's level is, half way through a base's rest
PRICES = (4.0, 8.0, 16.0)  # of a useless promotion, in mbpb of the first day: they shrink as gains do
ROUNDS = 12  # of the prices of cards
VALUE, GAIN, USELESS, PROMOTED, TRIALS, BY_CARD = 0, 1, 2, 3, 4, 5


class Patches(NamedTuple):
    """Effects that a fresh patch may have, mbpb, and how likely each is if it does not crash."""

    effects: Floats
    shares: Floats


def patches(gain: float) -> Patches:
    """When the best has gained so much."""
    left = math.exp(-gain / (World().drying_bpb * MBPB))
    places = (np.arange(12) + 0.5) / 12
    losses = [min(HARM_MOST_BPB, HARM_MEDIAN_BPB * math.exp(NormalDist().inv_cdf(place))) for place in places]
    small = np.interp((np.arange(5) + 0.5) / 5, (0, 1), SMALL_BPB) * left
    large = np.interp((np.arange(10) + 0.5) / 10, (0, 1), LARGE_BPB) * left
    effects = np.concatenate([-np.array(losses), [0.0], small, large]) * MBPB
    kinds = (("harm", 12), ("null", 1), ("small", 5), ("large", 10))
    shares = np.concatenate([np.full(count, OF_KIND[kind] / count) for kind, count in kinds])
    return Patches(effects, shares / shares.sum())


def level_error(machines: int = 300) -> float:
    """Variance of a machine's level by its own trials, in those of one trial: what `level` says of itself, without the
    doubt that is added, for a median card."""
    chance = np.random.default_rng(1)
    noise, drawn = float(np.median(NOISES)) / MBPB, patches(50.0)
    variances = []
    for _ in range(machines):
        effects = chance.choice(drawn.effects, OTHERS, p=drawn.shares) / MBPB
        others = [OtherTrial(1.0 - effect + noise * chance.standard_normal(), 0) for effect in effects]
        baseline = [1.0 + noise * float(chance.standard_normal())]
        variances.append(level(baseline, others, noise, DEFAULT.delta_bpb).variance / DOUBT)
    return float(np.mean(variances)) / noise**2


@dataclass(frozen=True)
class Tester:
    """What the tester is given. `most`: steps of information after which it tries a patch no further."""

    level_variance: float = 0.0  # of a trial's
    spent: float = 0.0  # trials on anything but candidates
    most: int = 320
    iterations: int = 3

    def steps(self) -> list[int]:
        """Information of one trial on each card."""
        return [max(1, round(1.0 / (noise**2 * (1.0 + self.level_variance)) / STEP)) for noise in NOISES]


class Found(NamedTuple):
    """At one stage: everything per trial, but for the shares."""

    rate: float  # gain of the best
    worth: float  # the same less the price of useless promotions
    useless: float  # share of promotions
    promoted: float
    cards: Floats  # share of trials


def solve(gain: float, price: float, tester: Tester, rate: float, cards: Floats | None = None) -> Found:
    """The best that can be done at this stage. `rate`: a first guess of the gain per trial; `cards`: what a trial on
    each card costs beside that; None: cards come as there are."""
    known, steps = patches(gain), tester.steps()
    wait = np.zeros(len(CARDS)) if cards is None else cards
    found = Found(0.0, rate, 0.0, 0.0, SHARES)
    for _ in range(tester.iterations):
        tables = _backwards(known, price, steps, tester.most, wait + found.worth, chosen=cards is not None)
        firsts = np.array([_first(known, tables, step) for step in steps])
        firsts *= 1.0 - OF_KIND["crash"]
        firsts[:, VALUE] -= wait + found.worth
        firsts[:, TRIALS] += 1.0
        firsts[np.arange(len(CARDS)), BY_CARD + np.arange(len(CARDS))] += 1.0
        one = SHARES @ firsts if cards is None else firsts[int(np.argmax(firsts[:, VALUE]))]
        spent = float(one[BY_CARD:] @ wait)
        worth = float((one[GAIN] - price * one[USELESS] - spent) / one[TRIALS])
        useless = float(one[USELESS] / max(one[PROMOTED], 1e-12))
        used = one[BY_CARD:] / one[TRIALS]
        found = Found(float(one[GAIN] / one[TRIALS]), worth, useless, float(one[PROMOTED] / one[TRIALS]), used)
    return found


def _backwards(known: Patches, price: float, steps: list[int], most: int, cost: Floats, *, chosen: bool) -> Floats:
    """Values and what follows from them, [information][figure][mean so far]: from the most information down."""
    beyond = max(steps)
    tables = np.zeros((most + beyond + 1, BY_CARD + len(CARDS), len(MEANS)))
    for step in range(most + beyond, 0, -1):
        chances = _posterior(known, step * STEP)
        gain = KEPT * (known.effects @ chances)
        useless = chances[known.effects <= 0.0].sum(axis=0)
        now = np.zeros((BY_CARD + len(CARDS), len(MEANS)))
        now[[VALUE, GAIN, USELESS, PROMOTED]] = gain - price * useless, gain, useless, np.ones(len(MEANS))
        best = np.where(now[VALUE] > 0.0, now, 0.0)
        if step < most:
            later = []
            for card, more in enumerate(steps):
                one = tables[step + more] @ _ahead(known, chances, step, more).T
                one[VALUE] -= cost[card]
                one[TRIALS] += 1.0
                one[BY_CARD + card] += 1.0
                later.append(one)
            options = np.array(later)
            if chosen:
                on = np.argmax(options[:, VALUE], axis=0)
                goes_on = np.take_along_axis(options, on[None, None, :], axis=0)[0]
            else:
                goes_on = np.tensordot(SHARES, options, 1)
            best = np.where(goes_on[VALUE] > best[VALUE], goes_on, best)
        tables[step] = best
    return tables


def _posterior(known: Patches, information: float) -> Floats:
    """[effect][mean so far]."""
    logs = np.log(known.shares)[:, None] - 0.5 * information * (MEANS[None, :] - known.effects[:, None]) ** 2
    chances = np.exp(logs - logs.max(axis=0))
    return chances / chances.sum(axis=0)


def _ahead(known: Patches, chances: Floats, step: int, more: int) -> Floats:
    """From one mean to the next, after one trial of so much more information: [now][then]."""
    scores = known.effects[:, None] + NODES[None, :] / math.sqrt(more * STEP)
    means = (step * MEANS[:, None, None] + more * scores[None]) / (step + more)
    weights = (chances.T[:, :, None] * NODE_WEIGHTS[None, None, :]).ravel()
    at, above = _between(means.ravel())
    count = len(MEANS)
    rows = np.repeat(np.arange(count), known.effects.size * NODES.size) * count
    low = np.bincount(rows + at, weights * (1.0 - above), count * count)
    return (low + np.bincount(rows + at + 1, weights * above, count * count)).reshape(count, count)


def _between(means: Floats) -> tuple[NDArray[np.intp], Floats]:
    at = np.clip(np.searchsorted(MEANS, means) - 1, 0, len(MEANS) - 2)
    return at, np.clip((means - MEANS[at]) / (MEANS[at + 1] - MEANS[at]), 0.0, 1.0)


def _first(known: Patches, tables: Floats, step: int) -> Floats:
    """What a fresh patch brings after its first trial."""
    scores = known.effects[:, None] + NODES[None, :] / math.sqrt(step * STEP)
    weights = (known.shares[:, None] * NODE_WEIGHTS[None, :]).ravel()
    at, above = _between(scores.ravel())
    return tables[step][:, at] @ (weights * (1.0 - above)) + tables[step][:, at + 1] @ (weights * above)


def choosing(gain: float, price: float, tester: Tester, rate: float, rounds: int) -> Found:
    """With the best card for each trial. Prices of cards are moved until all are used about as often as there are;
    whatever they are, the best that can be done at them is worth no less than what can be had."""
    one = replace(tester, iterations=1)
    cards = np.log(np.median(NOISES) / NOISES) * rate * 0.5  # quiet ones are dear
    found = solve(gain, price, tester, rate, cards)
    tried = []
    for turn in range(rounds):
        off = np.clip((found.cards - SHARES) / SHARES, -1.0, 1.5)
        cards = cards + found.worth * 0.8 / (1.0 + 0.4 * turn) * off
        cards -= SHARES @ cards
        tried.append(cards)
        found = solve(gain, price, one, found.worth, cards)
    settled = np.mean(tried[rounds // 2 :], axis=0)  # from round to round they swing about
    return solve(gain, price, tester, found.worth, settled)


def campaign(price: float, tester: Tester, *, stages: tuple[float, ...], rounds: int = 0) -> dict[str, Any]:
    """Gains after so many trials, and the share of useless promotions. `rounds`: of choosing cards; 0: no choice."""
    rates, useless, promoted = [], [], []
    rate = 0.2
    for gain in stages:
        own = price * math.exp(-gain / (World().drying_bpb * MBPB))
        found = solve(gain, own, tester, rate)
        rate = max(found.worth, 1e-6)
        factor = 1.0
        if rounds:
            factor = max(1.0, choosing(gain, own, tester, rate, rounds).worth / rate)
        rates.append(math.log(found.rate * factor * (1.0 - tester.spent)))
        useless.append(found.useless)
        promoted.append(found.promoted * (1.0 - tester.spent))
    total = wrong = all_promoted = 0.0
    gains = {}
    for trial in range(1, max(MARKS) + 1):
        won = float(np.interp(total, stages, promoted))
        wrong += won * float(np.interp(total, stages, useless))
        all_promoted += won
        total += math.exp(float(np.interp(total, stages, rates)))
        if trial in MARKS:
            gains[f"gain_{trial // 1000}k"] = round(total, 1)
    return {"price": price, **gains, "false_share": round(wrong / all_promoted, 4), "promoted": round(all_promoted, 1)}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="One price, a coarse campaign: under a minute.")
@click.option("--choose-cards", is_flag=True, help="Also bound what choosing the card of each trial could add (slow).")
@click.option("--json", "as_json", is_flag=True, help="The last line is one JSON object.")
def main(*, quick: bool, choose_cards: bool, as_json: bool) -> None:
    stages = STAGES[::3] if quick else STAGES
    knows = Tester(most=160 if quick else 480)
    error = level_error(60 if quick else 300)
    testers = {"knows-everything": knows}
    if not (quick and choose_cards):
        testers["at-todays-cost"] = replace(knows, level_variance=error, spent=TODAY_SPENT)
    rows = []
    for name, tester in testers.items():
        for price in PRICES[1:2] if quick else PRICES:
            rows.append({"tester": name, **campaign(price, tester, stages=stages)})
            click.echo(_line(rows[-1]))
            if choose_cards and price == PRICES[1]:
                own = campaign(price, tester, stages=stages, rounds=1 if quick else ROUNDS)
                rows.append({"tester": f"{name}, chooses cards", **own})
                click.echo(_line(rows[-1]))
    if as_json:
        click.echo(json.dumps({"level_error": round(error, 3), "rows": rows}))


def _line(row: dict[str, Any]) -> str:
    gains = " and ".join(f"{row[f'gain_{mark // 1000}k']:.1f}" for mark in MARKS)
    return (
        f"{row['tester']:<32} price {row['price']:4.1f}: gains {gains} mbpb, "
        f"{row['false_share']:.1%} of {row['promoted']:.0f} promotions useless"
    )


if __name__ == "__main__":
    main()
