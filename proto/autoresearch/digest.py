"""The hash of everything that is named by its content, and the form of every id. No I/O.

sha256 in lower-case hex for sources, challenges, orders, results; identities are named by their public key.
"""

import base64
import functools
import hashlib
import re

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY_ID = re.compile(r"[a-z2-7]{32}")
_HEX32 = re.compile(r"[0-9a-f]{32}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def sha256_hex(data: bytes) -> str:
    """64 lower-case hex digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=4096)  # a ledger names the same few thousand keys a million times
def key_id(public_key: bytes) -> str:
    """The name of an identity or coordinator: lower-case base32 of the first 160 bits of the raw key's SHA-256.

    160 bits keep second preimages out of reach and still paste into an address in 32 characters.
    """
    return base64.b32encode(hashlib.sha256(public_key).digest()[:20]).decode().lower()


def is_sha256(text: str) -> bool:
    """Whether `text` has the form of `sha256_hex`."""
    return _SHA256.fullmatch(text) is not None


def is_key_id(text: str) -> bool:
    """Whether `text` has the form of `key_id`."""
    return _KEY_ID.fullmatch(text) is not None


def is_commit_id(text: str) -> bool:
    """Whether `text` is a whole id of a git commit, and so no option of git's and no name."""
    return _COMMIT.fullmatch(text) is not None


def is_machine_id(text: str) -> bool:
    """Whether `text` has the form of a machine id: 128 random bits in lower-case hex."""
    return _HEX32.fullmatch(text) is not None
