"""Whatever happens in whatever order, a session loses no result, holds no slot idle, and never gets stuck."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from autoresearch.v1 import volunteer_service_pb2 as wire
from tests.unit.test_volunteer_session import GREETING, TERMS, acked, grant, no_order, stop_trial, welcome
from volunteer import narration
from volunteer.session import Session
from volunteer.session_events import (
    Connect,
    Deliver,
    Event,
    Failed,
    Finished,
    Forget,
    Halt,
    HangUp,
    LeaveSlot,
    LinkLost,
    Progress,
    Prove,
    Quit,
    Received,
    Run,
    Send,
    SlotTaken,
    StopAsked,
    Stopped,
    TakeSlot,
    Tick,
)
from volunteer.session_state import Ending, Link, Phase, Slot, State


class AnyOrder(RuleBasedStateMachine):
    """Plays coordinator, clock, slots and trials against one session."""

    @initialize(trials=st.none() | st.integers(1, 3))
    def begin(self, trials: int | None) -> None:
        self.session = Session(State(TERMS, trials_left=trials))
        self.now_s = 0.0
        self.leases = 0
        self.trial = ""  # lease of the trial that really runs
        self.halted = False
        self.slot = ""  # "", "wanted", "held"
        self.request: int | None = None
        self.results: set[str] = set()  # finished, not decided
        self.quit = self.hung_up = False
        self.on(Tick())

    @property
    def state(self) -> State:
        return self.session.state

    def on(self, event: Event) -> None:
        for action in self.session.handle(event, self.now_s):
            self.carry_out(action)

    def carry_out(self, action: Any) -> None:
        match action:
            case Run(order):
                assert self.slot == "held"
                assert not self.trial
                self.trial, self.halted = order.lease_id, False
            case Halt(lease_id):
                assert lease_id == self.trial
                self.halted = True
            case TakeSlot():
                assert self.slot == ""
                self.slot = "wanted"
            case LeaveSlot():
                assert self.slot
                self.slot = ""
            case Send(message) if message.WhichOneof("event") == "lease":
                assert self.slot == "held"
                self.request = message.lease.request_id
            case Send() | Prove() | Deliver():
                assert self.state.link is not Link.OFFLINE
            case Forget(ack):
                self.results.discard(ack.result_sha256)
            case Connect():
                self.request, self.hung_up = None, False
            case HangUp():
                self.hung_up = True
            case Quit():
                self.quit = True

    # --- what can happen ---

    alive = precondition(lambda self: not self.quit)

    @alive
    @rule(seconds=st.floats(0, 120))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.on(Tick())

    @alive
    @rule()
    def what_is_due_happens(self) -> None:
        wake_at = self.session.wake_at()
        if wake_at is not None:
            self.now_s = max(self.now_s, wake_at)
            self.on(Tick())

    @precondition(lambda self: not self.quit and self.state.link is Link.CONNECTING)
    @rule()
    def greeted(self) -> None:
        self.on(GREETING)

    @precondition(lambda self: not self.quit and self.state.link is Link.OPENING)
    @rule(live=st.booleans())
    def welcomed(self, live: bool) -> None:
        self.on(welcome(*(lease.lease_id for lease in self.state.leases if live)))

    @precondition(lambda self: not self.quit and self.state.link is not Link.OFFLINE)
    @rule(retry=st.integers(0, 9), chance=st.floats(0, 1))
    def line_breaks(self, retry: int, chance: float) -> None:
        self.request, self.hung_up = None, False
        self.on(LinkLost("gone", retry=retry > 0, chance=chance))

    @precondition(lambda self: not self.quit and self.state.link is Link.OPEN and self.request is not None)
    @rule(some=st.booleans(), bad=st.integers(0, 9))
    def answered(self, some: bool, bad: int) -> None:
        request, self.request = self.request or 0, None
        self.leases += 1
        changes = {"swarm_id": "other"} if bad == 0 else {}
        self.on(grant(request, f"{self.leases:032x}", **changes) if some else no_order(request))

    @precondition(lambda self: not self.quit and self.state.link is Link.OPEN and self.state.leases)
    @rule(stop=st.integers(0, 4))
    def lease_is_answered(self, stop: int) -> None:
        lease_id = self.state.leases[-1].lease_id
        ack = wire.HeartbeatAck(lease_id=lease_id, lease_ms=30_000)
        self.on(stop_trial(lease_id) if stop == 0 else Received(wire.SessionResponse(heartbeat_ack=ack)))

    @precondition(lambda self: not self.quit and self.state.link is Link.OPEN and self.results)
    @rule()
    def result_is_decided(self) -> None:
        self.on(acked(min(self.results)))

    @precondition(lambda self: not self.quit and self.slot == "wanted")
    @rule()
    def slot_is_free(self) -> None:
        self.slot = "held"
        self.on(SlotTaken())

    @precondition(lambda self: not self.quit and self.trial)
    @rule(stage=st.sampled_from(["training", "weights", "exam"]), contended=st.booleans())
    def trial_goes_on(self, stage: str, contended: bool) -> None:
        self.on(Progress(self.trial, stage, 0.5, 1, 1.0, contended))

    @precondition(lambda self: not self.quit and self.trial)
    @rule(failed=st.integers(0, 5))
    def trial_ends(self, failed: int) -> None:
        lease_id, self.trial = self.trial, ""
        if self.halted:
            self.on(Stopped(lease_id))
        elif failed == 0:
            self.on(Failed(lease_id, "no source", fatal=False))
        else:
            sha256 = lease_id * 2
            self.results.add(sha256)
            self.on(Finished(lease_id, sha256))

    @alive
    @rule(at_once=st.booleans(), sure=st.integers(0, 5))
    def person_stops(self, at_once: bool, sure: int) -> None:
        if sure == 0:
            self.on(StopAsked(at_once))

    @precondition(lambda self: self.quit)
    @rule(trials=st.none() | st.integers(1, 3))
    def another_day(self, trials: int | None) -> None:
        self.begin(trials)

    # --- what must hold ---

    @invariant()
    def no_result_is_lost(self) -> None:
        assert {parcel.result_sha256 for parcel in self.state.outbox} == self.results

    @invariant()
    def one_trial_at_a_time(self) -> None:
        assert len(self.state.leases) <= 2
        under_way = [lease.lease_id for lease in self.state.leases if lease.phase is not Phase.WAITING]
        assert under_way == ([self.trial] if self.trial else []) or self.quit

    @invariant()
    def the_slot_is_what_it_seems(self) -> None:
        names = {"": Slot.NONE, "wanted": Slot.WAITING, "held": Slot.HELD}
        assert self.state.slot is names[self.slot]

    @invariant()
    def never_stuck(self) -> None:
        """Something is under way here, or the clock will make something happen."""
        assert self.quit or self.trial or self.hung_up or self.slot == "wanted" or self.session.wake_at() is not None

    @invariant()
    def leases_are_kept_alive_while_connected(self) -> None:
        if self.state.link is Link.OPEN:
            assert all(lease.beat_at > self.now_s for lease in self.state.leases if lease.phase is not Phase.HALTING)

    @invariant()
    def an_end_comes(self) -> None:
        if self.state.ending is Ending.NOW and not self.quit:
            assert self.state.close_by is not None

    @invariant()
    def there_are_words_for_it(self) -> None:
        assert narration.doing(self.state, self.now_s)
        assert narration.milestone(self.state)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
