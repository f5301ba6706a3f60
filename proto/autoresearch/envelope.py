"""Signs and verifies bytes: DSSE v1 over Ed25519. Keys are arguments; nothing here reads a file.

The pre-authentication encoding is that of the DSSE specification (secure-systems-lab/dsse, protocol.md):
PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body, lengths in ASCII decimal bytes.
A payload is parsed only after `verify` returned it.
"""

import functools
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError, Message

from autoresearch import limits
from autoresearch.digest import key_id
from autoresearch.v1.envelope_pb2 import Envelope, Signature

M = TypeVar("M", bound=Message)

_TYPE = "application/vnd.autoresearch.{}.v1+protobuf"
ORDER = _TYPE.format("order")
RESULT = _TYPE.format("result")
ENROLMENT = _TYPE.format("enrolment")
SESSION_PROOF = _TYPE.format("session-proof")
PATCH = _TYPE.format("patch")
WITHDRAWAL = _TYPE.format("withdrawal")
SWARM_INFO = _TYPE.format("swarm-info")
CHECKPOINT = _TYPE.format("checkpoint")
IDENTITY_PROOF = _TYPE.format("identity-proof")
INSTRUCTION = _TYPE.format("instruction")
SUCCESSION = _TYPE.format("succession")
ROTATION = _TYPE.format("rotation")


# Encodings of the points of small order (Cremers and Jackson, "Prime, Order Please!", 2019): under such a key a
# signature over one message holds for others too, so that it names nobody.
_WEAK_KEYS = frozenset(
    bytes.fromhex(text)
    for text in (
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "00" * 32,
        "00" * 31 + "80",
        "ec" + "ff" * 30 + "7f",
        "ec" + "ff" * 31,
        "ed" + "ff" * 30 + "7f",
        "ed" + "ff" * 31,
        "ee" + "ff" * 30 + "7f",
        "ee" + "ff" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
)


class EnvelopeError(Exception):
    """An envelope that cannot be believed: wrong form, size, type or signature. Always the sender's fault."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Bytes whose signature held, and who signed them."""

    payload: bytes
    public_key: bytes

    @property
    def signer_id(self) -> str:
        """The identity that signed."""
        return key_id(self.public_key)


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The raw public key, 32 bytes."""
    return key.public_key().public_bytes_raw()


def sign(message: Message, payload_type: str, key: Ed25519PrivateKey) -> Envelope:
    """An envelope around the serialised `message`."""
    payload = message.SerializeToString()
    signature = Signature(public_key=public_bytes(key), value=key.sign(pae(payload_type, payload)))
    return Envelope(payload=payload, payload_type=payload_type, signatures=[signature])


@functools.lru_cache(maxsize=4096)  # a ledger's million signatures are by a few thousand keys
def _public_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def verify(envelope: Envelope, payload_type: str) -> Verified:
    """The payload of an envelope of the expected type whose one signature holds.

    Raises:
        EnvelopeError: too large, of another type, not exactly one signature, or the signature does not hold.
    """
    if len(envelope.payload) > limits.ENVELOPE_BYTES:
        raise EnvelopeError(f"signed payload of {len(envelope.payload)} bytes; at most {limits.ENVELOPE_BYTES} allowed")
    if envelope.payload_type != payload_type:
        raise EnvelopeError(f"signed payload is not a {payload_type}")
    if len(envelope.signatures) != 1:
        raise EnvelopeError(f"{len(envelope.signatures)} signatures; exactly one expected")
    signature = envelope.signatures[0]
    if len(signature.public_key) != 32 or len(signature.value) != 64:
        raise EnvelopeError("signature is not an Ed25519 one: the key has 32 bytes, the signature 64")
    if signature.public_key in _WEAK_KEYS:
        raise EnvelopeError("the public key is a weak one that anybody can sign for")
    try:
        _public_key(signature.public_key).verify(signature.value, pae(payload_type, envelope.payload))
    except (InvalidSignature, ValueError) as error:
        raise EnvelopeError("the signature does not match the payload and key") from error
    return Verified(envelope.payload, signature.public_key)


def open_as(envelope: Envelope, payload_type: str, kind: type[M]) -> tuple[M, Verified]:
    """Verifies, then parses.

    Raises:
        EnvelopeError: as `verify`, or the payload is no message of that kind.
    """
    verified = verify(envelope, payload_type)
    message = kind()
    try:
        message.ParseFromString(verified.payload)
    except DecodeError as error:
        raise EnvelopeError(f"signed payload does not parse as {kind.__name__}") from error
    return message, verified
