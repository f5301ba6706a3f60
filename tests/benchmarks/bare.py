"""Trains a `train.py` with nothing around it, no sandbox, no pipes, no second process: to compare the harness with.

    python tests/benchmarks/bare.py SOURCE DATA_DIR --budget S --seed N [--device cpu] [--score] [NAME=VALUE ...]

Packs the same rows in the same order as the harness, in this process and on the clock, and ends by the same rule. The
last line is one JSON object. With --score it also examines the model on the exam's rows, believing it. NAME=VALUE sets
constants of the source, for tuning. With --told it trains only as far as it is told: for each number that it reads, so
many batches, timed, after one that is not; it then writes one JSON object and waits, until there is nothing to read. It
says `ready` when it waits for the first time.
"""

import ast
import importlib.util
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch

from trainer.agreement import bits_per_byte
from trainer.manifest import Manifest, load_manifest
from trainer.packing import Packer
from trainer.session import Batch, Config, save_weights

OVERRUN_S = 0.1  # a last step may overrun by half of itself, at most by this: the harness's rule


class BareSession:
    """What `main(session)` asks for, in one process."""

    def __init__(self, manifest: Manifest, device: torch.device, *, seed: int, budget_s: float) -> None:
        self.config = Config(manifest.vocab_size, manifest.sequence_len, manifest.bos_id, device)
        self.device = device
        self.seed = seed
        self.budget_s = budget_s
        self.max_rows = (1 << 22) // manifest.row_tokens
        self.steps = 0
        self.tokens = 0
        self.spent_s = 0.0
        self.loss = math.nan
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._started_at = 0.0
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        self._packer = Packer(manifest.shards(), row_tokens=manifest.row_tokens, bos_id=manifest.bos_id, seed=seed)

    def random_batch(self, rows: int) -> Batch:
        shape = (rows, self.config.sequence_len + 1)
        tokens = torch.randint(self.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
        return self._batch(tokens, 0.0)

    def batches(self, rows: int) -> Iterator[Batch]:
        self._started_at = served_at = self._clock()
        step_s = 0.0
        while True:
            tokens = torch.from_numpy(self._packer.batch(rows).astype(np.int64))
            now = self._clock()
            step_s, served_at = (now - served_at) / self._threads if self.tokens else 0.0, now
            if self.spend() + step_s > self.budget_s + min(step_s / 2, OVERRUN_S):
                return
            self.tokens += rows * self.config.sequence_len
            yield self._batch(tokens, min(1.0, self.spent_s / self.budget_s))

    def spend(self) -> float:
        """What is spent of the budget by now."""
        self.spent_s = (self._clock() - self._started_at) / self._threads
        return self.spent_s

    def report(self, loss: float) -> None:
        self.steps += 1
        self.loss = float(loss)

    def _batch(self, tokens: torch.Tensor, share: float) -> Batch:
        on_gpu = self.device.type == "cuda"
        tokens = tokens.pin_memory().to(self.device, non_blocking=True) if on_gpu else tokens.to(self.device)
        return Batch(tokens[:, :-1], tokens[:, 1:], share)


class ToldSession(BareSession):
    """Trains piece by piece, as it is told on its standard input, and never longer."""

    def batches(self, rows: int) -> Iterator[Batch]:
        self._started_at = self._clock()
        click.echo("ready")
        for line in sys.stdin:
            yield self._pack(rows)  # caches are cold after a pause: not timed
            began = self._clock(), time.perf_counter()
            for _ in range(int(line)):
                yield self._pack(rows)
            spent = self._clock() - began[0], time.perf_counter() - began[1]
            tokens = int(line) * rows * self.config.sequence_len
            click.echo(json.dumps({"tokens": tokens, "spent_s": spent[0] / self._threads, "wall_s": spent[1]}))

    def _pack(self, rows: int) -> Batch:
        tokens = torch.from_numpy(self._packer.batch(rows).astype(np.int64))
        return self._batch(tokens, min(1.0, self.spend() / self.budget_s))


def load_source(path: Path, constants: dict[str, object]) -> object:
    """The source as a module, some of its constants replaced."""
    spec = importlib.util.spec_from_file_location("candidate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in constants.items():
        assert hasattr(module, name), name
        setattr(module, name, value)
    return module


@torch.inference_mode()
def score(model: torch.nn.Module, manifest: Manifest, device: torch.device) -> float:
    """val_bpb on the exam's rows."""
    model.eval()
    rows = manifest.val_rows()
    parts = []
    for part in np.array_split(rows, max(1, rows.size // 4096)):
        tokens = torch.from_numpy(part.astype(np.int64)).to(device)
        logits = model(tokens[:, :-1]).float()
        losses = torch.nn.functional.cross_entropy(logits.mT, tokens[:, 1:], reduction="none")
        parts.append(losses.cpu().numpy())
    return bits_per_byte(np.concatenate(parts), rows, manifest.tokenizer().byte_lengths())


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("data_dir", type=click.Path(path_type=Path, exists=True))
@click.argument("constants", nargs=-1)
@click.option("--budget", "budget_s", type=float, required=True)
@click.option("--seed", type=int, default=1)
@click.option("--device", default="cpu")
@click.option("--threads", type=int, default=1)
@click.option("--score", "with_score", is_flag=True)
@click.option("--told", is_flag=True)
def main(
    source: Path,
    data_dir: Path,
    constants: tuple[str, ...],
    budget_s: float,
    seed: int,
    device: str,
    threads: int,
    with_score: bool,
    told: bool,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    settings = {name: ast.literal_eval(value) for name, _, value in (text.partition("=") for text in constants)}
    manifest = load_manifest(data_dir)
    kind = ToldSession if told else BareSession
    session = kind(manifest, torch.device(device), seed=seed, budget_s=budget_s)
    model = load_source(source, settings).main(session)
    with tempfile.TemporaryDirectory() as folder:  # a trial hands its weights over on the clock, too
        save_weights(model, Path(folder) / "weights")
    session.spend()
    report = {"tokens": session.tokens, "steps": session.steps, "spent_s": session.spent_s, "loss": session.loss}
    if with_score:
        report["val_bpb"] = score(getattr(model, "_orig_mod", model), manifest, session.device)
    click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
