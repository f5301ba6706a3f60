"""The whole path on an NVIDIA GPU, where there is one: a trial of ours and of an upstream-style configuration.

Part of `trial.py`; elsewhere it says that this was not measured.
"""

import json
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import click
from trial_sources import OURS, RIVALS, with_constants

from trainer.gpus import leased_gpu
from trainer.main import best_device
from trainer.peaks import peak_flops
from trainer.prepare import prepare
from trainer.result import Outcome, TrialLimits, TrialResult, TrialSpec
from trainer.trial import run_trial

LARGER: dict[str, object] = {"LAYERS": 8, "WIDTH": 512, "HEAD_DIM": 128, "ROWS": 1024, "COMPILE": True}
LIMITS = TrialLimits(startup_s=600.0, grace_s=60.0, exam_s=600.0)


def measure(*, quick: bool) -> dict[str, object] | str:
    """At 300 s, on data made of the small text: not ClimbMix, so the score says little there."""
    if best_device() != "cuda":
        return "not measured: this machine has no NVIDIA GPU"
    if quick:
        return "not measured in a quick run: it takes ten minutes"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    name = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    with tempfile.TemporaryDirectory(prefix="trial-bench-") as folder:
        weights = Path(folder) / "weights.safetensors"
        spec = TrialSpec(
            OURS.read_bytes(),
            1,
            300.0,
            prepare("tiny", Path(folder) / "tiny").data_dir,
            Path(folder) / "work",
            device="cuda",
            limits=LIMITS,
            keep_weights=weights,
        )
        ours = run(spec)
        ours_flops = flops_per_token(weights, tokens=128) * speed(ours)
        theirs = run(replace(spec, source=with_constants(RIVALS["upstream"].read_text(), LARGER).encode()))
        theirs_flops = flops_per_token(weights, tokens=128) * speed(theirs)
    peak = peak_flops(name)
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


def run(spec: TrialSpec) -> TrialResult:
    result = run_trial(spec, clock=time.monotonic, on_progress=lambda _progress: None, stop=threading.Event())
    if result.outcome is not Outcome.COMPLETED:
        raise click.ClickException(f"a trial ended as {result.outcome}: {result.reason}\n{result.log_tail}")
    return result


def speed(result: TrialResult) -> float:
    return result.tokens_served / result.train_s


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
