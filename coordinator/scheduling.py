"""Keeps the queues as the planner wants them and finds what a machine may run. Loads, asks `planning`, writes."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from autoresearch.judging.model import Machine, Order, Patch, Trial
from autoresearch.judging.periods import counts
from autoresearch.judging.verdict import Verdict
from coordinator import leasing, ready_orders
from coordinator.ready_orders import MachineState, PatchState, Terms
from coordinator.records import Records, Swarm

ACTIVE_MS = 120_000  # a machine heard of within this time is planned for
ACTIVE_MOST = 10_000  # machines planned for
QUEUED_MOST = 10_000  # ready orders of a hardware class that a plan looks at
QUEUE_LOOK = 256  # ready orders that a machine looks through for one that it may run
RESUME_AFTER_MS = 600_000  # a parked patch rests this long before idle machines look at it again


class Scheduler:
    """Plans, and offers a machine what it may run."""

    def __init__(self, swarm: Swarm, records: Records, now_ms: Callable[[], int]) -> None:
        self._swarm = swarm
        self._rule = swarm.parsed_rule()
        self._records = records
        self._store = records.store
        self._now_ms = now_ms

    async def terms(self) -> Terms:
        """What plans depend on besides the evidence."""
        best = await self._records.best()
        return Terms(self._rule.upper, self._rule.max_trials, self._swarm.first_baselines, best.source_sha256)

    async def plan(self) -> None:
        """Makes the ready orders what they should be now."""
        terms = await self.terms()
        active = await self._active()
        queued = await self._queued({machine.hardware_class for machine in active})  # before the patches, which may end
        patches = [await self._patch_state(*wanted) for wanted in await self._worth_testing()]
        machines = await self.machine_states(active, [state.patch for state in patches], terms)
        plan = ready_orders.plan(patches, machines, terms, queued)
        for order in plan.cancel:
            await self._store.apply(leasing.withdraw(order))
        for order, old in plan.change:
            await self._store.apply(leasing.requeue(order, old))
        planned_for = {state.patch.patch_id: state.patch for state in patches}
        for order in plan.add:
            await self._store.apply(leasing.enqueue(order, planned_for.get(order.patch_id)))

    async def _active(self) -> list[Machine]:
        seen = await self._store.ranked_between("seen", self._now_ms() - ACTIVE_MS, leasing.FOREVER, ACTIVE_MOST)
        return await self._records.machines([machine_id for machine_id, _ in seen])

    async def _queued(self, classes: Collection[str]) -> list[Order]:
        queues = [await self._store.ranked(f"ready:{name}", QUEUED_MOST) for name in sorted(classes)]
        return await self._records.orders_by_id(sorted({order_id for queue in queues for order_id, _ in queue}))

    async def _worth_testing(self) -> list[tuple[Patch, Verdict]]:
        """Open patches; when there is none, the best of those that have rested, which is tested as an open one."""
        patches = [(patch, Verdict(patch.verdict)) for patch in await self._records.open_patches()]
        if any(verdict is Verdict.OPEN for _, verdict in patches):
            return patches
        resting = [member for member, _ in await self._store.ranked("parked", 8, highest_first=True)]
        parked = await self._records.patches(resting)
        rested = self._now_ms() - RESUME_AFTER_MS
        return [*patches, *[(patch, Verdict.OPEN) for patch in parked if patch.decided_at_ms <= rested][:1]]

    async def _patch_state(self, patch: Patch, verdict: Verdict) -> PatchState:
        made = await self._records.orders_made(patch.patch_id)  # first: two planners then make orders of the same id
        orders = await self._records.orders(patch.patch_id)  # before trials: one that just ended is not ordered anew
        trials = await self._records.candidate_trials(patch.patch_id)
        lease_ids = [state.removeprefix("leased:") for _, state in orders if state != "ready"]
        leases = await self._records.live_leases(lease_ids)
        return PatchState(
            patch=patch,
            trials=trials,
            ready=[order for order, state in orders if state == "ready"],
            leased=[(lease.identity_id, lease.machine_id) for lease in leases],
            orders_made=made,
            log_odds=float((patch.decision or {}).get("log_odds", 0.0)),
            verdict=verdict,
        )

    async def machine_states(
        self, machines: Sequence[Machine], patches: Sequence[Patch], terms: Terms
    ) -> list[MachineState]:
        """Machines with what they have measured on the bases that matter."""
        made = await self._records.orders_made("")  # in this order for the reasons given in _patch_state
        orders = [order for order, _ in await self._records.orders("")]
        bases = {terms.best_sha256, *(patch.base_sha256 for patch in patches)}
        trials = [trial for base in sorted(bases) for trial in await self._records.baseline_trials(base)]
        runs = [(p.base_sha256, t) for p in patches for t in await self._records.candidate_trials(p.patch_id)]
        return [
            _machine_state(machine, trials, runs, orders, made=made, enrolled_at_ms=await self._enrolled_at(machine))
            for machine in machines
        ]

    async def _enrolled_at(self, machine: Machine) -> float:
        """When the machine joined last: whoever mended it joins again."""
        return await self._store.score("enrolled", machine.machine_id) or machine.enrolled_at_ms

    async def orders_for(self, machine: Machine) -> list[Order]:
        """Ready orders that this machine may run, best first."""
        terms = await self.terms()
        queue = [member for member, _ in await self._store.ranked(f"ready:{machine.hardware_class}", QUEUE_LOOK)]
        orders = [order for order_id in queue if (order := await self._records.order(order_id)) is not None]
        patches = await self._records.patches(sorted({order.patch_id for order in orders if order.patch_id}))
        if not orders:
            return []
        (state,) = await self.machine_states([machine], patches, terms)
        trials = {patch.patch_id: await self._records.candidate_trials(patch.patch_id) for patch in patches}
        runs = {patch_id: ready_orders.runs_by_identity(done) for patch_id, done in trials.items()}
        return [
            order
            for order in orders
            if ready_orders.may_run(order, state, runs.get(order.patch_id, {}).get(machine.identity_id, 0), terms)
        ]

    async def withdraw_orders(self, patch_id: str) -> None:
        """Takes a decided patch's ready orders out of the queues."""
        while True:
            ready = [order for order, state in await self._records.orders(patch_id) if state == "ready"]
            if not [order for order in ready if await self._store.apply(leasing.withdraw(order)) is not None]:
                return  # otherwise a planner changed its terms or a machine took it meanwhile: look again

    async def is_broken(self, machine: Machine) -> bool:
        """Whether the machine fails on the bests that others run."""
        states = await self.machine_states([machine], [], await self.terms())
        return any(ready_orders.is_broken(state) for state in states)


def _machine_state(
    machine: Machine,
    baselines: Sequence[Trial],
    runs: Sequence[tuple[str, Trial]],
    orders: Sequence[Order],
    *,
    made: int,
    enrolled_at_ms: float,
) -> MachineState:
    now = (machine.machine_id, machine.hardware_class)  # what it measured with other hardware compares with nothing
    own = [trial for trial in baselines if (trial.machine_id, trial.hardware_class) == now]
    mine = [(base, trial) for base, trial in runs if (trial.machine_id, trial.hardware_class) == now]
    recent = [trial for trial in own if trial.accepted_at_ms >= enrolled_at_ms]
    return MachineState(
        machine=machine,
        baselines=Counter(trial.source_sha256 for trial in own if counts(trial)),
        failed_baselines=Counter(trial.source_sha256 for trial in recent if trial.outcome != "completed"),
        candidate_runs=Counter(base for base, trial in mine if counts(trial)),
        baseline_orders=[order for order in orders if order.machine_id == machine.machine_id],
        baselines_made=made,
    )
