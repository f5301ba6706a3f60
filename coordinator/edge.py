"""What calls are answered with: the rooms behind the servicers, and how whoever signed a call is admitted."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope
from autoresearch.v1.envelope_pb2 import Envelope
from coordinator import keyring
from coordinator.app import App
from coordinator.checkpoints import Checkpoints
from coordinator.gate import Gate
from coordinator.hub import Hub
from coordinator.keyring import Keys
from coordinator.queries import Queries
from coordinator.records import Swarm
from coordinator.register import Register
from coordinator.settings import Enrolment


@dataclass(frozen=True, slots=True)
class Edge:
    """What the servicers share."""

    swarm: Swarm
    app: App
    queries: Queries
    checkpoints: Checkpoints
    hub: Hub
    key: Ed25519PrivateKey
    tls_key_sha256: str
    nonce: Callable[[], bytes]
    gate: Gate
    register: Register
    keys: Keys
    token_key: bytes
    now_ms: Callable[[], int]
    enrolment: Enrolment

    async def signer(self, method: str, signed: Envelope, payload_type: str) -> str:
        """Who signed a call's message, admitted to the call.

        Raises:
            EnvelopeError, UnauthenticatedError, NotAllowedError, TooOftenError: nobody who may.
        """
        return await self.admitted(method, envelope.verify(signed, payload_type).signer_id)

    async def admitted(self, method: str, signer_id: str) -> str:
        """The identity that a key speaks for, admitted to a call. Raises as `signer`."""
        identity_id = (await keyring.owner(self.app.records, signer_id)).identity_id
        await self.gate.signed(method, identity_id)
        return identity_id
