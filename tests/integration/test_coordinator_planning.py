"""What machines are given to run, on a real coordinator: whose turn it is, what is measured anew, whom trials test."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from autoresearch.judging import ledger
from autoresearch.judging.replay import Replay
from autoresearch.v1 import trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1.patch_pb2 import Patch
from coordinator import main as program
from coordinator import scheduling
from coordinator.access import Role
from coordinator.planning import Why
from coordinator.policy import DEFAULT_POLICY
from coordinator.redis_store import RedisStore
from coordinator.scheduling import Scheduler
from tests.integration.swarm_on_wire import SOURCE, Peer, Starter, Swarm, change
from tests.integration.test_coordinator_access import instruct, operator, role_change

DAY_MS = 24 * 3600 * 1000
CARDS = ("H100", "A100", "RTX 4090")


def a_diff(number: int, source: str = SOURCE) -> bytes:
    return change("RATE = 0.003", f"RATE = 0.1{number:03}", source)


async def three(swarm: Swarm) -> list[Peer]:
    return [await swarm.peer(name, device).start() for name, device in zip(("ada", "bea", "cyd"), CARDS, strict=True)]


def entries(swarm: Swarm, kind: str) -> list[dict[str, Any]]:
    whole, _, _ = swarm.running.ledger.read_bytes().rpartition(b"\n")  # after it, what is being written
    found = [json.loads(line) for line in whole.splitlines()]
    return [entry["body"] for entry in found if entry["kind"] == kind]


@contextlib.asynccontextmanager
async def drawing(starter: Starter, draw: float, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Swarm]:
    """A swarm whose every draw is this one."""
    monkeypatch.setattr(program, "_draw", lambda: draw)
    async with starter() as swarm:
        yield swarm


async def test_an_authors_many_patches_do_not_starve_anothers_first(swarm: Swarm) -> None:
    """Though every one of the many does well, so that all of them want more trials."""
    many, other = swarm.peer("many"), swarm.peer("other")
    for number in range(12):
        await many.submit(a_diff(number))
    first = await other.submit(change("WIDTH = 128", "WIDTH = 256"))
    peers = await three(swarm)
    for peer in peers:
        await peer.work(lambda order: 1.0)
    ran: list[str] = []
    while first.candidate_sha256 not in ran:
        peer = peers[len(ran) % 3]
        ran.append((await peer.work(lambda order: 0.9985)).source_sha256)
        assert len(ran) <= 3 * DEFAULT_POLICY.turn_patches + 1, "a turn's patches, three trials each, and then it"


async def test_a_baseline_is_measured_anew_after_a_day(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead_ms, now_ms = [0], program.now_ms
    monkeypatch.setattr(program, "now_ms", lambda: now_ms() + ahead_ms[0])
    async with starter() as swarm:
        author = swarm.peer("author")
        patches = [await author.submit(a_diff(number)) for number in range(3)]
        (peer, *_) = await three(swarm)
        base = await peer.work(lambda order: 1.0)
        assert (await peer.work(lambda order: 1.1)).source_sha256 == patches[0].candidate_sha256
        ahead_ms[0] = DAY_MS - 60_000
        assert (await peer.work(lambda order: 1.1)).source_sha256 == patches[1].candidate_sha256
        ahead_ms[0] = DAY_MS + 60_000
        again = await peer.work(lambda order: 1.0)
        assert (again.source_sha256, again.seed != base.seed) == (base.source_sha256, True)
        assert (await peer.work(lambda order: 1.1)).source_sha256 == patches[2].candidate_sha256


async def test_a_new_driver_makes_baselines_stale(swarm: Swarm) -> None:
    author = swarm.peer("author")
    patches = [await author.submit(a_diff(number)) for number in range(2)]
    (peer, *_) = await three(swarm)
    base = await peer.work(lambda order: 1.0)
    await peer.work(lambda order: 1.1)
    peer.hardware.driver = "560.35"
    await peer.enroll()
    assert (await peer.work(lambda order: 1.0)).source_sha256 == base.source_sha256
    assert (await peer.work(lambda order: 1.1)).source_sha256 == patches[1].candidate_sha256


async def test_a_slow_baseline_is_done_again_and_does_not_count(swarm: Swarm) -> None:
    author = swarm.peer("author")
    patches = [await author.submit(a_diff(number)) for number in range(4)]
    (peer, *_) = await three(swarm)
    base = await peer.work(lambda order: 1.0)
    for _ in range(3):
        await peer.work(lambda order: 1.1)
    slow = await peer.order()  # the second that the square-root rule wants
    assert slow.source_sha256 == base.source_sha256
    await peer.deliver(peer.result(slow, 1.4, tokens_served=500_000))
    assert (await peer.work(lambda order: 1.0)).source_sha256 == base.source_sha256
    assert (await peer.work(lambda order: 1.1)).source_sha256 == patches[3].candidate_sha256
    found = await swarm.verdict(patches[3].patch_id, "parked")
    assert found.evidence.votes[0].gain_bpb == pytest.approx(-0.1)  # not +0.1, as beside the slow one


async def lose_twice(swarm: Swarm, peers: list[Peer], bad: list[Patch], base: float = 1.0) -> None:
    """Two identities find out how bad the patches are, on a base of such a val_bpb."""
    for peer in peers[:2]:
        await peer.work(lambda order: base)
        ran = {(await peer.work(lambda order: base + 0.5)).source_sha256 for _ in bad}
        assert ran == {patch.candidate_sha256 for patch in bad}
        for patch in bad:
            await swarm.verdict(patch.patch_id, "parked" if peer is peers[0] else "rejected")


async def on_two_bases(swarm: Swarm, tested: Callable[[float, list[Patch]], Awaitable[None]]) -> tuple[Patch, ...]:
    """A base on which two patches are known to lose, the promotion of a good one, and two that lose on the next.

    `tested`: what the third identity does on a base of such a val_bpb, before it is given anything else.
    """
    author, peers = swarm.peer("author"), await three(swarm)
    bad = [await author.submit(a_diff(number)) for number in range(2)]
    good = await author.submit(change("WIDTH = 128", "WIDTH = 256"))
    await lose_twice(swarm, peers, bad)
    await tested(1.0, bad)
    for peer in peers:
        assert (await peer.work(lambda order: 0.9)).source_sha256 == good.candidate_sha256
    await swarm.verdict(good.patch_id, "promoted")
    best = SOURCE.replace("WIDTH = 128", "WIDTH = 256")
    worse = [await author.submit(a_diff(number, best)) for number in (2, 3)]
    last = await author.submit(change("(WIDTH, config)", "(config, WIDTH)", best))
    await lose_twice(swarm, peers, worse, 0.9)
    await tested(0.9, worse)
    return (*bad, *worse, last)


async def test_who_invents_numbers_is_found_by_trials_with_a_known_answer(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drawing(starter, 0.0, monkeypatch) as swarm:

        async def invent(base_bpb: float, bad: list[Patch]) -> None:
            liar = swarm.peers[-1]
            base = await liar.work(lambda order: base_bpb)
            order = await liar.work(lambda order: base_bpb)  # as if the patch did nothing
            assert order.source_sha256 in {patch.candidate_sha256 for patch in bad}
            assert {field.name for field, _ in order.ListFields()} == {field.name for field, _ in base.ListFields()}

        *bad, last = await on_two_bases(swarm, invent)
        _, *honest, liar = swarm.peers

        async def caught() -> list[dict[str, Any]]:
            return entries(swarm, "quarantine")

        (held,) = await swarm.until(caught)
        assert (held["identity_id"], held["suspicion"]) == (liar.identity_id, "invents")
        known = [body for body in entries(swarm, "result") if body["known_answer"]]
        assert len({body["known_answer"] for body in known} & {patch.patch_id for patch in bad}) == 2
        assert all(body["patch_id"] == "" and body["known_effect_bpb"] > 0.1 for body in known)
        replay = Replay()
        replay.follow(ledger.parse(line) for line in swarm.running.ledger.read_bytes().splitlines())
        assert replay.differences == []  # whoever has the ledger finds the same
        assert replay.held.keys() == {liar.identity_id}
        for patch in bad:  # kept apart from the patch's own evidence
            assert (await swarm.patch(patch.patch_id)).evidence.trials == 2
        answer = await liar.ask()
        assert isinstance(answer, volunteer_pb2.NoOrder)
        assert "quarantine" in answer.reason
        assert (await honest[0].order()).source_sha256 == last.candidate_sha256


async def test_who_runs_what_is_sent_answers_as_known(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    async with drawing(starter, 0.0, monkeypatch) as swarm:

        async def run(base_bpb: float, bad: list[Patch]) -> None:
            peer = swarm.peers[-1]
            await peer.work(lambda order: base_bpb)
            order = await peer.work(lambda order: base_bpb + 0.5)
            assert order.source_sha256 in {patch.candidate_sha256 for patch in bad}

        *_, last = await on_two_bases(swarm, run)
        assert (await swarm.peers[-1].order()).source_sha256 == last.candidate_sha256  # one on the same baselines
        assert entries(swarm, "quarantine") == []


async def facts(scheduler: Scheduler, patches: list[Patch], peers: list[Peer]) -> list[object]:
    await scheduler.follow()
    fleet = [scheduler.planner.machine(peer.machine_id) for peer in peers]
    pace = [
        replace(machine, last_trial_at_ms=0) for machine in fleet if machine
    ]  # of a quarantine; a restart forgets it
    return [*pace, *(scheduler.planner.patch(patch.patch_id) for patch in patches)]


async def test_what_was_followed_is_what_a_fresh_start_reads(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of many steps: results of every kind, leases given back, verdicts, a promotion, a withdrawal."""
    async with drawing(starter, 1.0, monkeypatch) as swarm:
        app = swarm.running.app
        author = swarm.peer("author")
        patches = [await author.submit(a_diff(number)) for number in range(6)]
        values: Callable[[int], float | str] = {0: 0.98, 1: 1.1, 2: "crashed", 3: 0.9985, 4: "disqualified"}.get  # type: ignore[assignment]
        number = {patch.candidate_sha256: n for n, patch in enumerate(patches)}
        peers = await three(swarm)
        for step in range(24):
            peer = peers[step % 3]
            answer = await peer.ask()
            if isinstance(answer, trial_pb2.Order):
                if step == 7:
                    back = volunteer_pb2.LeaseReturn(lease_id=answer.lease_id, reason="testing")
                    await peer.say(lease_return=back)
                else:
                    value = values(number.get(answer.source_sha256, -1)) or 1.0
                    await peer.deliver(peer.result(answer, value, disturbed="busy" if step == 9 else ""))
            if step == 12:
                await author.withdraw(patches[5].patch_id)
            await app.work_once()
            fresh = Scheduler(
                swarm.running.swarm, app.records, app.scheduler._noise, now_ms=program.now_ms, draw=lambda: 1.0
            )
            assert await facts(app.scheduler, patches, peers) == await facts(fresh, patches, peers), step
        await swarm.verdict(patches[0].patch_id, "promoted")


async def test_a_new_best_is_taken_in_machine_by_machine(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is planned for on it at once, and the others a few looks later."""
    monkeypatch.setattr(scheduling, "STALE_AT_ONCE", 1)
    async with drawing(starter, 1.0, monkeypatch) as swarm:
        app = swarm.running.app
        patch = await swarm.peer("author").submit(a_diff(0))
        peers = await three(swarm)
        for value in (1.0, 0.98):
            for peer in peers:
                await peer.work(lambda order, value=value: value)
        await swarm.verdict(patch.patch_id, "promoted")
        app.scheduler._stale = dict.fromkeys(peer.machine_id for peer in peers)  # as if none had been read since
        assert (await peers[-1].order()).source_sha256 == patch.candidate_sha256
        for _ in peers:
            await app.scheduler.follow()
        assert not app.scheduler._stale
        fresh = Scheduler(
            swarm.running.swarm, app.records, app.scheduler._noise, now_ms=program.now_ms, draw=lambda: 1.0
        )
        assert await facts(app.scheduler, [patch], peers) == await facts(fresh, [patch], peers)


async def test_a_lease_costs_the_store_as_much_with_many_patches_as_with_few(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[asyncio.Task[Any] | None] = Counter()  # by who makes them: others are at work beside the session
    call = RedisStore._call

    async def counted(store: RedisStore, command: Callable[[], Any]) -> Any:
        calls[asyncio.current_task()] += 1
        return await call(store, command)

    author = swarm.peer("author")
    (peer, *_) = await three(swarm)
    for number in range(4):
        await author.submit(a_diff(number))
    await peer.work(lambda order: 1.0)
    monkeypatch.setattr(RedisStore, "_call", counted)
    spent = []
    for batch in range(2):
        await peer.work(lambda order: 1.1)
        await swarm.running.app.work_once()
        calls.clear()
        assert isinstance(await peer.ask(), trial_pb2.Order)
        spent.append(max(calls.values()))
        lease = volunteer_pb2.LeaseReturn(lease_id=peer.held[0], reason="testing")
        await peer.say(lease_return=lease)
        if batch == 0:
            for number in range(4, 40):
                await author.submit(a_diff(number))
            await peer.ask()
            await peer.say(lease_return=volunteer_pb2.LeaseReturn(lease_id=peer.held[0], reason="testing"))
    assert spent[1] <= spent[0] + 2  # it may have to wait for what the worker follows up
    assert max(spent) <= 40


# --- canaries ---


async def test_an_unknown_authors_patch_waits_for_a_canary_and_says_so(starter: Starter) -> None:
    starter.settings["canaries"] = "wait"
    async with starter() as swarm:
        author = swarm.peer("author")
        patch = await author.submit(change("WIDTH = 128", "WIDTH = 256"))
        ada, cat = await swarm.peer("ada").start(), swarm.peer("cat")
        await ada.work(lambda order: 1.0)
        answer = await ada.ask()
        assert isinstance(answer, volunteer_pb2.NoOrder)
        assert answer.reason == Why.CANARY.value
        shown = await swarm.patch(patch.patch_id)
        assert shown.reason == "its author is new here: its first run is for a canary machine; none at work now"
        await cat.enroll(canary=True)
        await cat.open()
        await cat.work(lambda order: 1.0)
        order = await cat.work(lambda order: "crashed")
        assert order.source_sha256 == patch.candidate_sha256
        assert (await ada.order()).source_sha256 == patch.candidate_sha256  # the canary came back from it
        assert "canary" not in (await swarm.patch(patch.patch_id)).reason
        assert [body["canary"] for body in entries(swarm, "identity") if body["machine_id"]] == [False, True]
        assert [body["canary"] for body in entries(swarm, "patch")] == [True]


async def test_a_known_authors_patch_runs_anywhere(starter: Starter) -> None:
    starter.settings["canaries"] = "wait"
    async with starter() as swarm:
        author = swarm.peer("author")
        await author.enroll_author()
        await instruct(operator(swarm), grant=role_change(author, Role.AUTHOR))
        patch = await author.submit(change("WIDTH = 128", "WIDTH = 256"))
        ada = await swarm.peer("ada").start()
        await ada.work(lambda order: 1.0)
        assert (await ada.order()).source_sha256 == patch.candidate_sha256


async def test_who_opts_in_is_asked_first_and_may_opt_out(swarm: Swarm) -> None:
    """The default: canaries first while one is there, anybody otherwise."""
    patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    ada, cat = await swarm.peer("ada").start(), swarm.peer("cat")
    await ada.work(lambda order: 1.0)
    await cat.enroll(canary=True)
    await cat.open()
    assert isinstance(await ada.ask(), volunteer_pb2.NoOrder)
    await cat.enroll()  # without
    assert (await ada.order()).source_sha256 == patch.candidate_sha256
