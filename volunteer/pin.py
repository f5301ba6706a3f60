"""Remembers which swarm this home belongs to, so that later commands need no address.

Left out: verifying a coordinator against what is remembered (`connect.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from volunteer import address, durable
from volunteer.address import Address
from volunteer.errors import AddressError, HomeError

_FILE = "swarm.json"
_FILE_BYTES = 16 * 1024  # an address, two ids and a name


@dataclass(frozen=True, slots=True)
class Pin:
    """The swarm joined last, and what it is held to."""

    # Always with a fingerprint.
    address: Address
    swarm_id: str
    # The name this identity goes by on the leaderboard.
    name: str


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
        pin = Pin(address.parse(str(record["address"])), str(record["swarm_id"]), str(record["name"]))
    except (ValueError, KeyError, TypeError, AddressError) as error:
        raise HomeError(f"{path} is damaged: remove it and join the swarm again") from error
    if pin.address.fingerprint is None:
        raise HomeError(f"{path} names no fingerprint: remove it and join the swarm again")
    return pin


def save(home: Path, pin: Pin) -> None:
    """Remembers `pin`.

    Raises:
        DiskError: it cannot be written.
    """
    record = {"address": str(pin.address), "swarm_id": pin.swarm_id, "name": pin.name}
    durable.replace(durable.make_folder(home) / _FILE, json.dumps(record, indent=2).encode() + b"\n")
