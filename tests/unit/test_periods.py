"""Which baselines a trial is compared with: periods of a day and one setting, and slow runs that do not count."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.hardware import setting
from autoresearch.judging.model import Trial
from autoresearch.judging.periods import BASELINE_LIFE_MS, Others, period_of, periods, rows, slow, tried, usable
from autoresearch.v1.trial_pb2 import Hardware, Software

HOUR = 3_600_000


def a_trial(
    number: int,
    hours: float = 0.0,
    bpb: float | None = 1.0,
    *,
    patch: str = "",
    machine: str = "m",
    outcome: str = "completed",
    disturbed: bool = False,
    tokens: int = 0,
    runs_with: str = "s",
) -> Trial:
    return Trial(
        result_sha256=f"{patch or 'base'} {machine} {number}",
        order_id="o",
        identity_id=f"owner of {machine}",
        machine_id=machine,
        hardware_class="H100",
        source_sha256=patch or "b",
        patch_id=patch,
        outcome=outcome,
        val_bpb=bpb if outcome == "completed" else None,
        train_ms=1,
        disturbed=disturbed,
        accepted_at_ms=int(hours * HOUR),
        tokens=tokens,
        setting=runs_with,
    )


def pairs(candidate: Sequence[Trial], baseline: Sequence[Trial]) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    return [(row.candidate, row.baseline) for row in rows(candidate, baseline)]


def test_a_trial_pairs_with_the_baselines_of_its_own_day() -> None:
    base = [a_trial(0, 0, 1.0), a_trial(1, 23, 1.1), a_trial(2, 25, 2.0)]
    assert pairs([a_trial(0, 1, 0.9, patch="p")], base) == [((0.9,), (1.0, 1.1))]
    assert pairs([a_trial(0, 26, 1.9, patch="p")], base) == [((1.9,), (2.0,))]
    both = [a_trial(0, 1, 0.9, patch="p"), a_trial(1, 26, 1.9, patch="p")]
    assert pairs(both, base) == [((0.9,), (1.0, 1.1)), ((1.9,), (2.0,))]


def test_a_trial_after_its_baselines_expired_waits_for_the_next_and_then_pairs_with_it() -> None:
    late = [a_trial(0, 24, 0.9, patch="p")]
    assert pairs(late, [a_trial(0, 0, 1.0)]) == [((0.9,), ())]
    assert pairs(late, [a_trial(0, 0, 1.0), a_trial(1, 24.5, 1.2)]) == [((0.9,), (1.2,))]
    assert pairs(late, [a_trial(0, 0, 1.0), a_trial(1, 48.5, 1.2)]) == [((0.9,), ())]  # too far away to compare


def test_another_driver_or_torch_begins_another_period() -> None:
    base = [a_trial(0, 0, 1.0, runs_with="old"), a_trial(1, 1, 1.2, runs_with="new")]
    assert pairs([a_trial(0, 0.5, 0.9, patch="p", runs_with="old")], base) == [((0.9,), (1.0,))]
    assert pairs([a_trial(0, 0.5, 0.9, patch="p", runs_with="new")], base) == [((0.9,), (1.2,))]
    assert pairs([a_trial(0, 2, 0.9, patch="p", runs_with="newest")], base) == [((0.9,), ())]


def test_a_period_ends_when_the_setting_changes_even_if_it_changes_back() -> None:
    there_and_back = [a_trial(n, n, runs_with=name) for n, name in enumerate("aba")]
    assert [(own.setting, len(own.baselines)) for own in periods(there_and_back)] == [("a", 1), ("b", 1), ("a", 1)]


def test_machines_and_their_hardware_are_kept_apart() -> None:
    base = [a_trial(0, 0, 1.0, machine="m"), a_trial(0, 0, 2.0, machine="n")]
    found = rows([a_trial(0, 1, 0.9, patch="p", machine="m"), a_trial(0, 1, 1.9, patch="p", machine="n")], base)
    assert [(row.machine, row.baseline) for row in found] == [("m", (1.0,)), ("n", (2.0,))]


def test_a_slow_baseline_is_dropped_and_a_slow_candidate_is_not() -> None:
    base = [a_trial(0, tokens=1000), a_trial(1, tokens=969, bpb=1.3), a_trial(2, tokens=1000)]
    assert slow(base) == {"base m 1"}
    assert pairs([a_trial(0, 1, 0.9, patch="p", tokens=10)], base) == [((0.9,), (1.0, 1.0))]


@pytest.mark.parametrize(
    ("tokens", "dropped"),
    [((1000,), 0), ((1000, 971), 0), ((1000, 900), 1), ((0, 0), 0), ((0, 1000), 0), ((2**64 - 1, 1), 1)],
)
def test_slow_is_under_97_percent_of_the_machines_own_median(tokens: tuple[int, ...], dropped: int) -> None:
    assert len(slow([a_trial(n, tokens=count) for n, count in enumerate(tokens)])) == dropped


def test_nothing_is_slow_on_a_processor() -> None:
    """Its budget is processor time: fewer tokens are what the neighbours did, to candidates too."""
    base = [replace(a_trial(n, tokens=count), hardware_class="CPU x, 1 thread") for n, count in enumerate((1000, 700))]
    assert slow(base) == frozenset()
    assert usable(base) == base


def test_another_setting_or_machine_is_no_measure_of_slowness() -> None:
    base = [a_trial(0, tokens=1000), a_trial(1, tokens=500, runs_with="t"), a_trial(2, tokens=500, machine="n")]
    assert slow(base) == frozenset()


def test_what_did_not_finish_undisturbed_is_no_baseline() -> None:
    base = [a_trial(0, outcome="crashed"), a_trial(1, disturbed=True), a_trial(2, bpb=1.5)]
    assert [trial.val_bpb for trial in usable(base)] == [1.5]
    assert [trial.val_bpb for trial in periods(base)[0].baselines] == [1.5]


def beside(others: Sequence[Trial], base: Sequence[Trial], most: int = 9) -> list[tuple[float, ...]]:
    """The scores of other candidates in each row of patch p, which runs after one and after 26 hours."""
    known = [own for trial in others if (own := tried(trial)) is not None]
    own = [a_trial(0, 1, 0.9, patch="p"), a_trial(1, 26, 0.9, patch="p")]
    found = rows(own, base, Others({"m": known}, most))
    return [tuple(other.val_bpb for other in row.others) for row in found]


def test_other_candidates_stand_beside_the_baselines_of_their_own_period() -> None:
    base = [a_trial(0, 0), a_trial(1, 25)]
    others = [
        a_trial(0, 1, 1.1, patch="q"),
        a_trial(1, 2, 1.2, patch="p"),  # the patch itself
        a_trial(2, 2, patch="r", outcome="crashed"),
        a_trial(3, 2, 1.3, patch="r", disturbed=True),
        a_trial(4, 3, 1.4, patch="r", runs_with="another driver"),
        replace(a_trial(5, 3, 1.5, patch="r"), hardware_class="A100"),
        a_trial(6, 4, 1.6, patch="s"),
        a_trial(8, 5, 1.8, patch="s"),  # once more
        a_trial(7, 27, 1.7, patch="t"),
    ]
    assert beside(others, base) == [(1.1, pytest.approx(1.7)), (1.7,)]
    assert beside(others, base, most=1) == [(pytest.approx(1.7),), (1.7,)]
    assert beside(others, base, most=0) == [(), ()]
    assert beside(others, []) == [()]


def test_a_trial_tells_how_many_there_were_of_its_patch_when_it_was_handed_out() -> None:
    told = tried(replace(a_trial(0, 1, 1.1, patch="q"), earlier=3))
    assert told is not None
    found = rows([a_trial(0, 1, 0.9, patch="p")], [a_trial(0)], Others({"m": [told]}, 9))
    assert found[0].others == ((1.1, 3),)


def test_failures_count_once_whatever_the_periods() -> None:
    base = [a_trial(0, 0), a_trial(1, 30)]
    candidate = [
        a_trial(0, 1, patch="p"), a_trial(1, 31, patch="p"), a_trial(2, 31, patch="p", outcome="crashed"),
        a_trial(3, 31, patch="p", outcome="disqualified"),
    ]  # fmt: skip
    found = rows(candidate, base)
    assert len(found) == 2
    assert [row.crashes for row in found] == [1, 0]
    assert sum(row.disqualifications for row in found) == 1
    (lone,) = rows([a_trial(0, 1, patch="p", outcome="timed_out")], base)
    assert lone.only_crashed


histories = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.booleans(), st.integers(960, 1000)), max_size=12
)


@given(histories, st.integers(0, 12), st.integers(0, 200), st.sampled_from("ab"))
def test_a_later_baseline_never_moves_a_trial_into_another_period(
    history: list[tuple[int, str, bool, int]], cut: int, hours: int, runs_with: str
) -> None:
    """Evidence may grow, but no pair is taken apart: a verdict can be recomputed as of any entry of the ledger."""
    at, base = 0, []
    for number, (gap, name, disturbed, tokens) in enumerate(history):
        at += gap
        base.append(a_trial(number, at, disturbed=disturbed, tokens=tokens, runs_with=name))
    trial = a_trial(0, hours, patch="p", runs_with=runs_with)
    then, now = periods(base[:cut]), periods(base)
    assert [own.begins_at_ms for own in then] == [own.begins_at_ms for own in now][: len(then)]
    known = period_of(trial, then)
    accepted_since = [own for own in base[cut:] if own.accepted_at_ms < trial.accepted_at_ms]
    if known is not None and not accepted_since:
        assert period_of(trial, now) == known


@given(histories)
def test_every_finished_baseline_is_in_one_period_that_covers_it_or_slow(
    history: list[tuple[int, str, bool, int]],
) -> None:
    at, base = 0, []
    for number, (gap, name, disturbed, tokens) in enumerate(history):
        at += gap
        base.append(a_trial(number, at, disturbed=disturbed, tokens=tokens, runs_with=name))
    found = periods(base)
    assert [own for period in found for own in period.baselines] == usable(base)
    for period in found:
        for own in period.baselines:
            assert own.setting == period.setting
            assert 0 <= own.accepted_at_ms - period.begins_at_ms < BASELINE_LIFE_MS


def test_a_setting_is_driver_torch_and_client_and_nothing_else() -> None:
    card = Hardware(device_name="H100", driver="550.1")
    ours = Software(python="3.11", torch="2.13.0", client="0.1.0")
    assert len(setting(card, ours)) == 16
    assert setting(card, ours) == setting(Hardware(driver="550.1"), Software(torch="2.13.0", client="0.1.0"))
    others = [(Hardware(driver="550.2"), ours), (card, Software(torch="2.14", client="0.1.0"))]
    others += [(card, Software(torch="2.13.0", client="0.2"))]
    assert setting(card, ours) not in {setting(*other) for other in others}
