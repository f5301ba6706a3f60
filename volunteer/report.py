"""Turns a swarm's answers into text for a terminal. Every text from the swarm is cleaned on the way.

Left out: the evidence on a patch (`report_evidence.py`), what all of it is made of (`screen.py`), JSON
(`cli_options.py`), and the live view of a volunteer at work (`display.py`).
"""

from collections.abc import Iterable
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
from autoresearch.v1.patch_pb2 import Best, Evidence, Patch, PatchTrial, RollBackProposal
from volunteer import report_evidence, screen

_COLOURS: Final = {"promoted": "green", "open": "cyan", "parked": "yellow", "withdrawn": "dim"}


def patches(listed: list[Patch]) -> RenderableType:
    """One row per patch."""
    if not listed:
        return Text("no patches")
    table = screen.table("id", "verdict", "evidence", "gain", "trials", "title", "author")
    for patch in listed:
        word = screen.verdict_word(patch.verdict)
        evidence = patch.evidence
        table.add_row(
            screen.line(patch.patch_id, 16),
            Text(word, style=_COLOURS.get(word, "red")),
            screen.bar(evidence.progress, 10),
            _gain(evidence),
            f"{evidence.trials}" + (f"+{evidence.in_flight}" if evidence.in_flight else ""),
            screen.line(patch.title, limits.TITLE_CHARACTERS),
            screen.line(patch.author_name, limits.NAME_CHARACTERS),
        )
    return table


def patch(shown: Patch, *, with_diff: bool = False) -> RenderableType:
    """Everything about one patch."""
    word = screen.verdict_word(shown.verdict)
    parts: list[RenderableType] = [
        Text.assemble(
            screen.line(shown.patch_id, 16),
            "  ",
            (word, _COLOURS.get(word, "red")),
            "  ",
            screen.line(shown.title, 100),
        ),
        Text.assemble("by ", screen.line(shown.author_name, 40), " on ", screen.instant(shown.submitted_at_ms)),
        Text.assemble(f"on generation {shown.base_generation}, commit ", screen.line(shown.base_commit, 40)),
    ]
    if shown.reason:
        parts.append(screen.line(shown.reason, limits.REASON_CHARACTERS))
    if shown.rationale:
        parts += [Text(""), Text(clean_text(shown.rationale, limits.RATIONALE_CHARACTERS))]
    if shown.findings:
        parts += [Text(""), Text("reaches beyond training (a hint, not a proof):")]
        parts += [Text.assemble("  ", screen.line(finding, limits.REASON_CHARACTERS)) for finding in shown.findings]
    parts += [Text(""), *report_evidence.of_patch(shown.evidence)]
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
    return f"{screen.verdict_word(shown.verdict)}: {sentence} ({evidence.trials} trial(s){running})"


def leaderboard(board: GetLeaderboardResponse) -> RenderableType:
    """Volunteers by trials, authors by gain."""
    volunteers = screen.table("#", "volunteer", "trials", "training given", "agrees", title="volunteers")
    for standing in board.volunteers:
        agrees = f"{standing.agreement:.0%}" if standing.HasField("agreement") else ""
        volunteers.add_row(*_who(standing), f"{standing.trials}", screen.duration(standing.train_ms), agrees)
    authors = screen.table("#", "author", "promotions", "gain (bpb)", title="authors")
    for standing in board.authors:
        authors.add_row(*_who(standing), f"{standing.promotions}", f"{standing.gain_bpb:.4f}")
    return Group(volunteers, authors)


def best(shown: Best) -> RenderableType:
    """The best and its scores."""
    parts: list[RenderableType] = [
        Text.assemble(f"generation {shown.generation}, commit ", screen.line(shown.commit, 40)),
        Text.assemble("source ", screen.line(shown.source_sha256, 64)),
    ]
    if shown.patch_id:
        parts.append(
            Text.assemble(
                "made by patch ", screen.line(shown.patch_id, 16), " (", screen.line(shown.title, 100), ") of ",
                screen.line(shown.author_name, 40), " on ", screen.instant(shown.promoted_at_ms),
            )
        )  # fmt: skip
    if shown.undone:
        parts.append(Text(f"takes back generation {', '.join(map(str, shown.undone))}"))
    if shown.HasField("confirmation"):
        parts += report_evidence.of_promotion(shown.confirmation)
    parts += _proposals(shown.proposals)
    scores = screen.table("hardware class", "val_bpb", "trials", "sd of one")
    for score in shown.scores:
        name = screen.line(score.hardware_class, 200)
        scores.add_row(name, f"{score.val_bpb:.4f}", f"{score.trials}", f"{score.sd_bpb:.4f}")
    own = [
        Text.assemble(
            "own improvement of ", screen.line(score.hardware_class, 200),
            ": patch ", screen.line(found.patch_id, 16),
            " (", screen.line(found.title, 100), f"), {found.gain_bpb:+.4f} bpb",
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
    table = screen.table("volunteer", "runs", "hardware class", "stage", "budget", "step", "loss")
    for trial in now.live:
        runs = f"patch {clean_line(trial.patch_id, 16)}" if trial.patch_id else "the best"
        table.add_row(
            screen.line(trial.volunteer_name, 40), runs,
            screen.line(trial.hardware_class, 200), screen.line(trial.stage, 20),
            screen.bar(trial.share, 10), f"{trial.step}", f"{trial.loss:.3f}" if trial.loss else "",
        )  # fmt: skip
    warnings = [*_proposals(now.proposals), *_quarantined(now.quarantined)]
    unseen = now.live_trials - len(now.live)
    more = [Text(f"and {unseen} more trial(s) under way")] if unseen > 0 else []
    return Group(Text(head), *warnings, table if now.live else Text("no trial under way"), *more)


def event(happened: Event) -> Text:
    """One line."""
    return Text.assemble(
        (f"{happened.sequence:6} ", "dim"), screen.instant(happened.at_ms), "  ",
        screen.line(happened.kind, 20), "  ", screen.line(happened.text, limits.REASON_CHARACTERS),
    )  # fmt: skip


def show(console: Console, answer: RenderableType) -> None:
    """Prints without taking any text for markup."""
    console.print(answer, soft_wrap=isinstance(answer, Text))


def _promotion(shown: Patch) -> list[RenderableType]:
    """What came of it as a part of the best."""
    parts: list[RenderableType] = [Text(f"promoted as generation {shown.promoted_generation}")]
    if shown.rolled_back_generation:
        parts = [Text(f"promoted as generation {shown.promoted_generation}, "
                      f"taken back by generation {shown.rolled_back_generation}")]  # fmt: skip
    if shown.HasField("confirmation"):
        parts += report_evidence.of_promotion(shown.confirmation)
    elif not shown.rolled_back_generation:
        parts.append(Text("confirmed gain: nobody has measured the best before and after it yet"))
    return parts


def _proposals(proposals: Iterable[RollBackProposal]) -> list[RenderableType]:
    return [
        Text.assemble(
            (f"generation {own.generation} should be rolled back: ", "red"),
            screen.line(own.reason, limits.REASON_CHARACTERS),
        )
        for own in proposals
    ]  # fmt: skip


def _quarantined(identities: Iterable[QuarantinedIdentity]) -> list[RenderableType]:
    return [
        Text.assemble(
            (clean_line(own.name, limits.NAME_CHARACTERS) or clean_line(own.identity_id, 8), "yellow"),
            (" is in quarantine: ", "yellow"), screen.line(f"it {own.reason}", limits.REASON_CHARACTERS),
            " since ", screen.instant(own.since_ms),
        )
        for own in identities
    ]  # fmt: skip


def _trials(trials: Iterable[PatchTrial]) -> Table:
    table = screen.table("entry", "when", "volunteer", "outcome", "val_bpb", "reason")
    for trial in trials:
        outcome = screen.outcome_words(trial.outcome)
        why = (
            " (invalidated, not counted)"
            if trial.invalidated
            else " (disturbed, not counted)"
            if trial.disturbed
            else ""
        )
        table.add_row(
            f"{trial.sequence}",
            screen.instant(trial.accepted_at_ms),
            screen.line(trial.volunteer_name, limits.NAME_CHARACTERS),
            outcome + why,
            f"{trial.val_bpb:.4f}" if trial.HasField("val_bpb") else "",
            screen.line(trial.invalidated or trial.reason, limits.REASON_CHARACTERS),
        )
    return table


def _who(standing: Standing) -> tuple[str, Text]:
    name = clean_line(standing.name, limits.NAME_CHARACTERS) or clean_line(standing.identity_id, 32)
    return f"{standing.rank}", Text(name)


def _gain(evidence: Evidence) -> str:
    return f"{evidence.gain_bpb:+.4f}" if evidence.HasField("gain_bpb") else ""
