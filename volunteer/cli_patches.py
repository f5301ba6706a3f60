"""Commands of an author: check the best out, submit a patch, take it back.

Left out: what a draft must be (`drafts.py`), and git (`checkout.py`).
"""

import asyncio
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from autoresearch import envelope, limits
from autoresearch.text import clean_line, is_line
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.operator_pb2 import Instruction, PatchChoice
from autoresearch.v1.patch_pb2 import VERDICT_OPEN, VERDICT_WAITING, Patch, PatchSubmission, Withdrawal
from autoresearch.v1.patch_service_pb2 import GetPatchResponse
from volunteer import checkout as checkouts
from volunteer import drafts, enrolling, pin, report
from volunteer import main as program
from volunteer.cli_options import FOLDER, invitation_option, json_line, json_option, print_json, stdout, swarm_options
from volunteer.client import Client
from volunteer.drafts import Draft
from volunteer.errors import InputError, RpcError
from volunteer.git import Git
from volunteer.identity import Identity
from volunteer.settings import Settings

_LOOK_S: Final = 2.0  # how often a waiting author's patch is looked at


@click.command()
@swarm_options
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--title", default="", help="What it does, in one line.")
@click.option("--rationale", default="", help="Why it should help.")
@click.option("--tag", "tags", multiple=True, help="A word to find it by; may be repeated.")
@click.option("--base", "base_commit", default="", metavar="COMMIT", help="Commit that a diff applies to [the best].")
@click.option("--author", default="", help="Your name, when this identity is new to the swarm.")
@invitation_option
@click.option("--wait", is_flag=True, help="Follow it until it is decided.")
@json_option
def submit(  # noqa: PLR0917 - click passes them by name
    settings: Settings,
    path: Path,
    title: str,
    rationale: str,
    tags: tuple[str, ...],
    base_commit: str,
    author: str,
    invitation: str,
    wait: bool,
    as_json: bool,
) -> None:
    """Propose a patch: PATH is a diff of train.py, `-` for stdin, or an edited checkout.

    A diff may begin with lines like `Title: ...` and `Rationale: ...`.
    """
    draft = _read(path, settings).completed(title=title, rationale=rationale, tags=tags, base_commit=base_commit)
    drafts.check(draft)
    who = program.load_identity(settings)
    name = _author_name(settings, who, author)

    def tell(line: str) -> None:
        if not as_json:
            report.show(stdout(), Text(line))

    async def send(client: Client) -> None:
        await enrolling.as_author(client, who, name, invitation, tell, at_ms=program.CLOCK.wall_ms())
        base = draft.base_commit or (await client.best()).best.commit
        answer = await client.submit(_signed(draft, base, client, who, name))
        if not as_json:
            report.show(stdout(), Text(f"patch {clean_line(answer.patch.patch_id, 64)} submitted on {base[:12]}"))
        if wait:
            await _show_when_decided(client, answer.patch, as_json=as_json)
        elif as_json:
            print_json(answer)

    program.run(send, settings)


@click.command()
@swarm_options
@click.argument("patch_id", metavar="ID")
@json_option
def withdraw(settings: Settings, patch_id: str, as_json: bool) -> None:
    """Take an open patch of yours back."""
    who = program.load_identity(settings)

    async def send(client: Client) -> None:
        whole_id = (await client.patch(patch_id)).patch.patch_id
        withdrawal = Withdrawal(protocol=limits.PROTOCOL, swarm_id=client.swarm.swarm_id, patch_id=whole_id)
        answer = await client.withdraw(envelope.sign(withdrawal, envelope.WITHDRAWAL, who.key))
        if as_json:
            print_json(answer)
        else:
            report.show(stdout(), Text(f"patch {clean_line(answer.patch.patch_id, 64)} withdrawn"))

    program.run(send, settings)


@click.command()
@swarm_options
@click.argument("patch_id", metavar="ID")
@click.option("--why", default="", help="The reason, in one line; everybody may read it.")
def approve(settings: Settings, patch_id: str, why: str) -> None:
    """Let a patch that waits for an approver be tested. Needs the role approver."""
    _choose(settings, patch_id, why, approved=True)


@click.command()
@swarm_options
@click.argument("patch_id", metavar="ID")
@click.option("--why", default="", help="The reason, in one line; everybody may read it.")
def refuse(settings: Settings, patch_id: str, why: str) -> None:
    """Refuse a patch that waits for an approver. Needs the role approver."""
    _choose(settings, patch_id, why, approved=False)


def _choose(settings: Settings, patch_id: str, why: str, *, approved: bool) -> None:
    who = program.load_identity(settings)
    if why and not is_line(why, limits.REASON_CHARACTERS):
        raise InputError(f"the reason must be one line of at most {limits.REASON_CHARACTERS} characters: shorten --why")

    async def send(client: Client) -> None:
        shown = (await client.patch(patch_id)).patch
        whole_id = shown.patch_id
        for finding in shown.findings:
            report.show(stdout(), Text(f"beside training: {clean_line(finding, limits.REASON_CHARACTERS)}"))
        choice = PatchChoice(patch_id=whole_id)
        instruction = Instruction(
            protocol=limits.PROTOCOL,
            swarm_id=client.swarm.swarm_id,
            instruction_id=program.new_id(),
            signed_at_ms=program.CLOCK.wall_ms(),
            reason=why,
            approve=choice if approved else None,
            refuse=None if approved else choice,
        )
        await client.instruct(envelope.sign(instruction, envelope.INSTRUCTION, who.key))
        done = "approved: it is open for testing" if approved else "refused"
        report.show(stdout(), Text(f"patch {clean_line(whole_id, 64)} {done}"))

    program.run(send, settings)


@click.command()
@swarm_options
@click.argument("folder", metavar="DIR", type=FOLDER)
@json_option
def checkout(settings: Settings, folder: Path, as_json: bool) -> None:
    """Make DIR a git checkout of the best, with all that is needed to try a change."""
    folder = folder.absolute()
    checkouts.refuse_occupied(folder)

    async def fetch(client: Client) -> None:
        commit = await checkouts.make(folder, client.lineage(), Git(settings.git_environment))
        if as_json:
            click.echo(json_line({"folder": str(folder), "commit": commit}))
        else:
            report.show(
                stdout(), Text(f"{folder} holds the best, commit {commit}: edit train.py, then submit {folder}")
            )

    program.run(fetch, settings)


def _read(path: Path, settings: Settings) -> Draft:
    if path.is_dir():
        return checkouts.read_draft(path, Git(settings.git_environment))
    try:
        with click.open_file(str(path), "rb") as file:
            return drafts.parse(file.read(drafts.MOST_BYTES + 1))
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): name a diff file or a checkout") from error


def _author_name(settings: Settings, who: Identity, given: str) -> str:
    if given and not is_line(given, limits.NAME_CHARACTERS):
        raise InputError(
            f"the author's name must be 1 to {limits.NAME_CHARACTERS} printable characters: choose another"
        )
    pinned = pin.load(settings.home)
    return given or (pinned.name if pinned else f"anonymous-{who.identity_id[:6]}")


def _signed(draft: Draft, base_commit: str, client: Client, who: Identity, name: str) -> Envelope:
    submission = PatchSubmission(
        protocol=limits.PROTOCOL,
        swarm_id=client.swarm.swarm_id,
        base_commit=base_commit,
        diff=draft.diff,
        title=draft.title,
        rationale=draft.rationale,
        tags=draft.tags,
        author_name=name,
    )
    return envelope.sign(submission, envelope.PATCH, who.key)


async def _show_when_decided(client: Client, submitted: Patch, *, as_json: bool) -> None:
    console, said = stdout(), ""
    while True:
        try:
            patch = (await client.patch(submitted.patch_id)).patch
        except RpcError as error:
            if not error.retry:
                raise
            line = str(error)
        else:
            line = report.evidence_line(patch)
            if patch.verdict not in (VERDICT_OPEN, VERDICT_WAITING):
                break
        if line != said and not as_json:
            report.show(console, Text(line))
        said = line
        await asyncio.sleep(_LOOK_S)
    if as_json:
        print_json(GetPatchResponse(patch=patch))
    else:
        report.show(console, report.patch(patch))
