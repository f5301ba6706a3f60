"""What a commit of the lineage says, as a function of what the ledger holds: the same entries, the same commit. Pure.

Leaves out: git (`lineage.py`), and when the best moves (`promoting.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from autoresearch.judging.model import Patch

Trailers = tuple[tuple[str, str], ...]


def first_message(name: str) -> str:
    """The message of the first commit."""
    return f"Start the swarm {name}"


def promotion_trailers(patch: Patch, decision: Mapping[str, Any], *, generation: int, entry: int) -> Trailers:
    """Of a promotion. `decision`: as its verdict's ledger entry holds it; `entry`: the promotion's own."""
    gain = "unknown" if decision["gain_bpb"] is None else f"{decision['gain_bpb']:+.6f} bpb"
    counted = f"{decision['trials']} trials, {decision['identities']} identities"
    return (
        ("Patch", patch.patch_id),
        ("Author-Identity", patch.author_id),
        ("Generation", str(generation)),
        ("Evidence", f"log odds {decision['log_odds']:.3f}, {counted}"),
        ("Gain", gain),
        ("Ledger-Entry", str(entry)),
    )


def rollback_trailers(undone: Sequence[int], reason: str, *, generation: int, entry: int) -> Trailers:
    """Of a roll-back."""
    return (
        ("Undone-Generations", ", ".join(map(str, undone))),
        ("Generation", str(generation)),
        ("Reason", reason),
        ("Ledger-Entry", str(entry)),
    )


def committed_at(at_ms: int) -> datetime:
    """The commit's instant; git keeps whole seconds of it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)
