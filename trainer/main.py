"""Where the command line's clock, chance and signals come from; runs trials one after another.

The only module here that reads a clock. What is printed is `report.py`'s and `live.py`'s business, what is asked
`cli.py`'s.
"""

import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from trainer.errors import MachineError
from trainer.live import LiveLine
from trainer.overlap import may_start_early
from trainer.record import Record
from trainer.result import Outcome, TrialProgress, TrialResult, TrialSpec
from trainer.sandbox.paths import home
from trainer.trial import Trial, examine_weights, run_trial

Watch = Callable[[str, TrialSpec], AbstractContextManager[LiveLine]]


def default_data_dir(family: str) -> Path:
    """Where data sets of a kind are prepared unless a person says otherwise.

    Raises:
        MachineError: this account has no home folder.
    """
    if not home().is_dir():
        raise MachineError("this account has no home folder: name a folder for the data with --data-dir")
    return home() / ".cache" / "autoresearch-swarm" / family


def default_budget_s(device: str) -> float:
    """Long enough to tell a better patch from a worse one on that kind of device."""
    return 12.0 if device == "cpu" else 300.0


def best_device() -> str:
    """The fastest device this machine seems to have, found without importing torch."""
    if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists():
        return "cuda"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


def run_repeated(
    sources: dict[str, bytes], spec: TrialSpec, repeat: int, watch: Watch
) -> Iterator[tuple[str, TrialResult]]:
    """Run every source with each of `repeat` seeds, a seed's sources one after the other; (name, result) as they end.

    Each starts up while the one before is examined, where the machine has room. Stops after an aborted trial.
    `watch(name, spec)` gives the line that shows a run's progress.
    """
    planned = [
        (name, replace(spec, source=source, seed=seed))
        for seed in range(spec.seed, spec.seed + repeat)
        for name, source in sources.items()
    ]
    with stopped_by_signals() as stop:
        yield from _overlapped(planned, watch, stop)


def run_exam(spec: TrialSpec, weights: Path, on_progress: Callable[[TrialProgress], None]) -> TrialResult:
    """Examine weights from a file instead of training."""
    with stopped_by_signals() as stop:
        return examine_weights(spec, weights, clock=time.monotonic, on_progress=on_progress, stop=stop)


def replay(spec: TrialSpec, record: Record, on_progress: Callable[[TrialProgress], None]) -> TrialResult:
    """Train on the batches of a record with their recorded shares, whatever the time, and examine."""
    again = replace(spec, replay=record.batches, manifest_sha256=record.manifest_sha256)
    with stopped_by_signals() as stop:
        return run_trial(again, clock=time.monotonic, on_progress=on_progress, stop=stop)


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Ctrl-C, a polite kill and a closed terminal end the running trial as ABORTED: nothing of it is left behind.

    A second Ctrl-C interrupts whatever does not look at the event, such as checking large files. What was told to
    outlive its terminal (nohup) does.
    """
    stop = threading.Event()

    def note(number: int, _frame: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    ending = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        ending.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in ending}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _overlapped(
    planned: Sequence[tuple[str, TrialSpec]], watch: Watch, stop: threading.Event
) -> Iterator[tuple[str, TrialResult]]:
    with ExitStack() as running:
        trials = [Trial(spec, clock=time.monotonic, stop=stop) for _, spec in planned]
        for index, (name, spec) in enumerate(planned):
            following = trials[index + 1] if index + 1 < len(trials) else None
            with watch(name, spec) as line, running.enter_context(trials[index]) as trial:
                if following is not None:
                    running.callback(following.close)
                result = trial.run(_starting(following, line.show))
            yield name, result
            if result.outcome is Outcome.ABORTED:
                return


def _starting(following: Trial | None, show: Callable[[TrialProgress], None]) -> Callable[[TrialProgress], None]:
    """Shows progress, and lets the following trial start when the present one is examined, once."""
    waiting = [following] if following is not None else []

    def on_progress(progress: TrialProgress) -> None:
        show(progress)
        if waiting and progress.stage == "exam":
            trial = waiting.pop()
            if may_start_early(trial.spec, progress.peak_memory_bytes):
                trial.start_early()

    return on_progress
