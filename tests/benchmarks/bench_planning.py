"""How long planning takes: all at once, and after one result, beside two plainer schedulers in the same run.

The world: open patches of a few hundred authors, a tenth of them with evidence, and a machine on each of a thousand
hardware classes. Times are processor time, so that neighbours count less. Plainer are the reference's `next_unit`,
which looks through all patches for every machine that asks, and one heap of patches, without turns, classes or
fairness: what a queue costs that knows only an order.
"""

import heapq
import json
import random  # noqa: TID251 - the world is drawn from a fixed seed
import statistics
from collections.abc import Callable
from dataclasses import replace
from time import process_time_ns

import click

from autoresearch.judging.rule import DEFAULT
from autoresearch.judging.verdict import baselines_wanted, wanted_in_flight
from coordinator.facts import BaseFacts, MachineFacts, PatchFacts
from coordinator.planning import Kind, Planner
from coordinator.worth import wanted

NOW = 10**12
BASES = ("b0", "b1", "b2")
SHARE_TESTED = 0.1
AUTHORS = 300
CAP_S = {True: 1.0, False: 4.0}  # seconds spent on measuring one figure; quick or not


def a_patch(number: int, chance: random.Random) -> PatchFacts:
    facts = PatchFacts(f"p{number:06}", f"author{chance.randrange(AUTHORS)}", chance.choice(BASES), number)
    if chance.random() >= SHARE_TESTED:
        return facts
    votes = {f"i{n}": chance.uniform(0.0, 1.5) for n in chance.sample(range(1000), chance.randint(1, 3))}
    return replace(
        facts,
        runs=dict.fromkeys(votes, 1),
        votes=votes,
        heard=frozenset(votes),
        trials=len(votes),
        log_odds=sum(votes.values()),
        gain_bpb=chance.uniform(0.0, 0.004),
        classes=frozenset(f"class {chance.randrange(1000)}" for _ in votes),
    )


def a_machine(number: int, classes: int) -> MachineFacts:
    base = BaseFacts(baselines=3, ends_at_ms=NOW + 1, runs=6, ever=True)
    return MachineFacts(f"m{number}", f"i{number}", f"class {number % classes}", dict.fromkeys(BASES, base))


def a_world(patches: int, classes: int) -> tuple[list[PatchFacts], list[MachineFacts], dict[str, float]]:
    chance = random.Random(1)
    noise = {f"class {n}": chance.choice([0.0013, 0.0020, 0.0045]) for n in range(classes)}
    machines = [a_machine(number, classes) for number in range(classes)]
    return [a_patch(number, chance) for number in range(patches)], machines, noise


def planned(world: tuple[list[PatchFacts], list[MachineFacts], dict[str, float]]) -> Planner:
    """A plan from nothing: every fact taken in, and a choice for each class."""
    patches, machines, noise = world
    planner = Planner(DEFAULT)
    planner.set_noise(noise)
    planner.set_best("b2", "b1")
    planner.load(patches, machines)
    for machine in machines:
        planner.choose(machine.machine_id, NOW, 1.0)
    return planner


class Follower:
    """Machines that report and ask again, one after the other, with the planner following."""

    def __init__(self, world: tuple[list[PatchFacts], list[MachineFacts], dict[str, float]]) -> None:
        self.planner = planned(world)
        self.machines = world[1]
        self.turn = 0

    def step(self) -> None:
        machine = self.machines[self.turn % len(self.machines)]
        self.turn += 1
        choice = self.planner.choose(machine.machine_id, NOW, 1.0)
        assert choice.kind is Kind.CANDIDATE
        facts = self.planner.patch(choice.patch_id)
        assert facts is not None
        held = replace(facts, leased=(*facts.leased, (machine.identity_id, machine.hardware_class)))
        self.planner.put_patch(held)  # the lease ...
        vote = {machine.identity_id: 0.2}
        odds = facts.log_odds + 0.2
        self.planner.put_patch(  # ... and its result
            replace(
                facts,
                runs={**facts.runs, machine.identity_id: 1},
                votes={**facts.votes, **vote},
                heard=facts.heard | vote.keys(),
                trials=facts.trials + 1,
                log_odds=odds if odds < 4.0 else 0.0,
            )
        )
        self.planner.put_machine(machine)


class Scan:
    """The reference's `next_unit`: the best of all patches that this identity may run, then the oldest fresh one."""

    def __init__(self, patches: list[PatchFacts], machines: list[MachineFacts], noisy: set[str]) -> None:
        self.patches = {facts.patch_id: facts for facts in patches}
        self.machines = machines
        self.noisy = noisy
        self.turn = 0

    def step(self) -> None:
        machine = self.machines[self.turn % len(self.machines)]
        self.turn += 1
        best: tuple[tuple[float, int], PatchFacts] | None = None
        for facts in self.patches.values():
            identity, name = machine.identity_id, machine.hardware_class
            if identity in facts.runs or facts.author_id == identity:
                continue
            if len(facts.leased) >= wanted_in_flight(facts.log_odds, DEFAULT.upper):
                continue
            if name in self.noisy and facts.log_odds > 0.5 and (name in facts.classes or len(facts.classes) >= 3):
                continue
            key = (facts.log_odds, -facts.submitted_at_ms)
            if best is None or key > best[0]:
                best = (key, facts)
        assert best is not None
        facts = best[1]
        own = machine.bases[facts.base_sha256]
        assert own.baselines >= baselines_wanted(own.runs)
        runs = {**facts.runs, machine.identity_id: 1}
        self.patches[facts.patch_id] = replace(facts, runs=runs, log_odds=facts.log_odds + 0.2)


class Heap:
    """One heap by odds; the first that the identity has not run."""

    def __init__(self, patches: list[PatchFacts], machines: list[MachineFacts]) -> None:
        self.heap = [(-facts.log_odds, facts.submitted_at_ms, facts.patch_id, facts) for facts in patches]
        heapq.heapify(self.heap)
        self.machines = machines
        self.turn = 0

    def step(self) -> None:
        machine = self.machines[self.turn % len(self.machines)]
        self.turn += 1
        aside = []
        while True:
            item = heapq.heappop(self.heap)
            facts = item[3]
            if machine.identity_id not in facts.runs and wanted(facts, DEFAULT) > len(facts.leased):
                break
            aside.append(item)
        for other in aside:
            heapq.heappush(self.heap, other)
        odds = facts.log_odds + 0.2
        after = replace(
            facts, runs={**facts.runs, machine.identity_id: 1}, log_odds=odds if odds < 4.0 else 0.0
        )  # fmt: skip
        heapq.heappush(self.heap, (-after.log_odds, after.submitted_at_ms, after.patch_id, after))


def median_us(work: Callable[[], object], seconds: float, *, least: int = 5) -> float:
    """Median processor time of one piece of work in microseconds."""
    took: list[int] = []
    begun = process_time_ns()
    while len(took) < least or process_time_ns() - begun < seconds * 1e9:
        start = process_time_ns()
        work()
        took.append(process_time_ns() - start)
    return statistics.median(took) / 1000.0


def yardstick() -> int:
    """A million additions: what this processor is worth just now."""
    total = 0
    for number in range(1_000_000):
        total += number
    return total


def measure(patches: int, classes: int, seconds: float) -> dict[str, float]:
    world = a_world(patches, classes)
    noisy = {name for name, noise in world[2].items() if noise > 0.004}
    return {
        "from_scratch_ms": median_us(lambda: planned(world), seconds) / 1000.0,
        "after_a_result_us": median_us(Follower(world).step, seconds),
        "scan_us": median_us(Scan(world[0], world[1], noisy).step, seconds),
        "heap_us": median_us(Heap(world[0], world[1]).step, seconds),
    }


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute.")
@click.option("--json", "as_json", is_flag=True, help="The last line is one JSON object.")
def main(quick: bool, as_json: bool) -> None:
    """Measures planning."""
    seconds, classes = CAP_S[quick], 1000
    found: dict[str, dict[str, float]] = {}
    for patches in (1_000, 10_000) if quick else (1_000, 10_000, 100_000):
        own = found[str(patches)] = measure(patches, classes, seconds)
        click.echo(
            f"planning: {patches:7,} patches, {classes:,} classes: all {own['from_scratch_ms']:8.1f} ms, "
            f"after a result {own['after_a_result_us']:6.1f} us; scan {own['scan_us']:9.1f} us, "
            f"heap {own['heap_us']:6.1f} us"
        )
    at = found["10000"]
    summary = {
        "patches": 10_000,
        "classes": classes,
        "from_scratch_ms": round(at["from_scratch_ms"], 2),
        "after_a_result_us": round(at["after_a_result_us"], 2),
        "from_scratch_over_after_a_result": round(1000.0 * at["from_scratch_ms"] / at["after_a_result_us"], 1),
        "scan_over_after_a_result": round(at["scan_us"] / at["after_a_result_us"], 1),
        "heap_over_after_a_result": round(at["heap_us"] / at["after_a_result_us"], 3),
        "million_additions_ms": round(median_us(yardstick, seconds) / 1000.0, 1),
        "ten_times_the_patches": round(at["after_a_result_us"] / found["1000"]["after_a_result_us"], 2),
    }
    click.echo(json.dumps(summary) if as_json else "")


if __name__ == "__main__":
    main()
