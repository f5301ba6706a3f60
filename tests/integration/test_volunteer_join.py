"""A volunteer joins a coordinator over real TLS and gRPC, and works through its orders."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from autoresearch.digest import sha256_hex
from autoresearch.v1 import trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as wire
from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.trial_pb2 import Order
from tests.integration.test_volunteer_fake import SOURCE, SWARM_ID, TIMEOUT_S, FakeCoordinator
from trainer.errors import DataMissingError
from trainer.trial import TrialProgress
from volunteer import display, home, identity, joining, pin
from volunteer.errors import DiskError, VolunteerError
from volunteer.joining import Clock
from volunteer.results import TrialOutcome
from volunteer.settings import JoinSettings, Settings
from volunteer.slots import Slots
from volunteer.spool import Spool
from volunteer.workday import Workday

SHA = sha256_hex(SOURCE)


@dataclass
class ScriptedTrials:
    """Trials that take as long as the test wants: `gate` is set when they may end."""

    gate: threading.Event = field(default_factory=threading.Event)
    score: float = 2.25
    sources: list[bytes] = field(default_factory=list)
    error: Exception | None = None
    exam_gate: threading.Event | None = None  # set when an exam may end; None: it takes no time
    begun_early: list[str] = field(default_factory=list)  # leases
    dropped: list[str] = field(default_factory=list)

    def ready(self, challenge: Challenge, on_progress: Callable[[str, float], None]) -> None:
        on_progress("reading", 0.5)

    def run(
        self, order: Order, source: bytes, on_progress: Callable[[TrialProgress], None], stop: threading.Event
    ) -> TrialOutcome:
        self.sources.append(source)
        if self.error:
            raise self.error
        on_progress(TrialProgress("training", 0.5, 10, 3.0, 1000))
        while not self.gate.wait(0.01):
            if stop.is_set():
                return TrialOutcome(trial_pb2.OUTCOME_ABORTED, "stopped")
        on_progress(TrialProgress("exam", 0.5, 20, 2.0, 2000))
        while self.exam_gate is not None and not self.exam_gate.wait(0.01):
            on_progress(TrialProgress("exam", 0.6, 20, 2.0, 2000))  # again and again, as exams do
            if stop.is_set():
                return TrialOutcome(trial_pb2.OUTCOME_ABORTED, "stopped")
        return TrialOutcome(trial_pb2.OUTCOME_COMPLETED, val_bpb=self.score, train_ms=1000, steps=20)

    def start_early(self, order: Order, source: bytes, stop: threading.Event) -> None:
        assert source == SOURCE
        self.begun_early.append(order.lease_id)

    def drop(self, order: Order) -> None:
        self.dropped.append(order.lease_id)


class Lines(display.Plain):
    """Keeps what a person would have read."""

    def __init__(self) -> None:
        super().__init__(Console())
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def text(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator() as fake:
        yield fake


@pytest.fixture
def trials() -> Iterator[ScriptedTrials]:
    scripted = ScriptedTrials()
    scripted.gate.set()
    yield scripted
    scripted.gate.set()


@pytest.fixture
def show() -> Lines:
    return Lines()


def make_settings(tmp_path: Path, address: str | None, **join: object) -> Settings:
    options = {"threads": 1, "device": "cpu", "slots": 1, "slots_dir": tmp_path / "slots", "name": "bob"} | join
    return Settings(
        home=tmp_path / "home",
        runtime_dir=tmp_path / "run",
        spare_runtime_dir=tmp_path / "spare",
        swarm=address,
        join=JoinSettings(**options),  # type: ignore[arg-type]
    )


class Chance:
    """Always draws the shortest wait."""

    def __call__(self) -> float:
        return 0.0


@contextlib.asynccontextmanager
async def at_work(
    settings: Settings, trials: ScriptedTrials, show: Lines
) -> AsyncIterator[tuple[Workday, "asyncio.Task[None]"]]:
    """A volunteer at work, stopped at the end whatever happened."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time, lambda: 1)
    with home.only_volunteer(settings.home):
        who = identity.load_or_make(settings.home, lambda count: bytes([7]) * count)
        async with joining.joined(settings, who, show, clock=clock, chance=Chance(), trials=trials) as workday:
            task = asyncio.create_task(workday.run())
            try:
                yield workday, task
            finally:
                workday.stop(at_once=True)
                await asyncio.wait([task], timeout=TIMEOUT_S)


async def ended(task: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await task


async def test_orders_are_run_and_their_signed_results_acknowledged(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders = [SHA, SHA, SHA]
    async with at_work(make_settings(tmp_path, coordinator.address, max_trials=2), trials, show) as (_, task):
        await ended(task)
    assert [result.val_bpb for result in coordinator.results.values()] == [2.25, 2.25]
    assert {result.lease_id for result in coordinator.results.values()} == {"lease-1", "lease-2"}
    assert trials.sources == [SOURCE, SOURCE]
    assert show.earnings.accepted == 2
    assert coordinator.enrolments[0].name == "bob"
    assert coordinator.granted == 2, "no order is taken that will not be run"
    assert not list(home.spool_folder(tmp_path / "home", SWARM_ID).glob("*.result"))


async def test_the_swarm_is_remembered_with_its_key(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders = [SHA]
    async with at_work(make_settings(tmp_path, coordinator.address, max_trials=1), trials, show) as (_, task):
        await ended(task)
    remembered = pin.load(tmp_path / "home")
    assert remembered
    assert str(remembered.address) == coordinator.address
    coordinator.orders = [SHA]
    async with at_work(make_settings(tmp_path, None, max_trials=1, name=None), trials, show) as (_, task):
        await ended(task)
    assert coordinator.enrolments[-1].name == "bob"


async def test_the_next_trial_starts_up_while_one_is_examined(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.exam_gate = threading.Event()
    coordinator.orders = [SHA, SHA]
    async with at_work(make_settings(tmp_path, coordinator.address, max_trials=2), trials, show) as (_, task):
        await coordinator.until(lambda: trials.begun_early == ["lease-2"])
        assert len(trials.sources) == 1, "its turn comes after the exam"
        trials.exam_gate.set()
        await ended(task)
    assert len(coordinator.results) == 2
    assert trials.dropped == []


@pytest.mark.parametrize("how", ["withdrawn", "stopped", "stopped at once"])
async def test_what_was_begun_early_ends_with_its_order(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path, how: str
) -> None:
    trials.exam_gate = threading.Event()
    coordinator.orders = [SHA, SHA]
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (workday, task):
        await coordinator.until(lambda: trials.begun_early == ["lease-2"])
        if how == "withdrawn":
            coordinator.push(wire.SessionResponse(stop=wire.StopTrial(lease_id="lease-2", reason="patch withdrawn")))
        else:
            workday.stop(at_once=how == "stopped at once")
        await coordinator.until(lambda: trials.dropped == ["lease-2"])
        if how == "stopped":
            trials.exam_gate.set()
        if how != "withdrawn":
            await ended(task)
    assert len(trials.sources) == 1
    assert len(coordinator.results) == (1 if how == "stopped" else 0)


async def test_heartbeats_tell_how_far_the_trial_is(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.gate.clear()
    coordinator.orders = [SHA]
    async with at_work(make_settings(tmp_path, coordinator.address, max_trials=1), trials, show) as (_, task):
        await coordinator.until(lambda: any(message.heartbeat.step == 10 for message in coordinator.heard))
        beat = next(message.heartbeat for message in coordinator.heard if message.heartbeat.step == 10)
        assert (beat.lease_id, beat.stage, beat.share, beat.loss) == ("lease-1", "training", 0.5, 3.0)
        trials.gate.set()
        await ended(task)


async def test_an_order_for_another_machine_is_given_back(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders, coordinator.order_changes = [SHA], {"machine_id": "f" * 32}
    with pytest.raises(VolunteerError, match="another machine"):
        async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
            await ended(task)
    assert trials.sources == []
    assert "lease_return" in coordinator.kinds()


async def test_a_coordinator_that_restarts_gets_the_result_of_the_lease_held_meanwhile(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.gate.clear()
    coordinator.orders = [SHA]
    async with at_work(make_settings(tmp_path, coordinator.address, max_trials=1), trials, show) as (_, task):
        await coordinator.until(lambda: any(message.heartbeat.step == 10 for message in coordinator.heard))
        await coordinator.stop()
        await coordinator.start()
        await coordinator.until(lambda: len(coordinator.opens) == 2)
        assert list(coordinator.opens[1].held_lease_ids) == ["lease-1"]
        trials.gate.set()
        await ended(task)
    assert len(coordinator.results) == 1


async def test_a_trial_whose_lease_ended_meanwhile_is_stopped(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.gate.clear()
    coordinator.orders = [SHA]
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show):
        await coordinator.until(lambda: "heartbeat" in coordinator.kinds())
        coordinator.known_leases.clear()
        coordinator.push(None)
        await coordinator.until(lambda: len(coordinator.opens) == 2 and coordinator.kinds()[-1] == "lease")
    assert coordinator.results == {}
    assert "its lease ended" in show.text()


async def test_the_coordinator_stops_a_trial(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.gate.clear()
    coordinator.orders = [SHA]
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show):
        await coordinator.until(lambda: "heartbeat" in coordinator.kinds())
        coordinator.push(wire.SessionResponse(stop=wire.StopTrial(lease_id="lease-1", reason="patch withdrawn")))
        await coordinator.until(lambda: coordinator.kinds().count("lease") > 1)
    assert "patch withdrawn" in show.text()
    assert coordinator.results == {}


async def test_stopping_once_finishes_the_trial_and_twice_gives_its_lease_back(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.gate.clear()
    coordinator.orders = [SHA, SHA]
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (workday, task):
        await coordinator.until(lambda: "heartbeat" in coordinator.kinds())
        workday.stop()
        trials.gate.set()
        await ended(task)
    assert len(coordinator.results) == 1
    trials.gate.clear()
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (workday, task):
        await coordinator.until(lambda: coordinator.heard[-1].heartbeat.lease_id == "lease-2")
        workday.stop()
        workday.stop()
        await ended(task)
        await coordinator.until(lambda: "lease_return" in coordinator.kinds())
    assert len(coordinator.results) == 1


async def test_a_result_that_was_not_acknowledged_is_delivered_by_the_next_volunteer(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders, coordinator.ack_results = [SHA], False
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (workday, task):
        await coordinator.until(lambda: coordinator.results)
        workday.stop(at_once=True)
        await ended(task)
    assert "1 result(s) could not be delivered yet" in show.text()
    coordinator.ack_results = True
    coordinator.results.clear()
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (workday, task):
        await coordinator.until(lambda: coordinator.results)
        workday.stop()
        await ended(task)
    assert not list(home.spool_folder(tmp_path / "home", SWARM_ID).glob("*.result"))


async def test_a_coordinator_that_does_not_know_the_machine_is_told_about_it(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.refuse_session = grpc.StatusCode.NOT_FOUND
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show):
        await coordinator.until(lambda: len(coordinator.enrolments) == 2)
        coordinator.refuse_session = None
        await coordinator.until(lambda: coordinator.opens)


async def test_a_banned_volunteer_stops_with_the_reason(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.refuse_session = grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(VolunteerError, match="go away"):
        async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
            await ended(task)


async def test_a_full_disk_gives_the_lease_back_and_says_so(
    coordinator: FakeCoordinator,
    trials: ScriptedTrials,
    show: Lines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: Spool, result: Envelope) -> None:
        raise DiskError(tmp_path, "No space left on device")

    monkeypatch.setattr(Spool, "keep", full)
    coordinator.orders = [SHA]
    with pytest.raises(VolunteerError, match=r"No space left on device.*free some space"):
        async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
            await ended(task)
    assert coordinator.heard[-1].lease_return.lease_id == "lease-1"


async def test_a_machine_that_cannot_run_trials_gives_the_lease_back_and_says_why(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders = [SHA]
    trials.error = DataMissingError(tmp_path, "manifest.json")
    with pytest.raises(VolunteerError, match="no prepared data"):
        async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
            await ended(task)
    told = coordinator.heard[-1].lease_return.reason
    assert told.startswith("no prepared data in ... (manifest.json is missing)"), told
    assert str(tmp_path) not in told, "where it lies is nobody else's business"


async def test_a_source_that_never_comes_gives_the_lease_back_and_the_volunteer_works_on(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.sources["0" * 64] = b"not what the digest names"
    coordinator.orders = ["0" * 64]
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
        await coordinator.until(lambda: "lease_return" in coordinator.kinds())
        assert not task.done()
    assert "another text" in show.text()
    assert trials.sources == []


async def test_volunteers_of_one_host_take_turns(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    trials.gate.clear()
    coordinator.orders = [SHA] * 4
    (tmp_path / "b").mkdir()
    first = make_settings(tmp_path, coordinator.address)
    second = make_settings(tmp_path / "b", coordinator.address, slots_dir=tmp_path / "slots", name="eve")
    async with at_work(first, trials, show):
        await coordinator.until(lambda: "heartbeat" in coordinator.kinds())
        other = ScriptedTrials(gate=trials.gate)
        async with at_work(second, other, Lines()):
            await coordinator.until(Slots(tmp_path / "slots" / "cpu", 1).others_wait)
            assert coordinator.granted == 1, "who waits for a slot holds no order"
            trials.gate.set()
            await coordinator.until(lambda: len(coordinator.results) == 4)
    assert len(trials.sources) == len(other.sources) == 2


async def test_a_coordinator_that_breaks_the_protocol_is_left_and_tried_again(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show):
        await coordinator.until(lambda: coordinator.opens)
        coordinator.push(wire.SessionResponse(no_order=wire.NoOrder(request_id=99)))
        await coordinator.until(lambda: len(coordinator.opens) == 2)
    assert "does not keep to the protocol" in show.text()


async def test_a_swarm_with_another_challenge_is_left(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
        await coordinator.until(lambda: coordinator.opens)
        coordinator.challenge.budget_ms += 1
        coordinator.push(None)
        with pytest.raises(VolunteerError, match="another challenge now: join again"):
            await ended(task)


async def test_a_refused_result_is_forgotten_and_told(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders, coordinator.ack_results = [SHA], False
    async with at_work(make_settings(tmp_path, coordinator.address, max_trials=1), trials, show) as (_, task):
        await coordinator.until(lambda: coordinator.results)
        ack = wire.ResultAck(
            result_sha256=next(iter(coordinator.results)), status=wire.RESULT_STATUS_REFUSED, reason="too late"
        )
        coordinator.push(wire.SessionResponse(result_ack=ack))
        await ended(task)
    assert "refused result" in show.text()
    assert "too late" in show.text()
    assert not list(home.spool_folder(tmp_path / "home", SWARM_ID).glob("*.result"))
