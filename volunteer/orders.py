"""Decides whether this machine may run an order. Pure: no clock, no file, no socket.

The signature is checked against the pinned coordinator before the order is parsed; then every term that it binds.
Left out: leases and their times (`session.py`), the text of the source (`client.py`).
"""

from dataclasses import dataclass

from autoresearch import envelope, limits
from autoresearch.digest import is_sha256, sha256_hex
from autoresearch.text import is_line
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.trial_pb2 import Order
from volunteer.errors import OrderError


@dataclass(frozen=True, slots=True)
class Terms:
    """What every order for this machine must say."""

    swarm_id: str
    # `digest.key_id` of the coordinator's key.
    fingerprint: str
    identity_id: str
    machine_id: str
    challenge_sha256: str
    trial_code_sha256: str


@dataclass(frozen=True, slots=True)
class CheckedOrder:
    """An order that may be run."""

    order: Order
    # sha256 of the signed payload; the result names it.
    sha256: str

    @property
    def lease_id(self) -> str:
        """The lease under which it may be filled."""
        return self.order.lease_id


def check(signed: Envelope, terms: Terms) -> CheckedOrder:
    """The order in `signed`, when it may be run under `terms`.

    Raises:
        OrderError: it may not; the text says which term does not hold.
    """
    try:
        verified = envelope.verify(signed, envelope.ORDER)
        if verified.signer_id != terms.fingerprint:
            raise OrderError("an order was signed by another key than this swarm's coordinator: nothing was run")
        order, _ = envelope.open_as(signed, envelope.ORDER, Order)
    except envelope.EnvelopeError as error:
        raise OrderError(f"an order cannot be believed ({error}): nothing was run; tell the operator") from error
    if problem := _problem(order, terms):
        raise OrderError(problem, order.lease_id)
    return CheckedOrder(order, sha256_hex(verified.payload))


def _problem(order: Order, terms: Terms) -> str:
    if order.protocol != limits.PROTOCOL:
        return f"an order speaks protocol {order.protocol}, not {limits.PROTOCOL}: upgrade autoresearch-swarm"
    if order.swarm_id != terms.swarm_id:
        return "an order is for another swarm: nothing was run; join this swarm again"
    if order.identity_id != terms.identity_id:
        return "an order is for another identity: nothing was run; tell the operator"
    if order.machine_id != terms.machine_id:
        return "an order is for another machine: nothing was run; does a second volunteer use this home?"
    if order.challenge_sha256 != terms.challenge_sha256:
        return "the swarm's challenge changed: join again to prepare for the new one"
    if order.trial_code_sha256 != terms.trial_code_sha256:
        return "the swarm runs other trial code than this version: upgrade autoresearch-swarm"
    if not is_line(order.lease_id, limits.VERSION_CHARACTERS) or not is_sha256(order.source_sha256):
        return "an order names no lease or no source: nothing was run; tell the operator"
    return ""
