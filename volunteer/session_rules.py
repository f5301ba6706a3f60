"""What is due in a session, whatever happened last. Pure: the instant is an argument.

`RULES` run in order after every event. Left out: what an event itself changes (`session_step.py`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from autoresearch.v1 import volunteer_service_pb2 as wire
from volunteer.session_events import Connect, Deliver, HangUp, Quit, Run, TakeSlot
from volunteer.session_state import Ending, Lease, Link, Phase, Slot, State
from volunteer.session_step import Step

RESEND_S: Final = 30.0  # an unacknowledged result is sent again
SILENCE_S: Final = 45.0  # a coordinator that leaves something unanswered for so long is gone
_FAREWELL_S: Final = 20.0  # a polite end waits so long for the last acknowledgement, or for a lost coordinator
_HALT_S: Final = 15.0  # an end at once waits so long for the trial's processes to die


def _drop_expired(step: Step) -> None:
    lease = step.state.waiting
    if lease and lease.expires_at <= step.now_s:
        step.give_back(lease.lease_id, "the lease ended before its turn came")
        step.give_up(lease, "its lease ended before its turn came")


def _start_trial(step: Step) -> None:
    state = step.state
    lease = state.waiting
    if lease and state.running is None and state.slot is Slot.HELD:
        step.put(replace(lease, phase=Phase.RUNNING, stage="starting", beat_at=step.now_s))
        step.actions.append(Run(lease.order))


def _ask(step: Step) -> None:
    state = step.state
    if not wants_order(state) or step.now_s < state.ask_at:
        return
    if state.slot is Slot.HELD:
        state.request_id += 1
        state.asked = True
        step.expect_answer()
        step.send(wire.SessionRequest(lease=wire.LeaseRequest(request_id=state.request_id)))
    elif state.slot is Slot.NONE:
        state.slot = Slot.WAITING
        step.actions.append(TakeSlot())


def wants_order(state: State) -> bool:
    """Whether to ask for an order as soon as time and slot allow.

    The next one is asked for while the present one is examined, unless others wait for the slot: then it is their turn.
    """
    if state.link is not Link.OPEN or state.ending is not Ending.NO or state.asked:
        return False
    if state.trials_left is not None and len(state.leases) >= state.trials_left:
        return False
    running = state.running
    if running is None or state.waiting is not None:
        return not state.leases
    return running.phase is Phase.RUNNING and running.stage == "exam" and not state.contended


def _free_slot(step: Step) -> None:
    """Nobody else should wait for a slot that has nothing to do."""
    state = step.state
    idle = not state.leases and not state.asked
    if idle and (state.link is not Link.OPEN or state.ending is not Ending.NO or step.now_s < state.ask_at):
        step.leave_slot()


def _beat(step: Step) -> None:
    state = step.state
    if state.link is not Link.OPEN:
        return
    for lease in state.leases:
        if lease.phase is not Phase.HALTING and lease.beat_at <= step.now_s:
            step.put(replace(lease, beat_at=step.now_s + state.heartbeat_s))
            step.expect_answer()
            step.send(wire.SessionRequest(heartbeat=_heartbeat(lease)))


def _heartbeat(lease: Lease) -> wire.Heartbeat:
    return wire.Heartbeat(
        lease_id=lease.lease_id, stage=lease.stage, share=budget_share(lease), step=lease.step, loss=lease.loss
    )


def budget_share(lease: Lease) -> float:
    """Share of the training budget spent: nothing before training, everything after."""
    return {"training": lease.share, "weights": 1.0, "exam": 1.0}.get(lease.stage, 0.0)


def _deliver(step: Step) -> None:
    state = step.state
    if state.link is not Link.OPEN:
        return
    for parcel in state.outbox:
        if parcel.sent_at is None or parcel.sent_at + RESEND_S <= step.now_s:
            sent = replace(parcel, sent_at=step.now_s)
            state.outbox = tuple(sent if old is parcel else old for old in state.outbox)
            step.expect_answer()
            step.actions.append(Deliver(parcel.result_sha256))


def _hang_up(step: Step) -> None:
    since = step.state.unanswered_since
    if since is not None and since + SILENCE_S <= step.now_s:
        step.state.unanswered_since = None
        step.actions.append(HangUp(f"the coordinator left a message unanswered for {SILENCE_S:.0f} s"))


def _connect(step: Step) -> None:
    state = step.state
    needed = state.ending is Ending.NO or (state.ending is Ending.POLITE and bool(state.leases or state.outbox))
    if state.link is Link.OFFLINE and needed and state.reconnect_at <= step.now_s:
        state.link = Link.CONNECTING
        step.expect_answer()
        step.actions.append(Connect())


def _close(step: Step) -> None:
    """Ends an ending session when nothing is left to wait for, or its time is up."""
    state = step.state
    if state.ending is Ending.NO:
        return
    halting = state.ending is Ending.NOW
    parcels = bool(state.outbox or state.asked) and not halting
    if state.leases and not halting:
        return  # a polite end waits as long as the trial takes
    if state.leases or parcels:
        state.close_by = state.close_by or step.now_s + (_HALT_S if halting else _FAREWELL_S)
        if step.now_s < state.close_by:
            return
    step.leave_slot()
    state.link = Link.CLOSED
    step.actions.append(Quit(state.error))


RULES: Final[tuple[Callable[[Step], None], ...]] = (
    _drop_expired,
    _start_trial,
    _ask,
    _free_slot,
    _beat,
    _deliver,
    _hang_up,
    _connect,
    _close,
)
