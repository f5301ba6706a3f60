"""Options that several commands share, and how an answer is printed.

Left out: what the commands do (`cli*.py`), and the words of an answer (`report.py`).
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

from volunteer import address as join_address
from volunteer.settings import load_here

F = TypeVar("F", bound=Callable[..., Any])


class _Folder(click.Path):
    """A folder's name; an empty one, as from a variable that is not set, would mean the present folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, ctx) if str(value) else self.fail("it names no folder", param, ctx)


FOLDER: Final = _Folder(path_type=Path, file_okay=False)
_LONG: Final = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_PIPE_COLUMNS: Final = 200  # a table in a file or a pipe is not folded to a terminal nobody looks at

_OPTIONS: Final = (
    click.option(
        "--home", type=FOLDER, help="Folder of identity, swarm and results [~/.local/share/autoresearch-swarm]."
    ),
    click.option("--swarm", metavar="ADDRESS", help="Another swarm than the one joined from this home."),
    click.option("--trust-first-use", is_flag=True, help="Believe the key of an address without a fingerprint."),
)


def swarm_options(command: F) -> F:
    """--home, --swarm and --trust-first-use, which may also stand before the command; given as `settings`.

    An argument ADDRESS stands for --swarm. One that is malformed is said before the command does anything.
    """

    @functools.wraps(command)
    def wrapped(
        home: Path | None,
        swarm: str | None,
        trust_first_use: bool,
        *arguments: object,
        address: str | None = None,
        **options: object,
    ) -> object:
        before: dict[str, Any] = click.get_current_context().find_root().params
        settings = load_here(
            home=home or before.get("home"),
            swarm=address or swarm or before.get("swarm"),
            trust_first_use=trust_first_use or bool(before.get("trust_first_use")),
        )
        if settings.swarm:
            join_address.parse(settings.swarm)
        return command(settings, *arguments, **options)

    return before_command(wrapped)  # type: ignore[return-value]  # click builds the command from it


def before_command(command: F) -> F:
    """The same options, as they are."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def invitation_option(command: F) -> F:
    """--invitation."""
    text = "Code that lets a new identity into a swarm by invitation."
    return click.option("--invitation", default="", metavar="CODE", help=text)(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")(command)


def stdout() -> Console:
    """Where answers go."""
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_PIPE_COLUMNS)


def print_json(message: Message, **more: object) -> None:
    """One JSON object on one line: the fields of `message` by their proto names, and `more`."""
    click.echo(json_line(to_json(message) | more))


def json_line(fields: dict[str, Any]) -> str:
    """One object on one line."""
    return json.dumps(fields)


def to_json(message: Message) -> dict[str, Any]:
    """The proto JSON form by proto names, with 64-bit numbers as numbers and a patch's diff, which is text, as text."""
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _mend(message, fields)
    return fields


def _mend(message: Message, fields: dict[str, Any]) -> None:
    """JSON's proto form writes 64-bit numbers as strings and bytes as base64: awkward for whoever reads it here."""
    for field in message.DESCRIPTOR.fields:
        value, shown = getattr(message, field.name), fields.get(field.name)
        if shown is None:
            continue
        if field.type == field.TYPE_MESSAGE:
            inner = zip(value, shown, strict=True) if isinstance(shown, list) else [(value, shown)]
            for one, its_fields in inner:
                _mend(one, its_fields)
        elif field.type == field.TYPE_BYTES:
            fields[field.name] = value.decode("utf-8", "replace")
        elif isinstance(shown, str) and field.cpp_type in _LONG:
            fields[field.name] = int(shown)
