"""What the demo's picture says of a swarm's events: every number beside the source that it was measured on."""

import pytest

from autoresearch.v1.leaderboard_service_pb2 import Event
from autoresearch.v1.patch_pb2 import VERDICT_CRASHED, VERDICT_PARKED, VERDICT_PROMOTED, Patch
from coordinator.demo_story import story
from coordinator.picture import DecidedTest, ProgressPoint

PATCHES = [
    Patch(patch_id="p1", title="better", verdict=VERDICT_PROMOTED),
    Patch(patch_id="p2", title="no better", verdict=VERDICT_PARKED),
    Patch(patch_id="p3", title="broken", verdict=VERDICT_CRASHED),
]


def result(source: str, score: float | None, patch_id: str = "") -> Event:
    ended = "crashed" if score is None else f"val_bpb {score:.4f}"
    what = f"patch {patch_id}" if patch_id else "the best"
    return Event(kind="result", text=f"ada ran {what}: {ended}", patch_id=patch_id, source_sha256=source)


def test_baselines_after_a_promotion_are_the_new_bests() -> None:
    events = [
        Event(kind="genesis", source_sha256="seed"),
        result("seed", 2.25),
        result("p1's", 2.12, "p1"),
        result("p2's", 2.27, "p2"),
        Event(kind="verdict", patch_id="p2"),
        Event(kind="promotion", patch_id="p1", source_sha256="p1's"),
        result("p1's", 2.10),
        result("seed", 2.23),  # was under way
        result("p3's", None, "p3"),
        Event(kind="verdict", patch_id="p3"),
        Event(kind="result", text="ada ran the best: val_bpb 9.0000 (disturbed, not counted)", source_sha256="p1's"),
    ]
    points, tests = story(events, PATCHES)
    assert points == [
        ProgressPoint(0, 0, pytest.approx(2.24), "where the swarm started"),
        ProgressPoint(3, 1, pytest.approx(2.11), "better"),
    ]
    assert tests == [DecidedTest(3, "parked", 2.27), DecidedTest(6, "crashed", None)]


def test_a_roll_back_is_a_best_too() -> None:
    events = [
        Event(kind="genesis", source_sha256="seed"),
        result("seed", 2.25),
        result("p1's", 2.30, "p1"),
        Event(kind="promotion", patch_id="p1", source_sha256="p1's"),
        Event(kind="rollback", source_sha256="seed"),
    ]
    points, _ = story(events, PATCHES)
    assert [(point.generation, point.val_bpb, point.title) for point in points[1:]] == [
        (1, 2.30, "better"),
        (2, 2.25, "taken back"),
    ]


def test_a_best_that_nobody_measured_is_no_point() -> None:
    assert story([Event(kind="genesis", source_sha256="seed")], []) == ([], [])
