"""A trial as a whole: what the harness costs, what our `train.py` is worth beside others, and the parts measured apart.

    python tests/benchmarks/trial.py [--quick] [--json]

Prints, and with --json repeats in the last line as one object:

    harness_ratio        tokens/s under the harness / bare, the same train.py and seed: median of pairs run in turns,
                         with its extremes. Both by the budget's clock (on a CPU processor seconds)
    val_bpb              of each trainer after equal budgets on the same tokens, mean and standard deviation over seeds.
                         Rivals are tried in several sizes with several learning rates first; the best of them counts.
                         Quick: one seed, a short budget, and the size that is each rival's default
    exam_margin          the largest disagreement in the exams of these trials, as a share of what is tolerated
    overhead_s           wall time of a trial of ours beside its training, median

and what `trial_feed.py` and, where they are, the other modules beside this one measure. On a machine with an NVIDIA GPU
also the whole path there; elsewhere it says that this was not measured.
"""

import importlib
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]  # run as a file: the packages, and the modules beside this one

from trainer.gpus import leased_gpu  # noqa: E402  (the path comes first)
from trainer.main import best_device  # noqa: E402  (likewise)
from trainer.prepare import prepare  # noqa: E402  (likewise)
from trainer.result import Outcome, TrialLimits, TrialResult, TrialSpec  # noqa: E402  (likewise)
from trainer.trial import run_trial  # noqa: E402  (likewise)

OURS = HERE.parents[1] / "trainer" / "train.py"
RIVALS = {name: HERE / "trainers" / f"{name}_style.py" for name in ("nanogpt", "upstream")}
SIZES = {"LAYERS": (1, 2), "ROWS": (4, 8)}
RATES = {"nanogpt": {"LEARNING_RATE": (2e-3, 4e-3, 8e-3)}, "upstream": {"RATE": (0.5, 1.0, 2.0)}}
BESIDE = {"trial_feed": "feed", "trial_overhead": "overhead", "trial_exam": "exam"}
IN_QUICK = ("trial_feed", "trial_overhead")  # quick exams are those of the trials here
# A busy machine may take its time: what is measured is processor time, and who waits is not late.
LIMITS = TrialLimits(startup_s=600.0, warmup_s=30.0, grace_s=60.0, exam_s=600.0, stretch=100.0)
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "RTX 3090": 71e12}


@dataclass(frozen=True)
class Plan:
    budget_s: float
    seeds: int
    pairs: int
    pair_budget_s: float
    tunes: bool


QUICK = Plan(budget_s=8.0, seeds=1, pairs=2, pair_budget_s=2.0, tunes=False)
FULL = Plan(budget_s=10.0, seeds=5, pairs=9, pair_budget_s=10.0, tunes=True)


class Ground:
    """Prepared data and a folder to work in; runs trials there and remembers them."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.data_dir = prepare("tiny", folder / "tiny").data_dir
        self._work_dir = folder / "work"
        self._device = device
        self.results: list[TrialResult] = []

    def trial(self, source: str, *, seed: int, budget_s: float, keep_weights: Path | None = None) -> TrialResult:
        spec = TrialSpec(
            source.encode(),
            seed,
            budget_s,
            self.data_dir,
            self._work_dir,
            device=self._device,
            limits=LIMITS,
            keep_weights=keep_weights,
        )
        result = run_trial(spec, clock=time.monotonic, on_progress=lambda _progress: None, stop=threading.Event())
        if result.outcome is not Outcome.COMPLETED:
            raise click.ClickException(f"a trial ended as {result.outcome}: {result.reason}\n{result.log_tail}")
        self.results.append(result)
        return result

    def bare(self, source: Path, *, seed: int, budget_s: float) -> float:
        """Tokens per second of the same file with nothing around it."""
        command = [sys.executable, str(HERE / "bare.py"), str(source), str(self.data_dir), f"--budget={budget_s}"]
        # The same settings of the numerical libraries as in a trial: see trainer/installation.py.
        settings = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PATH": "/usr/bin:/bin",
        }
        more = [f"--seed={seed}", f"--device={self._device}"]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, env=settings)
        if done.returncode:
            raise click.ClickException(f"the bare run failed: {done.stderr[-500:]}")
        report = json.loads(done.stdout.splitlines()[-1])
        return float(report["tokens"] / report["spent_s"])


def with_constants(source: str, constants: dict[str, object]) -> str:
    """The source with some of its constants replaced."""
    for name, value in constants.items():
        source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value!r}  ", source, flags=re.MULTILINE)
        assert count == 1, name
    return source


def speed(result: TrialResult) -> float:
    return result.tokens_served / result.train_s


def harness(ground: Ground, plan: Plan) -> dict[str, object]:
    """Pairs in turns: who goes first alternates, so that a machine that speeds up or slows down favours nobody."""
    source, ratios = OURS.read_text(), []
    for pair in range(plan.pairs):
        seed = 100 + pair
        if pair % 2:
            inside = speed(ground.trial(source, seed=seed, budget_s=plan.pair_budget_s))
            ratios.append(inside / ground.bare(OURS, seed=seed, budget_s=plan.pair_budget_s))
        else:
            outside = ground.bare(OURS, seed=seed, budget_s=plan.pair_budget_s)
            ratios.append(speed(ground.trial(source, seed=seed, budget_s=plan.pair_budget_s)) / outside)
    return {
        "harness_ratio": statistics.median(ratios),
        "harness_ratio_spread": [min(ratios), max(ratios)],
        "harness_pairs": len(ratios),
    }


def tune(ground: Ground, name: str, plan: Plan) -> dict[str, object]:
    """A rival's best constants: one seed of every size at every learning rate."""
    choices = {**SIZES, **RATES[name]}
    tried = [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]
    source = RIVALS[name].read_text()

    def score(constants: dict[str, object]) -> float:
        result = ground.trial(with_constants(source, constants), seed=0, budget_s=plan.budget_s)
        assert result.val_bpb is not None
        click.echo(f"  {name:10} {result.val_bpb:.4f}  {constants}", err=True)
        return result.val_bpb

    return min(tried, key=score)


def scores(ground: Ground, plan: Plan) -> dict[str, object]:
    """val_bpb of ours and of each rival at its best, the same seeds in turns."""
    chosen = {name: tune(ground, name, plan) if plan.tunes else {} for name in RIVALS}
    sources = {"ours": OURS.read_text()}
    sources |= {name: with_constants(path.read_text(), chosen[name]) for name, path in RIVALS.items()}
    found: dict[str, list[float]] = {name: [] for name in sources}
    for seed in range(1, plan.seeds + 1):
        for name, source in sources.items():
            result = ground.trial(source, seed=seed, budget_s=plan.budget_s)
            assert result.val_bpb is not None
            found[name].append(result.val_bpb)
    return {
        "budget_s": plan.budget_s,
        "val_bpb": {name: statistics.fmean(values) for name, values in found.items()},
        "val_bpb_sd": {name: statistics.stdev(values) for name, values in found.items() if len(values) > 1},
        "val_bpb_seeds": plan.seeds,
        "rivals_tuned": chosen if plan.tunes else "not tuned in this run: each at its file's default",
    }


def parts(quick: bool) -> dict[str, object]:
    """What the modules beside this one measure; those that are not there are named."""
    found: dict[str, object] = {}
    for module, word in BESIDE.items():
        if importlib.util.find_spec(module) is None:
            found[word] = f"{module}.py is not there"
        elif not quick or module in IN_QUICK:
            found |= importlib.import_module(module).measure(quick)
    return found


def measure(quick: bool) -> dict[str, object]:
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="trial-bench-") as folder:
        ground = Ground(Path(folder))
        report = harness(ground, plan)
        overheads = [result.wall_s - result.train_s / (result.cpu_share or 1.0) for result in ground.results]
        report |= {"overhead_s": statistics.median(overheads), **scores(ground, plan)}
        margins = [result.exam_margin for result in ground.results if result.exam_margin is not None]
        report["exam_margin"] = max(margins)
    return {**report, **parts(quick), "gpu": gpu(quick)}


# ---------------------------------------------------------------------------------------------------------------------
# On an NVIDIA GPU


def gpu(quick: bool) -> dict[str, object] | str:
    """The whole path at 300 s on data made of the same small text: not ClimbMix, so the score says little there."""
    if best_device() != "cuda":
        return "not measured: this machine has no NVIDIA GPU"
    if quick:
        return "not measured in a quick run: it takes ten minutes"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    name = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    upstream = {"LAYERS": 8, "WIDTH": 512, "HEAD_DIM": 128, "ROWS": 1024, "COMPILE": True}
    with tempfile.TemporaryDirectory(prefix="trial-bench-") as folder:
        ground = Ground(Path(folder), "cuda")
        weights = Path(folder) / "weights.safetensors"
        ours = ground.trial(OURS.read_text(), seed=1, budget_s=300.0, keep_weights=weights)
        ours_flops = flops_per_token(weights, tokens=128) * speed(ours)
        theirs = ground.trial(
            with_constants(RIVALS["upstream"].read_text(), upstream), seed=1, budget_s=300.0, keep_weights=weights
        )
        theirs_flops = flops_per_token(weights, tokens=128) * speed(theirs)
    peak = next((flops for word, flops in PEAK_FLOPS.items() if word in name), None)
    return {
        "name": name,
        "nodes_in_sandbox": list(leased_gpu("cuda:0").nodes),
        "training_share_of_wall": ours.train_s / ours.wall_s,
        "train_s": ours.train_s,
        "exam_margin": ours.exam_margin,
        "val_bpb": {"ours": ours.val_bpb, "upstream": theirs.val_bpb},
        "tokens_per_s": {"ours": speed(ours), "upstream": speed(theirs)},
        "mfu": {"ours": ours_flops / peak, "upstream": theirs_flops / peak} if peak else "peak of this GPU not listed",
    }


def flops_per_token(weights: Path, tokens: int) -> float:
    """Of training: 6 for each weight of a matrix that is multiplied, 12 x width x tokens a block for attention. As
    upstream counts, but for windows, which rows as short as these do not have."""
    with weights.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and name.startswith(("blocks.", "head."))]
    blocks = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    width = shapes["head.weight"][1]
    return 6.0 * sum(rows * columns for rows, columns in matrices) + 12.0 * blocks * width * tokens


@click.command()
@click.option("--quick", is_flag=True, help="About a minute and a half on a quiet machine.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(quick: bool, as_json: bool) -> None:
    report = measure(quick)
    for name, value in report.items():
        click.echo(f"{name:28} {value}")
    if as_json:
        click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
