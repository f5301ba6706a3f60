"""What can happen to a session, and what it may ask to be done. Values only.

The rules that lead from one to the other are in `session.py`; who carries actions out is `workday.py`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from autoresearch.v1.volunteer_service_pb2 import ResultAck, SessionRequest, SessionResponse
from volunteer.orders import CheckedOrder

# --- events ---


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; something may be due."""


@dataclass(frozen=True, slots=True)
class Received:
    """The coordinator sent a message."""

    message: SessionResponse


@dataclass(frozen=True, slots=True)
class LinkLost:
    """There is no stream any more, or none could be opened."""

    reason: str
    # Whether opening another may help.
    retry: bool
    # Drawn evenly from 0 to 1: spreads the return of many volunteers after a coordinator's restart.
    chance: float


@dataclass(frozen=True, slots=True)
class SlotTaken:
    """This machine has a free slot now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A running trial got somewhere. `stage` as in `Heartbeat.stage`; `share` of that stage, 0 to 1."""

    lease_id: str
    stage: str
    share: float
    step: int
    # Training loss in nats per token; 0 before the first.
    loss: float
    # Another volunteer of this host waits for a slot.
    contended: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """A trial ended and its signed result is safely on disk."""

    lease_id: str
    result_sha256: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A trial ended because it was told to; it has no result."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A trial could not be run or its result not be kept; says nothing about the source.

    `fatal`: this machine cannot run another one either.
    """

    lease_id: str
    reason: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Vanished:
    """A kept result is no longer on disk, or no longer readable."""

    result_sha256: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The person wants to stop: after the trial under way, or (asked again, or `at_once`) now."""

    at_once: bool = False


Event: TypeAlias = (
    Tick | Received | LinkLost | SlotTaken | Progress | Finished | Stopped | Failed | Vanished | StopAsked
)

# --- actions ---


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a stream."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Give the stream up; `LinkLost` must follow."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prove:
    """Send Open: sign the nonce and name the leases held."""

    nonce: bytes
    held_lease_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message."""

    message: SessionRequest


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the kept result of that digest."""

    result_sha256: str


@dataclass(frozen=True, slots=True)
class Forget:
    """The coordinator decided about a result: tell the person, and keep it no longer."""

    ack: ResultAck


@dataclass(frozen=True, slots=True)
class TakeSlot:
    """Wait for a slot; `SlotTaken` follows."""


@dataclass(frozen=True, slots=True)
class LeaveSlot:
    """Free the slot, or give up waiting for one."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get the source of an order that is to run soon."""

    order: CheckedOrder


@dataclass(frozen=True, slots=True)
class Run:
    """Run the trial; `Finished`, `Stopped` or `Failed` follows."""

    order: CheckedOrder


@dataclass(frozen=True, slots=True)
class Halt:
    """End that trial now."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Drop:
    """An order that was fetched will not run here."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the person."""

    text: str


@dataclass(frozen=True, slots=True)
class Quit:
    """The session is over; with an error, unless it is empty."""

    error: str


Action: TypeAlias = (
    Connect | HangUp | Prove | Send | Deliver | Forget | TakeSlot | LeaveSlot | Fetch | Run | Halt | Drop | Say | Quit
)
