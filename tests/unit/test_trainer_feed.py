"""The clock and the data: served until the budget is spent, counted by the server alone."""

import math

import numpy as np
import pytest

from trainer.feed import Feed
from trainer.packing import Packer
from trainer.result import CURVE_POINTS, Outcome, TrialEnded
from trainer.shard import MemoryShard
from trainer.wire import Frame

ROW = 9


class Clock:
    """A budget's clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def feed(clock: Clock) -> Feed:
    shard = MemoryShard(np.arange(5000, dtype="<u2"), np.array([0, 5000], dtype="<u8"))
    packer = Packer([shard], row_tokens=ROW, bos_id=60_000, seed=1)
    return Feed(packer, row_tokens=ROW, budget_s=10.0, max_rows=100, clock=clock)


def want(rows: object = 4, **more: object) -> Frame:
    return Frame({"kind": "want", "rows": rows, "step": 0, "loss": None, **more})


def test_the_clock_starts_with_the_first_batch(feed, clock):
    clock.now += 1000  # start-up
    assert feed.share() == 0
    assert feed.answer(want()).header["share"] == 0
    clock.now += 2.5
    assert feed.answer(want()).header["share"] == pytest.approx(0.25)
    assert feed.deadline_at == 1110


def test_what_was_spent_before_the_clock_can_be_charged(feed, clock):
    feed.charge(-1.0)
    feed.charge(4.0)
    assert feed.answer(want()).header["share"] == pytest.approx(0.4)
    assert feed.deadline_at == clock.now + 6


def test_a_budget_spent_before_the_first_batch_serves_none(feed):
    feed.charge(10.0)
    assert feed.answer(want()).kind == "spent"
    assert feed.tokens_served == 0


def test_a_batch_is_rows_of_tokens_and_counted(feed):
    frame = feed.answer(want(rows=3))
    rows = np.frombuffer(frame.payload, "<u2").reshape(3, ROW)
    assert (rows[:, 0] == 60_000).all()
    assert feed.tokens_served == 3 * (ROW - 1)


def test_no_batch_after_the_budget(feed, clock):
    feed.answer(want())
    clock.now += 10
    frame = feed.answer(want())
    assert (frame.kind, frame.payload) == ("spent", b"")
    assert feed.answer(want()).kind == "spent"
    clock.now -= 5  # whatever the clock does then
    assert feed.answer(want()).kind == "spent"
    assert feed.rows_served == 4


@pytest.mark.parametrize("step_s", [0.05, 0.19, 0.7, 3.0])
def test_steps_end_when_the_budget_does(feed, clock, step_s):
    """A last step may overrun by half of itself or a tenth of a second, whichever is less, and never start later."""
    while feed.answer(want()).kind == "batch":
        clock.now += step_s
    overrun_s = clock.now - feed.deadline_at
    assert overrun_s <= min(step_s / 2, 0.1) + 1e-9
    assert overrun_s > -step_s


def test_shares_are_recorded_for_a_replay(feed, clock):
    served = []
    while (frame := feed.answer(want())).kind == "batch":
        served.append(frame.header["share"])
        clock.now += 1
    assert feed.shares == served == pytest.approx([0.1 * step for step in range(10)])


@pytest.mark.parametrize("rows", [0, -1, 101, 1.5, "4", None, True, 10**30])
def test_a_strange_request_ends_the_trial(feed, rows):
    with pytest.raises(TrialEnded) as caught:
        feed.answer(want(rows=rows))
    assert caught.value.outcome is Outcome.CRASHED


def test_another_kind_of_message_ends_the_trial(feed):
    with pytest.raises(TrialEnded):
        feed.answer(Frame({"kind": "give me the validation rows", "rows": 4}))


def test_packing_ahead_changes_nothing_but_when(clock, feed):
    shard = MemoryShard(np.arange(5000, dtype="<u2"), np.array([0, 5000], dtype="<u8"))
    plain = Packer([shard], row_tokens=ROW, bos_id=60_000, seed=1)
    for _ in range(5):
        assert feed.answer(want()).payload == plain.batch(4).tobytes()
        feed.pack_ahead()


def test_the_candidates_words_are_clamped(feed, clock):
    feed.answer(want())
    clock.now += 1
    feed.answer(want(step=10**9, loss=3.0))
    assert feed.steps <= 2
    for nonsense in (math.inf, "3", None, [], True):
        feed.answer(want(step=nonsense, loss=nonsense))
    assert feed.loss == 3.0
    assert feed.curve() == ((0.1, 3.0),)


def test_the_curve_is_short_and_ends_at_the_end(feed, clock):
    feed.answer(want())
    for step in range(5000):
        clock.now = 100 + 9.99 * step / 5000
        feed.answer(want(rows=1, step=step, loss=float(5000 - step)))
    curve = feed.curve()
    assert len(curve) <= CURVE_POINTS
    assert [share for share, _ in curve] == sorted(share for share, _ in curve)
    assert curve[-1][0] > 0.98
