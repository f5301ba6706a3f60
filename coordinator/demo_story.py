"""The demo's events as points of the progress picture. Pure."""

import re
import statistics
from collections.abc import Sequence

from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_pb2
from coordinator.picture import DecidedTest, ProgressPoint

_SCORE = re.compile(r"val_bpb (\d+\.\d+)$")


def story(
    events: Sequence[board_pb2.Event], patches: Sequence[patch_pb2.Patch]
) -> tuple[list[ProgressPoint], list[DecidedTest]]:
    """Bests and other verdicts over the trials that were run. A best's val_bpb is the mean of its completed trials."""
    scores: dict[str, list[float]] = {}
    promoted: list[tuple[int, str]] = []
    decided: dict[str, tuple[int, str]] = {}
    words = {
        patch.patch_id: patch_pb2.Verdict.Name(patch.verdict).removeprefix("VERDICT_").lower() for patch in patches
    }
    trials = 0
    for event in events:
        trials += event.kind == "result"
        score = _SCORE.search(event.text) if event.kind == "result" else None
        if score:
            scores.setdefault(event.patch_id, []).append(float(score[1]))
        if event.kind == "promotion":
            promoted.append((trials, event.patch_id))
        elif event.kind == "verdict":
            decided[event.patch_id] = (trials, words.get(event.patch_id, "parked"))
    means = {patch_id: statistics.fmean(found) for patch_id, found in scores.items()}
    titles = {patch.patch_id: patch.title for patch in patches}
    start = [ProgressPoint(0, 0, means[""], "where the swarm started")] if "" in means else []
    points = start + [
        ProgressPoint(at, generation, means[patch_id], titles.get(patch_id, patch_id))
        for generation, (at, patch_id) in enumerate(promoted, start=1)
        if patch_id in means
    ]
    tests = [
        DecidedTest(at, word, means.get(patch_id)) for patch_id, (at, word) in decided.items() if word != "promoted"
    ]
    return points, tests
