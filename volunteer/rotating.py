"""Moves an identity to a new key, in every swarm that it is told to, and then on disk.

The new key is on disk before any swarm hears of it, and takes the old one's place when all have agreed. Interrupted
anywhere, the same command goes on from there: a swarm takes the same succession twice. Left out: the key files
(`identity.py`).
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from autoresearch import succession
from volunteer import home, identity
from volunteer.client import Client
from volunteer.errors import InputError
from volunteer.identity import Identity
from volunteer.spool import Spool

Open = Callable[[str | None], Awaitable[Client]]


async def rotate(
    folder: Path,
    who: Identity,
    swarms: Sequence[str | None],
    *,
    connect: Open,
    random_bytes: Callable[[int], bytes],
    tell: Callable[[str], None],
) -> Identity:
    """The identity under its new key. `swarms`: addresses, None for the swarm of this home. The caller holds the home's
    lock: nobody works from it.

    Raises:
        InputError: results that the old key signed wait for delivery.
        VolunteerError: a swarm does not agree or does not answer, or the disk is full; the same again goes on.
    """
    new = identity.next_key(folder, who, random_bytes)
    for address in swarms:
        async with await connect(address) as client:
            swarm = client.swarm
            waiting = len(Spool(home.spool_folder(folder, swarm.swarm_id), who.key_id, swarm.swarm_id).kept)
            if waiting:
                raise InputError(
                    f"{waiting} result(s) signed by the old key wait for delivery to {swarm.address.target}: join once "
                    "more to deliver them, then rotate"
                )
            await client.rotate_key(succession.sign(swarm.swarm_id, who.identity_id, who.key, new))
            tell(f"{swarm.address.target} knows the new key of {who.identity_id}")
    return identity.adopt(folder, who, new)
