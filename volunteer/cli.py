"""The command `autoresearch-volunteer`: lend this machine to a swarm, propose patches, look around.

Left out: authors' commands (`cli_patches.py`) and questions (`cli_queries.py`).
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from autoresearch.text import clean_line
from trainer.errors import TrainerError
from volunteer import address as join_address
from volunteer import display, joining, pin
from volunteer import main as program
from volunteer.cli_audit import audit
from volunteer.cli_options import (
    FOLDER,
    before_command,
    invitation_option,
    json_line,
    json_option,
    stdout,
    swarm_options,
)
from volunteer.cli_patches import approve, checkout, refuse, submit, withdraw
from volunteer.cli_queries import best, events, leaderboard, patch, patches, status
from volunteer.consent import Ask
from volunteer.display import Display
from volunteer.errors import VolunteerError
from volunteer.settings import JoinSettings, Settings

_PROGRAM = "autoresearch-volunteer"
_ERROR_CHARACTERS = 4000


@click.group(no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@before_command
@click.version_option(joining.version(), prog_name=_PROGRAM)
def cli(**_: object) -> None:
    """Lend this machine to a swarm that improves one train.py, and propose patches to it."""


for _command in (submit, withdraw, checkout, approve, refuse, patches, patch, leaderboard, best, status, events, audit):
    cli.add_command(_command)


@cli.command()
@swarm_options
@click.argument("address", required=False)
@click.option("--name", help="Shown on the leaderboard.")
@click.option("--device", help="cpu, cuda, cuda:1 or mps [the best there is].")
@click.option("--threads", type=click.IntRange(1, 1024), help="Processor threads of a trial [those free now].")
@click.option("--slots", type=click.IntRange(1, 1024), help="Trials at a time on this host, over all volunteers.")
@click.option("--slots-dir", type=FOLDER, help="Folder by which the volunteers of this host take turns.")
@click.option("--data-dir", type=FOLDER, help="Prepared data; volunteers may share it [in --home].")
@click.option("--unsafe-no-sandbox", is_flag=True, help="Run strangers' code with nothing around it.")
@invitation_option
@click.option("--canary", is_flag=True, help="Take the first run of patches by unknown authors.")
@click.option(
    "--accept-challenge", default="", metavar="DIGEST", help="Accept that the swarm's challenge changed to it."
)
@click.option("--max-trials", type=click.IntRange(1), help="Stop after so many trials.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def join(settings: Settings, **options: Any) -> None:
    """Work for the swarm at ADDRESS, or for the one joined last, until stopped.

    Ctrl-C once finishes the trial under way; twice stops at once and gives its order back.
    """
    chosen = replace(settings, join=JoinSettings(**options))
    show = display.make(stdout(), quiet=chosen.join.quiet, clock=program.CLOCK.steady_s)
    program.join(chosen, show, ask=_ask(show))


def _ask(show: Display) -> Ask | None:
    """How a question is put to the person at this terminal; None when nobody is there."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None

    def ask(question: str) -> bool:
        with show.paused():
            return click.confirm(question)

    return ask


@cli.command()
@swarm_options
@json_option
def whoami(settings: Settings, as_json: bool) -> None:
    """Show this home's identity, machine and swarm."""
    who = program.load_identity(settings)
    pinned = pin.load(settings.home)
    facts = {
        "identity_id": who.identity_id,
        "key_id": who.key_id,
        "machine_id": who.machine_id,
        "name": pinned.name if pinned else "",
        "swarm": str(pinned.address) if pinned else "",
        "swarm_id": pinned.swarm_id if pinned else "",
        "home": str(settings.home),
    }
    text = "\n".join(f"{key:12} {clean_line(value, 400) or '-'}" for key, value in facts.items())
    click.echo(json_line(facts) if as_json else text)


@cli.command()
@swarm_options
@click.option(
    "--also", multiple=True, metavar="ADDRESS", help="Another swarm that knows this identity; may be repeated."
)
def rotate(settings: Settings, also: tuple[str, ...]) -> None:
    """Give this home's identity a new key: what it did and may do stays, the old key is refused from then on.

    Interrupted, run it again. Make a copy of the new key afterwards.
    """
    for address in also:
        join_address.parse(address)
    who = program.rotate(settings, also, click.echo)
    click.echo(f"identity {who.identity_id} signs with the key {who.key_id} now")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs a command; every error is one line, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has a character for everybody's name
    try:
        cli.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else _PROGRAM
        _fail(f"{error.format_message().rstrip('.')}: see `{where} --help`", 2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only tear the end apart
        _fail("interrupted", 130)
    except (VolunteerError, TrainerError) as error:
        _fail(str(error))
    except BrokenPipeError:  # whoever read the output has gone; Python would complain about it once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        _fail(_unexpected(error))


def _unexpected(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"unexpected {type(error).__name__} at {where} ({clean_line(str(error), 300)}): please report it"


def _fail(text: str, status: int = 1) -> NoReturn:
    """Ends the program with one line on stderr, whatever others wrote into what it quotes."""
    click.echo("error: " + clean_line(text, _ERROR_CHARACTERS), err=True)
    sys.exit(status)
