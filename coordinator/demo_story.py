"""The demo's events as points of the progress picture. Pure."""

import re
import statistics
from collections.abc import Sequence

from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_pb2
from coordinator.picture import DecidedTest, ProgressPoint

_SCORE = re.compile(r"val_bpb (\d+\.\d+)$")  # of a trial that counts


def story(
    events: Sequence[board_pb2.Event], patches: Sequence[patch_pb2.Patch]
) -> tuple[list[ProgressPoint], list[DecidedTest]]:
    """Bests and other verdicts over the trials that were run. A source's val_bpb is the mean of its completed trials,
    whatever they were run for: a best's own baselines too."""
    scores: dict[str, list[float]] = {}  # by source
    bests: list[tuple[int, str, str]] = []  # trials so far, source, title
    decided: dict[str, tuple[int, str]] = {}
    sources: dict[str, str] = {}  # of patches that somebody ran
    known = {patch.patch_id: patch for patch in patches}
    trials = 0
    for event in events:
        if event.kind == "result":
            trials += 1
            sources.setdefault(event.patch_id, event.source_sha256)
            if score := _SCORE.search(event.text):
                scores.setdefault(event.source_sha256, []).append(float(score[1]))
        elif event.kind == "genesis":
            bests.append((0, event.source_sha256, "where the swarm started"))
        elif event.kind == "promotion":
            title = known[event.patch_id].title if event.patch_id in known else event.patch_id
            bests.append((trials, event.source_sha256, title))
        elif event.kind == "rollback":
            bests.append((trials, event.source_sha256, "taken back"))
        elif event.kind == "verdict" and event.patch_id in known:
            word = patch_pb2.Verdict.Name(known[event.patch_id].verdict).removeprefix("VERDICT_").lower()
            decided[event.patch_id] = (trials, word)
    means = {source: statistics.fmean(found) for source, found in scores.items()}
    points = [
        ProgressPoint(at, generation, means[source], title)
        for generation, (at, source, title) in enumerate(bests)
        if source in means
    ]
    tests = [
        DecidedTest(at, word, means.get(sources.get(patch_id, "")))
        for patch_id, (at, word) in decided.items()
        if word != "promoted"
    ]
    return points, tests
