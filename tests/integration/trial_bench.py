"""What the tests of trials share: prepared data, small candidates, and a run of the real thing."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trainer.result import TrialLimits, TrialProgress, TrialResult, TrialSpec
from trainer.trial import run_trial

SEED_SOURCE = Path(__file__).parents[2] / "trainer" / "train.py"
PATCHES = Path(__file__).parents[2] / "examples" / "patches"

# A bigram model: each token's logits depend on that token alone. Learns in a second, and cannot look ahead.
BIGRAM = """
import torch
from torch import nn
from torch.nn import functional

class Bigram(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab, vocab))

    def forward(self, tokens):
        return self.table[tokens]

def build_model(config):
    return Bigram(config.vocab_size)

def main(session):
    model = build_model(session.config)
    lr = 300.0
    for batch in session.batches(rows=32):
        loss = functional.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())
        loss.backward()
        with torch.no_grad():
            model.table -= lr * model.table.grad
        model.table.grad = None
        session.report(loss.item())
    return model
"""


def changed(source: str, *changes: tuple[str, str]) -> bytes:
    """The source with each text, which must be there, replaced by another."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source.encode()


class Bench:
    """Runs trials of candidates with a small budget; checks after each that nothing is left behind."""

    def __init__(self, data_dir: Path, work_dir: Path) -> None:
        # On a busy machine a second of processor time takes many: no trial may fail for that.
        self.limits = TrialLimits(startup_s=600, exam_s=600, stretch=90.0, grace_s=5, memory_bytes=3 << 30)
        self.spec = TrialSpec(source=b"", seed=1, budget_s=1.0, data_dir=data_dir, work_dir=work_dir)
        self.progress: list[TrialProgress] = []
        self.stop = threading.Event()

    def run(
        self,
        source: bytes | str,
        *,
        on_progress: Callable[[TrialProgress], None] = lambda _progress: None,
        limits: dict[str, float] | None = None,
        **spec: object,
    ) -> TrialResult:
        content = source.encode() if isinstance(source, str) else source
        one = replace(self.spec, source=content, limits=replace(self.limits, **(limits or {})), **spec)
        self.progress = []

        def note(progress: TrialProgress) -> None:
            self.progress.append(progress)
            on_progress(progress)

        result = run_trial(one, clock=time.monotonic, on_progress=note, stop=self.stop)
        assert list(self.spec.work_dir.iterdir()) == [], "files were left behind"
        assert "\n" not in result.reason
        return result


def processes_mentioning(text: str) -> list[str]:
    """Command lines of all processes of this machine that hold `text` there or in their environment.

    A trial's processes have its folder as their home.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in line or text in environment:
            found.append(line)
    return found
