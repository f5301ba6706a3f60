"""What one event does to a session. Pure: the instant and drawn numbers are arguments.

Works on a copy of the state, so that an event which turns out to be illegal leaves nothing behind.
Left out: what is due without any event (`session_rules.py`).
"""

import re
from dataclasses import replace
from typing import Final

from autoresearch import limits
from autoresearch.text import clean_line
from autoresearch.v1 import volunteer_service_pb2 as wire
from volunteer import orders
from volunteer.errors import OrderError, VolunteerError
from volunteer.session_events import (
    Action,
    Drop,
    Event,
    Failed,
    Fetch,
    Finished,
    Forget,
    Halt,
    LeaveSlot,
    LinkLost,
    Progress,
    Prove,
    Received,
    Say,
    Send,
    SlotTaken,
    StopAsked,
    Stopped,
    Tick,
    Vanished,
)
from volunteer.session_state import Ending, Lease, Link, Parcel, Phase, Slot, State

# Which messages may come in which state of the link, and the state that follows. What is not here is illegal.
_MESSAGES: Final[dict[Link, dict[str, Link]]] = {
    Link.OFFLINE: {},
    Link.CONNECTING: {"greeting": Link.OPENING},
    Link.OPENING: {"welcome": Link.OPEN, "notice": Link.OPENING},
    Link.OPEN: dict.fromkeys(("grant", "no_order", "heartbeat_ack", "result_ack", "stop", "notice"), Link.OPEN),
    Link.CLOSED: {},
}

_BACKOFF_S: Final = 1.0  # first wait before connecting again
# Each next one is longer by this. What counts is how long a coordinator that is back waits for the next try. After 20 s
# without one (two faults, one after the other) that is at most 7 s, in 99 of 100 cases; it was 14 s with 1.5. A minute
# between tries is reached after three minutes.
_BACKOFF_GROWTH: Final = 1.25
_BACKOFF_MOST_S: Final = 60.0
_BEAT_SHARE: Final = 0.8  # of the coordinator's heartbeat interval: room for a busy machine's late timers
_HEARTBEAT_S: Final = (0.2, 300.0)  # a coordinator's wish outside is cut to this
_ASK_AGAIN_S: Final = (0.2, 300.0)  # likewise
_LEASE_MOST_S: Final = 24 * 3600.0
_FETCH_AGAIN_S: Final = 10.0  # after a trial could not be run
# What follows a name or a word is none. A place on this machine often names its owner, and goes to nobody.
_PATH: Final = re.compile(r"(?<![\w.])/[^\s:;,()'\"]+")


class SessionError(VolunteerError):
    """An event that cannot happen here; the session is as it was before."""


class Step:
    """One event's consequences, on a copy of the state."""

    def __init__(self, state: State, now_s: float) -> None:
        self.state = state
        self.now_s = now_s
        self.actions: list[Action] = []

    def apply(self, event: Event) -> None:  # noqa: C901 - one line per event
        match event:
            case Tick():
                pass
            case Received(message):
                self.receive(message)
            case LinkLost():
                self.lose_link(event)
            case SlotTaken():
                self.take_slot()
            case Progress():
                self.progress(event)
            case Finished(lease_id, result_sha256):
                self.finish(lease_id, result_sha256)
            case Stopped(lease_id):
                self.end_trial(self.under_way(lease_id))
            case Failed():
                self.fail(event)
            case Vanished(result_sha256):
                self.lose_parcel(result_sha256)
            case StopAsked(at_once):
                self.stop(at_once)

    # --- the coordinator's messages ---

    def receive(self, message: wire.SessionResponse) -> None:
        kind = message.WhichOneof("event")
        if kind is None:
            return  # from a newer coordinator
        following = _MESSAGES[self.state.link].get(kind)
        if following is None:
            raise SessionError(f"the coordinator sent {kind} while the session is {self.state.link.name}")
        self.state.link = following
        self.state.unanswered_since = None
        self.heed(getattr(message, kind))
        if self.state.asked:
            self.expect_answer()  # an answer to something else: the order is still owed

    def greet(self, greeting: wire.Greeting) -> None:
        if len(greeting.nonce) != limits.NONCE_BYTES:
            raise SessionError(f"the coordinator's nonce has {len(greeting.nonce)} bytes, not {limits.NONCE_BYTES}")
        held = [lease.lease_id for lease in self.state.leases if lease.phase is not Phase.HALTING]
        held += [parcel.lease_id for parcel in reversed(self.state.outbox)]
        self.actions.append(Prove(greeting.nonce, tuple(held[: limits.LEASES_PER_MACHINE])))
        self.state.unanswered_since = self.now_s

    def welcome(self, welcome: wire.Welcome) -> None:
        state = self.state
        state.attempts, state.asked, state.ask_at, state.generation = 0, False, self.now_s, welcome.generation
        state.heartbeat_s = _clip(welcome.heartbeat_ms / 1000, _HEARTBEAT_S) * _BEAT_SHARE
        state.outbox = tuple(replace(parcel, sent_at=None) for parcel in state.outbox)
        for lease in state.leases:
            if lease.lease_id in welcome.live_lease_ids:
                self.put(replace(lease, beat_at=self.now_s))
            elif lease.phase is not Phase.HALTING:
                self.give_up(lease, "its lease ended while the coordinator was out of reach")

    def grant(self, grant: wire.LeaseGrant) -> None:
        state = self.state
        self.answered(grant.request_id)
        try:
            order = orders.check(grant.order, state.terms)
        except OrderError as error:
            if error.lease_id:
                self.give_back(error.lease_id, str(error))
            self.end(str(error), Ending.POLITE)
            return
        if any(lease.lease_id == order.lease_id for lease in state.leases):
            raise SessionError("the coordinator granted a lease that is held already")
        if state.ending is not Ending.NO:
            self.give_back(order.lease_id, "stopping")
            return
        expires_at = self.now_s + min(grant.lease_ms / 1000, _LEASE_MOST_S)
        beat_at = self.now_s + state.heartbeat_s
        state.leases += (Lease(order, Phase.WAITING, expires_at, beat_at),)
        self.actions.append(Fetch(order))

    def no_order(self, answer: wire.NoOrder) -> None:
        self.answered(answer.request_id)
        self.state.ask_at = self.now_s + _clip(answer.retry_after_ms / 1000, _ASK_AGAIN_S)
        self.state.no_order_reason = _line(answer.reason)

    def answered(self, request_id: int) -> None:
        if not self.state.asked or request_id != self.state.request_id:
            raise SessionError("the coordinator answered a request for an order that was not made")
        self.state.asked = False

    def heartbeat_ack(self, ack: wire.HeartbeatAck) -> None:
        if lease := self.find(ack.lease_id):
            self.put(replace(lease, expires_at=self.now_s + min(ack.lease_ms / 1000, _LEASE_MOST_S)))

    def result_ack(self, ack: wire.ResultAck) -> None:
        if ack.status not in {wire.RESULT_STATUS_ACCEPTED, wire.RESULT_STATUS_DUPLICATE, wire.RESULT_STATUS_REFUSED}:
            raise SessionError(f"the coordinator acknowledged a result with unknown status {ack.status}")
        kept = tuple(parcel for parcel in self.state.outbox if parcel.result_sha256 != ack.result_sha256)
        if len(kept) < len(self.state.outbox):  # the second answer to a result that was sent twice changes nothing
            self.state.outbox = kept
            self.actions.append(Forget(ack))

    def stop_trial(self, stop: wire.StopTrial) -> None:
        lease = self.find(stop.lease_id)
        if lease and lease.phase is not Phase.HALTING:  # else it just ended by itself
            self.give_up(lease, _line(stop.reason) or "the coordinator stopped it")

    def notice(self, notice: wire.Notice) -> None:
        self.state.generation = notice.generation
        self.actions.append(Say(_line(notice.text)))

    def heed(self, message: object) -> None:
        match message:
            case wire.Greeting():
                self.greet(message)
            case wire.Welcome():
                self.welcome(message)
            case wire.LeaseGrant():
                self.grant(message)
            case wire.NoOrder():
                self.no_order(message)
            case wire.HeartbeatAck():
                self.heartbeat_ack(message)
            case wire.ResultAck():
                self.result_ack(message)
            case wire.StopTrial():
                self.stop_trial(message)
            case wire.Notice():
                self.notice(message)

    # --- what happens at home ---

    def lose_link(self, lost: LinkLost) -> None:
        state = self.state
        if state.link is Link.OFFLINE:
            raise SessionError("the link was lost before")
        state.link, state.asked, state.unanswered_since, state.lost_reason = Link.OFFLINE, False, None, lost.reason
        if not lost.retry:
            self.end(lost.reason, Ending.NOW)
            return
        wait_s = min(_BACKOFF_MOST_S, _BACKOFF_S * _BACKOFF_GROWTH ** min(state.attempts, 20))
        state.reconnect_at = self.now_s + wait_s * (0.5 + lost.chance / 2)
        state.attempts += 1

    def take_slot(self) -> None:
        if self.state.slot is not Slot.WAITING:
            raise SessionError("a slot came that was not waited for")
        self.state.slot = Slot.HELD

    def progress(self, event: Progress) -> None:
        lease = self.under_way(event.lease_id)
        beat_at = lease.beat_at if event.stage == lease.stage else self.now_s
        self.state.contended = event.contended
        self.put(
            replace(lease, stage=event.stage, share=event.share, step=event.step, loss=event.loss, beat_at=beat_at)
        )

    def finish(self, lease_id: str, result_sha256: str) -> None:
        state = self.state
        self.end_trial(self.under_way(lease_id))
        state.outbox += (Parcel(result_sha256, lease_id),)
        if state.trials_left is not None:
            state.trials_left -= 1
            if state.trials_left <= 0:
                self.end("", Ending.POLITE)

    def fail(self, event: Failed) -> None:
        lease = self.under_way(event.lease_id)
        self.end_trial(lease)
        if lease.phase is not Phase.HALTING:
            self.give_back(lease.lease_id, event.reason)
        self.state.ask_at = self.now_s + _FETCH_AGAIN_S
        if event.fatal:
            self.end(event.reason, Ending.POLITE)
        else:
            self.state.no_order_reason = event.reason
            self.actions.append(Say(event.reason))

    def lose_parcel(self, result_sha256: str) -> None:
        self.state.outbox = tuple(old for old in self.state.outbox if old.result_sha256 != result_sha256)
        self.actions.append(Say(f"result {result_sha256[:12]} is gone from the disk and cannot be delivered"))

    def stop(self, at_once: bool) -> None:
        again = self.state.ending is not Ending.NO
        self.end("", Ending.NOW if at_once or again else Ending.POLITE)

    # --- shared steps ---

    def end(self, error: str, ending: Ending) -> None:
        """Ends the session, politely or now; never less urgently than before."""
        state = self.state
        state.error = state.error or error
        if state.ending is Ending.NOW:
            return
        state.ending = ending
        for lease in state.leases:
            if lease.phase is Phase.WAITING or (ending is Ending.NOW and lease.phase is Phase.RUNNING):
                self.give_back(lease.lease_id, error or "stopped by the person at this machine")
                self.give_up(lease, "")

    def end_trial(self, lease: Lease) -> None:
        self.remove(lease)
        if self.state.waiting is None and not self.state.asked:  # else the next trial begins at once
            self.leave_slot()

    def give_up(self, lease: Lease, reason: str) -> None:
        """Ends a trial whose lease is no longer ours."""
        if lease.phase is Phase.RUNNING:
            self.put(replace(lease, phase=Phase.HALTING))
            self.actions.append(Halt(lease.lease_id))
        else:
            self.remove(lease)
            self.actions.append(Drop(lease.lease_id))
        if reason:
            self.actions.append(Say(f"trial stopped: {reason}"))

    def give_back(self, lease_id: str, reason: str) -> None:
        # Offline there is no need: a lease not named at the next opening is given back by that.
        if self.state.link is Link.OPEN:
            cut = clean_line(_PATH.sub("...", reason), limits.REASON_CHARACTERS)
            self.send(wire.SessionRequest(lease_return=wire.LeaseReturn(lease_id=lease_id, reason=cut)))

    def leave_slot(self) -> None:
        if self.state.slot is not Slot.NONE:
            self.state.slot = Slot.NONE
            self.actions.append(LeaveSlot())

    def send(self, message: wire.SessionRequest) -> None:
        self.actions.append(Send(message))

    def expect_answer(self) -> None:
        if self.state.unanswered_since is None:
            self.state.unanswered_since = self.now_s

    def find(self, lease_id: str) -> Lease | None:
        return next((lease for lease in self.state.leases if lease.lease_id == lease_id), None)

    def under_way(self, lease_id: str) -> Lease:
        lease = self.find(lease_id)
        if lease is None or lease.phase is Phase.WAITING:
            raise SessionError(f"no trial of lease {lease_id} is under way")
        return lease

    def put(self, lease: Lease) -> None:
        same = lease.lease_id
        self.state.leases = tuple(lease if old.lease_id == same else old for old in self.state.leases)

    def remove(self, lease: Lease) -> None:
        self.state.leases = tuple(old for old in self.state.leases if old.lease_id != lease.lease_id)


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _line(text: str) -> str:
    return clean_line(text, limits.REASON_CHARACTERS)
