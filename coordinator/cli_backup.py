"""The operator's commands for copies of a swarm: makes one beside a coordinator that serves, makes a swarm of one."""

import json
import secrets
from dataclasses import asdict
from pathlib import Path

import click

from coordinator import backups, restoring
from coordinator import main as program
from coordinator.cli_options import DATA, JSON


@click.command()
@DATA
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--with-keys", is_flag=True, help="Copy signing.key and operator.key too: who reads them is the swarm.")
@JSON
def backup(data_dir: Path, out: Path, with_keys: bool, as_json: bool) -> None:
    """Copy the swarm into the new folder OUT and check the copy. A running coordinator is not disturbed."""
    made = backups.write(data_dir, out, with_keys=with_keys, now_ms=program.now_ms())
    if as_json:
        click.echo(json.dumps(asdict(made)))
        return
    click.echo(f"{out} holds {made.entries} entries of swarm {made.swarm_id}, checked one by one")
    click.echo(f"last line  {made.last_sha256}")
    if made.keys:
        click.echo(f"WARNING: it holds {' and '.join(made.keys)}: whoever reads them can speak for the swarm", err=True)
    else:
        click.echo("without keys: keep copies of signing.key and operator.key in another safe place", err=True)


@click.command()
@DATA
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option("--until", default="", metavar="ENTRY|TIME", help="Keep the ledger up to this entry or instant (UTC).")
@click.option("--why", default="", help="Why newer entries are given up or lost, in one line; everybody reads it.")
@click.option("--keys", type=click.Path(path_type=Path), help="Folder with signing.key and operator.key [the backup].")
@click.option("--store", default="", help="Address of an empty store [an embedded server in the folder].")
@JSON
def restore(
    data_dir: Path, source: Path, *, until: str, why: str, keys: Path | None, store: str, as_json: bool
) -> None:
    """Make the swarm of BACKUP in the folder, which must not exist or be empty."""
    wish = restoring.Wish(program.now_ms(), secrets.token_hex(16), until, why, store, keys)
    made = restoring.restore(source, data_dir, wish, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps(asdict(made)))
        return
    rebuilt = made.rebuilt
    click.echo(f"swarm {rebuilt.swarm_id} is restored from {rebuilt.entries} entries")
    click.echo(f"{rebuilt.patches} patches, {rebuilt.results} results, generation {rebuilt.generation}")
    if why:
        click.echo(
            "the ledger says that it was set back: volunteers who saw newer entries refuse this coordinator until "
            "their owners agree",
            err=True,
        )
    else:
        click.echo("if volunteers saw newer entries than these, restore again and say --why they are lost", err=True)
    if not made.keyed:
        click.echo(f"put the swarm's signing.key into {data_dir} before you start it (mode 600)", err=True)
