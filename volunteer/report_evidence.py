"""The evidence on a patch in words and tables: odds, gains, votes, and what was measured of a promotion since.

Left out: everything else that is said about a patch (`report.py`).
"""

from collections.abc import Iterable
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from autoresearch import limits
from autoresearch.text import clean_line
from autoresearch.v1.patch_pb2 import ClassEvidence, Confirmation, Evidence, Juror
from volunteer import screen

_BAR: Final = 24  # characters of an evidence bar


def of_patch(evidence: Evidence) -> list[RenderableType]:
    """How far it is, what it comes to, and who says what."""
    odds = f"{evidence.log_odds:+.2f} of {evidence.promote_above:+.2f}"
    parts: list[RenderableType] = [
        Text.assemble("evidence ", screen.bar(evidence.progress, _BAR), f" {odds}  ({_lower_bounds(evidence)})")
    ]
    if evidence.HasField("gain_bpb"):
        expected = ""
        if evidence.HasField("expected_gain_bpb"):
            expected = f"; selected for it, so expect {evidence.expected_gain_bpb:+.4f}"
        parts.append(Text(f"gain     {evidence.gain_bpb:+.4f} bpb{_interval(evidence)}{expected}"))
    parts.append(Text(f"trials   {evidence.trials} counted, {evidence.in_flight} under way"))
    if evidence.hangs_on:
        parts.append(Text.assemble("hangs on ", _jurors(evidence.hangs_on)))
    if evidence.excluded:
        parts.append(Text.assemble("left out ", _jurors(evidence.excluded), " (in quarantine)"))
    if evidence.sentence:
        parts.append(screen.line(evidence.sentence, limits.REASON_CHARACTERS))
    if evidence.classes:
        parts.append(_classes(evidence.classes))
    if evidence.votes:
        parts.append(_votes(evidence))
    return parts


def _lower_bounds(evidence: Evidence) -> str:
    parked = f"parked below {evidence.park_below:+.2f}"
    # A coordinator of an older release does not say where it rejects.
    return f"{parked}, rejected at {evidence.reject_below:+.2f}" if evidence.reject_below else parked


def _interval(gain: Evidence | Confirmation) -> str:
    if not (gain.HasField("gain_low_bpb") and gain.HasField("gain_high_bpb")):
        return ""
    return f", 95 % between {gain.gain_low_bpb:+.4f} and {gain.gain_high_bpb:+.4f}"


def _jurors(jurors: Iterable[Juror]) -> Text:
    names = [clean_line(juror.name, limits.NAME_CHARACTERS) or clean_line(juror.identity_id, 32) for juror in jurors]
    return Text(", ".join(names))


def _classes(classes: Iterable[ClassEvidence]) -> Table:
    table = screen.table("hardware class", "identities", "gain (bpb)", "95 % between", "")
    for own in classes:
        remark = "worse" if own.worse else "its own improvement" if own.own_improvement else ""
        table.add_row(
            screen.line(own.hardware_class, 200),
            f"{own.identities}",
            f"{own.gain_bpb:+.4f} ± {own.standard_error_bpb:.4f}",
            f"{own.gain_low_bpb:+.4f} and {own.gain_high_bpb:+.4f}",
            remark,
        )
    return table


def of_promotion(own: Confirmation) -> list[RenderableType]:
    """The gain that was confirmed since, by trials that nothing was selected on."""
    if not own.HasField("gain_bpb"):
        return [Text("confirmed gain: nobody has measured the best before and after it yet")]
    together = f", together with {len(own.generations) - 1} other(s)" if len(own.generations) > 1 else ""
    stands = "; it stands" if own.over else ""
    return [
        Text(f"confirmed gain {own.gain_bpb:+.4f} bpb{_interval(own)}, by {own.identities} volunteer(s){together}"),
        Text(f"audit    {own.log_odds_worse:+.2f} that it is worse; rolled back at {own.roll_back_above:+.2f}{stands}"),
        *([_classes(own.classes)] if len(own.classes) > 1 else []),
    ]


def _votes(evidence: Evidence) -> Table:
    table = screen.table("juror", "identity", "vote", "gain (bpb)")
    for vote in evidence.votes:
        gain = "no pair yet"
        if vote.HasField("gain_bpb"):
            gain = f"{vote.gain_bpb:+.4f}" + (f" ± {vote.sd_bpb:.4f}" if vote.HasField("sd_bpb") else "")
        table.add_row(
            screen.line(vote.name, limits.NAME_CHARACTERS),
            screen.line(vote.identity_id, 32),
            f"{vote.log_odds:+.2f}",
            gain,
        )
    return table
