"""What a trial costs beside its budget, how well it keeps to that, and whether a replay gives the same. Figures only.

Measured on this machine's processor, one thread. A GPU's overhead is another one (compiling) and is not measured here.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

import trainer
from trainer.prepare import prepare
from trainer.result import Outcome, TrialLimits, TrialProgress, TrialResult, TrialSpec
from trainer.trial import Trial

SEED_SOURCE = (Path(trainer.__file__).parent / "train.py").read_bytes()
BUDGET_S = 300.0  # of the challenge that the share of training is stated for
# A busy machine may take its time to start, to answer and to read; how long a budget is stays as in any trial.
LIMITS = TrialLimits(startup_s=600.0, exam_s=600.0, stretch=100.0)

# Steps of a length to choose, on the thread's own clock, so that a busy machine does not change it.
STEPS = """
import time

import torch
from torch import nn
from torch.nn import functional

def build_model(config):
    return nn.Sequential(nn.Embedding(config.vocab_size, 8), nn.Linear(8, config.vocab_size))

def main(session):
    model = build_model(session.config)
    for batch in session.batches(rows=1):
        until = time.process_time() + STEP_S
        while time.process_time() < until:
            functional.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten()).backward()
    return model
"""


@dataclass(frozen=True)
class Timed:
    """A trial, and how much of its time by the wall it trained."""

    result: TrialResult
    training_s: float

    @property
    def overhead_s(self) -> float:
        return self.result.wall_s - self.training_s


class Stages:
    """Notes when training began and ended, calls `at_exam` when the exam begins, and passes everything on."""

    def __init__(self, at_exam: Callable[[], None], on_progress: Callable[[TrialProgress], None]) -> None:
        self._at_exam = at_exam
        self._on_progress = on_progress
        self._at: dict[str, float] = {}

    def __call__(self, progress: TrialProgress) -> None:
        if progress.stage not in self._at:
            self._at[progress.stage] = time.perf_counter()
            if progress.stage == "exam":
                self._at_exam()
        self._on_progress(progress)

    def training_s(self) -> float:
        return self._at["weights"] - self._at["training"]


def run(
    trial: Trial,
    at_exam: Callable[[], None] = lambda: None,
    on_progress: Callable[[TrialProgress], None] = lambda _progress: None,
) -> Timed:
    stages = Stages(at_exam, on_progress)
    with trial:
        result = trial.run(stages)
    if result.outcome is not Outcome.COMPLETED:
        raise SystemExit(f"error: a trial of this benchmark ended {result.outcome}: {result.reason}")
    return Timed(result, stages.training_s())


def in_a_row(spec: TrialSpec, count: int, *, early: bool) -> tuple[list[Timed], float]:
    """So many trials one after the other, and the time by the wall that each took beside training."""
    trials = [Trial(replace(spec, seed=seed), clock=time.monotonic, stop=threading.Event()) for seed in range(count)]
    began = time.perf_counter()
    timed = []
    for trial, following in zip(trials, [*trials[1:], None], strict=True):
        timed.append(run(trial, following.start_early if early and following is not None else lambda: None))
    training_s = sum(one.training_s for one in timed)
    return timed, (time.perf_counter() - began - training_s) / count


def replay_of(timed: Timed, spec: TrialSpec) -> tuple[float, bool]:
    """|difference of val_bpb| of a replay, and whether its weights are the same bytes."""
    again = run(Trial(replace(spec, replay=timed.result.batches), clock=time.monotonic, stop=threading.Event())).result
    assert again.val_bpb is not None
    assert timed.result.val_bpb is not None
    return abs(again.val_bpb - timed.result.val_bpb), again.weights_sha256 == timed.result.weights_sha256


def budget_error_s(spec: TrialSpec, step_s: float) -> float:
    """Trained for longer (or, negative, shorter) than the budget, by its clock, with steps of this length.

    Counts what handing over the weights took.
    """
    source = STEPS.replace("STEP_S", str(step_s)).encode()
    one = Trial(replace(spec, source=source), clock=time.monotonic, stop=threading.Event())
    return run(one).result.train_s - spec.budget_s


def whole_budget(spec: TrialSpec) -> dict[str, float]:
    """One trial of the length that challenges have. Errors are what it trained longer than that, as a share of it."""
    timed = run(Trial(replace(spec, budget_s=BUDGET_S), clock=time.monotonic, stop=threading.Event()))
    result = timed.result
    return {
        "spent_s": round(result.train_s, 3),
        "error_share": round(result.train_s / BUDGET_S - 1, 5),
        "training_wall_s": round(timed.training_s, 2),
        "cpu_share": round(result.cpu_share or 0.0, 3),
        "beside_training_s": round(timed.overhead_s, 2),
        "training_share": round(timed.training_s / result.wall_s, 4),
        "steps": len(result.batches),
        "val_bpb": round(result.val_bpb or 0.0, 4),
    }


def measure(quick: bool, say: Callable[[str], None] = lambda _what: None) -> dict[str, object]:
    """All figures. `overhead_s`, `training_share`: with the next trial started early, for a budget of 300 s.

    `say` is told what is measured next, and what was found.
    """
    with tempfile.TemporaryDirectory() as folder:
        manifest = prepare("tiny", Path(folder) / "data")
        spec = TrialSpec(
            SEED_SOURCE, 0, 3.0 if quick else 10.0, manifest.data_dir, Path(folder) / "work", limits=LIMITS
        )
        found = _quick(spec, say)
        if not quick:
            say(json.dumps(found))
            found |= _long(spec, say)
        steps_s = (0.6,) if quick else (0.01, 0.2, 0.6, 2.0)
        say("budgets of steps that are short and long")
        return {**found, "budget_error_s": {str(step_s): round(budget_error_s(spec, step_s), 3) for step_s in steps_s}}


def _quick(spec: TrialSpec, say: Callable[[str], None]) -> dict[str, object]:
    say("trials alone, and one after the other")
    alone, alone_s = in_a_row(spec, 1, early=False)
    _, overlapped_s = in_a_row(spec, 2, early=True)
    say("a replay beside busy programs")
    with neighbour():
        difference, is_same = replay_of(alone[0], spec)
    return {
        "overhead_s": round(overlapped_s, 2),
        "overhead_alone_s": round(alone_s, 2),
        "startup_s": round(alone[0].result.startup_s, 2),
        "exam_s": round(alone[0].result.exam_s, 2),
        "training_share": round(BUDGET_S / (BUDGET_S + overlapped_s), 4),
        "replay_difference": difference,
        "replay_same_weights": is_same,
        "budget_s": spec.budget_s,
    }


def _long(spec: TrialSpec, say: Callable[[str], None]) -> dict[str, object]:
    say(f"a whole budget of {BUDGET_S:.0f} s")
    whole = whole_budget(spec)
    say(json.dumps(whole))
    say("a replay with nothing beside it")
    (alone,), _ = in_a_row(spec, 1, early=False)
    difference, is_same = replay_of(alone, spec)
    say("trials on one core")
    with one_core():
        by_one_core = {
            "one_core_overhead_alone_s": round(in_a_row(spec, 2, early=False)[1], 2),
            "one_core_overhead_s": round(in_a_row(spec, 2, early=True)[1], 2),
        }
    return {
        "replay_quiet_difference": difference,
        "replay_quiet_same_weights": is_same,
        **by_one_core,
        "budget_300": whole,
    }


@contextmanager
def neighbour() -> Iterator[None]:
    """Another program keeps each processor busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this process, and all that it starts, on one core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute on a quiet machine.")
@click.option("--json", "as_json", is_flag=True, help="The last line of output is one JSON object.")
def main(quick: bool, as_json: bool) -> None:
    found = measure(quick)
    for name, value in found.items():
        click.echo(f"trial: {name:26} {value}")
    if as_json:
        click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
