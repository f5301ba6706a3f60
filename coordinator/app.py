"""The coordinator's use cases: what happens when a machine asks, a result arrives, a patch is submitted, time passes.

Puts the rooms together - `intake`, `dispatch`, `following`, `scheduling` - and tells sessions what concerns them. What
follows from a ledger entry is worked out by one worker per process (`work`), never inside a call; other processes on
the same store are kept apart by the changes' guards.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Identity, Lease, Machine, Patch, Progress
from autoresearch.judging.verdict import UNDECIDED
from autoresearch.v1.envelope_pb2 import Envelope
from coordinator.access import Role
from coordinator.dispatch import Dispatch, Receipt
from coordinator.errors import OperatorError
from coordinator.following import Follower
from coordinator.intake import Intake
from coordinator.planning import Why
from coordinator.records import Records
from coordinator.register import Done, Register
from coordinator.scheduling import Scheduler
from coordinator.store import Change, Rank, StoreError

log = logging.getLogger(__name__)
RETRY_MS = 2_000  # an idle machine asks again this often, in a small swarm
IDLE_ASKS_MS = 4  # all together ask no more often than this: a few hundred times a second
ATTEMPTS = 8  # grants tried before a machine is asked to come again
PAUSED_RETRY_MS = 15_000
MAY_WORK = frozenset({Role.VOLUNTEER})
TICK_S = 1.0  # leases are looked at this often
_QUARANTINE = {
    "quarantine": "your results do not count for now: this identity is in quarantine; it {}",
    "reinstatement": "your results count again: {}",
}
_INVALID = {
    "invalidate": "an operator had results of yours counted no more",
    "restore": "results of yours that an operator had invalidated count again",
}


@dataclass(frozen=True, slots=True)
class Told:
    """Something that machines are told at once: `lease` set: stop that trial; otherwise a notice, for the machines of
    one identity or for everybody."""

    text: str
    generation: int
    lease: Lease | None = None
    identity_id: str = ""


@dataclass(frozen=True, slots=True)
class Idle:
    """Why there is nothing to run, and when to ask again."""

    reason: str
    retry_ms: int = RETRY_MS


class App:
    """Use cases of one coordinator process."""

    def __init__(
        self,
        records: Records,
        intake: Intake,
        dispatch: Dispatch,
        follower: Follower,
        scheduler: Scheduler,
        *,
        register: Register,
        now_ms: Callable[[], int],
        tell: Callable[[Told], None],
    ) -> None:
        self.records = records
        self.dispatch = dispatch
        self._follower = follower
        self._intake = intake
        self.scheduler = scheduler
        self._register = register
        self._now_ms = now_ms
        self._tell = tell
        self._working = asyncio.Lock()
        self._granting = asyncio.Lock()
        self._asked = 0  # machines that wait for what just came in to be followed up
        self._answered = 0
        self._stale = asyncio.Event()  # there may be something to follow up

    async def recover(self) -> None:
        """After a start: branch as the store says, what the ledger holds followed up, what is to be run loaded."""
        self._stale.set()
        await self.work_once()
        await self._follower.begin()
        await self.scheduler.follow()

    async def work(self) -> None:
        """Follows up until cancelled. While the store is away nothing is lost: it is tried again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):  # not wait_for: Python 3.11's may swallow a cancellation
                    await self._stale.wait()
            try:
                await self.work_once()
            except (StoreError, OperatorError) as error:
                log.warning("will try again: %s", error)
                self._stale.set()
                await asyncio.sleep(TICK_S)

    async def work_once(self) -> None:
        """Ends leases that were not kept alive, follows the ledger."""
        async with self._working:
            await self.dispatch.expire()
            if self._stale.is_set() or await self._follower.behind():
                await self._follow_up()

    async def _catch_up(self) -> None:
        """Follows up now. Machines that ask together are answered together."""
        self._asked = mine = self._asked + 1
        async with self._working:
            if self._answered < mine:
                answers = self._asked
                await self._follow_up()
                self._answered = answers

    async def _follow_up(self) -> None:
        self._stale.clear()
        await self._follower.catch_up(self._heed)

    async def _heed(self, entry: Entry) -> None:
        """Stops what an entry makes a waste, has it planned for, and tells those whom it concerns."""
        self.scheduler.take_in(entry)
        if entry.kind == "verdict" and entry.body["verdict"] not in UNDECIDED:
            patch = await self.records.patch(entry.body["patch_id"])
            if patch is not None and patch.verdict not in UNDECIDED:
                await self._stop_trials(patch, f"its patch is decided: {patch.verdict}")
        elif entry.kind == "promotion":
            text = f"new best, generation {entry.body['generation']}: {entry.body['title']}"
            self._tell(Told(text, entry.body["generation"]))
        elif entry.kind == "rollback":
            log.warning("generation %d: %s: %s", entry.body["generation"], entry.body["title"], entry.body["reason"])
            self._tell(Told(f"generation {entry.body['generation']}: {entry.body['title']}", entry.body["generation"]))
        elif entry.kind == "proposal" and not entry.body["stands"]:
            log.warning("generation %d should be rolled back: %s", entry.body["generation"], entry.body["reason"])
        elif entry.kind in ("quarantine", "reinstatement"):
            who, reason = entry.body["identity_id"], entry.body["reason"]
            log.warning("identity %s: %s: %s", who, entry.kind, reason)
            generation = (await self.records.best()).generation
            self._tell(Told(_QUARANTINE[entry.kind].format(reason), generation, identity_id=who))
        elif entry.kind == "instruction" and (said := _INVALID.get(entry.body["action"])):
            generation = (await self.records.best()).generation
            reason = entry.body["reason"] or "no reason was given"
            self._tell(Told(f"{said}: {reason}", generation, identity_id=entry.body["subject"]))

    async def enroll(self, signed: Envelope) -> tuple[Identity, Machine | None]:
        """See `Intake.enroll`; the new machine is planned for."""
        replayed = await self._intake.is_history(signed)
        identity, machine = await self._intake.enroll(signed)
        if machine is not None and not replayed:
            now = float(self._now_ms())
            again = (Rank("seen", machine.machine_id, now), Rank("enrolled", machine.machine_id, now))
            await self.records.store.apply(Change((), again))
            self.scheduler.hear(machine.machine_id)
            self.scheduler.touch(f"@{machine.machine_id}")
            self._stale.set()
        return identity, machine

    async def submit(self, signed: Envelope) -> Patch:
        """See `Intake.submit`; the patch is queued."""
        patch = await self._intake.submit(signed)
        self._stale.set()
        return patch

    async def withdraw(self, signed: Envelope) -> Patch:
        """See `Intake.withdraw`; its trials are stopped."""
        patch = await self._intake.withdraw(signed)
        await self._stop_trials(patch, "its patch was withdrawn")
        self._stale.set()
        return patch

    async def instruct(self, signed: Envelope) -> Done:
        """See `Register.instruct`; what is under way follows it."""
        done = await self._register.instruct(signed)
        if done.action == "ban":
            await self._shut_out(done.subject)
        self._stale.set()
        return done

    async def _shut_out(self, identity_id: str) -> None:
        """Ends what a banned identity is doing; its orders go to others."""
        for lease in [lease for lease in await self.records.leases() if lease.identity_id == identity_id]:
            if await self.dispatch.give_back(lease.lease_id, lease.machine_id):
                self._tell(Told("this identity was shut out by the operator", 0, lease))

    async def seen(self, machine_id: str) -> None:
        """Notes that a machine is there."""
        self.scheduler.hear(machine_id)
        await self.records.store.apply(Change((), (Rank("seen", machine_id, float(self._now_ms())),)))

    async def resume(self, machine: Machine, held: set[str]) -> list[str]:
        """A session opens: which of the leases that the machine holds live. One that it does not name (its grant was
        lost on a broken line) is ended, lest the order wait for nobody."""
        await self.seen(machine.machine_id)
        for lease in await self.records.leases_on(machine.machine_id):
            if lease.lease_id not in held:
                await self.give_back(lease.lease_id, machine.machine_id)
        live = await self.records.live_leases(sorted(held))
        return [lease.lease_id for lease in live if lease.machine_id == machine.machine_id]

    async def lease(self, machine: Machine) -> tuple[Lease, Envelope] | Idle:
        """The next order for a machine, or why there is none."""
        await self.seen(machine.machine_id)
        if reason := await self._register.paused():
            return Idle(f"the operator paused the swarm: {reason}", max(PAUSED_RETRY_MS, self._retry_ms()))
        await self._register.require(machine.identity_id, MAY_WORK)
        for _ in range(ATTEMPTS):
            if self._working.locked() or await self._follower.behind():
                await self._catch_up()  # what just came in may make the trial that looks best now a waste of minutes
            async with self._granting:  # two who ask at once must not be promised the same
                chosen = await self.scheduler.choose(machine)
                if isinstance(chosen, Why):
                    return Idle(await self._in_words(chosen, machine), self._retry_ms())
                granted = await self.dispatch.grant(chosen, machine)
            if granted is not None:
                return granted
        return Idle("much is changing just now: it is looked at again")

    def _retry_ms(self) -> int:
        return max(RETRY_MS, IDLE_ASKS_MS * self.scheduler.machines)

    async def _in_words(self, why: Why, machine: Machine) -> str:
        held = (await self.records.jury()).held.get(machine.identity_id)
        return why.value if held is None else _QUARANTINE["quarantine"].format(held.reason)

    async def heartbeat(self, lease_id: str, machine_id: str, progress: Progress) -> bool:
        """See `Dispatch.heartbeat`; the machine is there."""
        self.scheduler.hear(machine_id)
        return await self.dispatch.heartbeat(lease_id, machine_id, progress)

    async def give_back(self, lease_id: str, machine_id: str) -> None:
        """Returns a lease unfilled; its order goes to somebody else."""
        if await self.dispatch.give_back(lease_id, machine_id):
            self._stale.set()

    async def accept(self, signed: Envelope, identity_id: str) -> Receipt:
        """See `Dispatch.accept`. What follows from it is the worker's."""
        receipt = await self.dispatch.accept(signed, identity_id)
        self._stale.set()
        return receipt

    async def _stop_trials(self, patch: Patch, reason: str) -> None:
        await self.scheduler.withdraw_orders(patch.patch_id)
        for lease in await self.dispatch.end_leases_of(patch.patch_id):
            self._tell(Told(reason, patch.promoted_generation, lease))
