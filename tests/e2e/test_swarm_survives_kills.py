"""A whole swarm of real processes that trains for real, while its coordinator, its store and a volunteer are killed.

The commands are those of the documentation. Two-second trials on one thread, so that it takes about a minute.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch.judging import ledger
from coordinator.demo_processes import Process

Until = Callable[..., None]
SAMPLES = Path(__file__).parents[2] / "examples" / "patches"
MOST_S = 300.0


class Swarm:
    """A coordinator and three volunteers, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[Process] = []

    def start(self, until: Until) -> None:
        folder = self.folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.coordinator = self._process(
            "coordinator",
            *("-m", "coordinator", "serve", "--data", str(folder / "swarm"), "--listen", f"127.0.0.1:{port}"),
            *("--enrolment", "open"),
            *("--budget", "2", "--delta", "0.05", "--noise", "0.025", "--lease", "8"),
        )
        until(lambda: "join " in self.coordinator.log.read_text(), MOST_S)
        self.address = self.coordinator.log.read_text().split("'")[1]
        self.volunteers = [
            self._process(
                name,
                *("-m", "volunteer", "join", self.address, "--home", str(folder / name), "--name", name),
                *("--threads", "1", "--device", "cpu", "--slots", "2", "--slots-dir", str(folder / "slots")),
                *("--data-dir", str(folder / "data")),
            )
            for name in ("ada", "bea", "cyd")
        ]

    def _process(self, name: str, *arguments: str) -> Process:
        process = Process(name, arguments, self.folder / f"{name}.log")
        process.start()
        self.processes.append(process)
        return process

    def ask(self, *words: str) -> Any:
        """One of the volunteer's commands, as JSON."""
        command = [sys.executable, "-m", "volunteer", *words, "--home", str(self.folder / "author"), "--json"]
        done = subprocess.run(
            [*command, "--swarm", self.address], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def lines(self) -> list[ledger.Entry]:
        """The ledger so far, without a line that is being written or was cut short."""
        whole, _, _ = (self.folder / "swarm" / "autoresearch.jsonl").read_bytes().rpartition(b"\n")
        return [ledger.parse(line) for line in whole.splitlines()]

    def results(self) -> list[ledger.Entry]:
        return [entry for entry in self.lines() if entry.kind == "result"]

    def verdicts(self) -> dict[str, str]:
        """The last verdict of each patch."""
        return {e.body["patch_id"]: e.body["verdict"] for e in self.lines() if e.kind == "verdict"}

    def trials(self) -> int:
        """As the leaderboard counts them."""
        return sum(int(standing["trials"]) for standing in self.ask("leaderboard")["volunteers"])

    def kill(self, process: Process) -> None:
        """As hard as it gets, then a new start."""
        assert process.running is not None
        process.running.send_signal(signal.SIGKILL)
        process.running.wait()
        process.start()

    def kill_store(self) -> None:
        """The coordinator starts its store again by itself."""
        found = subprocess.run(["pgrep", "-f", "(valkey|redis)-server"], capture_output=True, text=True, check=False)
        for word in found.stdout.split():
            with contextlib.suppress(OSError):  # somebody else's, which has ended since or is not ours to look at
                if (self.folder / "swarm" / "store").samefile(Path(f"/proc/{word}/cwd")):
                    os.kill(int(word), signal.SIGKILL)
                    return
        raise AssertionError("no store server of this swarm is running")

    def end(self) -> None:
        for process in reversed(self.processes):
            process.end()


@pytest.fixture
def swarm(tmp_path: Path, until: Until) -> Iterator[Swarm]:
    running = Swarm(tmp_path)
    try:
        running.start(until)
        yield running
    finally:
        running.end()


def test_the_main_job_completes_whatever_is_killed(swarm: Swarm, until: Until) -> None:
    crash = swarm.ask("submit", str(SAMPLES / "crash.patch"), "--author", "eve")["patch"]["patch_id"]
    better = swarm.ask("submit", str(SAMPLES / "improvement.patch"))["patch"]["patch_id"]

    until(lambda: len(swarm.results()) >= 1, MOST_S)
    swarm.kill(swarm.coordinator)
    seen = len(swarm.results())
    until(lambda: len(swarm.results()) > seen, MOST_S)
    swarm.kill_store()
    seen = len(swarm.results())
    until(lambda: len(swarm.results()) > seen, MOST_S)
    swarm.kill(swarm.volunteers[0])
    until(lambda: swarm.verdicts().get(better) == "promoted" and swarm.verdicts().get(crash) == "crashed", MOST_S)

    lines = (swarm.folder / "swarm" / "autoresearch.jsonl").read_bytes().splitlines()
    ledger.verify(lines)
    results = swarm.results()
    assert len({entry.body["result_sha256"] for entry in results}) == len(results)
    assert len({entry.body["lease_id"] for entry in results}) == len(results)
    best = swarm.ask("best")["best"]
    assert best["generation"] == 1
    assert best["patch_id"] == better
    command = ["git", "-C", str(swarm.folder / "swarm" / "lineage.git"), "rev-parse", "best"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == best["commit"]
    until(lambda: swarm.trials() == len(swarm.results()), MOST_S)  # the volunteers go on meanwhile
