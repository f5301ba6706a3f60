"""The progress picture: it is there whole or not at all, whatever titles and numbers a swarm comes up with."""

import struct
from itertools import pairwise
from pathlib import Path

import pytest

from coordinator.errors import OperatorError
from coordinator.picture import DecidedTest, ProgressPoint, draw_progress

SEED = ProgressPoint(trials=3, generation=0, val_bpb=2.75, title="seed")
BETTER = ProgressPoint(trials=20, generation=1, val_bpb=2.52, title="Raise the matrix learning rate")


def size(path: Path) -> tuple[int, int]:
    """Of a PNG, in pixels: from its header."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_swarm_in_full(tmp_path: Path) -> None:
    tests = [
        DecidedTest(8, "crashed", None),
        DecidedTest(12, "parked", 2.76),
        DecidedTest(14, "disqualified", None),
        DecidedTest(15, "regressed", 1e6),
        DecidedTest(16, "a verdict of the future", 2.0),
    ]
    draw_progress([SEED, BETTER], tests, tmp_path / "new" / "progress.png")
    assert size(tmp_path / "new" / "progress.png") == (1600, 900)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["progress.png"]


def test_a_swarm_at_its_start(tmp_path: Path) -> None:
    draw_progress([ProgressPoint(0, 0, 1.0, "seed")], [], tmp_path / "progress.png")
    assert size(tmp_path / "progress.png") == (1600, 900)


def test_every_promotion_changes_the_picture(tmp_path: Path) -> None:
    points = [SEED, BETTER, ProgressPoint(30, 2, 2.5, "Depth 9")]
    for count in (1, 2, 3):
        draw_progress(points[:count], [], tmp_path / f"{count}.png")
    drawn = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert all(before != after for before, after in pairwise(drawn))


def test_the_same_swarm_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_progress([SEED, BETTER], [DecidedTest(12, "parked", 2.76)], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("title", ["$x^$", "データの並び", "\\frac{", "a\nb\x1b[31m", "%s {0}", "x" * 100, ""])
def test_any_title_is_drawn(tmp_path: Path, title: str) -> None:
    draw_progress([SEED, ProgressPoint(20, 1, 2.5, title)], [], tmp_path / "progress.png")
    assert size(tmp_path / "progress.png") == (1600, 900)


def test_years_of_promotions(tmp_path: Path) -> None:
    points = [ProgressPoint(100 * number, number, 1.0 - number / 10_000, f"step {number}") for number in range(300)]
    draw_progress(points, [], tmp_path / "progress.png")
    assert size(tmp_path / "progress.png") == (1600, 900)


def test_an_older_picture_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "progress.png").write_text("old")
    draw_progress([SEED], [], tmp_path / "progress.png")
    assert size(tmp_path / "progress.png") == (1600, 900)


def test_no_points(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least the seed"):
        draw_progress([], [], tmp_path / "progress.png")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot write the picture"):
        draw_progress([SEED], [], tmp_path / "file" / "progress.png")
    (tmp_path / "progress.png").mkdir()
    with pytest.raises(OperatorError, match="cannot write the picture"):
        draw_progress([SEED], [], tmp_path / "progress.png")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "progress.png"}
