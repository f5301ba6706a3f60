"""What the documentation says exists: commands and their options, links, make targets, tables copied from the code.

Leaves out whether the prose is true: that takes a reader.
"""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from autoresearch import envelope, limits
from autoresearch.admission_errors import AdmissionCode
from autoresearch.judging import ledger
from autoresearch.judging.rule import PRESETS
from autoresearch.judging.verdict import Verdict
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_pb2
from coordinator import session as coordinator_session
from coordinator.cli import main as coordinator_cli
from coordinator.rpc_errors import STATUS
from trainer import report
from trainer.cli import main as trainer_cli
from trainer.result import Outcome, TrialResult
from volunteer.cli import cli as volunteer_cli
from volunteer.session_step import _MESSAGES as VOLUNTEER_MESSAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "examples/*.md", "coordinator/lineage_files/*.md")
    for path in ROOT.glob(pattern)
)
DEPLOYED = sorted(
    path for path in (ROOT / "deploy").rglob("*") if path.suffix in {".service", ".Containerfile", ".yaml"}
)
PROGRAMS: dict[str, click.Command] = {
    "autoresearch-volunteer": volunteer_cli,
    "autoresearch-coordinator": coordinator_cli,
    "python -m trainer": trainer_cli,
}
CALL = re.compile(
    rf"(?<!lib/)(?<!run/)(?:{'|'.join(map(re.escape, PROGRAMS))})(?= [a-z-])"
)  # folders have such names too
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"[A-Z][A-Z:#-]*|\$.*|.*\$\{.*")  # stands for a value that the reader knows


def name(path: Path) -> str:
    """As a test's id."""
    return path.relative_to(ROOT).as_posix()


def page(path: str) -> str:
    """The text of a page."""
    return (ROOT / path).read_text()


def fences(text: str, *languages: str) -> Iterator[str]:
    """Fenced blocks in one of these languages."""
    yield from (block for language, block in FENCE.findall(text) if language in languages)


def shell_lines(text: str) -> Iterator[str]:
    """Lines of shell blocks, continued ones joined."""
    for block in fences(text, "sh"):
        yield from block.replace("\\\n", " ").splitlines()


def quoted(text: str) -> Iterator[str]:
    """What stands in backticks outside of blocks."""
    yield from (" ".join(span.split()) for span in CODE.findall(FENCE.sub("", text)))


def calls(text: str) -> Iterator[str]:
    """Every call of one of our programs in some text that holds one or more."""
    starts = [match.start() for match in CALL.finditer(text)]
    yield from (text[start:end] for start, end in pairwise([*starts, len(text)]))


def words_of(call: str) -> tuple[str, list[str]]:
    """The program, and its arguments as a shell would split them, up to a comment, a pipe or the next command."""
    program = next(known for known in PROGRAMS if call.startswith(known))
    words = shlex.split(call[len(program) :], comments=True)
    end = next((at for at, word in enumerate(words) if word in {"&&", "|", ">", ">>", "||", ";"}), len(words))
    return program, [word for word in words[:end] if not re.fullmatch(r"\$[A-Z]+_OPTIONS", word)]


def documented_calls() -> list[tuple[str, str, bool]]:
    """(where, call, whether it must be whole): in shell blocks and deployment files a call is meant to be typed."""
    found = []
    for path in PAGES:
        text = path.read_text()
        found += [(name(path), call, True) for line in shell_lines(text) for call in calls(line)]
        found += [(name(path), call, False) for span in quoted(text) for call in calls(span)]
    for path in DEPLOYED:
        lines = (line for line in path.read_text().splitlines() if not line.startswith(("#", "Description")))
        plain = (re.sub(r'[\[\]", ]+', " ", line) if line.startswith("CMD") else line for line in lines)
        found += [(name(path), call, True) for line in plain for call in calls(line)]
    return found


def parse(program: str, words: list[str], *, whole: bool) -> None:
    """Raises click.UsageError unless the program has this command with these options and values."""
    command, context = PROGRAMS[program], click.Context(PROGRAMS[program], info_name=program)
    while isinstance(command, click.Group):
        values, words, _ = command.make_parser(context).parse_args(args=list(words))
        check_values(command, context, values)
        if not words:
            return
        inner = command.get_command(context, words[0])
        if inner is None:
            raise click.UsageError(f"no command {words[0]!r}")
        command, context, words = inner, click.Context(inner, parent=context, info_name=words[0]), words[1:]
    values, left, _ = command.make_parser(context).parse_args(args=list(words))
    if left:
        raise click.UsageError(f"unexpected {left}")
    check_values(command, context, values)
    if whole:
        needed = [param for param in command.params if param.required]
        missing = [param.name for param in needed if param.value_is_missing(values.get(param.name or ""))]
        if missing:
            raise click.UsageError(f"missing {missing}")


def check_values(command: click.Command, context: click.Context, values: dict[str, Any]) -> None:
    """Numbers and choices must be possible ones, unless they stand for the reader's own."""
    for param in command.params:
        given = values.get(param.name or "")
        for value in given if isinstance(given, list | tuple) else [given]:
            if isinstance(value, str) and not PLACEHOLDER.fullmatch(value) and value != "...":
                param.type(value, param=param, ctx=context)


def test_there_is_something_to_check() -> None:
    assert len(PAGES) > 10
    assert len(DEPLOYED) == 5
    assert len(documented_calls()) > 50


@pytest.mark.parametrize(("where", "call", "whole"), documented_calls())
def test_a_documented_command_line_parses(where: str, call: str, whole: bool) -> None:
    program, words = words_of(call)
    try:
        parse(program, words, whole=whole)
    except click.UsageError as error:
        pytest.fail(f"{where}: {call.strip()}: {error.format_message()}")


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("autoresearch-volunteer jion", "no command"),
        ("autoresearch-volunteer join --nmae ada", "No such option"),
        ("autoresearch-volunteer patch", "missing"),
        ("autoresearch-coordinator serve --budget soon", "not a valid float"),
        ("autoresearch-coordinator serve --rule kind", "is not one of"),
        ("python -m trainer run train.py best.py", "unexpected"),
    ],
)
def test_a_wrong_command_line_would_be_noticed(call: str, complaint: str) -> None:
    program, words = words_of(call)
    with pytest.raises(click.UsageError) as error:
        parse(program, words, whole=True)
    assert complaint in error.value.format_message()


def options(command: click.Command) -> set[str]:
    """Long options of a command."""
    return {opt for param in command.params for opt in param.opts if opt.startswith("--")} - {"--help", "--version"}


def commands(group: click.Command) -> dict[str, click.Command]:
    """Commands of a program."""
    assert isinstance(group, click.Group)
    return dict(group.commands)


@pytest.mark.parametrize(
    ("program", "command", "where"),
    [
        *(("autoresearch-coordinator", command, "docs/operator.md") for command in ["serve"]),
        *(("autoresearch-volunteer", command, "docs/volunteer.md") for command in ["join"]),
        *(("autoresearch-volunteer", command, "docs/patch-author.md") for command in ["submit"]),
        *(("python -m trainer", command, "docs/patch-author.md") for command in ["run", "replay", "exam"]),
    ],
)
def test_every_option_is_documented_where_its_reader_looks(program: str, command: str, where: str) -> None:
    known = options(commands(PROGRAMS[program])[command]) - {"--home", "--trust-first-use"}  # every command has these
    text = page(where)
    assert not [option for option in sorted(known) if not re.search(rf"{option}\b", text)]


@pytest.mark.parametrize("program", ["autoresearch-volunteer", "autoresearch-coordinator"])
def test_every_command_and_option_is_documented_somewhere(program: str) -> None:
    text = "\n".join(path.read_text() for path in PAGES)
    silent = [command for command in commands(PROGRAMS[program]) if f"{program} {command}" not in text]
    assert not silent
    found = {option for command in commands(PROGRAMS[program]).values() for option in options(command)}
    assert not [option for option in sorted(found) if option not in text]


def test_options_in_tables_exist() -> None:
    for where, command in (
        ("docs/operator.md", commands(coordinator_cli)["serve"]),
        ("docs/volunteer.md", commands(volunteer_cli)["join"]),
    ):
        rows = [line for line in page(where).splitlines() if line.startswith("| `--")]
        shown = {option for row in rows for option in re.findall(r"`(--[a-z-]+)", row.split("|")[1])}
        assert shown, where
        assert not shown - options(command), where


def targets() -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", page("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_make_target_exists(path: Path) -> None:
    text = path.read_text()
    typed = [*shell_lines(text), *quoted(text)]
    wanted = {target for line in typed for target in re.findall(r"^make (?:[A-Z]+=\S+ )?([a-z][a-z-]*)", line)}
    assert not wanted - targets()


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as a git host makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_relative_link_resolves(path: Path) -> None:
    dead = []
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", page("docs/security.md"))
    assert len(named) > 30
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_python_block_is_python(path: Path) -> None:
    for block in fences(path.read_text(), "python"):
        ast.parse(block)


# --- tables that repeat the code ---


def rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the first table after a heading or a line that begins so, without its head."""
    lines = iter(text.split(heading, 1)[1].splitlines())
    table: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif table:
            break
    return table[2:]


def test_the_limits_are_those_of_the_code() -> None:
    shown = {cells[0].strip("| `"): cells[1] for cells in rows(page("docs/protocol.md"), "\n## Limits")}
    assert shown == {key: str(value) for key, value in vars(limits).items() if key.isupper()}


def test_the_errors_are_those_of_the_code() -> None:
    shown = {cells[0].strip("| `"): cells[1].strip("`") for cells in rows(page("docs/protocol.md"), "\n## Errors")}
    del shown["anything else"]
    assert shown == {kind.__name__: status.name for kind, status in STATUS.items()}


def test_the_payload_types_are_those_of_the_code() -> None:
    shown = {cells[0].strip("| `") for cells in rows(page("docs/protocol.md"), "\n## Signed payloads")}
    known = {value for key, value in vars(envelope).items() if key.isupper() and isinstance(value, str)}
    assert {envelope._TYPE.format(kind) for kind in shown} == {value for value in known if "{}" not in value}


def test_the_ledger_kinds_are_those_of_the_code() -> None:
    shown = [cells[0].strip("| `") for cells in rows(page("docs/protocol.md"), "Entries are written")]
    assert tuple(shown) == ledger.KINDS


def test_the_coordinators_state_table_is_that_of_the_code() -> None:
    table = rows(page("docs/protocol.md"), "**The coordinator's side**")
    shown = {
        (cells[0].strip("| "), kind, cells[2].strip("| "))
        for cells in table
        for kind in re.findall(r"`(\w+)`", cells[1])
    }
    allowed = coordinator_session._ALLOWED
    assert shown == {(state.value, kind, after.value) for (state, kind), after in allowed.items()}


def test_the_volunteers_state_table_is_that_of_the_code() -> None:
    table = rows(page("docs/protocol.md"), "**The volunteer's side**")
    shown = {
        (cells[0].strip("| "), kind, cells[2].strip("| "))
        for cells in table
        for kind in re.findall(r"`(\w+)`", cells[1])
    }
    assert shown == {
        (link.name.lower(), kind, after.name.lower())
        for link, messages in VOLUNTEER_MESSAGES.items()
        for kind, after in messages.items()
    }


def test_every_reason_for_refusal_is_documented() -> None:
    table = rows(page("docs/patch-author.md"), "\n## What is refused")
    assert [cells[0].strip("| `") for cells in table] == [code.value for code in AdmissionCode]


def test_every_verdict_is_explained() -> None:
    text = page("docs/patch-author.md")
    assert not [verdict.value for verdict in Verdict if not re.search(rf"\b{verdict.value}\b", text, re.IGNORECASE)]
    shown = page("docs/agent.md")
    assert not [verdict.value for verdict in Verdict if f"_{verdict.value.upper()}`" not in shown]


def test_every_rule_is_explained() -> None:
    table = rows(page("docs/operator.md"), "**Rule**, all")
    assert {cells[0].strip("| `") for cells in table} == set(PRESETS)


@pytest.mark.parametrize(
    "message",
    [
        patch_pb2.Patch, patch_pb2.PatchTrial, patch_pb2.Evidence, patch_pb2.Vote, patch_pb2.Best, patch_pb2.ClassScore,
        board_pb2.Event, board_pb2.GetStatusResponse, board_pb2.LiveTrial, board_pb2.Standing,
        board_pb2.GetLeaderboardResponse,
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)  # fmt: skip
def test_every_field_that_a_program_reads_is_documented(message: Any) -> None:
    text = page("docs/agent.md")
    assert not [field.name for field in message.DESCRIPTOR.fields if f"`{field.name}`" not in text]


def test_every_field_of_a_trial_alone_is_documented() -> None:
    text = page("docs/agent.md")
    assert not [name for name in report.as_json(TrialResult(Outcome.COMPLETED, "")) if f"`{name}`" not in text]


def chain_check() -> str:
    """The program that docs/protocol.md gives for checking a ledger."""
    return next(block for block in fences(page("docs/protocol.md"), "python") if "broken at entry" in block)


def test_the_documented_check_tells_a_sound_ledger_from_a_changed_one(tmp_path: Path) -> None:
    head, lines = ledger.EMPTY, []
    for number in range(3):
        line, head = ledger.append(head, "withdrawal", {"patch_id": str(number), "envelope": ""}, 1_000 + number)
        lines.append(line)
    sound, changed = tmp_path / "sound", tmp_path / "changed"
    sound.write_bytes(b"".join(line + b"\n" for line in lines))
    changed.write_bytes(b"".join(line.replace(b'"patch_id":"1"', b'"patch_id":"9"') + b"\n" for line in lines))
    command = [sys.executable, "-c", chain_check()]
    told = subprocess.run([*command, sound], capture_output=True, text=True, check=True).stdout
    assert told.strip() == f"the chain holds; the last line is {head.last_sha256}"
    refused = subprocess.run([*command, changed], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.strip()) == (1, "broken at entry 2")
