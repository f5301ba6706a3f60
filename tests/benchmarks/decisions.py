"""How much the swarm gains, and what it promotes for nothing, under our rule and others in the same simulated worlds.

    python tests/benchmarks/decisions.py --quick --json     under a minute on one quiet core
    python tests/benchmarks/decisions.py --keep decisions.jsonl --docs docs

The production code decides (`coordinator/simulation/swarm.py`). Rules meet the same worlds and seeds. The parameters
were chosen on seeds 0 to 19; what is reported is seeds 1000 and on. With --keep, every campaign that ends is written to
a file and not run again while the code that it depends on is the same, so a long comparison may be cut short and go on.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from coordinator.simulation import report, running
from coordinator.simulation.campaign import Outcome
from coordinator.simulation.running import Task
from coordinator.simulation.scenarios import OURS, RIVALS, SCENARIOS, Scenario

PACKAGES = ("autoresearch.judging.", "coordinator.")
SHOWS = frozenset({"coordinator.simulation.report", "coordinator.simulation.running"})  # no outcome depends on these
FIRST_SEED = 1_000
WORLD_CODE = ("world", "people", "campaign", "rivals", "scenarios")  # what a rival's outcome depends on
QUICK_RULES = ("alone", "lower-wins", "t-test-5", "sprt", "default")
QUICK_SCENARIOS = ("honest", "mix-20")
DRAWN = ("alone", "lower-wins", "t-test-5", "t-test-10", "t-test-10-screened", "sprt", "default", "fast")


def digest(rule: str) -> str:
    """Of the code that a rule's outcome depends on."""
    names = [f"coordinator.simulation.{name}" for name in WORLD_CODE]
    if rule not in RIVALS:
        names = sorted(name for name in sys.modules if name.startswith(PACKAGES) and name not in SHOWS)
    sources = [Path(sys.modules[name].__file__ or "").read_bytes() for name in names]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:16]


class Kept:
    """Campaigns that have ended, in a file of one JSON object a line."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._digests = {rule: digest(rule) for rule in (*RIVALS, *OURS)}
        self._known: dict[tuple[str, str, int], Outcome] = {}
        for line in path.read_text().splitlines() if path and path.exists() else ():
            found = json.loads(line)
            if found["code"] == self._digests.get(found["rule"]):
                own = found["outcome"]
                outcome = Outcome(**{**own, "gains": tuple(own["gains"]), "trace": tuple(map(tuple, own["trace"]))})
                self._known[found["rule"], found["scenario"], found["seed"]] = outcome

    def get(self, task: Task) -> Outcome | None:
        return self._known.get((task.rule, task.scenario, task.seed))

    def put(self, task: Task, outcome: Outcome) -> None:
        self._known[task.rule, task.scenario, task.seed] = outcome
        if self._path is not None:
            own = {"rule": task.rule, "scenario": task.scenario, "seed": task.seed, "code": self._digests[task.rule]}
            with self._path.open("a") as file:
                file.write(json.dumps({**own, "outcome": asdict(outcome)}) + "\n")


def tasks(rules: Iterable[str], scenarios: dict[str, Scenario], campaigns: int) -> list[Task]:
    """Seed by seed, so that whatever is done when one stops says something about every rule."""
    return [
        Task(rule, name, scenario, FIRST_SEED + at)
        for at in range(campaigns)
        for name, scenario in scenarios.items()
        for rule in rules
    ]


@click.command()
@click.option("--quick", is_flag=True, help="A few rules in two worlds, one campaign each.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
@click.option("--rule", "rules", multiple=True, type=click.Choice([*RIVALS, *OURS]), help="Only these [all].")
@click.option("--scenario", "names", multiple=True, type=click.Choice(list(SCENARIOS)), help="Only these [all].")
@click.option("--campaigns", default=20, show_default=True, type=click.IntRange(1, 1_000))
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="Remember campaigns in this file.")
@click.option("--docs", type=click.Path(file_okay=False, path_type=Path), help="Write the picture into this folder.")
@click.option("--report-only", is_flag=True, help="Run nothing: report what --keep holds.")
def main(
    *, quick: bool, as_json: bool, rules: tuple[str, ...], names: tuple[str, ...], campaigns: int, processes: int,
    keep: Path | None, docs: Path | None, report_only: bool,
) -> None:  # fmt: skip
    """Compare rules."""
    chosen = rules or (QUICK_RULES if quick else (*RIVALS, *OURS))
    scenarios = {name: SCENARIOS[name] for name in names or (QUICK_SCENARIOS if quick else SCENARIOS)}
    if quick:
        campaigns = 1
    kept = Kept(None if quick else keep)
    wanted = tasks(chosen, scenarios, campaigns)
    missing = [] if report_only else [task for task in wanted if kept.get(task) is None]
    for done, (task, outcome) in enumerate(running.run(missing, processes), 1):
        kept.put(task, outcome)
        click.echo(f"{done} of {len(missing)}: {task.rule}, {task.scenario}, seed {task.seed}", err=True)
    found: dict[str, dict[str, list[Outcome]]] = {}
    for task in wanted:
        if (outcome := kept.get(task)) is not None:
            found.setdefault(task.scenario, {}).setdefault(task.rule, []).append(outcome)
    for scenario, by_rule in found.items():
        click.echo(f"\n## {scenario}\n")
        click.echo(report.table({rule: report.figures(outcomes) for rule, outcomes in by_rule.items()}))
    if docs is not None and "honest" in found:
        drawn = {rule: found["honest"][rule] for rule in DRAWN if rule in found["honest"]}
        fewest = min(map(len, drawn.values()))
        subtitle = f"40 honest volunteers, simulated; mean of at least {fewest} campaigns a rule"
        report.draw(drawn, docs / "decisions.png", "What a rule makes of the same GPU runs", subtitle)
    if as_json:
        figures = {
            scenario: {rule: asdict(report.figures(outcomes)) for rule, outcomes in by_rule.items()}
            for scenario, by_rule in found.items()
        }
        click.echo(json.dumps({"quick": quick, "first_seed": FIRST_SEED, "scenarios": figures}))


if __name__ == "__main__":
    main()
