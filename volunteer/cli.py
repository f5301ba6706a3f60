"""The command `autoresearch-volunteer`: lend this machine to a swarm, propose patches, look around.

Left out: authors' commands (`cli_patches.py`) and questions (`cli_queries.py`).
"""

import sys
import traceback
from pathlib import Path

import click

from autoresearch.text import clean_line
from trainer.errors import TrainerError
from volunteer import display, joining, pin
from volunteer import main as program
from volunteer.cli_options import FOLDER, fail, home_option, json_line, json_option, stdout, swarm_options
from volunteer.errors import VolunteerError
from volunteer.settings import JoinSettings, load_here

_PROGRAM = "autoresearch-volunteer"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(joining.version(), prog_name=_PROGRAM)
def cli() -> None:
    """Lend this machine to a swarm that improves one train.py, and propose patches to it."""


@cli.command()
@click.argument("address", required=False)
@swarm_options
@click.option("--name", help="Shown on the leaderboard.")
@click.option("--device", help="cpu, cuda, cuda:1 or mps.  [default: the best there is]")
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Processor threads of a trial.  [default: those free now]"
)
@click.option("--slots", type=click.IntRange(1, 1024), help="Trials at a time on this host, over all volunteers.")
@click.option("--slots-dir", type=FOLDER, help="Folder by which the volunteers of this host take turns.")
@click.option("--data-dir", type=FOLDER, help="Prepared data; volunteers may share it.  [default: in --home]")
@click.option("--unsafe-no-sandbox", is_flag=True, help="Run strangers' code with nothing around it.")
@click.option("--max-trials", type=click.IntRange(1), help="Stop after so many trials.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def join(
    address: str | None, home: Path | None, swarm: str | None, trust_first_use: bool, quiet: bool, **options: object
) -> None:
    """Work for the swarm at ADDRESS, or for the one joined last, until stopped.

    Ctrl-C once finishes the trial under way; twice stops at once and gives its order back.
    """
    join_settings = JoinSettings(quiet=quiet, **options)  # type: ignore[arg-type]  # click checked their types
    settings = load_here(home=home, swarm=address or swarm, trust_first_use=trust_first_use, join=join_settings)
    program.join(settings, display.make(stdout(), quiet=quiet))


@cli.command()
@home_option
@json_option
def whoami(home: Path | None, as_json: bool) -> None:
    """Show this home's identity, machine and swarm."""
    settings = load_here(home=home)
    who = program.load_identity(settings)
    pinned = pin.load(settings.home)
    facts = {
        "identity_id": who.identity_id,
        "machine_id": who.machine_id,
        "name": pinned.name if pinned else "",
        "swarm": str(pinned.address) if pinned else "",
        "swarm_id": pinned.swarm_id if pinned else "",
        "home": str(settings.home),
    }
    if as_json:
        click.echo(json_line(facts))
        return
    for key, value in facts.items():
        click.echo(f"{key:12} {clean_line(value, 400) or '-'}")


def main() -> None:
    """Entry point: runs a command; every error is one line, never a traceback."""
    try:
        cli.main(standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else _PROGRAM
        fail(f"{error.format_message().rstrip('.')}: see `{where} --help`", 2)
    except click.ClickException as error:
        fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", 130)
    except (VolunteerError, TrainerError) as error:
        fail(str(error))
    except BrokenPipeError:
        sys.exit(1)  # whoever read the output has gone
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        fail(_unexpected(error))


def _unexpected(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"unexpected {type(error).__name__} at {where} ({clean_line(str(error), 300)}): please report it"
