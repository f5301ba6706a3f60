"""The verdict core against the project's own vectors, `tests/golden/verdict.json`, to 1e-9.

The vectors were made by an independent implementation and use its words: owner is our identity, logE our log odds,
hw our hardware class, base our baseline, park/promote/... the verbs of our verdicts.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from autoresearch.judging import noise
from autoresearch.judging.evidence import Moments, bounded, interval, moments, paired, shrunk
from autoresearch.judging.verdict import DEFAULT, Row, Rule, Verdict, audit, baselines_wanted, decide, wanted_in_flight

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "verdict.json").read_text())
SIGMA: dict[str, float] = GOLDEN["sigma"]
HELPERS: dict[str, Any] = GOLDEN["helpers"]
VERDICTS = {
    "promote": Verdict.PROMOTED,
    "park": Verdict.PARKED,
    "reject": Verdict.REJECTED,
    "regress": Verdict.REGRESSED,
    "crash": Verdict.CRASHED,
    "inconclusive": Verdict.INCONCLUSIVE,
    "continue": Verdict.OPEN,
}
PARAMETERS = {
    "delta": "delta_bpb",
    "tau": "tau_bpb",
    "kmin": "min_identities",
    "hwmin": "min_classes",
    "nmax": "max_trials",
    "guard_delta": "guard_delta_bpb",
}
EXACT = 1e-9


def rule_of(config: dict[str, Any], base: Rule = DEFAULT) -> Rule:
    return dataclasses.replace(base, **{PARAMETERS.get(name, name): value for name, value in config.items()})


def row_of(fields: list[Any]) -> Row:
    identity, machine, hardware_class, candidate, baseline, crashes = fields
    return Row(identity, machine, hardware_class, tuple(candidate), tuple(baseline), crashes)


def near(value: float | list[float]) -> Any:
    return pytest.approx(value, abs=EXACT)


def test_the_default_rule_is_the_one_of_the_vectors() -> None:
    assert rule_of(GOLDEN["config"]) == DEFAULT


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    decision = decide([row_of(fields) for fields in case["rows"]], SIGMA, rule_of(case["override"]))

    assert decision.verdict is VERDICTS[case["verdict"]]
    assert decision.log_odds == near(case["logE"])
    assert {vote.identity: vote.log_odds for vote in decision.votes} == near(case["votes"])
    assert list(decision.bad_classes) == case["bad_hw"]
    if case["gain"] is None:
        assert (decision.gain_bpb, decision.standard_error, decision.interval) == (None, None, None)
    else:
        assert decision.gain_bpb == near(case["gain"])
        assert decision.standard_error == near(case["se"])


@pytest.mark.parametrize("log_odds", ["0.0", "1.0", "9.0", "-1.0", "-99.0"])
def test_bounded(log_odds: str) -> None:
    assert bounded(float(log_odds), 0.05, 6.0) == near(HELPERS[f"bounded({log_odds})"])


def test_paired_difference() -> None:
    pair = paired(Row("a", "m", "H100", (0.994,), (0.9978, 0.9982)), SIGMA, DEFAULT)
    assert pair is not None
    gain_bpb, variance = HELPERS["diff H100 [.994] [.9978,.9982]"]
    assert pair.gain_bpb == near(gain_bpb)
    assert pair.variance == pytest.approx(variance, rel=1e-8)
    assert moments([pair]) == Moments(1.0 / pair.variance, pair.gain_bpb / pair.variance)


def test_displayed_estimates() -> None:
    assert list(interval(0.004, 1e6)) == near(HELPERS["interval(0.004, 1/0.001**2)"])
    assert shrunk(0.004, 1e6) == near(HELPERS["shrunk(0.004, 1/0.001**2)"])


def audit_rows(shift: float) -> list[Row]:
    """Baselines of a new best, `shift` better than one that is clearly worse, against those of the old one."""
    machines = [
        ("a", "H100", (1.0035, 1.0041), (0.9978, 0.9982)),
        ("b", "A100", (1.0460,), (1.0400, 1.0404)),
        ("c", "4090", (1.1570, 1.1555), (1.1500,)),
    ]
    return [Row(i, f"m{i}", name, tuple(bpb - shift for bpb in new), old) for i, name, new, old in machines]


@pytest.mark.parametrize(("vector", "shift"), [("audit worse base", 0.0), ("audit better base", 0.008)])
def test_audit(vector: str, shift: float) -> None:
    outcome = audit(audit_rows(shift), SIGMA, eps=0.1)  # the vectors' own
    roll_back, log_odds = HELPERS[vector]
    assert outcome.roll_back is roll_back
    assert outcome.log_odds_worse == near(log_odds)


def test_noise_of_a_class() -> None:
    groups = {"H100": [[0.998, 0.9995, 0.997], [0.9985, 0.9971], [0.9979, 1.03]]}
    assert noise.estimate(groups, {"H100": 0.0013, "4090": 0.002}) == near(HELPERS["estimate_sigma"])


def test_how_many_at_once() -> None:
    assert [wanted_in_flight(x, 4.605) for x in (-0.05, 0.0, 0.8, 2.1, 3.0, 4.5)] == HELPERS["wanted"]
    assert [baselines_wanted(n) for n in (0, 1, 2, 3, 6, 7, 12, 13, 40)] == HELPERS["baselines_wanted"]
    assert wanted_in_flight(0.0, math.inf) == 1
