"""Runs many campaigns, on one core or several, and hands each outcome on as soon as it is there."""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coordinator.simulation.campaign import Outcome
from coordinator.simulation.scenarios import Scenario, play


@dataclass(frozen=True, slots=True)
class Task:
    """A campaign to run."""

    rule: str
    scenario: str
    world: Scenario
    seed: int


def run(tasks: Iterable[Task], processes: int = 1) -> Iterator[tuple[Task, Outcome]]:
    """Outcomes as they come; in the order of the tasks with one process.

    A KeyboardInterrupt in between ends the other processes at once; what was handed on stays with the caller.
    """
    if processes <= 1:
        yield from map(_run, tasks)
        return
    # spawn: a fork would copy the threads of whatever the caller loaded
    with multiprocessing.get_context("spawn").Pool(processes, _ignore_interrupts) as pool:
        yield from pool.imap_unordered(_run, tasks)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the pool


def _run(task: Task) -> tuple[Task, Outcome]:
    return task, play(task.rule, task.world, task.seed)
