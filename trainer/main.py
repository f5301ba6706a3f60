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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from trainer.live import LiveLine
from trainer.result import Outcome, TrialProgress, TrialResult, TrialSpec
from trainer.trial import examine_weights, run_trial

Watch = Callable[[str, TrialSpec], AbstractContextManager[LiveLine]]


def default_data_dir(family: str) -> Path:
    """Where data sets of a kind are prepared unless a person says otherwise."""
    return Path.home() / ".cache" / "autoresearch-swarm" / family


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

    Stops after an aborted trial. `watch(name, spec)` gives the line that shows a run's progress.
    """
    with _stop_on_interrupt() as stop:
        for seed in range(spec.seed, spec.seed + repeat):
            for name, source in sources.items():
                one = replace(spec, source=source, seed=seed)
                with watch(name, one) as line:
                    result = run_trial(one, clock=time.monotonic, on_progress=line.show, stop=stop)
                yield name, result
                if result.outcome is Outcome.ABORTED:
                    return


def run_exam(spec: TrialSpec, weights: Path, on_progress: Callable[[TrialProgress], None]) -> TrialResult:
    """Examine weights from a file instead of training."""
    with _stop_on_interrupt() as stop:
        return examine_weights(spec, weights, clock=time.monotonic, on_progress=on_progress, stop=stop)


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C and a polite kill end the running trial as ABORTED instead of leaving its processes behind."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
