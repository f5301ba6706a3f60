"""What a person sees: little, in words, and nothing that could harm the terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from autoresearch.v1 import leaderboard_service_pb2 as board
from autoresearch.v1 import patch_pb2, trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as wire
from tests.unit.test_volunteer_session import LOST, A, Driven, no_order, opened, running
from volunteer import display, narration, report
from volunteer.results import TrialOutcome
from volunteer.session_events import Finished, LinkLost, Progress, SlotTaken, StopAsked

NASTY = "a\x1b[2Jb\u202ec\nd[red]"
CLEAN = "a [2Jb c d[red]"


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_console(**options: Any) -> Console:
    return Console(file=io.StringIO(), width=160, highlight=False, markup=False, **options)


def test_output_that_is_no_terminal_gets_plain_lines() -> None:
    assert type(display.make(make_console(), quiet=False, clock=lambda: 100.0)) is display.Plain
    assert type(display.make(make_console(), quiet=True, clock=lambda: 100.0)) is display.Quiet


def test_a_plain_log_has_a_line_for_each_stage_and_quarter() -> None:
    console = make_console()
    show, driven = display.Plain(console), running()
    for stage, share in (("starting", 0), ("training", 0.1), ("training", 0.2), ("training", 0.3), ("exam", 0.0)):
        driven.on(Progress(A, stage, share, 5, 2.5, contended=True))
        show.show(driven.state, driven.now_s)
    assert printed(console).splitlines() == [
        "trial of source eeeeeeee: starting up",
        "trial of source eeeeeeee: training 10%, step 5, loss 2.500",
        "trial of source eeeeeeee: training 30%, step 5, loss 2.500",
        "trial of source eeeeeeee: examining",
    ]


def test_a_wait_that_comes_back_is_told_once() -> None:
    console = make_console()
    show, driven = display.Plain(console), opened()
    for request in (1, 2, 3):
        show.show(driven.state, driven.now_s)
        driven.on(SlotTaken())
        show.show(driven.state, driven.now_s)
        driven.on(no_order(request))
        show.show(driven.state, driven.now_s)
        driven.later(6)
    assert printed(console).splitlines() == [
        "waiting for a slot: the volunteers of this machine take turns",
        "asking for an order",
        "waiting: nothing to do; asking again in 5 s",
    ]


def test_every_wait_has_its_reason() -> None:
    driven = Driven()
    assert narration.doing(driven.state, 0) == "connecting to the coordinator"
    driven = opened()
    driven.on(LinkLost("no coordinator answers", retry=True, chance=1.0))
    assert narration.doing(driven.state, driven.now_s) == "offline: no coordinator answers; trying again in 1 s"
    driven = running()
    driven.on(StopAsked(), Finished(A, "f" * 64))
    assert narration.doing(driven.state, driven.now_s) == "delivering 1 result(s), then stopping"
    driven = running()
    driven.on(StopAsked(at_once=True))
    assert narration.doing(driven.state, driven.now_s).endswith("; stopping")


def test_a_trial_that_runs_offline_says_so() -> None:
    driven = running()
    driven.on(LOST)
    before = narration.milestone(driven.state)
    driven.later(1)
    driven.on(LOST)
    assert narration.milestone(driven.state) == before, "not a new line for every attempt"
    assert "offline: the line broke" in narration.doing(driven.state, driven.now_s)


def test_the_live_view_shows_progress_and_earnings() -> None:
    console = make_console(force_terminal=True)
    show, driven = display.make(console, quiet=False, clock=lambda: 100.0), running()
    assert isinstance(show, display.Rich)
    show.preparing("reading\x1b[2J", 0.5)
    driven.on(Progress(A, "training", 0.5, 5, 2.5, contended=True))
    show.show(driven.state, driven.now_s)
    show.finished(TrialOutcome(trial_pb2.OUTCOME_COMPLETED, val_bpb=2.25, steps=9, train_ms=120_000))
    show.acknowledged(wire.ResultAck(result_sha256="f" * 64, status=wire.RESULT_STATUS_ACCEPTED))
    show.close()
    text = printed(console)
    assert "trial completed: val_bpb 2.2500, 9 steps" in text
    assert "stopped: 1 result(s) accepted, 2.0 min of training given" in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (TrialOutcome(trial_pb2.OUTCOME_OUT_OF_MEMORY, NASTY), f"trial ended: out of memory ({CLEAN})"),
        (
            TrialOutcome(trial_pb2.OUTCOME_COMPLETED, val_bpb=2.0, disturbed="busy"),
            "trial completed: val_bpb 2.0000, 0 steps; disturbed: busy",
        ),
    ],
)
def test_how_a_trial_ended(outcome: TrialOutcome, words: str) -> None:
    console = make_console()
    display.Plain(console).finished(outcome)
    assert printed(console).strip() == words


def test_a_refused_result_is_told_with_the_reason() -> None:
    console = make_console()
    show = display.Plain(console)
    show.acknowledged(
        wire.ResultAck(result_sha256="f" * 64, status=wire.RESULT_STATUS_REFUSED, reason="the lease\nhad ended")
    )
    assert printed(console).strip() == "the coordinator refused result ffffffff: the lease had ended"
    assert show.earnings.line() == "0 result(s) accepted, 1 refused, 0.0 min of training given"


def test_answers_with_hostile_text_are_harmless() -> None:
    patch = patch_pb2.Patch(
        patch_id=NASTY, title=NASTY, rationale=NASTY, author_name=NASTY, reason=NASTY, base_commit=NASTY,
        verdict=99, submitted_at_ms=2**62, diff=NASTY.encode() + b"\xff",
    )  # fmt: skip
    patch.evidence.sentence = NASTY
    patch.evidence.votes.add(name=NASTY, identity_id=NASTY, gain_bpb=float("nan"))
    patch.evidence.progress = float("inf")
    for jurors in (patch.evidence.hangs_on, patch.evidence.excluded):
        jurors.add(name=NASTY, identity_id=NASTY)
    patch.evidence.classes.add(hardware_class=NASTY, gain_bpb=float("nan"))
    patch.promoted_generation, patch.rolled_back_generation = 1, 2
    patch.confirmation.gain_bpb = float("nan")
    patch.confirmation.classes.extend(2 * list(patch.evidence.classes))
    standing = board.Standing(name=NASTY, identity_id=NASTY)
    status = board.GetStatusResponse(swarm_id=NASTY, challenge_name=NASTY)
    status.live.add(volunteer_name=NASTY, patch_id=NASTY, stage=NASTY, hardware_class=NASTY, share=7.0)
    best = patch_pb2.Best(commit=NASTY, patch_id=NASTY, title=NASTY)
    best.scores.add(hardware_class=NASTY).own_improvements.add(patch_id=NASTY, title=NASTY)
    best.proposals.add(title=NASTY, reason=NASTY, patch_id=NASTY)
    status.proposals.extend(best.proposals)
    status.quarantined.add(name=NASTY, identity_id=NASTY, reason=NASTY, suspicion=NASTY, since_ms=2**62)
    for answer in (
        report.patches([patch]),
        report.patches([]),
        report.patch(patch, with_diff=True),
        report.leaderboard(board.GetLeaderboardResponse(volunteers=[standing], authors=[standing])),
        report.status(status),
        report.best(best),
        report.event(board.Event(kind=NASTY, text=NASTY, at_ms=-(2**62))),
    ):
        console = make_console()
        report.show(console, answer)
        assert "\x1b" not in printed(console)
        assert "\u202e" not in printed(console)
        assert printed(console)
    console = make_console()
    report.show(console, report.patch(patch))
    assert "verdict 99" in printed(console)


def test_a_patch_page_shows_bounds_classes_whom_it_hangs_on_and_the_confirmed_gain() -> None:
    patch = patch_pb2.Patch(patch_id="d114", title="Wider", promoted_generation=3)
    evidence = patch.evidence
    evidence.log_odds, evidence.promote_above, evidence.park_below, evidence.reject_below = 4.9, 4.605, -0.1, -4.605
    evidence.gain_bpb, evidence.gain_low_bpb, evidence.gain_high_bpb, evidence.expected_gain_bpb = (
        0.02,
        0.01,
        0.03,
        0.015,
    )
    evidence.hangs_on.add(name="ada")
    evidence.hangs_on.add(identity_id="b" * 32)
    evidence.excluded.add(name="eve")
    evidence.classes.add(hardware_class="H100", identities=2, gain_bpb=0.02, own_improvement=True)
    evidence.classes.add(hardware_class="RTX 3060", identities=1, gain_bpb=-0.02, worse=True)
    patch.confirmation.generations.extend([2, 3])
    patch.confirmation.gain_bpb, patch.confirmation.identities = 0.012, 4
    patch.confirmation.log_odds_worse, patch.confirmation.roll_back_above = -3.1, 4.605
    console = make_console()
    report.show(console, report.patch(patch))
    text = printed(console)
    for line in (
        "+4.90 of +4.61  (parked below -0.10, rejected at -4.61)",
        "gain     +0.0200 bpb, 95 % between +0.0100 and +0.0300; selected for it, so expect +0.0150",
        f"hangs on ada, {'b' * 32}",
        "left out eve (in quarantine)",
        "its own improvement",
        "promoted as generation 3",
        "confirmed gain +0.0120 bpb, by 4 volunteer(s), together with 1 other(s)",
        "audit    -3.10 that it is worse; rolled back at +4.61",
    ):
        assert line in text


def test_status_and_best_warn_of_quarantines_and_of_promotions_that_should_go() -> None:
    status = board.GetStatusResponse()
    status.quarantined.add(name="eve", reason="answers as if it had not run them", since_ms=0)
    status.proposals.add(generation=3, title="Wider", reason="its promotion does not stand without eve")
    best = patch_pb2.Best(generation=5, undone=[3])
    best.proposals.extend(status.proposals)
    console = make_console()
    report.show(console, report.status(status))
    report.show(console, report.best(best))
    text = " ".join(printed(console).split())
    assert "eve is in quarantine: it answers as if it had not run them since 1970-01-01" in text
    assert text.count("generation 3 should be rolled back: its promotion does not stand without eve") == 2
    assert "takes back generation 3" in text
