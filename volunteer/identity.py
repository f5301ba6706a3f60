"""Who this is: an Ed25519 key and a machine id, made at first use and kept in the home folder.

The key file is PEM PKCS8, readable by its owner alone. An identity keeps the name of its first key; the file of a later
one says the name in a line above the key, so that both change at once. Left out: what is signed with it, and how a
swarm learns of a new key (`rotating.py`).
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from autoresearch.digest import is_key_id, is_machine_id, key_id
from autoresearch.envelope import public_bytes
from volunteer.durable import make_folder, remove, replace, write_new
from volunteer.errors import HomeError

_KEY_FILE = "identity.pem"
_NEXT_FILE = "identity.next.pem"  # the key of a rotation that was begun
_NAME = b"Identity: "
_MACHINE_FILE = "machine-id"
_KEY_BYTES = 4096  # a PEM of an Ed25519 key has about 120 bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or agent, on one machine."""

    key: Ed25519PrivateKey
    machine_id: str
    # What an identity that had other keys before is called; empty: after its key.
    named: str = ""

    @property
    def identity_id(self) -> str:
        """The public name: `digest.key_id` of the first public key that it had."""
        return self.named or self.key_id

    @property
    def key_id(self) -> str:
        """The name of the key that signs now."""
        return key_id(public_bytes(self.key))


def load_or_make(home: Path, random_bytes: Callable[[int], bytes]) -> Identity:
    """The identity kept in `home`; makes what is missing.

    `random_bytes(n)` gives n cryptographically random bytes.

    Raises:
        HomeError: the key is damaged, or others may read it.
        DiskError: it cannot be written.
    """
    make_folder(home)
    key, named = _key(home / _KEY_FILE, random_bytes)
    return Identity(key, _machine_id(home / _MACHINE_FILE, random_bytes), named)


def next_key(home: Path, identity: Identity, random_bytes: Callable[[int], bytes]) -> Ed25519PrivateKey:
    """The key that this identity moves to: the one of a rotation that was begun, else a new one. It is on disk when
    this returns, beside the one that counts until `adopt`. Raises as `load_or_make`."""
    path = home / _NEXT_FILE
    key, _ = _key(path, random_bytes)
    if key_id(public_bytes(key)) == identity.key_id:  # adopted, by somebody who died before its file was removed
        remove(path)
        key, _ = _key(path, random_bytes)
    return key


def adopt(home: Path, identity: Identity, new: Ed25519PrivateKey) -> Identity:
    """The identity under its new key; the key file is replaced at once, or not at all.

    Raises:
        DiskError: it cannot be written, and the old key counts; or what is left of the rotation cannot be removed.
    """
    name = _NAME + identity.identity_id.encode() + b"\n"
    replace(home / _KEY_FILE, name + _pem(new))
    remove(home / _NEXT_FILE)
    return Identity(new, identity.machine_id, identity.identity_id)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key(path: Path, random_bytes: Callable[[int], bytes]) -> tuple[Ed25519PrivateKey, str]:
    """The key, and the name above it if there is one."""
    _write_if_missing(path, _pem(Ed25519PrivateKey.from_private_bytes(random_bytes(32))))
    text = _read_private(path)
    named = ""
    if text.startswith(_NAME):
        line, _, text = text.partition(b"\n")
        named = line.removeprefix(_NAME).decode("ascii", "replace").strip()
    try:
        if named and not is_key_id(named):
            raise ValueError("no identity's name")
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise HomeError(
            f"{path} is damaged: restore it from a backup, or move it away to start as a new identity"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HomeError(f"{path} holds another kind of key than Ed25519: move it away to start as a new identity")
    return key, named


def _machine_id(path: Path, random_bytes: Callable[[int], bytes]) -> str:
    _write_if_missing(path, random_bytes(16).hex().encode() + b"\n")
    text = _read(path).decode("ascii", "replace").strip()
    if not is_machine_id(text):
        raise HomeError(f"{path} is damaged: it should hold 32 hex digits; remove it to enrol as a new machine")
    return text


def _write_if_missing(path: Path, data: bytes) -> None:
    if path.exists():
        return
    try:
        write_new(path, data)
    except FileExistsError:
        return  # another process was faster: its file counts


def _read_private(path: Path) -> bytes:
    data = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise HomeError(
            f"others may read the identity key {path}: run `chmod 600 {path}`, and if it was exposed, start a new one"
        )
    return data


def _read(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            return file.read(_KEY_BYTES)
    except OSError as error:
        raise HomeError(f"cannot read {path} ({error.strerror}): make it readable by you") from error
