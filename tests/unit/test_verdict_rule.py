"""The rule as it is recorded in the ledger: round trip, bounds, and what no combination may allow."""

import dataclasses
import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.rule import BOUNDS, DEFAULT, PRESETS, SOLO, WHOLE_NUMBERS, Rule, RuleError


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_recorded_is_what_was_used(name: str) -> None:
    rule = PRESETS[name]
    assert Rule.from_json(json.loads(json.dumps(rule.to_json()))) == rule


def test_a_record_names_every_parameter() -> None:
    assert DEFAULT.to_json().keys() == BOUNDS.keys()
    assert {field.name for field in dataclasses.fields(Rule) if field.init} == BOUNDS.keys()


def test_other_json_writers_are_understood() -> None:
    """Some write 6.0 as 6, some 3 as 3.0."""
    data = DEFAULT.to_json() | {"cap": 6, "min_identities": 3.0}
    rule = Rule.from_json(data)
    assert rule == DEFAULT
    assert isinstance(rule.min_identities, int)
    assert isinstance(rule.cap, float)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [None, "0.1", True, [], math.nan, math.inf, -math.inf, -1e9, 1e9, 10**400])
def test_nonsense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RuleError, match=f"'{name}'") as caught:
        Rule.from_json(DEFAULT.to_json() | {name: value})
    assert caught.value.parameter == name


@pytest.mark.parametrize("name", sorted(WHOLE_NUMBERS))
def test_half_an_identity_is_refused(name: str) -> None:
    with pytest.raises(RuleError, match="whole number"):
        Rule.from_json(DEFAULT.to_json() | {name: 2.5})


def test_nothing_is_filled_in() -> None:
    data = DEFAULT.to_json()
    del data["tau_bpb"]
    with pytest.raises(RuleError, match="tau_bpb"):
        Rule.from_json(data)


@pytest.mark.parametrize(("name", "without"), [("own_trials", 0), ("harm_alpha", 1.0)])
def test_ledgers_from_before_a_choice_go_on_without_it(name: str, without: float) -> None:
    data = DEFAULT.to_json()
    del data[name]
    assert Rule.from_json(data) == dataclasses.replace(DEFAULT, **{name: without})


def test_nothing_is_ignored() -> None:
    with pytest.raises(RuleError, match="no such parameter"):
        Rule.from_json(DEFAULT.to_json() | {"alhpa": 0.5})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Rule(eps=0.01), "one vote against rejects for good"),
        (lambda: Rule(cap=20.0), "one of them stops a patch alone"),
        (lambda: Rule(max_trials=2), "at least min_identities"),
    ],
)
def test_no_rule_gives_one_identity_the_last_word(make: Callable[[], Rule], reason: str) -> None:
    with pytest.raises(RuleError, match=reason):
        make()


def test_scaling_moves_what_is_in_bits_per_byte_together() -> None:
    half = DEFAULT.scaled(0.001)
    assert (half.delta_bpb, half.guard_delta_bpb, half.tau_bpb) == pytest.approx((0.001, 0.0015, 0.00015))
    same = DEFAULT.scaled(DEFAULT.delta_bpb)
    assert same.to_json() == pytest.approx(DEFAULT.to_json(), rel=1e-12)
    unscaled = {"delta_bpb": 0.0, "guard_delta_bpb": 0.0, "tau_bpb": 0.0}
    assert half.to_json() | unscaled == DEFAULT.to_json() | unscaled
    with pytest.raises(RuleError, match="delta_bpb"):
        DEFAULT.scaled(0.0)


@settings(deadline=None)
@given(data=st.dictionaries(st.sampled_from(sorted(BOUNDS)), st.floats() | st.integers() | st.text() | st.none()))
def test_whatever_is_read_is_a_usable_rule_or_a_clear_error(data: dict[str, object]) -> None:
    try:
        rule = Rule.from_json(SOLO.to_json() | data)
    except RuleError:
        return
    assert Rule.from_json(rule.to_json()) == rule
    assert rule.lower < math.log(rule.eps) < 0.0 < math.log(rule.cap)
    assert rule.lower < rule.alarm < 0.0 < rule.upper
    assert rule.max_trials_per_identity >= 1
