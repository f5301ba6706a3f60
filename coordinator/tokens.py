"""Nonces and session tokens: short strings that only this swarm's coordinators can have made. Pure: keys, instants and
random bytes are arguments.

Both carry what they say and an HMAC-SHA256 under a key derived (HKDF, RFC 5869) from the swarm's signing key, so any
coordinator of the swarm knows them and none has to remember them. That a nonce is used once is the store's to see to.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from autoresearch import limits
from autoresearch.digest import is_key_id

NONCE_MS: Final = 60_000  # to sign and return it
_RANDOM_BYTES: Final = 16
_INSTANT_BYTES: Final = 8
_MARK_BYTES: Final = 24
_NAME_BYTES: Final = 32  # of an identity


class TokenError(Exception):
    """A nonce or token that is not this swarm's, or no longer good. The message says what to do."""


def key_of(signing_key: Ed25519PrivateKey, purpose: str) -> bytes:
    """32 secret bytes for one purpose."""
    derived = HKDF(hashes.SHA256(), 32, salt=None, info=f"autoresearch {purpose} v1".encode())
    return derived.derive(signing_key.private_bytes_raw())


def make_nonce(key: bytes, random: bytes, now_ms: int) -> bytes:
    """A nonce of limits.ACCESS_NONCE_BYTES."""
    body = random[:_RANDOM_BYTES] + now_ms.to_bytes(_INSTANT_BYTES, "big")
    return body + _mark(key, body)


def check_nonce(key: bytes, nonce: bytes, now_ms: int) -> None:
    """Raises TokenError for one that is not ours or older than NONCE_MS."""
    body, mark = nonce[:-_MARK_BYTES], nonce[-_MARK_BYTES:]
    if len(nonce) != limits.ACCESS_NONCE_BYTES or not hmac.compare_digest(mark, _mark(key, body)):
        raise TokenError("the proof answers another greeting: ask for a nonce of this swarm")
    made_at_ms = int.from_bytes(body[_RANDOM_BYTES:], "big")
    if not made_at_ms <= now_ms <= made_at_ms + NONCE_MS:
        raise TokenError("the nonce is too old: ask for a new one")


def make_token(key: bytes, identity_id: str, expires_at_ms: int) -> str:
    """A session token of an identity."""
    body = identity_id.encode() + expires_at_ms.to_bytes(_INSTANT_BYTES, "big")
    return urlsafe_b64encode(body + _mark(key, body)).decode()


def read_token(key: bytes, token: str, now_ms: int) -> str:
    """The identity that a token speaks for.

    Raises:
        TokenError: it is not ours, or too old.
    """
    data = _decoded(token)
    body, mark = data[:-_MARK_BYTES], data[-_MARK_BYTES:]
    if len(body) != _NAME_BYTES + _INSTANT_BYTES or not hmac.compare_digest(mark, _mark(key, body)):
        raise TokenError("the session token is not of this swarm: authenticate again")
    if now_ms > int.from_bytes(body[_NAME_BYTES:], "big"):
        raise TokenError("the session token is too old: authenticate again")
    identity_id = body[:_NAME_BYTES].decode("ascii", "replace")
    assert is_key_id(identity_id)
    return identity_id


def _decoded(token: str) -> bytes:
    if len(token) > limits.TOKEN_CHARACTERS or not token.isascii():
        return b""
    try:
        data = urlsafe_b64decode(token)
    except ValueError:
        return b""
    return data if urlsafe_b64encode(data).decode() == token else b""  # the last character has bits to spare


def _mark(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:_MARK_BYTES]
