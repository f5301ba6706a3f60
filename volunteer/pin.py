"""Remembers which swarm this home belongs to, so that later commands need no address.

Left out: verifying a coordinator against what is remembered (`connect.py`).
"""

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from autoresearch.digest import sha256_hex
from volunteer import address, durable
from volunteer.address import Address
from volunteer.errors import AddressError, HomeError

_FILE = "swarm.json"
_FILE_BYTES = 128 * 1024  # an address, two ids, a name and a challenge


@dataclass(frozen=True, slots=True)
class Pin:
    """The swarm joined last, and what it is held to."""

    # Always with a fingerprint.
    address: Address
    swarm_id: str
    # The name this identity goes by on the leaderboard.
    name: str
    # What it was joined for, as the coordinator serves it; empty when an earlier version remembered the swarm.
    challenge: bytes = b""

    @property
    def challenge_sha256(self) -> str:
        """The challenge's digest; empty without one."""
        return sha256_hex(self.challenge) if self.challenge else ""


def load(home: Path) -> Pin | None:
    """What is remembered in `home`; None when nothing is.

    Raises:
        HomeError: the file is damaged.
    """
    path = home / _FILE
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeError(f"cannot read {path} ({error.strerror}): make it readable by you") from error
    try:
        record = json.loads(text)
        challenge = b64decode(str(record.get("challenge", "")), validate=True)
        pin = Pin(address.parse(str(record["address"])), str(record["swarm_id"]), str(record["name"]), challenge)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, AddressError) as error:
        raise HomeError(f"{path} is damaged: remove it and join the swarm again") from error
    if pin.address.fingerprint is None:
        raise HomeError(f"{path} names no fingerprint: remove it and join the swarm again")
    return pin


def save(home: Path, pin: Pin) -> None:
    """Remembers `pin`.

    Raises:
        DiskError: it cannot be written.
    """
    record = {
        "address": str(pin.address),
        "swarm_id": pin.swarm_id,
        "name": pin.name,
        "challenge": b64encode(pin.challenge).decode(),
    }
    durable.replace(durable.make_folder(home) / _FILE, json.dumps(record, indent=2).encode() + b"\n")
