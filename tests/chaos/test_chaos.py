"""A real swarm under faults: a few here, 500 in the long form. That `run.py` sees what must not be is tried too."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import checks, faults
from tests.chaos.history import TABLE, History, commands

RUN = Path(__file__).with_name("run.py")
SHORT_SEED = 1239
SHORT_FAULTS, SHORT_VOLUNTEERS = 4, 5
SHORT_RECOVERY_S = 60  # other tests run beside it: how fast a recovery is, the long form judges


def run(count: int, seed: int, within_s: float, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(RUN), "--faults", str(count), "--seed", str(seed), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, f"{done.stderr}\n{json.dumps(report, indent=2)}"
    return report


def check(report: dict[str, Any], count: int) -> None:
    assert report["faults"] == count
    assert report["acknowledged"] > 0
    assert (report["lost"], report["doubled"], report["double_leases"]) == (0, 0, 0)
    assert (report["audit"], report["lineage"], report["wrong"]) == ("clean", "equal", [])
    assert report["ended_by_themselves"] == []


def test_nothing_is_lost_or_doubled_whatever_is_broken() -> None:
    options = ("--volunteers", str(SHORT_VOLUNTEERS), "--recovery", str(SHORT_RECOVERY_S))
    report = run(SHORT_FAULTS, SHORT_SEED, 600, *options)
    check(report, SHORT_FAULTS)
    assert report["takeovers"] >= 1


@pytest.mark.full
@pytest.mark.parametrize(("count", "seed"), [(20, 1), (500, 2)])
def test_the_same_in_the_long_form(count: int, seed: int) -> None:
    report = run(count, seed, 300 + 6 * count)
    check(report, count)
    assert report["requeued"] > 0


def test_the_short_form_breaks_what_matters() -> None:
    kinds = {fault.kind for fault in faults.schedule(SHORT_SEED, SHORT_FAULTS)}
    assert {"kill leader", "kill store", "freeze leader"} <= kinds


def test_a_seed_is_a_schedule() -> None:
    one, other = list(faults.schedule(7, 50)), list(faults.schedule(7, 50))
    assert one == other != list(faults.schedule(8, 50))
    assert {fault.kind for fault in faults.schedule(7, 2000)} == set(faults.KINDS)
    left_out = "fill leader's disk"
    assert left_out not in {fault.kind for fault in faults.schedule(7, 500, [left_out])}


# --- that what must not be is seen ---


def lived(*moves: tuple[str, str]) -> History:
    history = History()
    for order, state in moves:
        history.take([b"HSET", TABLE + b"order_state", order.encode(), state.encode()])
    return history


def test_an_order_that_comes_back_once_is_well() -> None:
    history = lived(
        ("o", "leased:1"), ("o", "ready"), ("o", "leased:2"), ("o", "done"), ("p", "leased:3"), ("p", "cancelled")
    )
    assert (history.wrong, history.double_leases, history.requeued) == ([], [], 1)


@pytest.mark.parametrize(
    ("moves", "double"),
    [
        ((("o", "leased:1"), ("o", "leased:2")), True),
        ((("o", "leased:1"), ("o", "ready"), ("o", "ready")), False),
        ((("o", "leased:1"), ("o", "done"), ("o", "ready")), False),
        ((("o", "leased:1"), ("o", "ready"), ("o", "leased:1")), False),
        ((("o", "ready"),), False),
    ],
)
def test_an_order_with_two_leases_or_put_back_twice_is_seen(moves: tuple[tuple[str, str], ...], double: bool) -> None:
    history = lived(*moves)
    assert bool(history.double_leases) is double
    assert bool(history.wrong) is not double


def test_an_epoch_that_does_not_rise_by_one_is_seen() -> None:
    history = History()
    for epoch in (b"1", b"2", b"2"):
        history.take([b"HSET", TABLE + b"lead", b"sign", b"{}", b"epoch", epoch])
    assert history.wrong == ["epoch 2 after 2"]
    assert history.takeovers == 2


def test_commands_are_read_up_to_one_that_was_cut_short() -> None:
    whole = b"#TS:1\r\n*2\r\n$4\r\nLLEN\r\n$1\r\nx\r\n"
    assert list(commands(io.BytesIO(whole + whole[:-4]))) == [[b"LLEN", b"x"]]


def test_a_recovery_is_told_from_one_that_something_else_disturbed() -> None:
    acks = [("a", "accepted", 10.5), ("b", "accepted", 13.0), ("c", "duplicate", 27.0), ("d", "refused", 20.5)]
    taken = {"a": 9_900, "b": 12_900, "c": 26_000}
    found = checks.recovery([("store", 10.0, True), ("coordinator", 20.0, True)], [10.0, 20.0, 22.0], acks, taken, 30.0)
    assert found["store"] == {"kills": 1, "median_s": 3.0, "max_s": 3.0, "overlapped_max_s": None}  # a was on its way
    assert found["coordinator"] == {"kills": 1, "median_s": None, "max_s": None, "overlapped_max_s": 7.0}
    (longest, *_) = checks.silences(acks, [(9.0, "x"), (16.0, "y"), (20.0, "z"), (20.6, "later")], 30.0)
    assert longest == {"seconds": 7.5, "meanwhile": ["+3.0 y", "+7.0 z"]}


def test_a_swarm_that_never_recovers_is_seen() -> None:
    found = checks.recovery([("store", 10.0, True)], [10.0], [("a", "accepted", 5.0)], {"a": 4_000}, 60.0)
    assert found["store"]["max_s"] == 50.0
    assert checks.silences([("a", "accepted", 5.0)], [], 60.0) == [{"seconds": 55.0, "meanwhile": []}]
