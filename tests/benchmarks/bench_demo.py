"""How often the demo's rule is right, by the noise of a trial: the rule that the coordinator runs, on invented numbers.

    python tests/benchmarks/bench_demo.py [--quick] [--json]

Only the numbers are invented, from a normal distribution. The challenge is that of `coordinator/demo_settings`;
the noise is estimated from the baselines of its volunteers as the coordinator does it; they take turns with a patch
until it is decided, and each has run the other of the two once: the useless one, or one that gains 0.12. A crash and a
failed exam do not depend on noise and are not in it.
"""

import json
import random  # noqa: TID251  # always seeded: the same numbers every time
from collections import Counter
from dataclasses import replace
from itertools import cycle

import click

from autoresearch.judging import noise
from autoresearch.judging.evidence import Row
from autoresearch.judging.level import OtherTrial
from autoresearch.judging.verdict import DEFAULT, Verdict, baselines_wanted, decide
from coordinator.demo_settings import DELTA_BPB, FIRST_BASELINES, NOISE_PRIOR_BPB, VOLUNTEERS

GAINS_BPB = (0.15, 0.12, 0.09, 0.0)  # the sample improvement in demos, from the most to the least; a useless patch
OTHER_GAIN_BPB = 0.12
DEVIATIONS_BPB = (0.01, 0.02, 0.03, 0.04, 0.05)
CLASS = "CPU"
BEST_BPB = 2.2
RULE = replace(DEFAULT.scaled(DELTA_BPB), min_classes=1)


def verdict(gain_bpb: float, deviation_bpb: float, chance: random.Random) -> Verdict:
    """What becomes of one patch. Both in bpb: its true gain, and the standard deviation of one trial's val_bpb."""

    def trial(mean_bpb: float) -> float:
        return mean_bpb + chance.gauss(0.0, deviation_bpb)

    baselines = {name: [trial(BEST_BPB) for _ in range(FIRST_BASELINES)] for name in VOLUNTEERS}
    candidates: dict[str, list[float]] = {name: [] for name in VOLUNTEERS}
    other_bpb = BEST_BPB - (0.0 if gain_bpb else OTHER_GAIN_BPB)
    others = {name: (OtherTrial(trial(other_bpb), at),) for at, name in enumerate(VOLUNTEERS)}
    for name in cycle(VOLUNTEERS):
        while len(baselines[name]) < baselines_wanted(len(candidates[name]), FIRST_BASELINES):
            baselines[name].append(trial(BEST_BPB))
        candidates[name].append(trial(BEST_BPB - gain_bpb))
        sigma = noise.estimate({CLASS: list(baselines.values())}, {CLASS: NOISE_PRIOR_BPB})
        rows = [
            Row(who, who, CLASS, tuple(own), tuple(baselines[who]), others=others[who])
            for who, own in candidates.items()
            if own
        ]
        decided = decide(rows, sigma, RULE).verdict
        if decided is not Verdict.OPEN:
            return decided
    raise AssertionError("a cycle does not end")


@click.command()
@click.option("--quick", is_flag=True, help="100 patches of each gain instead of 1,000.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
def main(*, quick: bool, as_json: bool) -> None:
    """Count the verdicts."""
    patches = 100 if quick else 1000
    click.echo(f"verdicts in percent of {patches} patches each, votes asked about {DELTA_BPB:g} bpb")
    shares: dict[str, dict[str, dict[str, float]]] = {}
    for deviation_bpb in DEVIATIONS_BPB:
        own = shares[f"{deviation_bpb:g}"] = {}
        for gain_bpb in GAINS_BPB:
            chance = random.Random(f"{gain_bpb} {deviation_bpb}")
            counts = Counter(verdict(gain_bpb, deviation_bpb, chance).value for _ in range(patches))
            found = own[f"{gain_bpb:g}"] = {name: 100.0 * count / patches for name, count in counts.most_common()}
            said = ", ".join(f"{share:.1f} {name}" for name, share in found.items())
            click.echo(f"standard deviation {deviation_bpb:.3f}  gain {gain_bpb:.2f}  {said}")
    if as_json:
        click.echo(json.dumps({"patches": patches, "delta_bpb": DELTA_BPB, "verdicts_percent": shares}))


if __name__ == "__main__":
    main()
