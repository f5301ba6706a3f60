"""The coordinator's side of a session as a pure state machine: which message may come when, and what it asks for.

State x message kind -> state; a missing entry is the error. No clock, no I/O: the driver in `driving.py` feeds
messages in and carries the actions out.
"""

import enum
from dataclasses import dataclass

from autoresearch import limits
from autoresearch.digest import is_machine_id
from autoresearch.v1.volunteer_service_pb2 import (
    Heartbeat,
    LeaseRequest,
    LeaseReturn,
    Open,
    ResultDelivery,
    SessionRequest,
)

Message = Open | LeaseRequest | Heartbeat | ResultDelivery | LeaseReturn


class State(enum.Enum):
    """Where a session stands."""

    GREETED = "greeted"  # the nonce is sent; only a proof may come
    OPEN = "open"


class SessionError(Exception):
    """The peer broke the protocol; the session ends and nothing was changed."""


_ALLOWED: dict[tuple[State, str], State] = {
    (State.GREETED, "open"): State.OPEN,
    (State.OPEN, "lease"): State.OPEN,
    (State.OPEN, "heartbeat"): State.OPEN,
    (State.OPEN, "result"): State.OPEN,
    (State.OPEN, "lease_return"): State.OPEN,
}


@dataclass(frozen=True, slots=True)
class Session:
    """A session's state. `receive` returns the next one and the message to act on."""

    state: State = State.GREETED

    def receive(self, request: SessionRequest) -> tuple["Session", Message]:
        """Checks that the message may come now and is well formed.

        Raises:
            SessionError: it may not, or it is not.
        """
        kind = request.WhichOneof("event")
        if kind is None:
            raise SessionError("a session message without a known event: upgrade your client")
        after = _ALLOWED.get((self.state, kind))
        if after is None:
            remedy = "open the session first" if self.state is State.GREETED else "open one session for each machine"
            raise SessionError(f"a session in state {self.state.value!r} takes no {kind!r} message: {remedy}")
        message: Message = getattr(request, kind)
        _check(message)
        return Session(after), message


def _check(message: Message) -> None:
    if isinstance(message, Open) and len(message.held_lease_ids) > limits.LEASES_PER_MACHINE:
        raise SessionError(f"more than {limits.LEASES_PER_MACHINE} held leases")
    held = message.held_lease_ids if isinstance(message, Open) else ()
    named = (message.lease_id,) if isinstance(message, Heartbeat | LeaseReturn) else ()
    if not all(is_machine_id(lease_id) for lease_id in (*held, *named)):  # the same form: 32 hex digits
        raise SessionError("a lease id is 32 lower-case hex digits")
    if isinstance(message, LeaseReturn) and len(message.reason) > limits.REASON_CHARACTERS:
        raise SessionError(f"a reason has at most {limits.REASON_CHARACTERS} characters")
