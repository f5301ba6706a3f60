"""A volunteer whose trials take a moment: everything is real (keys, spool, session, signatures) but the training.

    python stub_volunteer.py ADDRESS HOME NAME TRIAL_S DEVICE

What a trial measures is written in the source: `KNOB_00 = 0.01` gains that much, and a knob that is no number crashes.
Acknowledged results are appended to HOME/acknowledged.
"""

import random  # noqa: TID251  # noise of a stub
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autoresearch.v1 import trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as wire
from autoresearch.v1.challenge_pb2 import Challenge
from trainer.trial import TrialProgress
from volunteer import hardware, settings
from volunteer import main as program
from volunteer.errors import VolunteerError
from volunteer.results import TrialOutcome
from volunteer.session_state import State

START_BPB = 8.0
NOISE_BPB = 0.002
AGAIN_S = 0.5
KNOB = re.compile(r"^KNOB_\d+ = (.+)$", re.MULTILINE)


class StubTrials:
    """Trials that take `trial_s` on average."""

    def __init__(self, trial_s: float) -> None:
        self._trial_s = trial_s

    def ready(self, challenge: Challenge, on_progress: Callable[[str, float], None]) -> None:
        """Nothing to prepare."""

    def run(
        self, order: trial_pb2.Order, source: bytes, on_progress: Callable[[TrialProgress], None], stop: threading.Event
    ) -> TrialOutcome:
        """See volunteer.trials.Trials."""
        if stop.wait(self._trial_s * random.uniform(0.5, 1.5)):
            return TrialOutcome(trial_pb2.OUTCOME_ABORTED)
        knobs = KNOB.findall(source.decode())
        try:
            gain = sum(float(knob) for knob in knobs)
        except ValueError:
            return TrialOutcome(trial_pb2.OUTCOME_CRASHED, "a knob is no number", train_ms=10)
        score = START_BPB - gain + random.gauss(0.0, NOISE_BPB)
        return TrialOutcome(trial_pb2.OUTCOME_COMPLETED, val_bpb=score, train_ms=1000, tokens_served=1000)

    def start_early(self, order: trial_pb2.Order, source: bytes, stop: threading.Event) -> None:
        """Never."""

    def drop(self, order: trial_pb2.Order) -> None:
        """Nothing was started early."""


class Notebook:
    """A display that writes down what the coordinator took."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def say(self, text: str) -> None:
        """To the log."""
        print(f"{time.time_ns() / 1e9:.3f} {text}", flush=True)

    def preparing(self, stage: str, share: float) -> None:
        """Nothing is prepared."""

    def show(self, state: State, now_s: float) -> None:
        """Nobody looks."""

    def finished(self, outcome: TrialOutcome) -> None:
        """Kept, not yet acknowledged."""

    def acknowledged(self, ack: wire.ResultAck) -> None:
        """One line: digest, status, instant."""
        status = wire.ResultStatus.Name(ack.status).removeprefix("RESULT_STATUS_").lower()
        try:
            self._file.write(f"{ack.result_sha256} {status} {time.time_ns() / 1e9:.3f} {ack.reason}\n".encode())
        except OSError:
            self.say(f"no room to note {ack.result_sha256} {status}")

    def close(self) -> None:
        """The file."""
        self._file.close()


def main() -> None:
    """Joins and works until told to stop; tries to join again while nobody answers, as a service manager would."""
    address, home, name, trial_s, device = sys.argv[1:]
    folder = Path(home)
    folder.mkdir(parents=True, exist_ok=True)
    _pretend(device)
    join = settings.JoinSettings(name=name, device="cuda", threads=1, slots=1, slots_dir=folder / "slots")
    own = settings.load({}, home=folder, swarm=address, join=join)
    while True:
        notebook = Notebook(folder.with_suffix(".acknowledged"))
        try:
            program.join(own, notebook, StubTrials(float(trial_s)))
            return
        except VolunteerError as error:
            print(f"{time.time_ns() / 1e9:.3f} cannot join: {error}", flush=True)
            if not getattr(error, "retry", False):
                raise
        time.sleep(AGAIN_S)


def _pretend(device: str) -> None:
    """This host has that GPU."""
    read = hardware.read_host
    hardware.read_host = lambda: replace(read(run=lambda command: ""), nvidia_text=f"0, {device}, 24576, 550.1")


if __name__ == "__main__":
    main()
