"""Where a volunteer's session stands: plain values, replaced and never changed in place by others than `session.py`.

Left out: the rules (`session.py`) and the words for them (`narration.py`).
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from volunteer.orders import CheckedOrder, Terms


class Link(Enum):
    """The stream to the coordinator."""

    OFFLINE = auto()
    CONNECTING = auto()  # asked for; the greeting is awaited
    OPENING = auto()  # the proof is sent; the welcome is awaited
    OPEN = auto()
    CLOSED = auto()  # for good


class Slot(Enum):
    """This machine's turn on the host's processor or GPU."""

    NONE = auto()
    WAITING = auto()
    HELD = auto()


class Ending(Enum):
    """Whether the session is to end."""

    NO = auto()
    POLITE = auto()  # after the trial under way
    NOW = auto()


class Phase(Enum):
    """What an order under a lease is doing."""

    WAITING = auto()
    RUNNING = auto()
    HALTING = auto()  # told to end; the lease is no longer ours


@dataclass(frozen=True, slots=True)
class Lease:
    """An order that this machine holds. Instants are seconds of the caller's steady clock."""

    order: CheckedOrder
    phase: Phase
    expires_at: float
    # When the next heartbeat is due.
    beat_at: float
    stage: str = "waiting"
    # Of the stage, 0 to 1.
    share: float = 0.0
    step: int = 0
    loss: float = 0.0

    @property
    def lease_id(self) -> str:
        """Its id."""
        return self.order.lease_id


@dataclass(frozen=True, slots=True)
class Parcel:
    """A result on its way to the coordinator."""

    result_sha256: str
    lease_id: str
    # When it was last sent on the present stream; None before.
    sent_at: float | None = None


@dataclass(slots=True)
class State:
    """The whole session."""

    terms: Terms
    link: Link = Link.OFFLINE
    # At most two: the one that runs, and the next.
    leases: tuple[Lease, ...] = ()
    outbox: tuple[Parcel, ...] = ()
    slot: Slot = Slot.NONE
    # Another volunteer of this host waits for a slot: do not take the next order early.
    contended: bool = False
    # Last request for an order; `asked` while it is unanswered.
    request_id: int = 0
    asked: bool = False
    # Do not ask for an order before.
    ask_at: float = 0.0
    # Why there was none.
    no_order_reason: str = ""
    reconnect_at: float = 0.0
    attempts: int = 0
    lost_reason: str = ""
    # Time between heartbeats; the coordinator says.
    heartbeat_s: float = 10.0
    # Since when something sent waits for an answer.
    unanswered_since: float | None = None
    # Trials still to finish; None for no end.
    trials_left: int | None = None
    ending: Ending = Ending.NO
    # An ending session closes by then, whatever is outstanding.
    close_by: float | None = None
    error: str = ""
    generation: int = field(default=0)

    @property
    def running(self) -> Lease | None:
        """The lease whose trial is under way, told to halt or not."""
        return next((lease for lease in self.leases if lease.phase is not Phase.WAITING), None)

    @property
    def waiting(self) -> Lease | None:
        """The lease whose trial is next."""
        return next((lease for lease in self.leases if lease.phase is Phase.WAITING), None)
