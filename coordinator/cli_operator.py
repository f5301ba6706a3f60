"""The operator's commands to a running coordinator: roles, bans, approvals, invitations, pauses, whose results count.

Each reads `operator.key` from the swarm's folder, signs one instruction and reports what became of it.
"""

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from autoresearch import limits
from autoresearch.digest import sha256_hex
from autoresearch.judging.ledger import Entry
from autoresearch.text import clean_line
from autoresearch.v1 import operator_pb2
from autoresearch.v1.operator_service_pb2 import GetRegisterResponse
from coordinator import main as program
from coordinator.access import Role
from coordinator.cli_options import DATA
from coordinator.errors import OperatorError
from coordinator.operator_client import Chance, OperatorClient
from coordinator.settings import OPERATOR_KEY

DAY_MS = 24 * 3600 * 1000
INSTANTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
WHY = click.option("--why", default="", help="The reason, in one line; those whom it concerns read it.")
ROLE = click.argument("role", type=click.Choice([role.value for role in Role]))
IDENTITY = click.argument("identity")
PATCH = click.argument("patch_id", metavar="PATCH")


def _client(data_dir: Path) -> OperatorClient:
    return OperatorClient(data_dir, Chance(program.now_ms, lambda: secrets.token_hex(16)))


def _instruct(data_dir: Path, why: str, said: str, **action: Any) -> None:
    with _client(data_dir) as client:
        answer = client.instruct(why, **action)
    click.echo(f"{said} (ledger entry {answer.sequence})")


def _change(role: str, identity: str) -> operator_pb2.RoleChange:
    return operator_pb2.RoleChange(identity_id=identity, role=operator_pb2.Role.Value(f"ROLE_{role.upper()}"))


def _command(function: Callable[..., None]) -> click.Command:
    return click.command()(DATA(WHY(function)))


@_command
@ROLE
@IDENTITY
def grant(data_dir: Path, why: str, role: str, identity: str) -> None:
    """Give IDENTITY a role."""
    _instruct(data_dir, why, f"{identity} is {role} now", grant=_change(role, identity))


@_command
@ROLE
@IDENTITY
def revoke(data_dir: Path, why: str, role: str, identity: str) -> None:
    """Take a role away from IDENTITY."""
    _instruct(data_dir, why, f"{identity} is no {role} any more", revoke=_change(role, identity))


@_command
@IDENTITY
@click.option(
    "--exclude-results", is_flag=True, help="Its past results count no more either, until it is let in again."
)
def ban(data_dir: Path, why: str, identity: str, exclude_results: bool) -> None:
    """Shut IDENTITY out: no enrolment, no trials, no patches. What it measured goes on counting."""
    out = f"{identity} is shut out" + (", and its results do not count" if exclude_results else "")
    order = operator_pb2.Ban(identity_id=identity, exclude_results=exclude_results)
    _instruct(data_dir, why, out, ban=order)


@_command
@IDENTITY
def unban(data_dir: Path, why: str, identity: str) -> None:
    """Let IDENTITY take part again."""
    _instruct(data_dir, why, f"{identity} may take part again", lift_ban=operator_pb2.Ban(identity_id=identity))


@_command
@IDENTITY
def quarantine(data_dir: Path, why: str, identity: str) -> None:
    """Have none of IDENTITY's results counted, past or future, until you lift it."""
    order = operator_pb2.Belief(identity_id=identity)
    _instruct(data_dir, why, f"{identity} is in quarantine", quarantine=order)


@_command
@IDENTITY
def reinstate(data_dir: Path, why: str, identity: str) -> None:
    """Lift a quarantine of IDENTITY: its results count again.

    One that the evidence gave does not come back by evidence: you vouch for it until you put it in quarantine yourself.
    """
    order = operator_pb2.Belief(identity_id=identity)
    _instruct(data_dir, why, f"{identity} is believed again", reinstate=order)


@_command
@click.option("--identity", default="", help="Whose results.")
@click.option("--since", type=click.DateTime(INSTANTS), help="Only those accepted from then on, UTC [all].")
@click.option("--result", "sequence", type=click.IntRange(0), help="One result, by its ledger entry.")
def invalidate(data_dir: Path, why: str, identity: str, since: datetime | None, sequence: int | None) -> None:
    """Have results that the ledger holds counted no more: an identity's, or one."""
    if bool(identity) is (sequence is not None) or (since is not None and not identity):
        raise click.UsageError("give --identity, with --since if you like, or --result")
    with _client(data_dir) as client:
        if sequence is None:
            since_ms = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1000)
            order = operator_pb2.Invalidation(identity_id=identity, since_ms=since_ms)
        else:
            order = _one_result(client.entry(sequence))
        answer = client.instruct(why, invalidate=order)
    click.echo(f"results of {order.identity_id} do not count any more; `undo {answer.sequence}` takes this back")


def _one_result(entry: Entry) -> operator_pb2.Invalidation:
    if entry.kind != "result":
        raise OperatorError(f"ledger entry {entry.seq} is no result but a {entry.kind}")
    body = entry.body
    return operator_pb2.Invalidation(
        identity_id=body["identity_id"], result_sha256=body["result_sha256"], sequence=entry.seq
    )


@_command
@click.argument("sequence", metavar="ENTRY", type=click.IntRange(0))
def undo(data_dir: Path, why: str, sequence: int) -> None:
    """Take back what ledger ENTRY ordered: an `invalidate`, or a `rollback`."""
    with _client(data_dir) as client:
        subject = str(client.entry(sequence).body.get("subject", ""))
        answer = client.instruct(why, restore=operator_pb2.Restoration(sequence=sequence, subject=subject))
    click.echo(f"what entry {sequence} ordered is taken back (ledger entry {answer.sequence})")


@_command
@click.argument("generation", type=click.IntRange(1))
def rollback(data_dir: Path, why: str, generation: int) -> None:
    """Take the promotion of GENERATION back out of the best; later ones stay where they merge without it."""
    with _client(data_dir) as client:
        patch_id = client.promoted(generation)
        order = operator_pb2.RollBack(patch_id=patch_id, generation=generation)
        answer = client.instruct(why, roll_back=order)
    click.echo(f"generation {generation} is being rolled back; `undo {answer.sequence}` lets its patch go on")


@_command
@PATCH
def approve(data_dir: Path, why: str, patch_id: str) -> None:
    """Let a waiting PATCH be tested."""
    _instruct(data_dir, why, f"patch {patch_id} is open", approve=operator_pb2.PatchChoice(patch_id=patch_id))


@_command
@PATCH
def refuse(data_dir: Path, why: str, patch_id: str) -> None:
    """Refuse a waiting PATCH."""
    _instruct(data_dir, why, f"patch {patch_id} is refused", refuse=operator_pb2.PatchChoice(patch_id=patch_id))


@_command
def pause(data_dir: Path, why: str) -> None:
    """Hand out no more trials; those under way go on."""
    _instruct(data_dir, why, "the swarm is paused", pause=operator_pb2.Pause())


@_command
def resume(data_dir: Path, why: str) -> None:
    """Hand out trials again."""
    _instruct(data_dir, why, "the swarm goes on", resume=operator_pb2.Pause())


@_command
@click.option("--uses", type=click.IntRange(1, limits.INVITATION_USES), default=1, show_default=True)
@click.option("--days", type=click.IntRange(1, 365), default=14, show_default=True, help="How long it is good for.")
def invite(data_dir: Path, why: str, uses: int, days: int) -> None:
    """Make an invitation and print its code, which new identities give with --invitation."""
    code = secrets.token_urlsafe(12)
    expires_at_ms = program.now_ms() + days * DAY_MS
    invitation = operator_pb2.Invitation(code_sha256=sha256_hex(code.encode()), uses=uses, expires_at_ms=expires_at_ms)
    with _client(data_dir) as client:
        client.instruct(why, invite=invitation)
    click.echo(code)


@click.command()
@DATA
def rotate(data_dir: Path) -> None:
    """Put a new key in the place of `operator.key`; identity and roles stay. Interrupted, run it again."""
    with _client(data_dir) as client:
        identity_id = client.rotate_key()
    click.echo(f"operator {identity_id} has a new key in {data_dir / OPERATOR_KEY}: keep a copy safe")


@click.command()
@DATA
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def register(data_dir: Path, as_json: bool) -> None:
    """Show roles, bans, whose results you ordered not to count, and the patches that wait for an approver."""
    with _client(data_dir) as client:
        answer = client.register()
    click.echo(json.dumps(_facts(answer)) if as_json else "\n".join(_lines(answer)))


def _facts(answer: GetRegisterResponse) -> dict[str, Any]:
    return {
        "roles": [
            {"identity_id": own.identity_id, "name": own.name, "role": _word(own.role), "holds": own.holds}
            for own in answer.roles
        ],
        "banned": [{"identity_id": own.identity_id, "name": own.name, "reason": own.reason} for own in answer.banned],
        "waiting": [
            {
                "patch_id": patch.patch_id,
                "title": patch.title,
                "author": patch.author_name,
                "findings": list(patch.findings),
            }
            for patch in answer.waiting
        ],
        "paused": answer.paused,
        "doubts": [
            {"identity_id": own.identity_id, "name": own.name, "vouched": own.vouched, "reason": own.reason}
            for own in answer.doubts
        ],
        "invalid": [
            {
                "sequence": own.sequence,
                "identity_id": own.identity_id,
                "name": own.name,
                "result_sha256": own.result_sha256,
                "since_ms": own.since_ms,
                "reason": own.reason,
            }
            for own in answer.invalid
        ],
    }


def _lines(answer: GetRegisterResponse) -> list[str]:
    lines = [f"paused: {clean_line(answer.paused, 500)}"] if answer.paused else []
    lines += [
        f"{own.identity_id}  {_word(own.role):9} {'granted' if own.holds else 'taken away'}  {_named(own.name)}"
        for own in answer.roles
    ]
    lines += [f"{own.identity_id}  banned: {clean_line(own.reason, 500)}  {_named(own.name)}" for own in answer.banned]
    for doubt in answer.doubts:
        said = "an operator vouches for it" if doubt.vouched else f"quarantined: it {clean_line(doubt.reason, 500)}"
        lines.append(f"{doubt.identity_id}  {said}  {_named(doubt.name)}")
    for own in answer.invalid:
        what = f"result {own.result_sha256[:12]}" if own.result_sha256 else f"results since {_instant(own.since_ms)}"
        why = clean_line(own.reason, 500)
        lines.append(f"{own.identity_id}  entry {own.sequence}: {what} invalid: {why}  {_named(own.name)}")
    for patch in answer.waiting:
        lines.append(f"{patch.patch_id}  waits: {clean_line(patch.title, 100)}, by {_named(patch.author_name)}")
        lines += [f"    {clean_line(finding, 200)}" for finding in patch.findings]
    return lines


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_ms else "the beginning"


def _word(role: "operator_pb2.Role.ValueType") -> str:
    return operator_pb2.Role.Name(role).removeprefix("ROLE_").lower()


def _named(name: str) -> str:
    return clean_line(name, limits.NAME_CHARACTERS)


COMMANDS = (
    approve, ban, grant, invalidate, invite, pause, quarantine, refuse, register, reinstate, resume, revoke, rollback,
    rotate, unban, undo,
)  # fmt: skip
