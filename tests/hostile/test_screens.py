"""What a hostile coordinator, author or volunteer says, on the screens of others: text, no command to a terminal.

Every answer that a volunteer's commands print is made up, with control characters, direction marks and markup in every
text of it.
"""

import io
import unicodedata
from collections.abc import Callable

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from autoresearch.judging import ledger
from autoresearch.v1.leaderboard_service_pb2 import Event, GetLeaderboardResponse, GetStatusResponse
from autoresearch.v1.patch_pb2 import Best, Patch
from coordinator import views
from tests.hostile import messages
from volunteer import report
from volunteer.cli_options import json_line, to_json

SCREENS: dict[str, tuple[type[Message], Callable[..., RenderableType | str]]] = {
    "patch": (Patch, lambda shown: report.patch(shown, with_diff=True)),
    "patches": (Patch, lambda shown: report.patches([shown])),
    "evidence": (Patch, report.evidence_line),
    "leaderboard": (GetLeaderboardResponse, report.leaderboard),
    "best": (Best, report.best),
    "status": (GetStatusResponse, report.status),
    "event": (Event, report.event),
}
HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
EXAMPLES = [pytest.param(25, id="short"), pytest.param(3_000, id="long", marks=pytest.mark.full)]


def harmful(shown: str) -> list[str]:
    """Characters that do something else than stand there."""
    return sorted({repr(c) for c in shown if unicodedata.category(c) in HARMFUL and c not in "\n\t"})


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", SCREENS)
def test_a_terminal_is_shown_text_alone(name: str, examples: int) -> None:
    kind, render = SCREENS[name]

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(messages.message(kind))
    def show(answer: Message) -> None:
        page = io.StringIO()
        console = Console(file=page, highlight=False, markup=False, emoji=False, width=120, color_system=None)
        console.print(render(answer))
        assert harmful(page.getvalue()) == []
        line = json_line(to_json(answer))
        assert line.isascii()
        assert line.isprintable()

    show()


@given(st.sampled_from(ledger.KINDS), st.dictionaries(st.sampled_from(["reason", "title", "name"]), messages.texts()))
@settings(max_examples=200, database=None)
def test_an_event_is_one_line_whatever_its_entry_says(kind: str, texts: dict[str, str]) -> None:
    entry = ledger.Entry(0, "", 0, kind, texts)
    try:
        shown = views.event(entry, {})
    except (KeyError, TypeError, ValueError):
        return  # not the body of such an entry: no coordinator wrote it
    assert harmful(shown.text) == []
    assert "\n" not in shown.text
