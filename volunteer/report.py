"""Turns a swarm's answers into text for a terminal. Every text from the swarm is cleaned on the way.

Left out: JSON (`cli_options.py`), and the live view of a volunteer at work (`display.py`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoresearch import limits
from autoresearch.text import clean_line, clean_text
from autoresearch.v1.leaderboard_service_pb2 import (
    Event,
    GetLeaderboardResponse,
    GetStatusResponse,
    QuarantinedIdentity,
    Standing,
)
from autoresearch.v1.patch_pb2 import (
    Best,
    ClassEvidence,
    Confirmation,
    Evidence,
    Juror,
    Patch,
    PatchTrial,
    RollBackProposal,
    Verdict,
)
from autoresearch.v1.trial_pb2 import Outcome

_BAR: Final = 24  # characters of an evidence bar
_COLOURS: Final = {"promoted": "green", "open": "cyan", "parked": "yellow", "withdrawn": "dim"}


def verdict_word(verdict: "Verdict.ValueType") -> str:
    """`promoted`, `open`, ..."""
    known = Verdict.DESCRIPTOR.values_by_number.get(verdict)
    return known.name.removeprefix("VERDICT_").lower() if known else f"verdict {verdict}"


def outcome_words(outcome: "Outcome.ValueType") -> str:
    """`completed`, `timed out`, ..."""
    known = Outcome.DESCRIPTOR.values_by_number.get(outcome)
    return known.name.removeprefix("OUTCOME_").lower().replace("_", " ") if known else f"outcome {outcome}"


def patches(listed: list[Patch]) -> RenderableType:
    """One row per patch."""
    if not listed:
        return Text("no patches")
    table = _table("id", "verdict", "evidence", "gain", "trials", "title", "author")
    for patch in listed:
        word = verdict_word(patch.verdict)
        evidence = patch.evidence
        table.add_row(
            _line(patch.patch_id, 16),
            Text(word, style=_COLOURS.get(word, "red")),
            _bar(evidence.progress, 10),
            _gain(evidence),
            f"{evidence.trials}" + (f"+{evidence.in_flight}" if evidence.in_flight else ""),
            _line(patch.title, limits.TITLE_CHARACTERS),
            _line(patch.author_name, limits.NAME_CHARACTERS),
        )
    return table


def patch(shown: Patch, *, with_diff: bool = False) -> RenderableType:
    """Everything about one patch."""
    word = verdict_word(shown.verdict)
    parts: list[RenderableType] = [
        Text.assemble(
            _line(shown.patch_id, 16), "  ", (word, _COLOURS.get(word, "red")), "  ", _line(shown.title, 100)
        ),
        Text.assemble("by ", _line(shown.author_name, 40), " on ", _time(shown.submitted_at_ms)),
        Text.assemble(f"on generation {shown.base_generation}, commit ", _line(shown.base_commit, 40)),
    ]
    if shown.reason:
        parts.append(_line(shown.reason, limits.REASON_CHARACTERS))
    if shown.rationale:
        parts += [Text(""), Text(clean_text(shown.rationale, limits.RATIONALE_CHARACTERS))]
    if shown.findings:
        parts += [Text(""), Text("reaches beyond training (a hint, not a proof):")]
        parts += [Text.assemble("  ", _line(finding, limits.REASON_CHARACTERS)) for finding in shown.findings]
    parts += [Text(""), *_evidence(shown.evidence)]
    if shown.promoted_generation:
        parts += [Text(""), *_promotion(shown)]
    if shown.trials:
        parts += [Text(""), _trials(shown.trials)]
    failed = next((trial for trial in reversed(shown.trials) if trial.log_tail), None)
    if failed is not None:
        heading = f"end of the output for {clean_line(failed.volunteer_name, limits.NAME_CHARACTERS)}:"
        parts += [Text(""), Text(heading), Text(clean_text(failed.log_tail, limits.LOG_TAIL_CHARACTERS).rstrip())]
    if with_diff:
        parts += [Text(""), Text(clean_text(shown.diff.decode("utf-8", "replace"), limits.DIFF_BYTES))]
    return Group(*parts)


def evidence_line(shown: Patch) -> str:
    """One line for a person who waits."""
    evidence = shown.evidence
    running = f", {evidence.in_flight} running" if evidence.in_flight else ""
    sentence = clean_line(evidence.sentence, limits.REASON_CHARACTERS) or "no evidence yet"
    return f"{verdict_word(shown.verdict)}: {sentence} ({evidence.trials} trial(s){running})"


def leaderboard(board: GetLeaderboardResponse) -> RenderableType:
    """Volunteers by trials, authors by gain."""
    volunteers = _table("#", "volunteer", "trials", "training given", "agrees", title="volunteers")
    for standing in board.volunteers:
        agrees = f"{standing.agreement:.0%}" if standing.HasField("agreement") else ""
        volunteers.add_row(*_who(standing), f"{standing.trials}", _duration(standing.train_ms), agrees)
    authors = _table("#", "author", "promotions", "gain (bpb)", title="authors")
    for standing in board.authors:
        authors.add_row(*_who(standing), f"{standing.promotions}", f"{standing.gain_bpb:.4f}")
    return Group(volunteers, authors)


def best(shown: Best) -> RenderableType:
    """The best and its scores."""
    parts: list[RenderableType] = [
        Text.assemble(f"generation {shown.generation}, commit ", _line(shown.commit, 40)),
        Text.assemble("source ", _line(shown.source_sha256, 64)),
    ]
    if shown.patch_id:
        parts.append(
            Text.assemble(
                "made by patch ", _line(shown.patch_id, 16), " (", _line(shown.title, 100), ") of ",
                _line(shown.author_name, 40), " on ", _time(shown.promoted_at_ms),
            )
        )  # fmt: skip
    if shown.undone:
        parts.append(Text(f"takes back generation {', '.join(map(str, shown.undone))}"))
    if shown.HasField("confirmation"):
        parts += _confirmation(shown.confirmation)
    parts += _proposals(shown.proposals)
    scores = _table("hardware class", "val_bpb", "trials", "sd of one")
    for score in shown.scores:
        name = _line(score.hardware_class, 200)
        scores.add_row(name, f"{score.val_bpb:.4f}", f"{score.trials}", f"{score.sd_bpb:.4f}")
    own = [
        Text.assemble(
            "own improvement of ", _line(score.hardware_class, 200), ": patch ", _line(found.patch_id, 16), " (",
            _line(found.title, 100), f"), {found.gain_bpb:+.4f} bpb",
        )
        for score in shown.scores
        for found in score.own_improvements
    ]  # fmt: skip
    return Group(*parts, scores if shown.scores else Text("no scores yet"), *own)


def status(now: GetStatusResponse) -> RenderableType:
    """Counts, and a row per trial under way."""
    head = (
        f"swarm {clean_line(now.swarm_id, 80)}, challenge {clean_line(now.challenge_name, 80)}, "
        f"budget {now.budget_ms / 1000:g} s, generation {now.generation}\n"
        f"{now.machines_active} of {now.machines} machine(s) active, {now.identities} identities, "
        f"{now.patches_open} of {now.patches} patch(es) open, {now.trials} trial(s), "
        f"{now.ledger_entries} ledger entries"
    )
    table = _table("volunteer", "runs", "hardware class", "stage", "budget", "step", "loss")
    for trial in now.live:
        runs = f"patch {clean_line(trial.patch_id, 16)}" if trial.patch_id else "the best"
        table.add_row(
            _line(trial.volunteer_name, 40), runs, _line(trial.hardware_class, 200), _line(trial.stage, 20),
            _bar(trial.share, 10), f"{trial.step}", f"{trial.loss:.3f}" if trial.loss else "",
        )  # fmt: skip
    warnings = [*_proposals(now.proposals), *_quarantined(now.quarantined)]
    unseen = now.live_trials - len(now.live)
    more = [Text(f"and {unseen} more trial(s) under way")] if unseen > 0 else []
    return Group(Text(head), *warnings, table if now.live else Text("no trial under way"), *more)


def event(happened: Event) -> Text:
    """One line."""
    return Text.assemble(
        (f"{happened.sequence:6} ", "dim"), _time(happened.at_ms), "  ",
        _line(happened.kind, 20), "  ", _line(happened.text, limits.REASON_CHARACTERS),
    )  # fmt: skip


def show(console: Console, answer: RenderableType) -> None:
    """Prints without taking any text for markup."""
    console.print(answer, soft_wrap=isinstance(answer, Text))


def _evidence(evidence: Evidence) -> list[RenderableType]:
    odds = f"{evidence.log_odds:+.2f} of {evidence.promote_above:+.2f}"
    parts: list[RenderableType] = [
        Text.assemble("evidence ", _bar(evidence.progress, _BAR), f" {odds}  ({_lower_bounds(evidence)})")
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
        parts.append(_line(evidence.sentence, limits.REASON_CHARACTERS))
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
    table = _table("hardware class", "identities", "gain (bpb)", "95 % between", "")
    for own in classes:
        remark = "worse" if own.worse else "its own improvement" if own.own_improvement else ""
        table.add_row(
            _line(own.hardware_class, 200),
            f"{own.identities}",
            f"{own.gain_bpb:+.4f} ± {own.standard_error_bpb:.4f}",
            f"{own.gain_low_bpb:+.4f} and {own.gain_high_bpb:+.4f}",
            remark,
        )
    return table


def _promotion(shown: Patch) -> list[RenderableType]:
    """What came of it as a part of the best."""
    parts: list[RenderableType] = [Text(f"promoted as generation {shown.promoted_generation}")]
    if shown.rolled_back_generation:
        parts = [Text(f"promoted as generation {shown.promoted_generation}, "
                      f"taken back by generation {shown.rolled_back_generation}")]  # fmt: skip
    if shown.HasField("confirmation"):
        parts += _confirmation(shown.confirmation)
    elif not shown.rolled_back_generation:
        parts.append(Text("confirmed gain: nobody has measured the best before and after it yet"))
    return parts


def _confirmation(own: Confirmation) -> list[RenderableType]:
    if not own.HasField("gain_bpb"):
        return [Text("confirmed gain: nobody has measured the best before and after it yet")]
    together = f", together with {len(own.generations) - 1} other(s)" if len(own.generations) > 1 else ""
    stands = "; it stands" if own.over else ""
    return [
        Text(f"confirmed gain {own.gain_bpb:+.4f} bpb{_interval(own)}, by {own.identities} volunteer(s){together}"),
        Text(f"audit    {own.log_odds_worse:+.2f} that it is worse; rolled back at {own.roll_back_above:+.2f}{stands}"),
        *([_classes(own.classes)] if len(own.classes) > 1 else []),
    ]


def _proposals(proposals: Iterable[RollBackProposal]) -> list[RenderableType]:
    return [
        Text.assemble(
            (f"generation {own.generation} should be rolled back: ", "red"),
            _line(own.reason, limits.REASON_CHARACTERS),
        )
        for own in proposals
    ]  # fmt: skip


def _quarantined(identities: Iterable[QuarantinedIdentity]) -> list[RenderableType]:
    return [
        Text.assemble(
            (clean_line(own.name, limits.NAME_CHARACTERS) or clean_line(own.identity_id, 8), "yellow"),
            (" is in quarantine: ", "yellow"), _line(f"it {own.reason}", limits.REASON_CHARACTERS),
            " since ", _time(own.since_ms),
        )
        for own in identities
    ]  # fmt: skip


def _votes(evidence: Evidence) -> Table:
    table = _table("juror", "identity", "vote", "gain (bpb)")
    for vote in evidence.votes:
        gain = "no pair yet"
        if vote.HasField("gain_bpb"):
            gain = f"{vote.gain_bpb:+.4f}" + (f" ± {vote.sd_bpb:.4f}" if vote.HasField("sd_bpb") else "")
        table.add_row(
            _line(vote.name, limits.NAME_CHARACTERS), _line(vote.identity_id, 32), f"{vote.log_odds:+.2f}", gain
        )
    return table


def _trials(trials: Iterable[PatchTrial]) -> Table:
    table = _table("entry", "when", "volunteer", "outcome", "val_bpb", "reason")
    for trial in trials:
        outcome = outcome_words(trial.outcome)
        why = (
            " (invalidated, not counted)"
            if trial.invalidated
            else " (disturbed, not counted)"
            if trial.disturbed
            else ""
        )
        table.add_row(
            f"{trial.sequence}",
            _time(trial.accepted_at_ms),
            _line(trial.volunteer_name, limits.NAME_CHARACTERS),
            outcome + why,
            f"{trial.val_bpb:.4f}" if trial.HasField("val_bpb") else "",
            _line(trial.invalidated or trial.reason, limits.REASON_CHARACTERS),
        )
    return table


def _table(*headings: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _who(standing: Standing) -> tuple[str, Text]:
    name = clean_line(standing.name, limits.NAME_CHARACTERS) or clean_line(standing.identity_id, 32)
    return f"{standing.rank}", Text(name)


def _gain(evidence: Evidence) -> str:
    return f"{evidence.gain_bpb:+.4f}" if evidence.HasField("gain_bpb") else ""


def _bar(share: float, width: int) -> str:
    filled = round(min(1.0, max(0.0, share)) * width)
    return "█" * filled + "░" * (width - filled)


def _line(text: str, most: int) -> Text:
    return Text(clean_line(text, most))


def _duration(duration_ms: int) -> str:
    minutes = duration_ms / 60_000
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _time(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "an impossible time"
