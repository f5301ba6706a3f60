"""What every answer on a terminal is made of: cleaned lines, tables, bars, times, the words of the protocol.

Left out: the answers (`report.py`), and the live view of a volunteer at work (`display.py`).
"""

from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from autoresearch.text import clean_line
from autoresearch.v1.patch_pb2 import Verdict
from autoresearch.v1.trial_pb2 import Outcome


def verdict_word(verdict: "Verdict.ValueType") -> str:
    """`promoted`, `open`, ..."""
    known = Verdict.DESCRIPTOR.values_by_number.get(verdict)
    return known.name.removeprefix("VERDICT_").lower() if known else f"verdict {verdict}"


def outcome_words(outcome: "Outcome.ValueType") -> str:
    """`completed`, `timed out`, ..."""
    known = Outcome.DESCRIPTOR.values_by_number.get(outcome)
    return known.name.removeprefix("OUTCOME_").lower().replace("_", " ") if known else f"outcome {outcome}"


def table(*headings: str, title: str | None = None) -> Table:
    """An empty one; what is too long for a column is folded."""
    made = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    return made


def bar(share: float, width: int) -> str:
    """`width` characters, of which a share of 0 to 1 is filled."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return "█" * filled + "░" * (width - filled)


def line(text: str, most: int) -> Text:
    """A text from the swarm as one clean line, cut to `most` characters; nothing in it is markup."""
    return Text(clean_line(text, most))


def duration(duration_ms: int) -> str:
    """In minutes, or hours where there are many."""
    minutes = duration_ms / 60_000
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def instant(at_ms: int) -> str:
    """A Unix time in milliseconds as date and time."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "an impossible time"
