"""A volunteer's session as a state machine: an event in, actions out. Pure: `now_s` is an argument.

An event that the tables do not list, or that names a lease not held, raises and changes nothing. After every event the
same list of rules decides what is due; `wake_at` says when to look again though nothing happens.
Left out: carrying actions out (`workday.py`), checking orders (`orders.py`), words for the person (`narration.py`).
"""

from dataclasses import replace

from volunteer.session_events import Action, Event
from volunteer.session_rules import RESEND_S, RULES, SILENCE_S, wants_order
from volunteer.session_state import Link, Phase, Slot, State
from volunteer.session_step import SessionError, Step


class Session:
    """One machine's session with its swarm, over any number of streams."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def state(self) -> State:
        """Where it stands. Read only."""
        return self._state

    def handle(self, event: Event, now_s: float) -> tuple[Action, ...]:
        """What is to be done after `event`, in this order.

        Raises:
            SessionError: the event is illegal here; nothing changed.
        """
        step = Step(replace(self._state), now_s)
        if step.state.link is Link.CLOSED:
            raise SessionError(f"{type(event).__name__} after the session's end")
        step.apply(event)
        for rule in RULES:
            rule(step)
        self._state = step.state
        return tuple(step.actions)

    def wake_at(self) -> float | None:
        """When to send a `Tick`, if nothing else happens before; None when nothing can become due."""
        state = self._state
        due: list[float | None] = [state.close_by]
        if state.link is Link.OFFLINE:
            due.append(state.reconnect_at)
        elif state.unanswered_since is not None:
            due.append(state.unanswered_since + SILENCE_S)
        if state.link is Link.OPEN:
            due += [lease.beat_at for lease in state.leases if lease.phase is not Phase.HALTING]
            due += [parcel.sent_at + RESEND_S for parcel in state.outbox if parcel.sent_at is not None]
            due.append(state.ask_at if wants_order(state) and state.slot is Slot.NONE else None)
        return min((at for at in due if at is not None), default=None)
