"""Tokens per second under the harness beside the same file with nothing around it, in many short turns.

Both train at once and take turns, so that a machine that speeds up or slows down favours neither: harness, bare, bare,
harness, and again. A trial waits while the harness does not answer, `bare.py --told` while it is told nothing; so no
turn costs a start. The first batch after a pause is not timed. A turn's speed is tokens per second of the budget's
clock (on a CPU the processor time of what trains), and by the wall; one quartet of turns gives one ratio of each.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

import click

from trainer.result import TrialProgress

BARE = Path(__file__).resolve().parent / "bare.py"
# The settings of the numerical libraries are those of a trial: see trainer/installation.py.
SETTINGS = MappingProxyType(
    {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PATH": "/usr/bin:/bin"}
)
TURNS = 2  # of either side in a quartet


@dataclass(frozen=True)
class Turn:
    """How many tokens in how many seconds of the budget's clock, and by the wall."""

    tokens: int
    spent_s: float
    wall_s: float


def quartet_ratio(inside: Sequence[Turn], outside: Sequence[Turn], clock: str) -> float:
    """Tokens per second of the harness's turns / of the bare ones; `clock` is `spent_s` or `wall_s`."""

    def speed(turns: Sequence[Turn]) -> float:
        return sum(turn.tokens for turn in turns) / sum(getattr(turn, clock) for turn in turns)

    return speed(inside) / speed(outside)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which the true median lies with a chance of at least 95 %, whatever the distribution
    (order statistics; extremes where there are too few for that)."""
    ordered, count = sorted(values), len(values)
    outside = 0.0  # the chance that the median lies below the value of this rank, or above its mirror image
    rank = 0
    while rank < count // 2 and outside + 2 * math.comb(count, rank) / 2**count <= 0.05:
        outside += 2 * math.comb(count, rank) / 2**count
        rank += 1
    rank = max(0, rank - 1)
    return ordered[rank], ordered[count - 1 - rank]


class Bare:
    """The bare run, which trains as many batches as it is told to."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin = stdin
        self._stdout = stdout

    def turn(self, batches: int) -> Turn:
        self._stdin.write(f"{batches}\n")
        self._stdin.flush()
        line = self._stdout.readline()
        if not line:
            raise click.ClickException("the bare run has ended")
        return Turn(**json.loads(line))


@contextmanager
def bare(source: Path, data_dir: Path, *, seed: int, budget_s: float, device: str) -> Iterator[Bare]:
    """`budget_s` tells it how far to follow its schedules; how long it trains is told in turns."""
    command = [sys.executable, str(BARE), str(source), str(data_dir), "--told", f"--budget={budget_s}"]
    with subprocess.Popen(
        [*command, f"--seed={seed}", f"--device={device}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=dict(SETTINGS),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != "ready":
                raise click.ClickException("the bare run did not start")
            yield Bare(process.stdin, process.stdout)
        finally:
            process.kill()


@dataclass
class Turns:
    """Follows a trial as its `on_progress`: whenever its turn is over, holds it up and lets the bare run have its own.

    A turn of the harness begins and ends when it has answered a request, so the batches between are whole.
    """

    rival: Bare
    budget_s: float
    batches: int  # of a turn
    clock: Callable[[], float] = time.perf_counter
    ratios: dict[str, list[float]] = field(default_factory=lambda: {"spent_s": [], "wall_s": []})
    _batch_tokens: int = 0
    _began: Turn | None = None  # where the harness's turn began, counted from the trial's start
    _skip: int = 3  # reports: to begin with, until one batch is always ahead of what is computed; after a pause, one
    _inside: list[Turn] = field(default_factory=list)
    _outside: list[Turn] = field(default_factory=list)

    def __call__(self, progress: TrialProgress) -> None:
        if progress.stage != "training":
            return
        self._batch_tokens = self._batch_tokens or progress.tokens  # the first report comes with the first batch
        now = Turn(progress.tokens, progress.share * self.budget_s, self.clock())
        if self._skip:
            self._skip -= 1
            return
        if self._began is None:
            self._began = now
            return
        if now.tokens - self._began.tokens < self.batches * self._batch_tokens:
            return
        self._inside.append(_between(self._began, now))
        self._began = now
        if len(self._inside) == 1:
            self._outside = [self.rival.turn(self.batches) for _ in range(TURNS)]
            self._began, self._skip = None, 1
        if len(self._inside) == TURNS:
            for clock, found in self.ratios.items():
                found.append(quartet_ratio(self._inside, self._outside, clock))
            self._inside = []


def _between(first: Turn, last: Turn) -> Turn:
    return Turn(last.tokens - first.tokens, last.spent_s - first.spent_s, last.wall_s - first.wall_s)


def summary(ratios: dict[str, list[float]]) -> dict[str, object]:
    """The figures of all quartets together."""
    spent = ratios["spent_s"]
    if not spent:
        raise click.ClickException("the budget was too short for one quartet of turns")
    return {
        "harness_ratio": statistics.median(spent),
        "harness_ratio_interval_95": list(median_interval(spent)),
        "harness_ratio_spread": [min(spent), max(spent)],
        "harness_quartets": len(spent),
        "harness_wall_ratio": statistics.median(ratios["wall_s"]),
        "harness_wall_ratio_interval_95": list(median_interval(ratios["wall_s"])),
    }
