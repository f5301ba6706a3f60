"""Reads, from the store, the facts that planning needs: of one patch, of one machine, of the orders of a line.

Keeps what only grows (baselines) and what a new order needs (how many were made, which are ready again). What to read
when is `scheduling`'s business, what the facts mean `gathering`'s and `planning`'s.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from autoresearch.judging.model import Lease, Machine, Order, Patch, Trial
from autoresearch.judging.periods import Key
from coordinator import gathering, leasing
from coordinator.facts import MachineFacts, PatchFacts
from coordinator.leasing import Offer
from coordinator.planning import Choice
from coordinator.records import Records

READY = leasing.READY.decode()
RUNS_MOST = 40  # runs of a period that are counted: the square-root rule has reached its most by then


class FactsReader:
    """Facts, one patch or machine at a time."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store
        self._ready: dict[str, list[Order]] = {}  # by line
        self._made: dict[str, int] = {}  # by line
        self._baselines: dict[str, tuple[int, dict[Key, list[Trial]]]] = {}  # base -> trials taken in; by machine

    async def begin(self, lines: Collection[str]) -> None:
        """Reads at once how many orders were made of each of these lines."""
        made = await self._store.ranked("orders_made")
        self._made = {line: int(score) for line, score in made if line in lines}

    def forget(self, line: str) -> None:
        """There will be no more orders of this line."""
        self._made.pop(line, None)
        self._ready.pop(line, None)

    def forget_bases(self, live: Collection[str]) -> None:
        """Only these bases are measured from now on."""
        for base in self._baselines.keys() - set(live):
            del self._baselines[base]

    async def patch(self, patch: Patch, *, again: bool = True) -> PatchFacts:
        """What is known of an undecided patch. `again`: how many orders were made of it may have changed."""
        if again:
            self._made[patch.patch_id] = await self._records.orders_made(patch.patch_id)
        if not self._made.get(patch.patch_id, 0):  # nobody has ever run it
            return gathering.patch_facts(patch, (), ())
        leased = await self._read_orders(patch.patch_id)
        voids = (await self._records.jury()).voids
        trials = voids.marked(await self._records.candidate_trials(patch.patch_id))
        return gathering.patch_facts(patch, trials, [(own.identity_id, own.hardware_class) for _, own in leased])

    async def machine(self, machine: Machine, bases: Iterable[str], last_trial_at_ms: int) -> MachineFacts:
        """What is known of a machine on these bases."""
        line = f"@{machine.machine_id}"
        self._made[line] = await self._records.orders_made(line)
        leased = Counter(o.source_sha256 for o, _ in await self._read_orders(line) if not o.known_answer)
        enrolled_at = await self._store.score("enrolled", machine.machine_id) or machine.enrolled_at_ms
        baselines = {base: await self._own_baselines(base, machine) for base in bases}
        setting = gathering.setting_now(machine.setting, enrolled_at, [t for own in baselines.values() for t in own])
        return MachineFacts(
            machine_id=machine.machine_id,
            identity_id=machine.identity_id,
            hardware_class=machine.hardware_class,
            bases={
                base: gathering.base_facts(
                    own, await self._runs(base, machine, own), setting, enrolled_at, leased[base]
                )
                for base, own in baselines.items()
                if own or leased[base]
            },
            last_trial_at_ms=last_trial_at_ms,
            canary=machine.canary,
        )

    async def _read_orders(self, line: str) -> list[tuple[Order, Lease]]:
        """Orders under way, with their leases; those that wait to be leased again are kept."""
        orders = await self._records.orders(line)
        self._ready[line] = [order for order, state in orders if state == READY]
        leases = {state.removeprefix("leased:"): order for order, state in orders if state != READY}
        return [(leases[own.lease_id], own) for own in await self._records.live_leases(list(leases))]

    async def _own_baselines(self, base: str, machine: Machine) -> Sequence[Trial]:
        """What this machine measured on a base with the hardware it has now."""
        trials = await self._records.baseline_trials(base)
        taken, own = self._baselines.setdefault(base, (0, {}))  # now: others read beside this
        for trial in trials[taken:]:
            own.setdefault((trial.machine_id, trial.hardware_class), []).append(trial)
        self._baselines[base] = (max(taken, len(trials)), own)
        voids = (await self._records.jury()).voids
        return voids.counting(own.get((machine.machine_id, machine.hardware_class), ()))

    async def _runs(self, base: str, machine: Machine, baselines: Sequence[Trial]) -> int:
        """Patches that the machine has run on a base since its period began: enough for the square-root rule."""
        began = gathering.period_entry(baselines)
        if began is None:
            return 0
        ran = f"ran:{base}:{machine.machine_id}"
        return len(await self._store.ranked_between(ran, began, leasing.FOREVER, RUNS_MOST))

    def offer(self, choice: Choice, machine: Machine, patch: Patch | None) -> Offer:
        """The order that a choice is: one that came back, or a new one. `patch`: the candidate's, as it was planned."""
        order = self._new_order(choice, machine, patch)
        alike = (order.source_sha256, order.known_answer)
        ready = [o for o in self._ready.get(order.line, ()) if (o.source_sha256, o.known_answer) == alike]
        return Offer(ready[0] if ready else order, patch, new=not ready)

    def _new_order(self, choice: Choice, machine: Machine, patch: Patch | None) -> Order:
        """Its id counts the orders of its line: whoever plans with an old count makes one that is there."""
        loss = choice.known
        line = choice.patch_id or f"@{machine.machine_id}"
        source = loss.source_sha256 if loss else patch.candidate_sha256 if patch else choice.base_sha256
        return Order(
            order_id=f"{line}-{self._made.get(line, 0)}",
            patch_id=choice.patch_id,
            source_sha256=source,
            base_sha256=loss.base_sha256 if loss else choice.base_sha256,
            machine_id="" if choice.patch_id else machine.machine_id,
            known_answer=loss.patch_id if loss else "",
            known_effect_bpb=loss.effect_bpb if loss else 0.0,
        )
