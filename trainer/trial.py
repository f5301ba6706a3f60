"""Runs one trial from outside the candidate's process and believes nothing the candidate says.

The trusted parent. It never imports torch: it launches a sandboxed child, serves it data for the length of the budget
(`training.py`), takes its weights as data (`weights.py`), and has them examined by two more children (`examiner.py`).
What a candidate does is an `Outcome` with a reason; only a fault of this machine is an exception. Knows nothing of
orders, leases and coordinators.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from trainer.errors import MachineError
from trainer.folder import check_space, trial_folder
from trainer.installation import PACKAGE
from trainer.manifest import load_manifest
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialProgress, TrialResult, TrialSpec
from trainer.source import source_problem
from trainer.stages import Stages

__all__ = [
    "Outcome",
    "TrialLimits",
    "TrialProgress",
    "TrialResult",
    "TrialSpec",
    "code_digest",
    "examine_weights",
    "run_trial",
    "source_problem",
]

_USUAL_WEIGHTS_BYTES = 64 << 20  # room that is asked for beforehand; a model may need more, up to its limit
_FULL_BYTES = 4 << 20  # a disk with less is full


def run_trial(
    spec: TrialSpec,
    *,
    clock: Callable[[], float],
    on_progress: Callable[[TrialProgress], None],
    stop: threading.Event,
    secret: Callable[[], int] = lambda: secrets.randbits(128),
) -> TrialResult:
    """Run one trial; blocks until it ends, and leaves no process and no file behind.

    Safe in a worker thread. `clock` is monotonic, in seconds. Setting `stop` ends the trial as ABORTED within a
    fraction of a second. `secret` seeds what the exam asks and must not be foreseeable.

    Raises:
        TrainerError: this machine cannot run it: data missing or other data than asked for, no space, no sandbox, no
            such device.
    """

    def stages(trial: Stages) -> None:
        trial.take(trial.train())
        trial.examine()

    return _run(spec, stages, clock=clock, on_progress=on_progress, stop=stop, secret=secret)


def examine_weights(
    spec: TrialSpec,
    weights: Path,
    *,
    clock: Callable[[], float],
    on_progress: Callable[[TrialProgress], None],
    stop: threading.Event,
    secret: Callable[[], int] = lambda: secrets.randbits(128),
) -> TrialResult:
    """The last part of `run_trial` alone, for weights kept in a file. Seed and budget of the spec are not used.

    Raises:
        TrainerError: as for `run_trial`.
    """

    def stages(trial: Stages) -> None:
        trial.take(weights)
        trial.examine()

    return _run(spec, stages, clock=clock, on_progress=on_progress, stop=stop, secret=secret)


def code_digest() -> str:
    """sha256 in hex over every module of this package but the seed source, names and contents.

    Two machines with the same digest run and judge trials by the same code, however it was installed.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: path.relative_to(PACKAGE).as_posix()):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "train.py":
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _run(
    spec: TrialSpec,
    stages: Callable[[Stages], None],
    *,
    clock: Callable[[], float],
    on_progress: Callable[[TrialProgress], None],
    stop: threading.Event,
    secret: Callable[[], int],
) -> TrialResult:
    began_at = clock()
    manifest = load_manifest(spec.data_dir, spec.manifest_sha256)
    with trial_folder(spec.work_dir, 2 * min(spec.limits.weights_bytes, _USUAL_WEIGHTS_BYTES)) as folder:
        trial = Stages(spec, manifest, folder, clock=clock, on_progress=on_progress, stop=stop, secret=secret)
        try:
            trial.lay_out()
            stages(trial)
            outcome, reason = Outcome.COMPLETED, "trained for its budget and passed the exam"
        except TrialEnded as ending:
            outcome, reason = ending.outcome, ending.reason
            check_space(spec.work_dir, _FULL_BYTES)  # a full disk crashes any candidate: not its fault
        except OSError as error:
            check_space(spec.work_dir, _FULL_BYTES)
            raise MachineError(f"the trial's folder in {spec.work_dir} cannot be used: {error.strerror}") from error
        return trial.result(outcome, reason, wall_s=clock() - began_at)
