"""Options that several commands share, and how every command ends: an answer on stdout, or one line on stderr.

Left out: what the commands do (`cli*.py`), and every line of an answer (`report.py`).
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])

FOLDER: Final = click.Path(path_type=Path, file_okay=False)


def home_option(command: F) -> F:
    """--home."""
    return click.option(
        "--home",
        type=FOLDER,
        help="Folder of identity, swarm and results.  [default: ~/.local/share/autoresearch-swarm]",
    )(command)


def swarm_options(command: F) -> F:
    """--home, --swarm, --trust-first-use."""
    command = click.option(
        "--trust-first-use", is_flag=True, help="Believe the key of an address without fingerprint."
    )(command)
    command = click.option("--swarm", metavar="ADDRESS", help="Another swarm than the one joined from this home.")(
        command
    )
    return home_option(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")(command)


def stdout() -> Console:
    """Where answers go."""
    return Console(highlight=False)


def print_json(message: Message, **more: object) -> None:
    """One JSON object on one line: the fields of `message` by their proto names, and `more`."""
    click.echo(json_line(to_json(message) | more))


def json_line(fields: dict[str, Any]) -> str:
    """One object on one line."""
    return json.dumps(fields, allow_nan=False)


def to_json(message: Message) -> dict[str, Any]:
    """The proto JSON form; a diff, which is text, is given as text instead of base64."""
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    patch = getattr(message, "patch", None)
    if isinstance(patch, Message) and isinstance(fields.get("patch"), dict):
        fields["patch"]["diff"] = getattr(patch, "diff", b"").decode("utf-8", "replace")
    return fields


def fail(text: str, status: int = 1) -> None:
    """Ends the program with one line on stderr."""
    click.echo("error: " + " ".join(text.split()), err=True)
    sys.exit(status)
