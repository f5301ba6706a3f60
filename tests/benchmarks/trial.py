"""A trial as a whole: what the harness costs, what our `train.py` is worth beside others, and the parts measured apart.

    python tests/benchmarks/trial.py [--quick] [--json]

Prints, and with --json repeats in the last line as one object:

    harness_ratio        tokens/s under the harness / bare, the same train.py and seed, by the budget's clock: median of
                         quartets of turns, its 95 % interval and extremes; the same by the wall. See trial_harness.py
    val_bpb              of each trainer after equal budgets on the same tokens, mean and standard deviation over seeds.
                         Rivals are tried in several sizes with several learning rates first; the best of them counts
    exam_margin          the largest disagreement in the exams of these trials, as a share of what is tolerated
    overhead_s           wall time of a trial of ours beside its training
    replay_difference    of val_bpb, when a trial is replayed while other programs keep the processors busy
    budget_300           a trial of 300 s: by how much it missed them, by the budget's clock and by the wall

and what `trial_feed.py` and, in full, `trial_overhead.py` and `trial_exam.py` measure. Quick: under a minute on two
quiet cores; one seed, a short budget, each rival at its file's default, a fifth of the probes in an exam, and trials
that need no quiet side by side. In full: under half an hour; progress goes to standard error, and so does each part as
soon as it is known. On a machine with an NVIDIA GPU also the whole path there, in full.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]  # run as a file: the packages, and the modules beside this one

import trial_exam  # noqa: E402  (the path comes first)
import trial_feed  # noqa: E402  (likewise)
import trial_gpu  # noqa: E402  (likewise)
import trial_harness  # noqa: E402  (likewise)
import trial_overhead  # noqa: E402  (likewise)
from trial_sources import OURS, RIVALS, with_constants  # noqa: E402  (likewise)

from trainer.prepare import prepare  # noqa: E402  (likewise)
from trainer.result import TrialLimits, TrialResult, TrialSpec  # noqa: E402  (likewise)
from trainer.trial import Trial  # noqa: E402  (likewise)

SIZES = {"LAYERS": (1, 2), "ROWS": (4, 8)}
RATES = {"nanogpt": {"LEARNING_RATE": (2e-3, 4e-3, 8e-3)}, "upstream": {"RATE": (0.5, 1.0, 2.0)}}
# A busy machine may take its time: what is measured is processor time, and who waits is not late.
LIMITS = TrialLimits(startup_s=600.0, grace_s=60.0, exam_s=600.0, stretch=100.0)
FEW_PROBES = 256  # where an exam is needed for its score alone, and in a quick run
LANES = 2  # trials side by side where only scores are wanted: budgets are processor time
EXAM_ROWS = 64  # of those of the exam, at all of whose positions the honest model is asked

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Plan:
    budget_s: float
    seeds: int
    harness_budgets_s: tuple[float, ...]  # of the trials that take turns with bare runs
    turn_batches: int
    limits: TrialLimits


QUICK = Plan(6.0, 1, (6.0,), 2, replace(LIMITS, exam_probes=FEW_PROBES))
FULL = Plan(10.0, 5, (20.0, 20.0, 20.0), 4, LIMITS)


class Ground:
    """Prepared data and a folder to work in; runs trials there and remembers them."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.data_dir = prepare("tiny", folder / "tiny").data_dir
        self.results: list[TrialResult] = []
        self._plan = plan
        self._work_dir = folder / "work"

    def spec(self, source: str, *, seed: int, budget_s: float) -> TrialSpec:
        return TrialSpec(source.encode(), seed, budget_s, self.data_dir, self._work_dir, limits=self._plan.limits)

    def run(self, spec: TrialSpec, *, at_exam: Callable[[], None] = lambda: None) -> trial_overhead.Timed:
        return self.keep(trial_overhead.run(self.trial(spec), at_exam))

    def trial(self, spec: TrialSpec) -> Trial:
        return Trial(spec, clock=time.monotonic, stop=threading.Event())

    def keep(self, timed: trial_overhead.Timed) -> trial_overhead.Timed:
        self.results.append(timed.result)
        return timed

    def score(self, spec: TrialSpec) -> float:
        """val_bpb of a trial."""
        return bpb(self.run(spec).result)

    def margin(self) -> float:
        return max(result.exam_margin for result in self.results if result.exam_margin is not None)


def bpb(result: TrialResult) -> float:
    assert result.val_bpb is not None
    return result.val_bpb


def say(text: str) -> None:
    click.echo(f"[{time.monotonic() - BEGAN_AT:5.0f} s] {text}", err=True)


def in_lanes(do: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    with ThreadPoolExecutor(LANES) as lanes:
        return list(lanes.map(do, items))


def harness(ground: Ground, plan: Plan) -> tuple[dict[str, object], list[trial_overhead.Timed]]:
    """Trials of ours that take turns with bare runs, and the trials."""
    ratios: dict[str, list[float]] = {"spent_s": [], "wall_s": []}
    trials = []
    for seed, budget_s in enumerate(plan.harness_budgets_s, start=1):
        say(f"harness beside bare, seed {seed}")
        with trial_harness.bare(OURS, ground.data_dir, seed=seed, budget_s=budget_s, device="cpu") as rival:
            turns = trial_harness.Turns(rival, budget_s, plan.turn_batches)
            spec = ground.spec(OURS.read_text(), seed=seed, budget_s=budget_s)
            trials.append(ground.keep(trial_overhead.run(ground.trial(spec), on_progress=turns)))
        for clock, found in turns.ratios.items():
            ratios[clock] += found
    return trial_harness.summary(ratios), trials


def quick(ground: Ground, plan: Plan) -> dict[str, object]:
    """Every trial serves several measures; what needs no quiet runs side by side."""
    report, (ours,) = harness(ground, plan)
    rivals = {name: ground.spec(path.read_text(), seed=1, budget_s=plan.budget_s) for name, path in RIVALS.items()}
    again = replace(ground.spec(OURS.read_text(), seed=1, budget_s=plan.budget_s), replay=ours.result.batches)
    say("the rivals and a replay, side by side")
    *scores, replayed = in_lanes(ground.score, [*rivals.values(), again])
    return {
        **report,
        "overhead_s": ours.overhead_s,
        "val_bpb": {"ours": bpb(ours.result), **dict(zip(rivals, scores, strict=True))},
        "val_bpb_budget_s": plan.budget_s,
        "val_bpb_seeds": plan.seeds,
        "rivals_tuned": False,
        "replay_difference": abs(replayed - bpb(ours.result)),
        "exam_margin": ground.margin(),
        **trial_feed.measure(quick=True),
    }


def tune(ground: Ground, plan: Plan) -> dict[str, dict[str, object]]:
    """The rivals' best constants: one seed of every size at every learning rate."""
    tried = [
        (name, dict(zip(choices, values, strict=True)))
        for name in RIVALS
        for choices in ({**SIZES, **RATES[name]},)
        for values in product(*choices.values())
    ]

    def score(one: tuple[str, dict[str, object]]) -> float:
        name, constants = one
        spec = ground.spec(with_constants(RIVALS[name].read_text(), constants), seed=0, budget_s=plan.budget_s)
        found = ground.score(replace(spec, limits=replace(plan.limits, exam_probes=FEW_PROBES)))
        say(f"tuning {name:10} {found:.4f}  {constants}")
        return found

    found = in_lanes(score, tried)
    best = {}
    for name in RIVALS:
        own = [(value, number) for number, value in enumerate(found) if tried[number][0] == name]
        best[name] = tried[min(own)[1]][1]
    return best


def compare(ground: Ground, plan: Plan) -> dict[str, object]:
    """val_bpb of ours and of each rival at its best, the same seeds in turns; each trial starts up while the one before
    is examined."""
    chosen = tune(ground, plan)
    sources = {"ours": OURS.read_text()}
    sources |= {name: with_constants(path.read_text(), chosen[name]) for name, path in RIVALS.items()}
    planned = [(name, seed) for seed in range(1, plan.seeds + 1) for name in sources]
    trials = [ground.trial(ground.spec(sources[name], seed=seed, budget_s=plan.budget_s)) for name, seed in planned]
    found: dict[str, list[float]] = {name: [] for name in sources}
    for (name, seed), trial, following in zip(planned, trials, [*trials[1:], None], strict=True):
        timed = trial_overhead.run(trial, following.start_early if following is not None else lambda: None)
        found[name].append(bpb(ground.keep(timed).result))
        say(f"{name:10} seed {seed}: {found[name][-1]:.4f}")
    return {
        "val_bpb": {name: statistics.fmean(values) for name, values in found.items()},
        "val_bpb_sd": {name: statistics.stdev(values) for name, values in found.items()},
        "val_bpb_of_seeds": found,
        "val_bpb_budget_s": plan.budget_s,
        "val_bpb_seeds": plan.seeds,
        "rivals_tuned": chosen,
    }


def honest_exam() -> dict[str, object]:
    """In float32 alone: bfloat16 takes a CPU that does not multiply it ten times as long."""
    return trial_exam.measure(quick=False, rows=EXAM_ROWS, precisions=("float32",))


def full(ground: Ground, plan: Plan) -> dict[str, object]:
    report: dict[str, object] = {}

    def add(what: str, measure: Callable[[], dict[str, object]]) -> None:
        say(what)
        found = measure()
        click.echo(json.dumps(found), err=True)
        report.update(found)

    add("the harness", lambda: harness(ground, plan)[0])
    add("the feed", lambda: dict(trial_feed.measure(quick=False)))
    add("the trainers", lambda: compare(ground, plan))
    add("the exam of an honest model", lambda: {"exam": honest_exam()})
    add("overhead, budget, replay", lambda: trial_overhead.measure(quick=False, say=say))
    return {**report, "exam_margin": ground.margin()}


def measure(*, is_quick: bool) -> dict[str, object]:
    plan = QUICK if is_quick else FULL
    with tempfile.TemporaryDirectory(prefix="trial-bench-") as folder:
        ground = Ground(Path(folder), plan)
        report = quick(ground, plan) if is_quick else full(ground, plan)
    return {**report, "gpu": trial_gpu.measure(quick=is_quick)}


@click.command()
@click.option("--quick", "is_quick", is_flag=True, help="Under a minute on two quiet cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(is_quick: bool, as_json: bool) -> None:
    report = measure(is_quick=is_quick)
    say("done")
    for name, value in report.items():
        click.echo(f"{name:28} {value}")
    if as_json:
        click.echo(json.dumps(report))


BEGAN_AT = time.monotonic()

if __name__ == "__main__":
    main()
