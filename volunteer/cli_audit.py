"""The command `audit`: whether a swarm's ledger holds, and whether what its coordinator shows follows from it.

Left out: the audit itself (`auditing.py`).
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from autoresearch.text import clean_line
from volunteer import auditing, commits, merging
from volunteer import main as program
from volunteer.auditing import Audit
from volunteer.cli_options import json_line, json_option, swarm_options
from volunteer.client import Client, swarm_address
from volunteer.errors import AuditError
from volunteer.git import Git
from volunteer.settings import Settings


@click.command()
@swarm_options
@click.argument("address", required=False)
@click.option("--file", "file", type=click.Path(path_type=Path), help="A ledger's file or folder instead.")
@json_option
def audit(settings: Settings, file: Path | None, as_json: bool) -> None:
    """Recompute everything that the swarm at ADDRESS decided, from its ledger; exit 1 at the first difference."""
    git = Git(settings.git_environment)
    merge = merging.merger(git)
    compared = False

    async def online(client: Client) -> Audit:
        nonlocal compared
        whole = await auditing.audit_swarm(client, settings.home, _tell, merge)
        if merge is not None:  # there is a git
            await commits.check(client.lineage(), whole.replay.lineage, git)
            compared = True
        return whole

    try:
        if file is not None:
            found = auditing.audit_files(file, settings.home, _coordinator(settings), _tell, merge)
        else:
            found = program.run(online, settings)
    except AuditError as error:
        if not as_json:
            raise
        click.echo(json_line({"holds": False, "entry": error.entry, "difference": clean_line(str(error), 1000)}))
        sys.exit(1)
    facts = _facts(found) | {"commits_compared": compared}
    click.echo(json_line(facts) if as_json else _text(found, facts))


def _tell(entries: int) -> None:
    click.echo(f"{entries} entries", err=True)


def _coordinator(settings: Settings) -> str:
    """Whose ledger a file must be: the coordinator's of the address given, if any; else whoever the ledger names."""
    return "" if settings.swarm is None else swarm_address(settings)[0].fingerprint or ""


def _facts(found: Audit) -> dict[str, Any]:
    best = found.replay.best
    return {
        "holds": True,
        "swarm_id": found.ledger.swarm_id,
        "coordinator": found.ledger.coordinator_id,
        "entries": found.ledger.entries,
        "last_sha256": found.ledger.last_sha256,
        "root": found.ledger.root.hex(),
        "checkpoints": found.ledger.checkpoints,
        "verdicts": auditing.verdicts(found.replay),
        "generation": best.generation,
        "commit": best.commit,
        "source_sha256": best.source_sha256,
        "quarantined": sorted(found.replay.held),
        "unsettled": list(found.unsettled),
        "texts_believed": found.ledger.unmade,
        "answers_compared": found.answers,
    }


def _text(found: Audit, facts: Mapping[str, Any]) -> str:
    verdicts = ", ".join(f"{count} {word}" for word, count in facts["verdicts"].items()) or "none yet"
    lines = [
        f"the ledger of swarm {clean_line(facts['swarm_id'], 80)} holds: {facts['entries']} entries",
        f"coordinator  {facts['coordinator']}, {facts['checkpoints']} statement(s) of it compared",
        f"verdicts     {clean_line(verdicts, 400)}: each follows from the signed results",
        f"best         generation {facts['generation']}, commit {clean_line(facts['commit'], 40)}",
        f"tree root    {facts['root']}",
    ]
    if found.answers:
        lines.append("leaderboard and best are shown as they follow")
    if facts["commits_compared"]:
        lines.append("the commits of branch best hold the sources that follow")
    if found.ledger.unmade:
        lines.append(f"{found.ledger.unmade} text(s) take a merge, and there is no git here: believed by their digests")
    if found.unsettled:
        lines.append(f"{len(found.unsettled)} patch(es) have evidence that the coordinator has not come to yet")
    return "\n".join(lines)
