"""The operator's command line: asks the program, reports, exits. Every error is one line that says what to do."""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import click

from autoresearch.admission_errors import AdmissionError
from autoresearch.judging.rule import PRESETS
from coordinator import main as program
from coordinator import upkeep
from coordinator.cli_backup import backup, restore
from coordinator.cli_operator import COMMANDS as OPERATOR_COMMANDS
from coordinator.cli_options import DATA, JSON
from coordinator.cli_simulate import simulate
from coordinator.demo_settings import DemoSettings
from coordinator.errors import CoordinatorError
from coordinator.policy import Canaries
from coordinator.settings import Approval, Settings, Terms
from coordinator.store import StoreError


class _Commands(click.Group):
    """Turns what the program raises on purpose into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (CoordinatorError, AdmissionError, StoreError) as error:
            _fail(str(error))


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("autoresearch-swarm"), prog_name="autoresearch-coordinator")
def main() -> None:
    """Coordinate a swarm: hold the best train.py, hand out patches, promote what is true."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _terms_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        click.option("--name", default="tiny", show_default=True, help="Name of the challenge."),
        click.option("--dataset", default="tiny", show_default=True, help="tiny, or climbmix-SHARDS: web text."),
        click.option("--source", type=click.Path(path_type=Path), help="train.py to start from [the trainer's own]."),
        click.option(
            "--budget", "budget_s", default=300.0, show_default=True, help="Training time of a trial, seconds."
        ),
        click.option("--rule", type=click.Choice(sorted(PRESETS)), default="default", show_default=True),
        click.option("--delta", "delta_bpb", default=0.0, help="Gain that votes are asked about, bpb [the rule's]."),
        click.option("--noise", "noise_prior_bpb", default=0.0, help="Noise of one trial until measured [published]."),
        click.option("--baselines", "first_baselines", default=1, show_default=True, help="Baselines before a patch."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@DATA
@click.option("--listen", default="0.0.0.0:50600", show_default=True, help="host:port to serve on; port 0: a free one.")
@click.option("--public", default="", help="host:port that volunteers reach it by [the listening one].")
@click.option("--store", default="", help="redis://, rediss:// or unix:// address [an embedded server].")
@click.option("--tls-certificate", type=click.Path(path_type=Path), help="PEM chain [one of its own].")
@click.option("--tls-key", type=click.Path(path_type=Path), help="PEM key of that certificate.")
@click.option(
    "--lease", "lease_s", default=120.0, show_default=True, help="Seconds without a heartbeat that end a lease."
)
@click.option(
    "--enrolment",
    default="work",
    show_default=True,
    metavar="open|work[:BITS]|invitation",
    help="What a new identity has to bring.",
)
@click.option(
    "--approval",
    type=click.Choice([policy.value for policy in Approval]),
    default="auto",
    show_default=True,
    help="Which patches wait for an approver.",
)
@click.option(
    "--canaries",
    type=click.Choice([policy.value for policy in Canaries]),
    default="prefer",
    show_default=True,
    help="Whose machines run an unknown author's patch first: anybody's, canaries' if there are any, or canaries'.",
)
@_terms_options
def serve(**values: Any) -> None:
    """Run a coordinator until Ctrl-C. The first start makes the swarm; its terms then stay as they are."""
    terms = {field.name: values.pop(field.name) for field in fields(Terms) if field.name in values}
    asyncio.run(program.serve(Settings(**values), Terms(**terms), click.echo, _announce))


def _announce(running: program.Running) -> None:
    challenge = running.swarm.parsed_challenge()
    click.echo(f"swarm      {running.swarm.swarm_id}")
    made = datetime.fromtimestamp(running.swarm.created_at_ms / 1000, UTC)
    click.echo(f"challenge  {challenge.name}: {challenge.dataset}, {challenge.budget_ms / 1000:g} s a trial")
    click.echo(f"terms      fixed when the swarm was made, {made:%Y-%m-%d %H:%M} UTC")
    click.echo(f"store      {running.store}")
    click.echo(f"ledger     {running.ledger}")
    click.echo(f"lineage    {running.lineage} (branch best)")
    click.echo(f"operator   {running.operator_key} (its key: keep a copy safe)")
    click.echo(f"join       autoresearch-volunteer join '{running.address}'")
    click.echo("serving; Ctrl-C stops")


for _command in OPERATOR_COMMANDS:
    main.add_command(_command)


@main.command()
@DATA
@JSON
def verify(data_dir: Path, as_json: bool) -> None:
    """Go through the ledger: chain, form, signatures, checkpoints. A running coordinator is not disturbed."""
    found = upkeep.verify(data_dir)
    facts = {**asdict(found), "root": found.root.hex()}
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"the ledger of swarm {found.swarm_id} holds: {found.entries} entries, {found.checkpoints} checkpoints")
    click.echo(f"signed by  {found.coordinator_id}")
    click.echo(f"last line  {found.last_sha256}")
    click.echo(f"tree root  {found.root.hex()}")


@main.command()
@DATA
@click.option("--store", "store_url", default="", help="Address of an empty store [an embedded server in the folder].")
@JSON
def rebuild(data_dir: Path, store_url: str, as_json: bool) -> None:
    """Make store and lineage again from the ledger in the folder, which may hold neither."""
    made = upkeep.rebuild(data_dir, store_url, lambda line: click.echo(line, err=True), secrets.token_hex(16))
    if as_json:
        click.echo(json.dumps(asdict(made)))
        return
    click.echo(f"swarm {made.swarm_id} is made again from {made.entries} entries")
    click.echo(f"{made.patches} patches, {made.results} results, generation {made.generation} at {made.commit}")


@main.command()
@DATA
@click.argument("out", type=click.Path(path_type=Path))
@JSON
def export(data_dir: Path, out: Path, as_json: bool) -> None:
    """Write the ledger as Parquet tables into the new folder OUT, for analysis."""
    rows = upkeep.export(data_dir, out)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for name, count in rows.items():
        click.echo(f"{out / name}.parquet  {count} rows")


@main.command()
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write a report here.")
@click.option("--keep", is_flag=True, help="Leave the swarm running until Ctrl-C.")
@click.option(
    "--data",
    "data_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-swarm"),
    show_default=True,
    help="Folder of the demo's swarm; one that was cut short is continued.",
)
@click.option("--fresh", is_flag=True, help="Throw away what the folder holds and begin anew.")
def demo(report: Path | None, keep: bool, data_dir: Path, fresh: bool) -> None:
    """Run a private swarm on this machine: four patches, three volunteers, real trials, until all are decided."""
    from coordinator import demo as show  # noqa: PLC0415 - pulls in the drawing libraries, which serving does not need

    sys.exit(show.run(DemoSettings(data_dir=data_dir, report=report, keep=keep, fresh=fresh)))


for _command in (backup, restore, simulate):
    main.add_command(_command)
