"""Options that several of the operator's commands share."""

from pathlib import Path

import click

DATA = click.option(
    "--data",
    "data_dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("swarm"),
    show_default=True,
    help="Folder of the swarm: keys, ledger, lineage, embedded store.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
