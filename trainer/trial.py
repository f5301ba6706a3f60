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
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.errors import MachineError, TrainerError
from trainer.folder import check_space, trial_folder
from trainer.installation import PACKAGE
from trainer.manifest import load_manifest
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialProgress, TrialResult, TrialSpec
from trainer.stages import Stages

__all__ = [
    "Outcome",
    "Trial",
    "TrialLimits",
    "TrialProgress",
    "TrialResult",
    "TrialSpec",
    "code_digest",
    "examine_weights",
    "run_trial",
]

_USUAL_WEIGHTS_BYTES = 64 << 20  # room that is asked for beforehand; a model may need more, up to its limit
_FULL_BYTES = 4 << 20  # a disk with less is full


class Trial:
    """One trial. Use as a context manager: leaving it leaves no process and no file behind.

    `run` is the whole of it. `start_early` may come before, while another trial is examined: the child then imports and
    warms up in its own time, and waits for its first batch until `run`.
    """

    def __init__(
        self,
        spec: TrialSpec,
        *,
        clock: Callable[[], float],
        stop: threading.Event,
        secret: Callable[[], int] = lambda: secrets.randbits(128),
    ) -> None:
        """`clock` is monotonic, in seconds. Setting `stop` ends the trial as ABORTED within a fraction of a second.

        `secret` seeds what the exam asks and must not be foreseeable.
        """
        self.spec = spec
        self._clock = clock
        self._stop = stop
        self._secret = secret
        self._opened = ExitStack()
        self._stages: Stages | None = None
        self._early: threading.Thread | None = None
        self._early_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start_early(self) -> None:
        """Start the child in a thread; returns at once."""
        self._early = threading.Thread(target=self._start_early, daemon=True, name="trial-early")
        self._early.start()

    def run(self, on_progress: Callable[[TrialProgress], None] = lambda _progress: None) -> TrialResult:
        """Train and examine; blocks until the trial ends.

        Raises:
            TrainerError: this machine cannot run it: data missing or other data than asked for, no space, no sandbox,
                no such device.
        """

        def stages(stages: Stages) -> None:
            if self._early is None or self._early_failed:
                stages.warm_up()
            stages.take(stages.train())
            stages.examine()

        return self._run(stages, on_progress)

    def examine(self, weights: Path, on_progress: Callable[[TrialProgress], None]) -> TrialResult:
        """The last part of `run` alone, for weights kept in a file. Seed and budget of the spec are not used.

        Raises:
            TrainerError: as for `run`.
        """

        def stages(stages: Stages) -> None:
            stages.take(weights)
            stages.examine()

        return self._run(stages, on_progress)

    def close(self) -> None:
        """End what runs and remove what was written. A second call does nothing."""
        if self._early is not None and self._early.is_alive():
            self._stop.set()
            self._early.join()
        self._opened.close()
        self._stages = None

    def _start_early(self) -> None:
        """Whatever fails here says nothing of the candidate, which shared the machine with an exam: `run` starts anew,
        and alone."""
        try:
            stages = self._open()
            stages.lay_out()
            stages.warm_up()
        except (TrialEnded, TrainerError, OSError):
            self._early_failed = True

    def _open(self) -> Stages:
        """The stages in a folder of their own."""
        manifest = load_manifest(self.spec.data_dir, self.spec.manifest_sha256)
        needed_bytes = 2 * min(self.spec.limits.weights_bytes, _USUAL_WEIGHTS_BYTES)
        folder = self._opened.enter_context(trial_folder(self.spec.work_dir, needed_bytes))
        self._stages = Stages(self.spec, manifest, folder, clock=self._clock, stop=self._stop, secret=self._secret)
        self._opened.callback(self._stages.close)
        return self._stages

    def _run(self, do: Callable[[Stages], None], on_progress: Callable[[TrialProgress], None]) -> TrialResult:
        began_at = self._clock()
        stages = self._started_early()
        is_laid_out = stages is not None
        stages = stages or self._open()
        stages.on_progress = on_progress
        work_dir = self.spec.work_dir
        try:
            if not is_laid_out:
                stages.lay_out()
            do(stages)
            outcome, reason = Outcome.COMPLETED, "trained for its budget and passed the exam"
        except TrialEnded as ending:
            outcome, reason = ending.outcome, ending.reason
            check_space(work_dir, _FULL_BYTES)  # a full disk crashes any candidate: not its fault
        except OSError as error:
            check_space(work_dir, _FULL_BYTES)
            raise MachineError(f"the trial's folder in {work_dir} cannot be used: {error.strerror}") from error
        finally:
            stages.close()
        return stages.result(outcome, reason, wall_s=self._clock() - began_at)

    def _started_early(self) -> Stages | None:
        if self._early is None:
            return None
        self._early.join()
        if not self._early_failed:
            return self._stages
        self._opened.close()
        return None


def run_trial(
    spec: TrialSpec,
    *,
    clock: Callable[[], float],
    on_progress: Callable[[TrialProgress], None],
    stop: threading.Event,
    secret: Callable[[], int] = lambda: secrets.randbits(128),
) -> TrialResult:
    """Run one trial, as `Trial.run` does; safe in a worker thread."""
    with Trial(spec, clock=clock, stop=stop, secret=secret) as trial:
        return trial.run(on_progress)


def examine_weights(
    spec: TrialSpec,
    weights: Path,
    *,
    clock: Callable[[], float],
    on_progress: Callable[[TrialProgress], None],
    stop: threading.Event,
    secret: Callable[[], int] = lambda: secrets.randbits(128),
) -> TrialResult:
    """Examine weights, as `Trial.examine` does."""
    with Trial(spec, clock=clock, stop=stop, secret=secret) as trial:
        return trial.examine(weights, on_progress)


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
