"""The rules of a session: events in, actions out; what may not happen raises and changes nothing."""

import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.digest import key_id
from autoresearch.v1 import volunteer_service_pb2 as wire
from autoresearch.v1.trial_pb2 import Order
from volunteer import narration
from volunteer.orders import Terms
from volunteer.session import Session
from volunteer.session_events import (
    Action,
    Connect,
    Deliver,
    Drop,
    Event,
    Failed,
    Fetch,
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
    Say,
    Send,
    SlotTaken,
    StopAsked,
    Stopped,
    TakeSlot,
    Tick,
    Vanished,
)
from volunteer.session_state import Ending, Link, Parcel, Phase, Slot, State
from volunteer.session_step import SessionError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TERMS = Terms(
    swarm_id="swarm",
    fingerprint=key_id(envelope.public_bytes(KEY)),
    identity_id="i" * 32,
    machine_id="0" * 32,
    challenge_sha256="c" * 64,
    trial_code_sha256="d" * 64,
)
GREETING = Received(wire.SessionResponse(greeting=wire.Greeting(nonce=b"n" * limits.NONCE_BYTES)))
LOST = LinkLost("the line broke", retry=True, chance=1.0)
A, B = "a" * 32, "b" * 32


def welcome(*live: str) -> Received:
    return Received(wire.SessionResponse(welcome=wire.Welcome(heartbeat_ms=10_000, live_lease_ids=live, generation=1)))


def grant(request_id: int, lease_id: str = A, key: Ed25519PrivateKey = KEY, **changes: Any) -> Received:
    fields: dict[str, Any] = {
        "protocol": limits.PROTOCOL,
        "swarm_id": "swarm",
        "order_id": "order",
        "lease_id": lease_id,
        "identity_id": TERMS.identity_id,
        "machine_id": TERMS.machine_id,
        "source_sha256": "e" * 64,
        "challenge_sha256": TERMS.challenge_sha256,
        "trial_code_sha256": TERMS.trial_code_sha256,
    }
    signed = envelope.sign(Order(**fields | changes), envelope.ORDER, key)
    return Received(wire.SessionResponse(grant=wire.LeaseGrant(request_id=request_id, order=signed, lease_ms=40_000)))


def no_order(request_id: int, retry_after_ms: int = 5000) -> Received:
    none = wire.NoOrder(request_id=request_id, reason="nothing to do", retry_after_ms=retry_after_ms)
    return Received(wire.SessionResponse(no_order=none))


def acked(sha256: str, status: Any = wire.RESULT_STATUS_ACCEPTED) -> Received:
    return Received(wire.SessionResponse(result_ack=wire.ResultAck(result_sha256=sha256, status=status)))


def stop_trial(lease_id: str) -> Received:
    return Received(wire.SessionResponse(stop=wire.StopTrial(lease_id=lease_id, reason="withdrawn")))


class Driven:
    """A session and the instant it is at."""

    def __init__(self, **state: Any) -> None:
        self.session = Session(State(TERMS, **state))
        self.now_s = 100.0

    @property
    def state(self) -> State:
        return self.session.state

    def on(self, *events: Event) -> list[Action]:
        """The actions of the last event."""
        actions: tuple[Action, ...] = ()
        for event in events:
            actions = self.session.handle(event, self.now_s)
        return list(actions)

    def later(self, seconds: float) -> list[Action]:
        self.now_s += seconds
        return self.on(Tick())


def opened(**state: Any) -> Driven:
    driven = Driven(**state)
    driven.on(Tick(), GREETING, welcome())
    return driven


def running(**state: Any) -> Driven:
    driven = opened(**state)
    driven.on(SlotTaken(), grant(1))
    return driven


def sent(actions: list[Action], kind: str) -> list[Any]:
    return [
        getattr(action.message, kind)
        for action in actions
        if isinstance(action, Send) and action.message.WhichOneof("event") == kind
    ]


def of(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


# --- the ordinary course ---


def test_from_connecting_to_a_running_trial() -> None:
    driven = Driven()
    assert driven.on(Tick()) == [Connect()]
    assert driven.on(GREETING) == [Prove(b"n" * 32, ())]
    assert driven.on(welcome()) == [TakeSlot()]
    assert sent(driven.on(SlotTaken()), "lease")[0].request_id == 1
    actions = driven.on(grant(1))
    assert [type(action) for action in actions] == [Fetch, Run, Send]
    assert sent(actions, "heartbeat")[0].stage == "starting"


def test_a_slot_is_waited_for_before_an_order_is_asked_for() -> None:
    driven = opened()
    assert driven.state.slot is Slot.WAITING
    assert driven.later(60) == []
    assert not driven.state.asked


def test_heartbeats_are_sent_before_they_are_due_and_at_each_stage() -> None:
    driven = running()
    assert sent(driven.later(7.9), "heartbeat") == []
    assert len(sent(driven.later(0.2), "heartbeat")) == 1
    beat = sent(driven.on(Progress(A, "training", 0.5, 7, 2.5, contended=False)), "heartbeat")[0]
    assert (beat.lease_id, beat.stage, beat.share, beat.step, beat.loss) == (A, "training", 0.5, 7, 2.5)
    assert sent(driven.on(Progress(A, "training", 0.6, 8, 2.4, contended=False)), "heartbeat") == []
    assert sent(driven.on(Progress(A, "exam", 0.1, 9, 2.3, contended=True)), "heartbeat")[0].share == 1.0


def test_a_result_is_sent_until_it_is_acknowledged() -> None:
    driven = running()
    actions = driven.on(Finished(A, "f" * 64))
    assert of(actions, Deliver) == [Deliver("f" * 64)]
    assert of(actions, LeaveSlot), "others have their turn between two trials"
    assert of(driven.later(29), Deliver) == []
    assert of(driven.later(2), Deliver) == [Deliver("f" * 64)]
    assert of(driven.on(acked("f" * 64)), Forget)
    assert driven.state.outbox == ()
    assert of(driven.on(acked("f" * 64)), Forget) == [], "the second answer changes nothing"


@pytest.mark.parametrize("status", [wire.RESULT_STATUS_DUPLICATE, wire.RESULT_STATUS_REFUSED])
def test_a_result_that_is_known_or_refused_is_not_sent_again(status: Any) -> None:
    driven = running()
    driven.on(Finished(A, "f" * 64))
    assert of(driven.on(acked("f" * 64, status)), Forget)[0].ack.status == status
    assert driven.state.outbox == ()


def test_without_an_order_the_slot_is_free_until_it_is_time_to_ask_again() -> None:
    driven = opened()
    driven.on(SlotTaken())
    assert driven.on(no_order(1)) == [LeaveSlot()]
    assert driven.session.wake_at() == driven.now_s + 5
    assert narration.doing(driven.state, driven.now_s) == "waiting: nothing to do; asking again in 5 s"
    assert driven.later(4.9) == []
    assert driven.later(0.2) == [TakeSlot()]


def test_a_coordinator_cannot_make_it_ask_without_pause_or_never() -> None:
    driven = opened()
    driven.on(SlotTaken(), no_order(1, retry_after_ms=0))
    assert (driven.session.wake_at() or 0) > driven.now_s
    driven.later(1)
    driven.on(SlotTaken(), no_order(2, retry_after_ms=2**31))
    assert (driven.session.wake_at() or 0) <= driven.now_s + 300


# --- the next order ---


def test_the_next_order_is_asked_for_during_the_exam_and_runs_at_once() -> None:
    driven = running()
    driven.on(Progress(A, "training", 0.9, 7, 2.5, contended=False))
    assert not driven.state.asked
    actions = driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False))
    assert sent(actions, "lease")[0].request_id == 2
    assert [type(action) for action in driven.on(grant(2, B))] == [Fetch]
    actions = driven.on(Finished(A, "f" * 64))
    assert of(actions, Run)[0].order.lease_id == B
    assert of(actions, LeaveSlot) == []


def test_the_next_order_is_left_to_others_who_wait() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=True))
    assert not driven.state.asked


def test_an_order_that_comes_just_after_the_trial_ended_runs_in_the_same_slot() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False))
    assert of(driven.on(Finished(A, "f" * 64)), LeaveSlot) == []
    assert of(driven.on(grant(2, B)), Run)


def test_an_order_that_comes_just_after_a_trial_failed_runs_too() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False))
    assert of(driven.on(Failed(A, "no space", fatal=False)), LeaveSlot) == []
    assert of(driven.on(grant(2, B)), Run)


def test_a_waiting_order_is_kept_alive_and_dropped_when_its_lease_ends() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False), grant(2, B))
    beats = sent(driven.later(9), "heartbeat")
    assert {beat.lease_id: beat.stage for beat in beats} == {A: "exam", B: "waiting"}
    driven.on(Received(wire.SessionResponse(heartbeat_ack=wire.HeartbeatAck(lease_id=A, lease_ms=40_000))))
    actions = driven.later(32)
    assert of(actions, Drop) == [Drop(B)]
    assert sent(actions, "lease_return")[0].lease_id == B
    assert driven.state.running


def test_no_more_orders_are_taken_than_trials_are_wanted() -> None:
    driven = running(trials_left=1)
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False))
    assert not driven.state.asked
    driven.on(Finished(A, "f" * 64))
    assert driven.on(acked("f" * 64))[-1] == Quit("")


# --- orders that must not run ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": Ed25519PrivateKey.from_private_bytes(b"x" * 32)}, "another key"),
        ({"swarm_id": "other"}, "another swarm"),
        ({"identity_id": "j" * 32}, "another identity"),
        ({"machine_id": "1" * 32}, "another machine"),
        ({"challenge_sha256": "0" * 64}, "challenge changed"),
        ({"trial_code_sha256": "0" * 64}, "upgrade"),
        ({"protocol": 2}, "protocol 2"),
        ({"source_sha256": "../../etc/passwd"}, "no source"),
    ],
)
def test_an_order_that_must_not_run_ends_the_session_with_the_reason(change: dict[str, Any], words: str) -> None:
    driven = opened()
    driven.on(SlotTaken())
    actions = driven.on(grant(1, **change))
    assert of(actions, Run) == []
    assert words in of(actions, Quit)[0].error
    believed = "key" not in change
    assert bool(sent(actions, "lease_return")) == believed


def test_a_trial_under_way_is_finished_before_a_bad_order_ends_the_session() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False), grant(2, B, swarm_id="other"))
    assert driven.state.running
    driven.on(Finished(A, "f" * 64))
    assert "another swarm" in of(driven.on(acked("f" * 64)), Quit)[0].error


# --- disconnections ---


def test_connecting_again_waits_longer_each_time_and_not_for_ever() -> None:
    driven = Driven()
    driven.on(Tick())
    waits = []
    for _ in range(21):
        driven.on(LOST)
        waits.append((driven.session.wake_at() or 0) - driven.now_s)
        assert driven.later(waits[-1]) == [Connect()]
    assert waits == pytest.approx([*(1.25**attempt for attempt in range(19)), 60, 60])
    driven.on(GREETING, welcome(), LOST)
    assert (driven.session.wake_at() or 0) - driven.now_s == 1, "a success starts over"


def test_a_coordinator_that_is_back_within_twenty_seconds_waits_for_nobody_longer_than_six() -> None:
    """At the longest draws. Several faults, one after the other, make one absence."""
    driven = Driven()
    driven.on(Tick())
    began, waits = driven.now_s, []
    while driven.now_s < began + 20:
        driven.on(LOST)
        waits.append((driven.session.wake_at() or 0) - driven.now_s)
        assert driven.later(waits[-1]) == [Connect()]
    assert max(waits) < 6


def test_the_drawn_number_spreads_the_returns() -> None:
    driven = Driven()
    driven.on(Tick(), LinkLost("gone", retry=True, chance=0.0))
    assert driven.session.wake_at() == driven.now_s + 0.5


def test_a_trial_survives_a_disconnection_when_its_lease_does() -> None:
    driven = running()
    driven.on(LOST)
    assert driven.state.running
    assert "offline: the line broke" in narration.doing(driven.state, driven.now_s)
    driven.later(1)
    assert of(driven.on(GREETING), Prove)[0].held_lease_ids == (A,)
    actions = driven.on(welcome(A))
    assert sent(actions, "heartbeat")[0].lease_id == A
    assert of(actions, Halt) == []


def test_a_trial_whose_lease_ended_meanwhile_is_halted_and_not_named_again() -> None:
    driven = running()
    driven.on(LOST)
    driven.later(1)
    actions = driven.on(GREETING, welcome())
    assert of(actions, Halt) == [Halt(A)]
    driven.on(LOST)
    driven.later(1)
    assert of(driven.on(GREETING), Prove)[0].held_lease_ids == ()
    driven.on(welcome())
    assert of(driven.on(Stopped(A)), TakeSlot) == [TakeSlot()]


def test_a_result_finished_offline_is_delivered_on_return_and_its_lease_named() -> None:
    driven = running()
    driven.on(LOST)
    assert of(driven.on(Finished(A, "f" * 64)), Deliver) == []
    driven.later(1)
    assert of(driven.on(GREETING), Prove)[0].held_lease_ids == (A,)
    assert of(driven.on(welcome(A)), Deliver) == [Deliver("f" * 64)]


def test_results_of_an_earlier_day_are_delivered_first_thing() -> None:
    driven = Driven(outbox=(Parcel("1" * 64, B), Parcel("2" * 64, A)))
    driven.on(Tick())
    assert of(driven.on(GREETING), Prove)[0].held_lease_ids == (A, B)
    assert of(driven.on(welcome()), Deliver) == [Deliver("1" * 64), Deliver("2" * 64)]
    actions = driven.on(Vanished("1" * 64))
    assert "gone from the disk" in of(actions, Say)[0].text
    assert [parcel.result_sha256 for parcel in driven.state.outbox] == ["2" * 64]


def test_a_result_on_its_way_when_the_line_broke_is_sent_again_at_once() -> None:
    driven = running()
    driven.on(Finished(A, "f" * 64), LOST)
    driven.later(1)
    driven.on(GREETING)
    assert of(driven.on(welcome()), Deliver) == [Deliver("f" * 64)]


def test_an_unanswered_request_for_an_order_is_repeated_after_a_disconnection() -> None:
    driven = opened()
    driven.on(SlotTaken())
    assert driven.on(LOST) == [LeaveSlot()], "nobody waits for a slot that an offline volunteer holds"
    driven.later(1)
    driven.on(GREETING, welcome())
    assert sent(driven.on(SlotTaken()), "lease")[0].request_id == 2


def test_a_coordinator_that_answers_nothing_is_left() -> None:
    driven = running()
    driven.later(20)
    assert of(driven.later(26), HangUp)
    assert of(driven.later(1), HangUp) == [], "once is enough"
    assert of(driven.on(LOST), HangUp) == []


def test_an_order_is_still_owed_when_something_else_was_answered() -> None:
    driven = running()
    driven.on(Finished(A, "f" * 64))
    assert sent(driven.on(SlotTaken()), "lease")
    driven.on(acked("f" * 64))
    assert driven.session.wake_at() is not None
    assert of(driven.later(44), HangUp) == []
    assert of(driven.later(2), HangUp)


def test_a_refusal_for_good_ends_the_session_with_the_coordinators_words() -> None:
    driven = running()
    actions = driven.on(LinkLost("this identity is banned", retry=False, chance=0.5))
    assert of(actions, Halt) == [Halt(A)]
    assert driven.on(Stopped(A))[-1] == Quit("this identity is banned")


# --- stopping ---


def test_stopping_once_finishes_the_trial_and_delivers_it() -> None:
    driven = running()
    assert driven.on(StopAsked()) == []
    assert "Ctrl-C again stops now" in narration.doing(driven.state, driven.now_s)
    driven.on(Finished(A, "f" * 64))
    assert driven.state.link is Link.OPEN, "the acknowledgement is waited for"
    assert driven.on(acked("f" * 64))[-1] == Quit("")


def test_stopping_once_gives_an_order_back_that_has_not_begun() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False), grant(2, B))
    actions = driven.on(StopAsked())
    assert sent(actions, "lease_return")[0].lease_id == B
    assert of(actions, Drop) == [Drop(B)]
    assert of(actions, Halt) == []


def test_stopping_while_an_order_is_on_its_way_gives_it_back() -> None:
    driven = opened()
    driven.on(SlotTaken(), StopAsked())
    actions = driven.on(grant(1))
    assert sent(actions, "lease_return")[0].lease_id == A
    assert actions[-1] == Quit("")


@pytest.mark.parametrize("events", [(StopAsked(), StopAsked()), (StopAsked(at_once=True),)])
def test_stopping_twice_gives_the_lease_back_and_does_not_wait(events: tuple[Event, ...]) -> None:
    driven = running()
    actions = driven.on(*events)
    assert sent(actions, "lease_return")[0].lease_id == A
    assert of(actions, Halt) == [Halt(A)]
    assert driven.on(Stopped(A))[-1] == Quit("")


def test_a_trial_that_does_not_die_cannot_keep_the_program() -> None:
    driven = running()
    driven.on(StopAsked(at_once=True))
    assert of(driven.later(14), Quit) == []
    assert of(driven.later(2), Quit)


def test_a_polite_end_waits_a_little_for_a_lost_coordinator() -> None:
    driven = running()
    driven.on(StopAsked(), LOST, Finished(A, "f" * 64))
    assert driven.later(1) == [Connect()]
    driven.on(LOST)
    assert of(driven.later(21), Quit) == [Quit("")]
    assert driven.state.outbox, "what was not delivered stays"


def test_an_end_at_once_stays_one_whatever_fails_meanwhile() -> None:
    driven = running(outbox=(Parcel("1" * 64, B),))
    driven.on(StopAsked(at_once=True))
    assert driven.on(Failed(A, "the disk is full", fatal=True))[-1] == Quit("the disk is full")


def test_stopping_while_waiting_for_a_slot_is_immediate() -> None:
    assert opened().on(StopAsked()) == [LeaveSlot(), Quit("")]


# --- what goes wrong at home ---


def test_a_trial_that_cannot_be_run_is_given_back_and_tried_again_later() -> None:
    driven = running()
    actions = driven.on(Failed(A, "the source did not come", fatal=False))
    assert sent(actions, "lease_return")[0].reason == "the source did not come"
    assert of(actions, LeaveSlot)
    assert driven.session.wake_at() == driven.now_s + 10


def test_a_full_disk_gives_the_lease_back_and_ends_the_session() -> None:
    driven = running()
    actions = driven.on(Failed(A, "the disk is full", fatal=True))
    assert sent(actions, "lease_return")[0].lease_id == A
    assert actions[-1] == Quit("the disk is full")


def test_the_coordinator_may_stop_a_trial() -> None:
    driven = running()
    actions = driven.on(stop_trial(A))
    assert of(actions, Halt) == [Halt(A)]
    assert of(actions, Say) == [Say("trial stopped: withdrawn")]
    assert driven.on(stop_trial(A)) == [], "a second time changes nothing"
    assert sent(driven.later(9), "heartbeat") == [], "nor is its lease kept alive"
    assert sent(driven.on(Stopped(A)), "lease_return") == [], "it is not ours to give back"


def test_a_trial_that_fails_while_it_is_stopped_is_not_given_back_either() -> None:
    driven = running()
    driven.on(stop_trial(A))
    assert sent(driven.on(Failed(A, "no source", fatal=False)), "lease_return") == []


def test_words_of_the_coordinator_are_cleaned() -> None:
    driven = opened()
    notice = wire.SessionResponse(notice=wire.Notice(text="new best\x1b[2J\u202e", generation=9))
    assert of(driven.on(Received(notice)), Say) == [Say("new best [2J")]
    assert driven.state.generation == 9


# --- what may not happen ---

MESSAGES: dict[str, Received] = {
    "greeting": GREETING,
    "welcome": welcome(),
    "grant": grant(1),
    "no_order": no_order(1),
    "heartbeat_ack": Received(wire.SessionResponse(heartbeat_ack=wire.HeartbeatAck(lease_id=A))),
    "result_ack": acked("f" * 64),
    "stop": stop_trial(A),
    "notice": Received(wire.SessionResponse(notice=wire.Notice(text="hello"))),
}
LEGAL = {
    "OFFLINE": set(),
    "CONNECTING": {"greeting"},
    "OPENING": {"welcome", "notice"},
    "OPEN": {"heartbeat_ack", "result_ack", "stop", "notice"},  # grant and no_order only when asked
}


def at(link: str) -> Driven:
    driven = Driven(reconnect_at=1e9) if link == "OFFLINE" else Driven()
    events: dict[str, tuple[Event, ...]] = {
        "OFFLINE": (),
        "CONNECTING": (Tick(),),
        "OPENING": (Tick(), GREETING),
        "OPEN": (Tick(), GREETING, welcome()),
    }
    driven.on(*events[link])
    assert driven.state.link.name == link
    return driven


def refused(driven: Driven, event: Event) -> None:
    before = copy.deepcopy(driven.state)
    with pytest.raises(SessionError):
        driven.on(event)
    assert driven.state == before


@pytest.mark.parametrize("link", LEGAL)
@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_out_of_turn_raises_and_changes_nothing(link: str, kind: str) -> None:
    driven = at(link)
    if kind in LEGAL[link]:
        driven.on(MESSAGES[kind])
    else:
        refused(driven, MESSAGES[kind])


@pytest.mark.parametrize(
    "event",
    [
        Finished(B, "f" * 64),
        Stopped(B),
        Failed(B, "", fatal=False),
        Progress(B, "exam", 0, 0, 0, contended=False),
        SlotTaken(),
        no_order(7),
        grant(1),
        acked("f" * 64, wire.RESULT_STATUS_UNSPECIFIED),
        acked("f" * 64, 99),
    ],
)
def test_an_event_of_a_lease_not_held_or_an_answer_not_asked_for_raises(event: Event) -> None:
    refused(running(), event)


def test_an_answer_to_another_request_raises() -> None:
    driven = opened()
    driven.on(SlotTaken())
    refused(driven, no_order(2))
    refused(driven, grant(2))


def test_a_nonce_of_another_length_raises() -> None:
    driven = at("CONNECTING")
    refused(driven, Received(wire.SessionResponse(greeting=wire.Greeting(nonce=b"short"))))


def test_a_lease_is_not_granted_twice() -> None:
    driven = running()
    driven.on(Progress(A, "exam", 0.0, 8, 2.5, contended=False))
    refused(driven, grant(2, A))


def test_nothing_may_follow_the_end() -> None:
    driven = opened()
    driven.on(StopAsked())
    refused(driven, Tick())


def test_a_message_of_a_newer_coordinator_is_passed_over() -> None:
    driven = at("OPEN")
    assert driven.on(Received(wire.SessionResponse())) == []


@pytest.mark.parametrize("link", ["CONNECTING", "OPENING", "OPEN"])
def test_a_line_may_break_at_any_time(link: str) -> None:
    driven = at(link)
    driven.on(LOST)
    assert driven.state.link is Link.OFFLINE
    assert of(driven.later(1), Connect)
    assert driven.state.ending is Ending.NO
    assert all(lease.phase is not Phase.RUNNING for lease in driven.state.leases)
