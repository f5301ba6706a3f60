"""What deciding costs: one more result about one patch, and everything that follows from a whole ledger's results.

    python tests/benchmarks/bench_deciding.py --quick --json

One more result is compared, in the same run, with deciding anew from all rows, for patches with few and many results
and beside many other patches. The ledger is recomputed by the pure core alone (`case`, `verdict`, `reputation`):
baselines paired, every patch judged after every result, everybody's reporting reviewed after every verdict. Reading and
verifying the file is not in it. `python tests/benchmarks/bench_deciding.py` recomputes a million results.
"""

import json
import random  # noqa: TID251  # always seeded: the same ledger every time
import statistics
from collections.abc import Callable
from itertools import cycle
from time import process_time

import click

from autoresearch.judging.case import Case
from autoresearch.judging.evidence import Row
from autoresearch.judging.level import OtherTrial
from autoresearch.judging.reputation import Reputations
from autoresearch.judging.trust import DecidedPatch
from autoresearch.judging.verdict import DEFAULT, Verdict, decide, judge, weigh

SIGMA = {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020, "3090": 0.0028, "3060": 0.0045}
CLASSES = tuple(SIGMA)
REPEATS = 21
LEVELS_KEPT = 200  # rows that take turns
IDENTITIES, BASE_RESULTS = 400, 4_000  # who runs trials; results between two bests


def micro_s(act: Callable[[], object]) -> float:
    """Median time of one call on this core, microseconds."""
    times = []
    for _ in range(REPEATS):
        begun = process_time()
        for _ in range(5):
            act()
        times.append((process_time() - begun) / 5)
    return 1e6 * statistics.median(times)


def one_more(results: int, others: int) -> dict[str, float]:
    """Of a patch with so many results, while so many other patches are open."""
    chance = random.Random(results)

    def row(at: int) -> Row:
        name = CLASSES[at % len(CLASSES)]
        others = tuple(OtherTrial(1.0 + chance.gauss(0.0, SIGMA[name]), 0) for _ in range(DEFAULT.own_trials))
        return Row(f"i{at}", f"m{at}", name, (1.0 - chance.gauss(0.001, SIGMA[name]),), (1.0, 1.0005), others=others)

    rows = [row(at) for at in range(results)]
    case = Case(SIGMA, DEFAULT)
    case.put_all(rows)
    open_patches = [Case(SIGMA, DEFAULT) for _ in range(others)]
    for own in open_patches:
        own.put(0, rows[0])
    levels = cycle([row(results - 1) for _ in range(LEVELS_KEPT)])  # none of them was weighed lately

    def put(then: Callable[[Case], object]) -> Callable[[], object]:
        def act() -> object:
            case.put(results - 1, next(levels))
            return then(case)

        return act

    return {
        "verdict_us": micro_s(put(judge)),
        "decision_us": micro_s(put(weigh)),
        "anew_us": micro_s(lambda: decide(rows, SIGMA, DEFAULT)),
    }


def recompute(results: int) -> dict[str, float]:
    """Seconds that the pure core needs for a ledger of so many results."""
    chance = random.Random(7)
    cards = [chance.choice(CLASSES) for _ in range(IDENTITIES)]
    levels = [chance.gauss(0.0, 0.004) for _ in range(IDENTITIES)]
    reputations = Reputations(SIGMA)
    baselines: dict[int, list[float]] = {}
    tried: dict[int, list[tuple[int, OtherTrial]]] = {}  # by who: patch, score
    case, gain_bpb, patches, verdicts, spent = Case(SIGMA, DEFAULT), 0.0, 0, 0, 0
    begun = process_time()
    for at in range(results):
        if at % BASE_RESULTS == 0:
            baselines.clear()
            tried.clear()
        who = int(IDENTITIES * chance.random())
        name = cards[who]
        own = baselines.setdefault(who, [])
        if len(own) < 2:
            own.append(1.0 + levels[who] + chance.gauss(0.0, SIGMA[name]))
            continue
        number = 1.0 + levels[who] - gain_bpb + chance.gauss(0.0, SIGMA[name])
        others = tuple(one for patch, one in tried.get(who, ()) if patch != patches)
        case.put(0, Row(f"i{who}", f"m{who}", name, (number,), tuple(own), others=others))
        tried.setdefault(who, []).append((patches, OtherTrial(number, spent)))
        spent += 1
        if judge(case) is Verdict.OPEN and spent < 8:
            continue
        verdicts += 1
        rows = case.every_row()
        if len(rows) > 2:
            reputations.add(DecidedPatch(f"base {at // BASE_RESULTS}", tuple(rows), SIGMA, DEFAULT))
            reputations.review()
        patches, spent = patches + 1, 0
        case = Case(SIGMA, DEFAULT)
        gain_bpb = chance.choice((0.0, 0.0, -0.004, -0.004, 0.001, 0.004))
    return {"results": results, "seconds": process_time() - begun, "verdicts": verdicts, "patches": patches}


@click.command()
@click.option("--quick", is_flag=True, help="A ledger of 20,000 results instead of a million.")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
def main(*, quick: bool, as_json: bool) -> None:
    """Measure deciding."""
    found = {f"{results} results": one_more(results, 0) for results in (3, 24, 200)}
    found["200 results, 10,000 other patches"] = one_more(200, 10_000)
    for name, own in found.items():
        click.echo(
            f"one more of {name:34} verdict {own['verdict_us']:6.0f} us, with all that is shown "
            f"{own['decision_us']:6.0f} us, anew {own['anew_us']:6.0f} us"
        )
    ledger = recompute(20_000 if quick else 1_000_000)
    per_million = ledger["seconds"] * 1e6 / ledger["results"]
    click.echo(f"ledger of {ledger['results']:,} results: {ledger['seconds']:.1f} s; {per_million:.0f} s a million")
    if as_json:
        click.echo(json.dumps({"one_more": found, "ledger": {**ledger, "seconds_per_million": per_million}}))


if __name__ == "__main__":
    main()
