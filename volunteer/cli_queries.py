"""Commands that only look: patches, one patch, leaderboard, best, status, events.

Left out: how an answer reads (`report.py`).
"""

import asyncio
from typing import Final

import click

from autoresearch import limits
from autoresearch.text import clean_text
from autoresearch.v1.leaderboard_service_pb2 import Event
from autoresearch.v1.patch_pb2 import VERDICT_OPEN, VERDICT_UNSPECIFIED, Verdict
from volunteer import main as program
from volunteer import report, screen
from volunteer.cli_options import json_line, json_option, print_json, stdout, swarm_options, to_json
from volunteer.client import Client
from volunteer.errors import RpcError
from volunteer.settings import Settings

_WORDS: Final = {screen.verdict_word(number): number for number in Verdict.values() if number != VERDICT_UNSPECIFIED}
_TRY_AGAIN_S: Final = 2.0


@click.command()
@swarm_options
@click.option("--open", "only_open", is_flag=True, help="Only those still being tested.")
@click.option("--verdict", "words", multiple=True, type=click.Choice(list(_WORDS)), help="Only these; may be repeated.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest so many.")
@json_option
def patches(settings: Settings, only_open: bool, words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """List patches, newest first."""
    verdicts = [_WORDS[word] for word in words] + ([VERDICT_OPEN] if only_open else [])
    answer = program.run(lambda client: client.patches(verdicts, limit), settings)
    if as_json:
        print_json(answer)
    else:
        report.show(stdout(), report.patches(list(answer.patches)))


@click.command()
@swarm_options
@click.argument("patch_id", metavar="ID")
@click.option("--diff", "with_diff", is_flag=True, help="Show the author's diff too.")
@json_option
def patch(settings: Settings, patch_id: str, with_diff: bool, as_json: bool) -> None:
    """Show one patch, its evidence and every juror's vote. ID may be the beginning of one."""
    answer = program.run(lambda client: client.patch(patch_id), settings)
    if as_json:
        print_json(answer)
    else:
        report.show(stdout(), report.patch(answer.patch, with_diff=with_diff))


@click.command()
@swarm_options
@click.option("--limit", type=click.IntRange(1, limits.PAGE_ITEMS), default=50, show_default=True, help="So many rows.")
@json_option
def leaderboard(settings: Settings, limit: int, as_json: bool) -> None:
    """Show who gave how much, and whose patches moved the best."""
    answer = program.run(lambda client: client.leaderboard(limit), settings)
    if as_json:
        print_json(answer)
    else:
        report.show(stdout(), report.leaderboard(answer))


@click.command()
@swarm_options
@click.option("--source", "with_source", is_flag=True, help="Print its train.py instead.")
@json_option
def best(settings: Settings, with_source: bool, as_json: bool) -> None:
    """Show the best so far."""

    async def ask(client: Client) -> None:
        answer = await client.best()
        source = await client.fetch_source(answer.best.source_sha256) if with_source else None
        text = (source or b"").decode("utf-8", "replace")
        if as_json:
            print_json(answer, **({} if source is None else {"source": text}))
        elif source is not None:
            click.echo(clean_text(text, limits.SOURCE_BYTES) if stdout().is_terminal else source, nl=False)
        else:
            report.show(stdout(), report.best(answer.best))

    program.run(ask, settings)


@click.command()
@swarm_options
@json_option
def status(settings: Settings, as_json: bool) -> None:
    """Show the swarm at this moment."""
    answer = program.run(lambda client: client.status(), settings)
    if as_json:
        print_json(answer)
    else:
        report.show(stdout(), report.status(answer))


@click.command()
@swarm_options
@click.option("--start", type=click.IntRange(0, 2**63 - 1), default=0, help="First sequence number wanted.")
@click.option("--follow", is_flag=True, help="Keep waiting for events to come.")
@json_option
def events(settings: Settings, start: int, follow: bool, as_json: bool) -> None:
    """Show what happened; with --json one object per line."""
    console = stdout()

    def show(event: Event) -> None:
        if as_json:
            click.echo(json_line(to_json(event)))
        else:
            report.show(console, report.event(event))

    async def watch(client: Client) -> None:
        following = start
        while True:
            try:
                async for event in client.events(following, follow=follow):
                    following = event.sequence + 1
                    show(event)
            except RpcError as error:
                if not (follow and error.retry):
                    raise
            if not follow:
                return
            await asyncio.sleep(_TRY_AGAIN_S)  # the coordinator is gone for now; the connection comes back by itself

    program.run(watch, settings)
