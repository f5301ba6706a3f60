"""What is run next: properties of every plan, over worlds that Hypothesis draws and over fleets at work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoresearch.judging.model import Machine, Order, Patch, Trial
from autoresearch.judging.verdict import Verdict, wanted_in_flight
from coordinator import ready_orders
from coordinator.ready_orders import MachineState, PatchState, Plan, Terms, is_broken, may_run, plan, runs_by_identity

BASES = ("b0", "b1")
TERMS = Terms(upper=4.6, max_trials=9, first_baselines=1, best_sha256="b1")
IDENTITIES = ("ada", "bea", "cyd", "dan")
unhurried = settings(deadline=None, max_examples=60)


def a_patch(patch_id: str, author: str, base: str = "b1", at_ms: int = 0) -> Patch:
    return Patch(
        patch_id, author, author, "t", "", (), "c" * 40, 0, base, f"source of {patch_id}", "f", at_ms
    )  # fmt: skip


def a_trial(identity: str, machine: str = "m", outcome: str = "completed", *, disturbed: bool = False) -> Trial:
    value = 1.0 if outcome == "completed" else None
    return Trial("r", "o", identity, machine, "c", "s", "p", outcome, value, 1, disturbed, 1)


def a_state(
    patch: Patch, trials: Sequence[Trial] = (), verdict: Verdict = Verdict.OPEN, log_odds: float = 0.0, made: int = 0
) -> PatchState:
    return PatchState(patch, trials, (), (), made, log_odds, verdict)


def a_machine(
    identity: str, name: str = "", device: str = "H100", baselines: int = 1, failed: int = 0, runs: int = 0
) -> MachineState:
    machine = Machine(name or f"{identity}'s", identity, device, 0)
    measured = Counter(dict.fromkeys(BASES, baselines))
    return MachineState(machine, measured, Counter(b1=failed), Counter(b1=runs), (), 0)


def applied(made: Plan, patches: Sequence[PatchState], machines: Sequence[MachineState]) -> tuple[
    list[PatchState], list[MachineState]
]:  # fmt: skip
    """The world after a plan was carried out."""
    gone = {order.order_id for order in made.cancel} | {old.order_id for _, old in made.change}
    new = [*made.add, *(order for order, _ in made.change)]

    def after(orders: Sequence[Order], patch_id: str, machine_id: str) -> list[Order]:
        kept = [order for order in orders if order.order_id not in gone]
        return kept + [o for o in new if (o.patch_id, o.machine_id) == (patch_id, machine_id)]

    counts = Counter(order.patch_id for order in made.add)
    return (
        [
            replace(
                state,
                ready=after(state.ready, state.patch.patch_id, ""),
                orders_made=state.orders_made + counts[state.patch.patch_id],
            )
            for state in patches
        ],
        [
            replace(
                state,
                baseline_orders=after(state.baseline_orders, "", state.machine.machine_id),
                baselines_made=state.baselines_made + counts[""],
            )
            for state in machines
        ],
    )


# --- worlds at random ---


@st.composite
def machines(draw: st.DrawFn) -> list[MachineState]:
    counts = st.integers(0, 4)
    return [
        MachineState(
            machine=Machine(f"m{n}", draw(st.sampled_from(IDENTITIES)), draw(st.sampled_from(["H100", "4090"])), 0),
            baselines={base: draw(counts) for base in BASES},
            failed_baselines={base: draw(st.integers(0, 3)) for base in BASES},
            candidate_runs={base: draw(counts) for base in BASES},
            baseline_orders=(),
            baselines_made=0,
        )
        for n in range(draw(st.integers(0, 5)))
    ]


@st.composite
def patch_states(draw: st.DrawFn) -> list[PatchState]:
    trials = st.builds(
        lambda identity, outcome, disturbed: a_trial(identity, "m", outcome, disturbed=disturbed),
        st.sampled_from(IDENTITIES),
        st.sampled_from(["completed", "completed", "crashed"]),
        st.booleans(),
    )
    origins = st.tuples(st.sampled_from(IDENTITIES), st.sampled_from(BASES), st.integers(0, 3))
    leases = st.tuples(st.sampled_from(IDENTITIES), st.sampled_from(["m0", "m1"]))
    return [
        PatchState(
            patch=a_patch(f"p{n}", *draw(origins)),
            trials=draw(st.lists(trials, max_size=6)),
            ready=(),
            leased=draw(st.lists(leases, max_size=3)),
            orders_made=draw(st.integers(0, 3)),
            log_odds=draw(st.floats(-3.0, 6.0)),
            verdict=draw(st.sampled_from([Verdict.OPEN, Verdict.OPEN, Verdict.PARKED])),
        )
        for n in range(draw(st.integers(0, 4)))
    ]  # fmt: skip


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[PatchState], list[MachineState]]:
    """A world, often with orders under way that were made for another one: before results, arrivals, a new best."""
    states, fleet = draw(patch_states()), draw(machines())
    if draw(st.booleans()):
        earlier = [replace(state, log_odds=draw(st.floats(-3.0, 6.0)), trials=()) for state in states]
        made = plan(earlier, draw(machines()), replace(TERMS, best_sha256="b0"))
        with_orders, _ = applied(made, states, fleet)
        _, fleet = applied(plan(earlier, fleet, TERMS), states, fleet)
        states = with_orders
    return states, fleet


World = tuple[list[PatchState], list[MachineState]]


def wished(world: World) -> tuple[list[PatchState], list[MachineState], list[Order]]:
    """The world after its plan, and every order that is ready in it."""
    states, fleet = applied(plan(*world, TERMS), *world)
    orders = [o for state in states for o in state.ready] + [o for state in fleet for o in state.baseline_orders]
    return states, fleet, orders


@unhurried
@given(worlds())
def test_a_plan_that_was_carried_out_changes_nothing_when_made_again(world: World) -> None:
    states, fleet, _ = wished(world)
    assert plan(states, fleet, TERMS) == Plan((), (), ())


@unhurried
@given(worlds(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_in_which_things_are_listed(world: World, shuffler: object) -> None:
    states, fleet = list(world[0]), list(world[1])
    first = plan(states, fleet, TERMS)
    shuffler.shuffle(states)  # type: ignore[attr-defined]  # a random.Random of Hypothesis
    shuffler.shuffle(fleet)  # type: ignore[attr-defined]
    again = plan(states, fleet, TERMS)
    for name in ("add", "change", "cancel"):
        assert set(map(repr, getattr(first, name))) == set(map(repr, getattr(again, name)))


@unhurried
@given(worlds())
def test_an_authors_machines_never_get_the_authors_patch(world: World) -> None:
    states, fleet, orders = wished(world)
    authors = {state.patch.patch_id: state.patch.author_id for state in states}
    for order in orders:
        for state in fleet:
            if order.patch_id and state.machine.identity_id == authors[order.patch_id]:
                assert not may_run(order, state, 0, TERMS)


@unhurried
@given(worlds())
def test_nobody_runs_a_patch_again_before_everybody_able_had_as_many_chances(world: World) -> None:
    states, fleet, _ = wished(world)
    for state in states:
        runs = runs_by_identity(state.trials)
        heard = {trial.identity_id for trial in state.trials if not trial.disturbed}
        able = {m.machine.identity_id for m in fleet if not is_broken(m)} - {state.patch.author_id}
        if state.verdict is not Verdict.OPEN:
            able -= heard
        for order in state.ready:
            for machine in fleet:
                identity = machine.machine.identity_id
                if may_run(order, machine, runs.get(identity, 0), TERMS):
                    assert runs.get(identity, 0) <= min(runs.get(other, 0) for other in able)


@unhurried
@given(worlds())
def test_never_more_in_flight_than_wanted_nor_than_trials_are_left(world: World) -> None:
    states, _, _ = wished(world)
    for state in states:
        doubted = state.verdict is not Verdict.OPEN
        wanted = 1 if doubted else wanted_in_flight(state.log_odds, TERMS.upper)
        left = TERMS.max_trials - sum(not trial.disturbed for trial in state.trials)
        assert len(state.ready) <= max(0, min(wanted, left) - len(state.leased))


@unhurried
@given(worlds())
def test_broken_machines_get_nothing_and_lose_what_waited_for_them(world: World) -> None:
    _, fleet, orders = wished(world)
    for state in fleet:
        if is_broken(state):
            assert state.baseline_orders == []
            assert not any(may_run(order, state, 0, TERMS) for order in orders)


@unhurried
@given(worlds())
def test_a_machine_measures_a_base_before_a_candidate_on_it_and_once_at_a_time(world: World) -> None:
    _, fleet, orders = wished(world)
    for machine in fleet:
        assert len(machine.baseline_orders) <= 1
        for order in orders:
            if order.patch_id and not machine.baselines[order.base_sha256]:
                assert not may_run(order, machine, 0, TERMS)
            if order.machine_id:
                assert may_run(order, machine, 99, TERMS) == (order.machine_id == machine.machine.machine_id)


@unhurried
@given(worlds())
def test_while_something_is_wanted_somebody_can_work(world: World) -> None:
    """No world is stuck: every order waits for somebody who may run it, or for a baseline that somebody may run."""
    states, fleet, orders = wished(world)
    for state in states:
        runs = runs_by_identity(state.trials)
        for order in state.ready:
            takers = [
                m for m in fleet
                if may_run(order, m, runs.get(m.machine.identity_id, 0), TERMS) or m.baseline_orders
            ]  # fmt: skip
            assert takers, order
    healthy = [m for m in fleet if not is_broken(m)]
    testable = [
        state
        for state in states
        if state.verdict is Verdict.OPEN
        and not state.leased
        and sum(not trial.disturbed for trial in state.trials) < TERMS.max_trials
        and any(m.machine.identity_id != state.patch.author_id for m in healthy)
    ]
    assert not testable or orders


@unhurried
@given(worlds(), st.integers(1, 3))
def test_orders_of_patches_that_are_not_worth_testing_any_more_are_cancelled(world: World, kept: int) -> None:
    states, fleet, orders = wished(world)
    gone = {state.patch.patch_id for state in states[kept:]}
    stale = [order for order in orders if order.patch_id in gone]
    cancelled = plan(states[:kept], fleet, TERMS, orders).cancel
    assert set(stale) <= set(cancelled)
    assert not any(order.patch_id == "" and order.machine_id == "absent" for order in cancelled)


def test_a_baseline_in_the_queue_of_a_machine_that_is_away_waits_for_it() -> None:
    waiting = plan([], [a_machine("ada", baselines=0)], TERMS).add
    assert [order.patch_id for order in waiting] == [""]
    assert plan([], [], TERMS, waiting) == Plan((), (), ())


# --- turns and priorities ---


@unhurried
@given(st.lists(st.sampled_from(IDENTITIES[:3]), min_size=1, max_size=8))
def test_authors_take_turns(authors: list[str]) -> None:
    """However many patches an author has and whenever they came: nobody's second is before anybody's first."""
    states = [a_state(a_patch(f"p{n}", author, at_ms=n)) for n, author in enumerate(authors)]
    fleet = [a_machine("dan", f"m{n}") for n in range(8)]
    turn: Counter[str] = Counter()
    nth = {}
    for state in states:
        turn[state.patch.author_id] += 1
        nth[state.patch.patch_id] = turn[state.patch.author_id]
    queue = sorted(plan(states, fleet, TERMS).add, key=lambda order: order.priority)
    assert len(queue) == len(authors)
    assert [nth[order.patch_id] for order in queue] == sorted(nth.values())


def test_a_hundred_patches_of_one_author_do_not_fill_the_queue_before_anothers_first() -> None:
    states = [a_state(a_patch(f"p{n:03}", "ada", at_ms=n)) for n in range(100)]
    states.append(a_state(a_patch("late", "bea", at_ms=1000)))
    queued = [order.patch_id for order in plan(states, [a_machine("cyd")], TERMS).add]
    assert queued[:2] == ["p000", "late"]
    assert len(queued) == ready_orders.READY_PER_MACHINE


def test_evidence_comes_before_fresh_patches_and_doubts_come_last() -> None:
    crash = [a_trial("dan", outcome="crashed")]
    states = [
        a_state(a_patch("fresh", "ada", at_ms=1)),
        a_state(a_patch("doubted", "ada", at_ms=2), crash, Verdict.PARKED, -0.5),
        a_state(a_patch("promising", "bea", at_ms=3), [a_trial("dan")], log_odds=1.6),
        a_state(a_patch("hopeful", "bea", at_ms=4), [a_trial("dan")], log_odds=0.3),
    ]
    queue = sorted(plan(states, [a_machine("cyd"), a_machine("dan")], TERMS).add, key=lambda order: order.priority)
    ranks = list(dict.fromkeys(order.patch_id for order in queue))
    assert ranks == ["promising", "hopeful", "fresh", "doubted"]


def test_a_doubt_is_offered_once_to_another_identity() -> None:
    doubted = a_state(a_patch("p", "ada"), [a_trial("bea", outcome="crashed")], Verdict.PARKED, log_odds=5.0)
    fleet = [a_machine("ada"), a_machine("bea"), a_machine("bea", "bea's other"), a_machine("cyd")]
    (order,) = plan([doubted], fleet, TERMS).add
    runs = runs_by_identity(doubted.trials)
    allowed = [m.machine.machine_id for m in fleet if may_run(order, m, runs.get(m.machine.identity_id, 0), TERMS)]
    assert allowed == ["cyd's"]
    assert plan([replace(doubted, leased=[("cyd", "cyd's")])], fleet, TERMS) == Plan((), (), ())
    assert plan([doubted], fleet[:3], TERMS) == Plan((), (), ())  # nobody else is there to ask


def test_a_disturbed_trial_of_a_doubt_does_not_count_as_having_spoken() -> None:
    trials = [a_trial("bea", outcome="crashed"), a_trial("cyd", disturbed=True)]
    doubted = a_state(a_patch("p", "ada"), trials, Verdict.PARKED)
    (order,) = plan([doubted], [a_machine("cyd")], TERMS).add
    assert may_run(order, a_machine("cyd"), 1, TERMS)


def test_a_machine_whose_every_trial_is_disturbed_does_not_stand_before_the_others() -> None:
    busy, calm = a_machine("bea"), a_machine("cyd")
    state = a_state(a_patch("p", "ada"), [a_trial("cyd"), a_trial("bea", disturbed=True)])
    (order,) = plan([state], [busy, calm], TERMS).add
    assert may_run(order, calm, 1, TERMS)
    assert may_run(order, busy, 1, TERMS)


def test_a_disturbed_trial_is_repeated() -> None:
    spent = [a_trial("bea")] * (TERMS.max_trials - 1) + [a_trial("bea", disturbed=True)] * 5
    assert len(plan([a_state(a_patch("p", "ada"), spent)], [a_machine("bea")], TERMS).add) == 1
    assert (
        plan([a_state(a_patch("p", "ada"), [a_trial("bea")] * TERMS.max_trials)], [a_machine("bea")], TERMS).add == ()
    )


def test_baselines_grow_with_the_square_root_of_the_candidates_measured_against_them() -> None:
    state = a_state(a_patch("p", "ada"))
    for runs, baselines, wants in [
        (0, 0, True),
        (0, 1, False),
        (2, 1, False),
        (3, 1, True),
        (6, 2, False),
        (7, 2, True),
    ]:
        made = plan([state], [a_machine("bea", baselines=baselines, runs=runs)], TERMS).add
        assert any(order.machine_id for order in made) == wants, (runs, baselines)


def test_a_machine_measures_the_base_of_what_is_most_urgent_first() -> None:
    """Not the best, while a patch on an older generation leads."""
    old = a_state(a_patch("p", "ada", base="b0"), [a_trial("cyd")], log_odds=1.0)
    new = a_state(a_patch("q", "ada", base="b1"))
    (order,) = [o for o in plan([new, old], [a_machine("bea", baselines=0)], TERMS).add if o.machine_id]
    assert order.source_sha256 == "b0"


def test_a_machine_with_nothing_to_do_measures_the_best() -> None:
    (order,) = plan([], [a_machine("bea", baselines=0)], TERMS).add
    assert (order.source_sha256, order.patch_id, order.machine_id) == ("b1", "", "bea's")


def test_a_machine_with_new_hardware_gets_its_waiting_baseline_under_the_new_class() -> None:
    before = a_machine("bea", baselines=0, device="3060")
    (waiting,) = plan([], [before], TERMS).add
    now = replace(a_machine("bea", baselines=0, device="4090"), baseline_orders=[waiting])
    assert plan([], [now], TERMS).change == ((replace(waiting, classes=("4090",)), waiting),)


@pytest.mark.parametrize(("failed", "measured", "broken"), [(1, 0, False), (2, 0, True), (5, 1, False)])
def test_a_machine_is_broken_when_it_never_completed_what_others_run(failed: int, measured: int, broken: bool) -> None:
    machine = replace(a_machine("bea", failed=failed), baselines={"b0": 0, "b1": measured})
    assert is_broken(machine) == broken


def test_a_broken_machine_gets_no_candidate_on_another_base_either() -> None:
    broken = replace(a_machine("bea"), baselines={"b0": 1, "b1": 0}, failed_baselines={"b1": 2})
    (order,) = plan([a_state(a_patch("p", "ada", base="b0"))], [broken, a_machine("cyd")], TERMS).add
    assert not may_run(order, broken, 0, TERMS)
    assert may_run(order, a_machine("cyd"), 0, TERMS)


# --- a fleet that works ---


@dataclass
class Fleet:
    """Plays a whole swarm in memory: plans, machines ask, trials end. What a machine runs is checked as it is taken."""

    patches: dict[str, PatchState]
    machines: dict[str, MachineState]
    holding: dict[str, Order] = field(default_factory=dict)

    def plan(self) -> None:
        states, fleet = list(self.patches.values()), list(self.machines.values())
        states, fleet = applied(plan(states, fleet, TERMS), states, fleet)
        self.patches = {state.patch.patch_id: state for state in states}
        self.machines = {state.machine.machine_id: state for state in fleet}

    def ask(self, machine_id: str) -> None:
        machine = self.machines[machine_id]
        identity = machine.machine.identity_id
        ready = [order for state in self.patches.values() for order in state.ready] + list(machine.baseline_orders)
        running = {(o.patch_id, self.machines[m].machine.identity_id) for m, o in self.holding.items() if o.patch_id}
        for order in sorted(ready, key=lambda o: (o.priority, o.order_id)):
            trials = self.patches[order.patch_id].trials if order.patch_id else ()
            mine = runs_by_identity(trials).get(identity, 0)
            if (order.patch_id, identity) not in running and may_run(order, machine, mine, TERMS):
                self.holding[machine_id] = order
                break
        taken = self.holding.get(machine_id)
        if taken is not None and taken.patch_id:
            state = self.patches[taken.patch_id]
            left = [o for o in state.ready if o.order_id != taken.order_id]
            self.patches[taken.patch_id] = replace(state, ready=left, leased=[*state.leased, (identity, machine_id)])

    def end(self, machine_id: str, *, disturbed: bool) -> None:
        order, machine = self.holding.pop(machine_id), self.machines[machine_id]
        base = order.base_sha256
        if not order.patch_id:
            done = machine.baselines[base] + (not disturbed)
            left = [o for o in machine.baseline_orders if o.order_id != order.order_id]
            self.machines[machine_id] = replace(
                machine, baselines={**machine.baselines, base: done}, baseline_orders=left
            )
            return
        state, identity = self.patches[order.patch_id], machine.machine.identity_id
        leased = list(state.leased)
        leased.remove((identity, machine_id))
        trials = [*state.trials, a_trial(identity, machine_id, disturbed=disturbed)]
        self.patches[order.patch_id] = replace(state, trials=trials, leased=leased)
        done = machine.candidate_runs[base] + (not disturbed)
        self.machines[machine_id] = replace(machine, candidate_runs={**machine.candidate_runs, base: done})


@settings(deadline=None, max_examples=40)
@given(
    owners=st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=5),
    authors=st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=3),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=120),
)
def test_a_fleet_finishes_every_patch_and_shares_the_work(
    owners: list[str], authors: list[str], steps: list[tuple[int, int]]
) -> None:
    fleet = Fleet(
        {f"p{n}": a_state(a_patch(f"p{n}", author, BASES[n % 2], n)) for n, author in enumerate(authors)},
        {
            f"m{n}": replace(
                a_machine(owner, f"m{n}", ("H100", "4090")[n % 2]),
                baselines=dict.fromkeys(BASES, 0),
                candidate_runs=dict.fromkeys(BASES, 0),
            )
            for n, owner in enumerate(owners)
        },
    )
    assume(all(set(owners) - {author} for author in authors))
    names = sorted(fleet.machines)
    # A drawn beginning, then everybody in turn until nothing is left.
    for choice, chance in [*steps, *((n, 5) for n in range(40 * len(names) * len(authors)))]:
        name = names[choice % len(names)]
        fleet.plan()
        if name in fleet.holding:
            fleet.end(name, disturbed=chance == 0)
        else:
            fleet.ask(name)
    for state in fleet.patches.values():
        assert state.patch.author_id not in {trial.identity_id for trial in state.trials}
        counted = Counter(trial.identity_id for trial in state.trials if not trial.disturbed)
        assert counted.total() == TERMS.max_trials
        chances = Counter(trial.identity_id for trial in state.trials)
        able = set(owners) - {state.patch.author_id}
        assert max(chances.values()) - min(chances[identity] for identity in able) <= 1
