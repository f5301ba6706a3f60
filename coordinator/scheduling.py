"""Keeps the planner's facts as the store has them, and says what a machine should run: an order, new or ready again.

Everything is read once; after that it is told of every ledger entry that was followed (`take_in`) and of every order
that was moved (`touch`), and reads what those concern: so a plan costs what has changed, not what there is. A new best
concerns all machines: who asks is read at once, the others a hundred at a look. Decides
nothing (`planning` does) and hands nothing out (`dispatch`). What another process leases meanwhile shows when a
grant's guard fails: that order's patch is then read again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice, takewhile
from typing import TypeVar

from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Machine, Patch
from autoresearch.judging.verdict import UNDECIDED
from coordinator import gathering, leasing
from coordinator.facts import KnownLoss
from coordinator.leasing import Offer
from coordinator.planning import Kind, Planner, Why
from coordinator.policy import DEFAULT_POLICY, Policy
from coordinator.reading import READY, FactsReader
from coordinator.records import Records, Swarm

T = TypeVar("T")
R = TypeVar("R")
ACTIVE_MS = 120_000  # a machine heard of within this time is planned for
ACTIVE_MOST = 10_000  # machines planned for
AROUND_MS = 86_400_000  # a machine that was at work within a day counts when it is judged which cards are noisy
PARKED_MOST = 1_000  # parked patches kept for second looks, the best ones; and as many of the worst
LOSSES_FROM = 500  # patches decided last, among which those are that are known to lose
AT_ONCE = 64  # reads under way at once
STALE_AT_ONCE = 100  # machines read again at one look after what concerns all of them
PAGE = 500  # ledger entries, or patches, read at once
Noise = Callable[[], Awaitable[Mapping[str, float]]]


class Scheduler:
    """One process's view of what is to be run."""

    def __init__(
        self,
        swarm: Swarm,
        records: Records,
        noise: Noise,
        *,
        now_ms: Callable[[], int],
        draw: Callable[[], float],
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self._rule = swarm.parsed_rule()
        self._policy = replace(policy, first_baselines=swarm.first_baselines)
        self._records = records
        self._store = records.store
        self._reader = FactsReader(records)
        self._noise = noise
        self._now_ms = now_ms
        self._draw = draw
        self.planner = Planner(self._rule, self._policy)
        self._loaded = False
        self._news: set[str] = set()  # kinds of ledger entries that were followed
        self._measured: set[tuple[str, str]] = set()  # base and machine of baselines among them
        self._doubted: set[str] = set()  # identities that entered or left quarantine
        self._lines: set[str] = set()  # patches, and machines as "@id", that something happened to
        self._stale: dict[str, None] = {}  # machines to be read again, by and by: each is before it is planned for
        self._heard: dict[str, float] = {}  # machine -> last heard of, oldest first
        self._around: dict[str, tuple[str, float]] = {}  # machine -> hardware class, last read; oldest first
        self._patches: dict[str, Patch] = {}  # undecided ones
        self._tested_on: Counter[str] = Counter()  # base -> undecided patches
        self._noise_bpb: Mapping[str, float] | None = None
        self._kept_bases: set[str] = set()  # the best and the one before it
        self._last_trial: dict[str, int] = {}  # machine -> when it last took or filled an order
        self._losses: dict[str, KnownLoss] = {}
        self._following = asyncio.Lock()

    # --- what changed ---

    def touch(self, line: str) -> None:
        """Something happened to an order of this patch, or for this machine ("@id")."""
        self._lines.add(line)

    def hear(self, machine_id: str) -> None:
        """A machine is there."""
        known = self._heard.pop(machine_id, None)
        self._heard[machine_id] = float(self._now_ms())  # moves to the end
        if known is None:
            self._lines.add(f"@{machine_id}")

    @property
    def machines(self) -> int:
        """How many machines were heard of lately."""
        return len(self._heard)

    def take_in(self, entry: Entry) -> None:
        """A ledger entry was followed: what follows from it is written."""
        self._news.add(entry.kind)
        patch_id, machine_id = entry.body.get("patch_id"), entry.body.get("machine_id")
        if entry.kind == "instruction" and entry.body["action"] in ("approve", "refuse"):
            patch_id = entry.body["subject"]
        if machine_id:
            self._lines.add(f"@{machine_id}")
        if patch_id:
            self._lines.add(patch_id)
        if entry.kind == "result":
            self._last_trial[entry.body["machine_id"]] = entry.at_ms
            if known := entry.body.get("known_answer"):
                self._lines.add(known)
            elif not patch_id:
                self._measured.add((entry.body["source_sha256"], entry.body["machine_id"]))
        elif entry.kind in ("quarantine", "reinstatement"):
            self._doubted.add(entry.body["identity_id"])
        elif entry.kind == "instruction" and entry.body["action"] in ("invalidate", "restore"):
            self._doubted.add(entry.body["subject"])
            self._stale |= dict.fromkeys(self._heard)  # whose baselines may not count any more

    async def follow(self) -> None:
        """Reads what changed."""
        async with self._following:
            if not self._loaded:
                await self._load()
            await self._read_news()
            self._forget_silent()
            self._lines |= {f"@{machine_id}" for machine_id in islice(self._stale, STALE_AT_ONCE)}
            await self._read_lines()

    async def _read_news(self) -> None:
        news, self._news = self._news, set()
        measured, self._measured = self._measured, set()
        try:
            if news & {"promotion", "rollback"}:
                await self._read_best()
                self._stale |= dict.fromkeys(self._heard)
            if self._doubted:
                self.planner.set_quarantined(await self._records.quarantined())
                self._lines |= {patch_id for patch_id in self._patches if self._has_run(self._doubted, patch_id)}
                self._doubted.clear()
            for base, machine_id in measured:  # a baseline may complete pairs of what its machine ran
                ran = await self._store.ranked(f"ran:{base}:{machine_id}")
                self._lines |= {patch_id for patch_id, _ in ran if patch_id in self._patches}
            if news & {"result", "quarantine", "reinstatement", "instruction"}:
                await self._read_noise()
        except BaseException:
            self._news |= news
            self._measured |= measured
            raise

    def _has_run(self, identities: Collection[str], patch_id: str) -> bool:
        facts = self.planner.patch(patch_id)
        return facts is not None and not facts.runs.keys().isdisjoint(identities)

    def _forget_silent(self) -> None:
        silent = self._now_ms() - ACTIVE_MS
        for machine_id in list(takewhile(lambda machine_id: self._heard[machine_id] < silent, self._heard)):
            del self._heard[machine_id]
            self.planner.drop_machine(machine_id)
        long_gone = self._now_ms() - AROUND_MS
        gone = list(takewhile(lambda machine_id: self._around[machine_id][1] < long_gone, self._around))
        for machine_id in gone:
            del self._around[machine_id]
        if gone:
            self._count_around()

    def _count_around(self) -> None:
        self.planner.set_around(Counter(hardware_class for hardware_class, _ in self._around.values()))

    async def _read_lines(self) -> None:
        while self._lines:
            lines, self._lines = self._lines, set()
            try:
                await _each(self._read_line, sorted(lines))
            except BaseException:
                self._lines |= lines
                raise

    async def _read_line(self, line: str) -> None:
        if line.startswith("@"):
            await self._read_machine(line.removeprefix("@"))
        else:
            await self._read_patch(line)

    # --- reading ---

    async def _load(self) -> None:
        """Everything, once. The planner sorts it at the end instead of patch by patch."""
        self._news.clear()  # what is read from here on is as new
        self.planner = Planner(self._rule, self._policy)
        self._count_around()
        self._noise_bpb = None
        await self._read_best()
        self.planner.set_quarantined(await self._records.quarantined())
        await self._read_noise()
        seen = await self._store.ranked_between("seen", self._now_ms() - ACTIVE_MS, leasing.FOREVER, ACTIVE_MOST)
        self._heard = dict(seen)
        wanted = dict(await self._store.ranked("open"))
        for highest_first in (True, False):
            wanted |= await self._store.ranked("parked", PARKED_MOST, highest_first=highest_first)
        await self._reader.begin(wanted)
        undecided = [patch for patch in await self._in_pages(wanted) if patch.verdict in UNDECIDED]
        for patch in undecided:
            self._keep(patch.patch_id, patch)
        self.planner.load(await _each(lambda patch: self._reader.patch(patch, again=False), undecided), [])
        decided = await self._store.ranked("decided", LOSSES_FROM, highest_first=True)
        for patch in await self._in_pages(member for member, _ in decided):
            await self._note_loss(patch)
        self._stale.clear()
        self._lines |= {f"@{machine_id}" for machine_id in self._heard}
        self._loaded = True

    async def _in_pages(self, patch_ids: Iterable[str]) -> list[Patch]:
        ids = list(patch_ids)
        pages = [ids[at : at + PAGE] for at in range(0, len(ids), PAGE)]
        return [patch for page in pages for patch in await self._records.patches(page)]

    async def _read_best(self) -> None:
        lineage = await self._records.lineage()
        before = lineage[-2].source_sha256 if len(lineage) > 1 else ""
        best = lineage[-1].source_sha256
        self.planner.set_best(best, before)
        self._kept_bases = {best, before} - {""}
        self._reader.forget_bases(self._live_bases())

    async def _read_noise(self) -> None:
        noise_bpb = await self._noise()
        if noise_bpb == self._noise_bpb:
            return
        self._noise_bpb = noise_bpb
        self.planner.set_noise(noise_bpb)
        self.planner.set_min_classes(self._policy.classes_to_hear(self._rule.min_classes, len(noise_bpb)))

    async def _read_patch(self, patch_id: str) -> None:
        patch = await self._records.patch(patch_id)
        if patch is not None and patch.verdict in UNDECIDED:
            facts = await self._reader.patch(patch)
            self._keep(patch_id, patch)
            self.planner.put_patch(facts)
            return
        self.planner.drop_patch(patch_id)
        self._keep(patch_id, None)
        if patch is not None:
            await self._note_loss(patch)

    async def _read_machine(self, machine_id: str) -> None:
        self._stale.pop(machine_id, None)
        machine = await self._records.machine(machine_id)
        if machine is None or machine_id not in self._heard:
            return
        before, _ = self._around.pop(machine_id, ("", 0.0))
        self._around[machine_id] = machine.hardware_class, self._heard[machine_id]  # moves to the end
        if before != machine.hardware_class:
            self._count_around()
        bases = self._kept_bases | self._tested_on.keys()
        self.planner.put_machine(await self._reader.machine(machine, bases, self._last_trial.get(machine_id, 0)))

    def _keep(self, patch_id: str, patch: Patch | None) -> None:
        """The record that planning was done on; None of a decided one."""
        before = self._patches.pop(patch_id, None)
        if before is not None:
            self._tested_on -= Counter((before.base_sha256,))  # drops what falls to 0
        if patch is not None:
            self._patches[patch_id] = patch
            self._tested_on[patch.base_sha256] += 1
        else:
            self._reader.forget(patch_id)

    def _live_bases(self) -> set[str]:
        return self._kept_bases | self._tested_on.keys()

    async def _note_loss(self, patch: Patch) -> None:
        """Keeps, or forgets, a decided patch as one that is known to lose."""
        if patch.base_sha256 not in self._live_bases():
            return
        known = await self._records.known_answers()
        seen = {vote["identity"] for vote in (patch.decision or {}).get("votes", ())}
        seen |= {trial.identity_id for trial in known if trial.known_answer == patch.patch_id}
        loss = gathering.known_loss(patch, seen, self._rule, self._policy)
        before = self._losses.pop(patch.patch_id, None)
        if loss is not None:
            self._losses[patch.patch_id] = loss
        if loss != before:
            self.planner.set_known_losses(self._losses.values())

    # --- what follows ---

    async def choose(self, machine: Machine) -> Offer | Why:
        """What the machine should run now, or why there is nothing."""
        self.hear(machine.machine_id)
        if machine.machine_id in self._stale:
            self._lines.add(f"@{machine.machine_id}")
        await self.follow()
        choice = self.planner.choose(machine.machine_id, self._now_ms(), self._draw())
        if choice.kind is Kind.NOTHING:
            assert choice.why is not None
            return choice.why
        return self._reader.offer(choice, machine, self._patches.get(choice.patch_id))

    def first_run(self, patch_id: str) -> str:
        """See `Planner.first_run`."""
        return self.planner.first_run(patch_id)

    async def withdraw_orders(self, patch_id: str) -> None:
        """Takes a decided patch's ready orders back."""
        for order, state in await self._records.orders(patch_id):
            if state == READY:
                await self._store.apply(leasing.withdraw(order))
        self.touch(patch_id)


async def _each(read: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Reads many things, some of them at once."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with turn:
            return await read(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
