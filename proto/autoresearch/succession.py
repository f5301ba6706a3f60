"""An identity moves to a new key: the statement that both keys sign, and whom a key speaks for afterwards. Pure.

An identity is named after the first key that it had. The old key says which one comes next, the new one that it agrees;
from then on only the new one speaks for the identity. Left out: who remembers it (`coordinator.keyring`, `attest`).
"""

from dataclasses import dataclass
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.digest import key_id
from autoresearch.envelope import EnvelopeError
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Rotation, Succession

ITSELF = "a key cannot come after itself"
RETIRED = ""  # whom a key speaks for that another one came after


class Moved(NamedTuple):
    """A rotation whose two signatures hold."""

    protocol: int
    swarm_id: str
    identity_id: str
    old_key_id: str
    new_key_id: str


def sign(swarm_id: str, identity_id: str, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> Envelope:
    """A signed Rotation."""
    named = Succession(
        protocol=limits.PROTOCOL,
        swarm_id=swarm_id,
        identity_id=identity_id,
        new_public_key=envelope.public_bytes(new),
    )
    by_old = envelope.sign(named, envelope.SUCCESSION, old)
    agreed = Rotation(protocol=limits.PROTOCOL, swarm_id=swarm_id, succession=by_old)
    return envelope.sign(agreed, envelope.ROTATION, new)


def read(signed: Envelope) -> Moved:
    """What a Rotation says.

    Raises:
        EnvelopeError: a signature does not hold, or the two do not belong together.
    """
    rotation, by_new = envelope.open_as(signed, envelope.ROTATION, Rotation)
    succession, by_old = envelope.open_as(rotation.succession, envelope.SUCCESSION, Succession)
    if succession.new_public_key != by_new.public_key:
        raise EnvelopeError("the old key names another successor than the key that signed the rotation")
    if (succession.protocol, succession.swarm_id) != (rotation.protocol, rotation.swarm_id):
        raise EnvelopeError("the two statements of a rotation are for different swarms")
    return Moved(
        rotation.protocol, rotation.swarm_id, succession.identity_id, by_old.signer_id, key_id(by_new.public_key)
    )


@dataclass(slots=True)
class Keyring:
    """Whom keys speak for, as far as it is not the identity of their own name."""

    owners: dict[str, str]

    def owner(self, signer_id: str) -> str:
        """The identity that a key speaks for; RETIRED for one that another came after."""
        return self.owners.get(signer_id, signer_id)

    def objection(self, moved: Moved) -> str:
        """Why a rotation cannot be; empty if it can."""
        if moved.old_key_id == moved.new_key_id:
            return ITSELF
        if self.owner(moved.old_key_id) != moved.identity_id:
            return "the old key does not speak for that identity"
        if moved.new_key_id in self.owners:
            return "the new key was used before"
        return ""

    def move(self, moved: Moved) -> None:
        """After it."""
        self.owners[moved.old_key_id] = RETIRED
        self.owners[moved.new_key_id] = moved.identity_id
