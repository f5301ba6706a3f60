"""`autoresearch-coordinator simulate`: what a swarm of a given size would gain under a rule, before there is one."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from autoresearch.judging.rule import PRESETS
from coordinator.errors import CoordinatorError

MOST_IDENTITIES, MOST_TRIALS, MOST_CAMPAIGNS, MOST_SEED = 1_000, 1_000_000, 1_000, 2**32 - 1
LIARS = ("none", "flatter", "worse", "ring", "offset", "lazy", "mix")
RIVALS = ("alone", "lower-wins", "lower-wins-per-tier", "t-test-5", "t-test-10", "t-test-10-screened", "sprt")


@click.command()
@click.option("--rule", "rules", multiple=True, type=click.Choice([*sorted(set(PRESETS) - {"solo"}), *RIVALS]),
              help="Rule to simulate; repeat it to compare several [default].")  # fmt: skip
@click.option("--volunteers", default=40, show_default=True, type=click.IntRange(3, MOST_IDENTITIES),
              help="Identities, one machine each.")  # fmt: skip
@click.option("--at-once", default=0, type=click.IntRange(0, MOST_IDENTITIES),
              help="Machines that run at a time [two in five].")  # fmt: skip
@click.option("--runs", default=10_000, show_default=True, type=click.IntRange(100, MOST_TRIALS),
              help="GPU runs of a campaign, baselines included.")  # fmt: skip
@click.option("--noise", default=1.0, show_default=True, type=click.FloatRange(0.01, 100.0),
              help="True noise of a trial, as a multiple of the published figures.")  # fmt: skip
@click.option("--delta", "delta_bpb", default=0.0, type=click.FloatRange(0.0, 1.0),
              help="Gain that votes are asked about, bpb [the rule's].")  # fmt: skip
@click.option("--class-spread", default=0.35, show_default=True, type=click.FloatRange(0.0, 5.0),
              help="How much a patch's effect differs between hardware classes, as a share of it.")  # fmt: skip
@click.option("--liars", default="none", show_default=True, type=click.Choice(LIARS), help="What the dishonest do.")
@click.option("--liar-share", default=0.2, show_default=True, type=click.FloatRange(0.0, 1.0),
              help="Share of the volunteers that are dishonest, with --liars.")  # fmt: skip
@click.option("--campaigns", default=4, show_default=True, type=click.IntRange(1, MOST_CAMPAIGNS),
              help="Campaigns per rule; the figures are their means.")  # fmt: skip
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, MOST_SEED), help="Of the first campaign.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 64), help="Cores to use.")
@click.option("--picture", "picture_path", type=click.Path(dir_okay=False, path_type=Path), help="Draw into this PNG.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output instead of the table.")
def simulate(**values: Any) -> None:
    """Simulate swarms with the code that decides in a real one, to choose rule, delta and number of volunteers.

    The world is invented (docs/decisions.md says how): compare rules and settings with it, do not expect its gains.
    Ctrl-C ends with what was done so far.
    """
    _simulate(values)


def _simulate(values: dict[str, Any]) -> None:
    from coordinator.simulation import report, running  # noqa: PLC0415 - numpy, which serving does not need here

    tasks = _tasks(values)
    done: dict[str, list[Any]] = {}
    interrupted = False
    try:
        with _progress(len(tasks), quiet=values["as_json"]) as bar:
            for task, outcome in running.run(tasks, min(values["processes"], len(tasks))):
                done.setdefault(task.rule, []).append(outcome)
                bar.update(1)
    except KeyboardInterrupt:
        interrupted = True
    if not done:
        click.echo("error: stopped before the first campaign ended", err=True)
        sys.exit(130)
    named = {rule: report.figures(outcomes) for rule, outcomes in done.items()}
    if values["picture_path"] is not None:
        most = max(len(outcomes) for outcomes in done.values())
        subtitle = f"{values['volunteers']} simulated volunteers, mean of {most} campaigns a rule"
        report.draw(done, values["picture_path"], "What a rule makes of the same trials", subtitle)
    if values["as_json"]:
        ended = {rule: _ended(outcomes) for rule, outcomes in done.items()}
        rules = {rule: {**asdict(own), "gain_end": ended[rule]} for rule, own in named.items()}
        click.echo(json.dumps({"runs": values["runs"], "rules": rules, "interrupted": interrupted}))
    else:
        click.echo(_table(named, done, values["runs"]))
    if interrupted:
        click.echo(f"stopped: {sum(map(len, done.values()))} of {len(tasks)} campaigns were done", err=True)
        sys.exit(130)


def _tasks(values: dict[str, Any]) -> list[Any]:
    from coordinator.simulation.running import Task  # noqa: PLC0415 - as above
    from coordinator.simulation.scenarios import Scenario  # noqa: PLC0415 - as above
    from coordinator.simulation.world import World  # noqa: PLC0415 - as above

    liars = "" if values["liars"] == "none" else values["liars"]
    at_once = values["at_once"] or max(1, round(0.4 * values["volunteers"]))
    if at_once > values["volunteers"]:
        raise CoordinatorError(f"--at-once {at_once} is more than there are volunteers ({values['volunteers']})")
    world = replace(
        World(),
        identities=values["volunteers"],
        at_once=at_once,
        noise_scale=values["noise"],
        class_spread=values["class_spread"],
        liars=liars,
        liar_share=values["liar_share"] if liars else 0.0,
    )
    scenario = Scenario(world, values["runs"], values["delta_bpb"])
    rules = dict.fromkeys(values["rules"] or ("default",))
    _check_delta(rules, scenario)
    seeds = range(values["seed"], values["seed"] + values["campaigns"])
    return [Task(rule, "simulate", scenario, seed) for seed in seeds for rule in rules]


def _check_delta(rules: Sequence[str] | dict[str, None], scenario: Any) -> None:
    from coordinator.simulation.scenarios import course  # noqa: PLC0415 - as above

    for rule in rules:
        course(rule, scenario)  # a delta out of its bounds is refused before anything runs


def _progress(length: int, *, quiet: bool) -> Any:
    """On standard error, and only where somebody looks at it."""
    hidden = quiet or not sys.stderr.isatty()
    return click.progressbar(length=length, label="campaigns", file=sys.stderr, hidden=hidden, show_pos=True)


def _ended(outcomes: Sequence[Any]) -> float:
    """Mean gain at the end, thousandths of a bit per byte."""
    return float(1e3 * sum(own.gains[-1] for own in outcomes) / len(outcomes))


def _table(named: dict[str, Any], done: dict[str, list[Any]], runs: int) -> str:
    lines = [f"mean gain of the best, thousandths of a bit per byte, after {runs:,} GPU runs", ""]
    lines.append(
        f"{'rule':20} {'gain':>7} {'promoted':>9} {'of them useless':>16} {'made it worse':>14} {'runs/patch':>11} "
        f"{'baselines':>10} {'campaigns':>10}"
    )
    for rule, own in named.items():
        lines.append(
            f"{rule:20} {_ended(done[rule]):7.1f} {own.promotions:9.1f} {100 * own.false_share:14.1f} % "
            f"{own.regressions:14.2f} {own.runs_per_patch:11.1f} {100 * own.baseline_share:8.0f} % {own.campaigns:10}"
        )
    if any(own.liars for own in named.values()):
        caught = "; ".join(f"{rule}: {own.caught:.1f} of {own.liars:.0f}" for rule, own in named.items())
        lines += ["", f"dishonest volunteers in quarantine at the end: {caught}"]
    return "\n".join(lines)
