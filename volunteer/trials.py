"""Runs trials with the trainer package of this installation, on this machine.

The one place that knows the trainer's words; it never loads torch, which only the sandboxed child does.
Left out: who ordered a trial and what becomes of its result.
"""

import math
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final, Protocol

from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.trial_pb2 import Order
from autoresearch.v1.trial_pb2 import Outcome as WireOutcome
from trainer import sandbox
from trainer.overlap import may_start_early
from trainer.prepare import PrepareProgress, prepare
from trainer.trial import Outcome, Trial, TrialLimits, TrialProgress, TrialResult, TrialSpec, code_digest
from volunteer.durable import make_folder
from volunteer.errors import MachineError, UpgradeError
from volunteer.results import TrialOutcome

_UPGRADE: Final = "install the same release of autoresearch-swarm as the coordinator's"


class Trials(Protocol):
    """What a workday needs from whatever runs its trials."""

    def ready(self, challenge: Challenge, on_progress: Callable[[str, float], None]) -> None:
        """Makes this machine fit for the challenge; blocks. `on_progress` gets the stage and its share, 0 to 1."""

    def run(
        self, order: Order, source: bytes, on_progress: Callable[[TrialProgress], None], stop: threading.Event
    ) -> TrialOutcome:
        """Runs one trial; blocks, and calls `on_progress` from the same thread. Setting `stop` aborts it."""

    def start_early(self, order: Order, source: bytes, stop: threading.Event) -> None:
        """Lets the trial that `run` is to be called for next start up now, while another is examined, if this machine
        has room for it. Returns at once; whatever comes of it is told by `run`."""

    def drop(self, order: Order) -> None:
        """Ends what was started early for an order that will not run; blocks until nothing of it is left."""


@dataclass(slots=True)
class LocalTrials:
    """Trials on this host's processor or GPU."""

    data_dir: Path
    scratch: Path
    # As the trainer takes it: "cpu", "cuda:0", "mps".
    device: str
    threads: int
    # False only when the person asked for it in words.
    sandboxed: bool
    # Steady seconds, and Unix time in milliseconds.
    clock: Callable[[], float]
    wall_ms: Callable[[], int]
    challenge: Challenge | None = None
    _early: dict[str, Trial] = field(default_factory=dict)  # by lease
    _peak_memory_bytes: int = 0  # of the training that ended last

    def ready(self, challenge: Challenge, on_progress: Callable[[str, float], None]) -> None:
        """Compares the trial code, prepares the data, tests the sandbox.

        Raises:
            UpgradeError: the swarm runs other trial code, or its data cannot be made by this version.
            MachineError: no sandbox that works, and none was waived.
            TrainerError: the data cannot be prepared.
        """
        if challenge.trial_code_sha256 != (own := code_digest()):
            raise UpgradeError(
                f"the swarm runs trial code {challenge.trial_code_sha256[:12]}, this version has {own[:12]}: {_UPGRADE}"
            )
        self._clear_scratch()
        self._check_sandbox()
        self._prepare(challenge, on_progress)
        self.challenge = challenge

    def run(
        self, order: Order, source: bytes, on_progress: Callable[[TrialProgress], None], stop: threading.Event
    ) -> TrialOutcome:
        """Raises TrainerError when this machine cannot run it."""
        began_ms = self.wall_ms()
        trial = self._early.pop(order.lease_id, None) or self._trial(order, source, stop)

        def note(progress: TrialProgress) -> None:
            self._peak_memory_bytes = progress.peak_memory_bytes or self._peak_memory_bytes
            on_progress(progress)

        with trial:
            return _outcome(trial.run(note), began_ms, self.wall_ms())

    def start_early(self, order: Order, source: bytes, stop: threading.Event) -> None:
        """See Trials."""
        trial = self._trial(order, source, stop)
        if may_start_early(trial.spec, self._peak_memory_bytes):
            trial.start_early()
            self._early[order.lease_id] = trial

    def drop(self, order: Order) -> None:
        """See Trials."""
        if trial := self._early.pop(order.lease_id, None):
            trial.close()

    def _trial(self, order: Order, source: bytes, stop: threading.Event) -> Trial:
        assert self.challenge is not None
        return Trial(self._spec(order, source, self.challenge), clock=self.clock, stop=stop)

    def _clear_scratch(self) -> None:
        """What a killed volunteer left; nobody else uses this folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        make_folder(self.scratch)

    def _check_sandbox(self) -> None:
        if not self.sandboxed:
            return
        advice = "use a machine that has one, or pass --unsafe-no-sandbox to run strangers' code with nothing around it"
        if sandbox.available() == "none":
            raise MachineError(f"this machine has no sandbox for trials: {advice}")
        if problems := sandbox.self_test(self.scratch):
            raise MachineError(f"the sandbox of this machine leaks ({'; '.join(problems)}): {advice}")

    def _prepare(self, challenge: Challenge, on_progress: Callable[[str, float], None]) -> None:
        def report(progress: PrepareProgress) -> None:
            on_progress(progress.stage, progress.share)

        manifest = prepare(challenge.dataset, self.data_dir, on_progress=report)
        if manifest.sha256 != challenge.manifest_sha256:
            raise UpgradeError(
                f"the data prepared here is {manifest.sha256[:12]}, the challenge's {challenge.manifest_sha256[:12]}: "
                + _UPGRADE
            )

    def _spec(self, order: Order, source: bytes, challenge: Challenge) -> TrialSpec:
        return TrialSpec(
            source=source,
            seed=order.seed,
            budget_s=challenge.budget_ms / 1000,
            data_dir=self.data_dir,
            work_dir=self.scratch,
            device=self.device,
            threads=self.threads,
            limits=_limits(challenge),
            sandbox="auto" if self.sandboxed else "none",
            manifest_sha256=challenge.manifest_sha256,
        )


def torch_version() -> str:
    """The version of the installed torch, without loading it.

    Raises:
        MachineError: it is not installed.
    """
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError as error:
        raise MachineError("torch is not installed: install autoresearch-swarm with its dependencies") from error


def _limits(challenge: Challenge) -> TrialLimits:
    return TrialLimits(
        startup_s=challenge.startup_ms / 1000,
        grace_s=challenge.grace_ms / 1000,
        exam_s=challenge.exam_ms / 1000,
        source_bytes=challenge.source_bytes,
        weights_bytes=challenge.weights_bytes,
        memory_bytes=challenge.memory_bytes,
    )


def _outcome(result: TrialResult, began_ms: int, ended_ms: int) -> TrialOutcome:
    completed = result.outcome is Outcome.COMPLETED
    return TrialOutcome(
        outcome=WireOutcome.Value(f"OUTCOME_{result.outcome.name}"),
        reason="" if completed else result.reason,
        val_bpb=result.val_bpb,
        tokens_served=result.tokens_served,
        steps=result.steps,
        startup_ms=_ms(result.startup_s),
        train_ms=_ms(result.train_s),
        exam_ms=_ms(result.exam_s),
        started_at_ms=began_ms,
        finished_at_ms=ended_ms,
        peak_memory_bytes=result.peak_memory_bytes,
        weights_sha256=result.weights_sha256 or "",
        loss_curve=result.loss_curve,
        log_tail=result.log_tail,
        cpu_share=result.cpu_share or 0.0,
        disturbed=result.disturbed,
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000)) if math.isfinite(seconds) else 0
