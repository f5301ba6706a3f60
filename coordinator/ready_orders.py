"""Which trials the swarm wants next, and which of them a given machine may run. Pure and deterministic.

The planner runs whenever something changed; it names the orders that should be ready. Leasing only picks from them.
Rules (statistics.md, sections 5 and 6): open patches with the best odds first, then fresh ones, authors taking turns;
as many trials in flight as `wanted_in_flight` says; a machine measures the base before it measures a patch, and more
often the more patches it measures (`baselines_wanted`); an author's own machines never run the author's patch; nobody
runs a patch again before everyone else had a chance. A patch that crashed or failed the exam for one identity is
offered once to another, because only two identities make it a fact.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from autoresearch.judging.model import Machine, Order, Patch, Trial
from autoresearch.judging.verdict import Verdict, baselines_wanted, wanted_in_flight

FRESH_PRIORITY = 1_000.0  # after every patch that has evidence
DOUBT_PRIORITY = 2_000.0  # crash confirmations: cheap, but they never lead to a gain
BASELINE_PRIORITY = -1_000.0  # before everything: without it the machine's other trials mean nothing
READY_PER_MACHINE = 4  # queue no more than the fleet can start soon; the plan is made anew after every result
FAILED_BASELINES = 2  # a machine that cannot run the best itself gets no candidates


@dataclass(frozen=True, slots=True)
class PatchState:
    """An undecided patch and what is known of it. `ready` and `leased` are its orders under way."""

    patch: Patch
    trials: Sequence[Trial]
    ready: Sequence[Order]
    leased: Sequence[tuple[str, str]]  # (identity id, machine id) of each lease
    orders_made: int
    log_odds: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class MachineState:
    """An active machine: finished, undisturbed trials per base source."""

    machine: Machine
    baselines: Mapping[str, int]
    failed_baselines: Mapping[str, int]
    candidate_runs: Mapping[str, int]
    baseline_orders: Sequence[Order]  # ready or leased
    baselines_made: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change in the queues."""

    add: tuple[Order, ...]
    change: tuple[tuple[Order, Order], ...]  # (new, old) terms of a ready order
    cancel: tuple[Order, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """What the plan depends on besides the evidence."""

    upper: float  # log odds that promote
    max_trials: int
    first_baselines: int  # measured on a machine before its first candidate on a base
    best_sha256: str  # the current best, measured by machines that have nothing else to do


def plan(
    patches: Sequence[PatchState], machines: Sequence[MachineState], terms: Terms, queued: Sequence[Order] = ()
) -> Plan:
    """The changes that make the ready orders what they should be.

    `queued`: orders in the queues, of whatever patch; those of a patch that is not among `patches` are cancelled.
    """
    healthy = [state for state in machines if not is_broken(state)]
    wished: dict[str, Order] = {}
    room = READY_PER_MACHINE * max(1, len(machines))
    for priority, state in _in_turn(patches):
        if room <= 0:
            break
        orders = _candidates(state, healthy, terms, priority)
        wished.update((order.order_id, order) for order in orders)
        room -= len(orders)
    candidates = list(wished.values())
    for machine in healthy:
        order = _baseline(machine, candidates, terms)
        if order is not None:
            wished[order.order_id] = order
    return _difference(wished, patches, machines, queued)


def may_run(order: Order, state: MachineState, runs: int, terms: Terms) -> bool:
    """Whether the machine may fill the order; `runs`: trials of this patch that its identity has had."""
    machine = state.machine
    if order.machine_id:
        return order.machine_id == machine.machine_id
    if machine.identity_id == order.author_id or machine.hardware_class not in order.classes or is_broken(state):
        return False
    return runs <= order.most_runs and not _needs_baseline(state, order.base_sha256, terms)


def runs_by_identity(trials: Iterable[Trial]) -> dict[str, int]:
    """Trials of a patch that each identity has had. Disturbed ones too: with every trial disturbed, a busy machine
    would stand before everyone else for ever."""
    return Counter(trial.identity_id for trial in trials)


def _in_turn(patches: Sequence[PatchState]) -> list[tuple[float, PatchState]]:
    """Every patch with its priority: evidence first, then fresh ones with authors taking turns, then doubts."""
    turns: dict[str, int] = {}
    listed = []
    for state in sorted(patches, key=lambda s: (s.patch.submitted_at_ms, s.patch.patch_id)):
        if state.verdict is not Verdict.OPEN:
            priority = DOUBT_PRIORITY
        elif state.trials:
            priority = -state.log_odds
        else:
            turn = turns[state.patch.author_id] = turns.get(state.patch.author_id, 0) + 1
            priority = FRESH_PRIORITY + turn
        listed.append((priority, state))
    return sorted(listed, key=lambda item: item[0])


def _candidates(state: PatchState, machines: Sequence[MachineState], terms: Terms, priority: float) -> list[Order]:
    patch = state.patch
    able = [m.machine for m in machines if m.machine.identity_id != patch.author_id]
    runs = runs_by_identity(state.trials)
    doubted = state.verdict is not Verdict.OPEN
    finished = [trial for trial in state.trials if not trial.disturbed]
    if doubted:  # one more identity's word settles it
        heard = {trial.identity_id for trial in finished}
        able = [machine for machine in able if machine.identity_id not in heard]
    if not able:
        return []
    wanted = 1 if doubted else wanted_in_flight(state.log_odds, terms.upper)
    count = min(wanted, terms.max_trials - len(finished)) - len(state.leased)
    shape = Order(
        order_id="",
        patch_id=patch.patch_id,
        author_id=patch.author_id,
        source_sha256=patch.candidate_sha256,
        base_sha256=patch.base_sha256,
        classes=tuple(sorted({machine.hardware_class for machine in able})),
        machine_id="",
        most_runs=min(runs.get(machine.identity_id, 0) for machine in able),
        priority=priority,
    )
    kept = [order.order_id for order in state.ready][: max(0, count)]
    new = [f"{patch.patch_id}-{state.orders_made + n}" for n in range(max(0, count) - len(kept))]
    return [replace(shape, order_id=order_id) for order_id in (*kept, *new)]


def _baseline(state: MachineState, candidates: Sequence[Order], terms: Terms) -> Order | None:
    """The baseline that this machine should measure now: for its most urgent candidate, else on the best."""
    machine = state.machine
    mine = [o for o in candidates if machine.hardware_class in o.classes and machine.identity_id != o.author_id]
    bases = [order.base_sha256 for order in sorted(mine, key=lambda order: order.priority)] or [terms.best_sha256]
    base = next((base for base in bases if _needs_baseline(state, base, terms)), None)
    if base is None:
        return None
    under_way = [order for order in state.baseline_orders if order.source_sha256 == base]
    if under_way:
        return replace(under_way[0], classes=(machine.hardware_class,))  # its hardware may have changed since
    return Order(
        order_id=f"baseline-{base[:16]}-{machine.machine_id[:16]}-{state.baselines_made}",
        patch_id="",
        author_id="",
        source_sha256=base,
        base_sha256=base,
        classes=(machine.hardware_class,),
        machine_id=machine.machine_id,
        most_runs=0,
        priority=BASELINE_PRIORITY,
    )


def _needs_baseline(state: MachineState, base: str, terms: Terms) -> bool:
    wanted = baselines_wanted(state.candidate_runs.get(base, 0), least=terms.first_baselines)
    return state.baselines.get(base, 0) < wanted


def is_broken(state: MachineState) -> bool:
    """Whether the machine fails on sources that others run: it had its tries and never completed one."""
    return any(
        failed >= FAILED_BASELINES and not state.baselines.get(base, 0)
        for base, failed in state.failed_baselines.items()
    )


def _difference(
    wished: Mapping[str, Order],
    patches: Sequence[PatchState],
    machines: Sequence[MachineState],
    queued: Sequence[Order],
) -> Plan:
    known = {state.patch.patch_id for state in patches}
    ready = {order.order_id: order for order in queued if order.patch_id and order.patch_id not in known}
    ready |= {order.order_id: order for state in patches for order in state.ready}
    ready |= {order.order_id: order for machine in machines for order in machine.baseline_orders}
    add = tuple(order for order_id, order in wished.items() if order_id not in ready)
    change = tuple((order, ready[key]) for key, order in wished.items() if key in ready and ready[key] != order)
    cancel = tuple(order for order_id, order in ready.items() if order_id not in wished)
    return Plan(add, change, cancel)
