"""The words of a trial: what is asked for, what is allowed, how it went. Values only; `trial.py` does the work."""

import enum
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainer.batches import BatchLog

CURVE_POINTS = 64
DEVICE: Final = re.compile(r"cpu|mps|cuda(:[0-9]{1,2})?")


class Outcome(enum.StrEnum):
    """How a trial ended. Only COMPLETED carries a score; only ABORTED says nothing of the candidate."""

    COMPLETED = "COMPLETED"
    CRASHED = "CRASHED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMED_OUT = "TIMED_OUT"
    DISQUALIFIED = "DISQUALIFIED"
    ABORTED = "ABORTED"


@dataclass(frozen=True)
class TrialLimits:
    """What a trial may use besides its budget. A challenge sets them, so that every machine judges alike.

    startup_s: from launch to the first batch: imports, compiling, warming up on random tokens.
    warmup_gpu_s: of that, for how long the candidate may use the GPU for nothing. Where the budget is processor time
        nothing is for nothing.
    grace_s: after the budget, until the parent stops waiting for the weights.
    overtime_s: of that, what hand-over may really take after the last step, beside the time to write the weights at
        `save_bytes_per_s`: `saving_s` at most, `saving_gpu_s` on a GPU, or 0.5 % of the budget where that is more.
        What a last step may take is `pace.longest_overrun_s`.
    stretch: how many times its budget a trial may last by the wall, where the budget is processor time.
    exam_s: for each of the two exam children, from its orders to its last answer.
    exam_probes: secret positions at which the second child checks the first.
    interview_s: by the budget's clock, besides a share of the budget: for the trained model's answer to a few rows. On
        a GPU `interview_gpu_s`, because kernels are loaded when they are first used.
    """

    startup_s: float = 120.0
    warmup_gpu_s: float = 5.0
    grace_s: float = 10.0
    overtime_s: float = 0.15
    save_bytes_per_s: float = 500e6
    saving_s: float = 0.1
    saving_gpu_s: float = 1.5
    stretch: float = 6.0
    exam_s: float = 60.0
    exam_probes: int = 1280
    interview_s: float = 0.25
    interview_gpu_s: float = 4.0
    source_bytes: int = 256 * 1024
    weights_bytes: int = 1 << 30
    memory_bytes: int = 8 << 30
    batch_tokens: int = 1 << 22
    log_tail_bytes: int = 16 * 1024


@dataclass(frozen=True)
class TrialSpec:
    """One trial: this source, with this seed, for this long, on this data and device.

    budget_s: on a GPU seconds; on a CPU processor seconds per thread, so that other programs make a trial longer but
        not worse, and threads beyond those ordered gain nothing.
    data_dir: a prepared data set; manifest_sha256, when given, must be its manifest's.
    work_dir: where the trial makes its own folder, which is gone when it ends.
    device: cpu, mps, cuda or cuda:N.
    sandbox: `auto` for the best this machine has, `none` for no protection at all.
    fresh_rows: rows of the reserve book to examine besides, drawn by fresh_seed (baselines only).
    keep_weights: where to copy the checked weights of a completed trial.
    replay: serve these batches instead of going by the clock.
    """

    source: bytes
    seed: int
    budget_s: float
    data_dir: Path
    work_dir: Path
    device: str = "cpu"
    threads: int = 1
    limits: TrialLimits = field(default_factory=TrialLimits)
    sandbox: str = "auto"
    manifest_sha256: str | None = None
    fresh_rows: int = 0
    fresh_seed: int = 0
    keep_weights: Path | None = None
    replay: BatchLog | None = None


@dataclass(frozen=True)
class TrialProgress:
    """Where a trial is. `stage` is starting, training, weights or exam; `share` is of the stage, 0 to 1."""

    stage: str
    share: float
    step: int = 0
    loss: float | None = None
    tokens: int = 0
    peak_memory_bytes: int = 0  # of the training, once that is over


@dataclass(frozen=True)
class TrialResult:
    """What the parent measured; `steps` and `loss_curve` are the candidate's own words.

    train_s: what was spent of the budget, by the budget's clock. The other times are by the wall.
    startup_s: until the first batch was asked for. Where a trial was started early, wall_s does not hold all of it.
    parameters, depth: numbers in the weights, and the longest row of equal parts in them (blocks); 0 when not known.
    peak_vram_bytes: the candidate's own word; 0 without a GPU.
    flops_per_token: operations that training on one token takes, likewise; 0 where it says nothing.
    mfu_percent: those of all tokens in train_s, of what the GPU can do at most; None where either is not known.
    batches_sha256: names rows and shares of all batches served; `batches` are those themselves.
    loss_curve: at most 64 of (share of the budget, loss in nats per token).
    cpu_share: processor time of the child while training / (wall time x threads); None where it never trained.
    disturbed: why this trial should not be believed but repeated; empty when it was not.
    exam_margin: the largest disagreement between the two exam children, in nats, as a share of what is tolerated.
    """

    outcome: Outcome
    reason: str
    val_bpb: float | None = None
    fresh_bpb: float | None = None
    tokens_served: int = 0
    steps: int = 0
    startup_s: float = 0.0
    train_s: float = 0.0
    exam_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    weights_sha256: str | None = None
    loss_curve: tuple[tuple[float, float], ...] = ()
    log_tail: str = ""
    cpu_share: float | None = None
    disturbed: str = ""
    exam_margin: float | None = None
    parameters: int = 0
    depth: int = 0
    peak_vram_bytes: int = 0
    flops_per_token: float = 0.0
    mfu_percent: float | None = None
    batches_sha256: str = ""
    batches: BatchLog = field(default_factory=BatchLog, repr=False)


class TrialEnded(Exception):  # noqa: N818  (not an error: how a stage says that the trial is over, whatever the reason)
    """Carries outcome and reason from wherever a trial ended to `run_trial`, which turns it into a result."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        self.reason = reason
        super().__init__(f"{outcome}: {reason}")
