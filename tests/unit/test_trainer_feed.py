"""The clock and the data: served until the budget is spent, counted by the server alone."""

import math

import numpy as np
import pytest

from trainer.feed import Feed
from trainer.pace import LivePace, ReplayedPace, longest_overrun_s
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


def packer() -> Packer:
    shard = MemoryShard(np.arange(5000, dtype="<u2"), np.array([0, 5000], dtype="<u8"))
    return Packer([shard], row_tokens=ROW, bos_id=60_000, seed=1)


def live(clock: Clock, budget_s: float = 10.0) -> Feed:
    return Feed(packer(), row_tokens=ROW, max_rows=100, pace=LivePace(budget_s, clock))


@pytest.fixture
def feed(clock: Clock) -> Feed:
    return live(clock)


def want(rows: object = 4, **more: object) -> Frame:
    return Frame({"kind": "want", "rows": rows, "step": 0, "loss": None, **more})


def test_the_clock_starts_with_the_first_batch(feed, clock):
    clock.now += 1000  # start-up
    assert feed.pace.share() == 0
    assert feed.answer(want()).header["share"] == 0
    clock.now += 2.5
    assert feed.answer(want()).header["share"] == pytest.approx(0.25)
    assert feed.pace.deadline_at == 1110


def test_what_was_spent_before_the_clock_can_be_charged(feed, clock):
    feed.pace.charge(-1.0)
    feed.pace.charge(4.0)
    assert feed.answer(want()).header["share"] == pytest.approx(0.4)
    assert feed.pace.deadline_at == clock.now + 6


def test_a_budget_spent_before_the_first_batch_serves_none(feed):
    feed.pace.charge(10.0)
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


def train(feed: Feed, clock: Clock, step_s: float, ahead: int = 0) -> None:
    """As a session does: the first batch alone, then always `ahead` more than are worked on."""
    answers = [feed.answer(want(rows=1, finished=0))]
    finished = 0
    while answers.pop(0).kind == "batch":
        clock.now += step_s
        finished += 1
        answers += [feed.answer(want(rows=1, finished=finished)) for _ in range(1 + ahead if finished == 1 else 1)]


@pytest.mark.parametrize("budget_s", [10.0, 300.0])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("step_s", [0.05, 0.19, 0.7, 3.0, 8.0])
def test_steps_end_when_the_budget_does(clock, step_s, ahead, budget_s):
    """A last step may overrun by half of itself, within 0.4 % of the budget; what is in flight is counted in."""
    feed = live(clock, budget_s)
    train(feed, clock, step_s, ahead)
    overrun_s = clock.now - feed.pace.deadline_at
    assert overrun_s <= min(step_s / 2, longest_overrun_s(budget_s)) + 1e-9
    assert overrun_s > -step_s


@pytest.mark.parametrize("step_s", [0.01, 0.3, 1.0, 2.4])
def test_300_s_are_kept_to_half_a_percent(clock, step_s):
    feed = live(clock, 300.0)
    train(feed, clock, step_s, ahead=1)
    assert abs(clock.now - feed.pace.deadline_at) <= 0.005 * 300


def test_the_candidates_word_on_what_it_finished_gains_it_nothing(clock):
    """To claim more finished than served is to claim nothing in flight; nonsense likewise."""
    for finished in (10**9, -5, 1.5, "3", None, True):
        feed = live(clock)
        while feed.answer(want(finished=finished)).kind == "batch":
            clock.now += 0.19
        assert abs(clock.now - feed.pace.deadline_at) < 0.19


def test_shares_are_recorded(feed, clock):
    served = []
    while (frame := feed.answer(want())).kind == "batch":
        served.append((4, frame.header["share"]))
        clock.now += 1
    assert list(feed.log) == served
    assert [share for _, share in served] == pytest.approx([0.1 * step for step in range(10)])


def replayed(feed: Feed, clock: Clock) -> Feed:
    return Feed(packer(), row_tokens=ROW, max_rows=100, pace=ReplayedPace(feed.log, clock))


def test_a_replay_serves_the_same_whatever_the_clock_does(feed, clock):
    first = []
    while (frame := feed.answer(want(rows=1 + len(first) % 3))).kind == "batch":
        first.append((frame.header["share"], frame.payload))
        clock.now += 0.7
    again = replayed(feed, clock)
    for number, (share, payload) in enumerate(first):
        clock.now += 1000 * (number % 2)
        frame = again.answer(want(rows=1 + number % 3))
        assert (frame.header["share"], frame.payload) == (share, payload)
        assert again.pace.deadline_at == math.inf
    assert again.answer(want()).kind == again.answer(want()).kind == "spent"
    assert again.pace.deadline_at == clock.now
    assert again.log.sha256() == feed.log.sha256()


def test_other_rows_than_recorded_are_another_run(feed, clock):
    feed.answer(want(rows=4))
    feed.answer(want(rows=4))
    again = replayed(feed, clock)
    again.answer(want(rows=4))
    with pytest.raises(TrialEnded, match="asked for 5 rows as batch 2 where 4 were recorded"):
        again.answer(want(rows=5))


def test_more_batches_than_can_be_recorded_end_the_trial(feed, monkeypatch):
    monkeypatch.setattr("trainer.batches.MAX_BATCHES", 2)
    feed.answer(want())
    feed.answer(want())
    with pytest.raises(TrialEnded, match="ask for larger ones"):
        feed.answer(want())


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
