"""Remembers the last checkpoint of each swarm's ledger, so that a coordinator which rewrites history is found out.

Two checkpoints that contradict each other are signed by the coordinator itself: kept together they prove it to anybody.
Left out: what the entries say (`auditing.py`).
"""

from datetime import UTC, datetime
from pathlib import Path

from autoresearch import checkpoint
from autoresearch.checkpoint import CheckpointError, TreeHead
from autoresearch.digest import sha256_hex
from volunteer import durable
from volunteer.client import Client
from volunteer.errors import HomeError, WrongCoordinatorError


async def watch(client: Client, home: Path) -> TreeHead:
    """The ledger's checkpoint as it is now, which continues the last one seen, and is remembered.

    Raises:
        WrongCoordinatorError: it contradicts the last one seen, or is not the coordinator's.
        HomeError, DiskError: what is remembered is damaged, or cannot be written.
        RpcError: no answer.
    """
    target = client.swarm.address.target
    seen = remembered(home, client.swarm.swarm_id, client.swarm.fingerprint)
    try:
        now = checkpoint.read(await client.checkpoint(), client.swarm.swarm_id, client.swarm.fingerprint)
    except CheckpointError as error:
        raise WrongCoordinatorError(f"the checkpoint of {target} cannot be believed: {error}") from error
    if seen is not None:
        await _check(client, home, seen, now)
    if seen is None or now.size > seen.size:
        _write(_path(home, now.swarm_id), now)
    return now


async def _check(client: Client, home: Path, seen: TreeHead, now: TreeHead) -> None:
    growing = 0 < seen.size < now.size
    proof = await client.consistency(seen.size, now.size) if growing else []
    try:
        checkpoint.check_continues(seen, now, proof)
    except CheckpointError as error:
        contrary = _path(home, now.swarm_id).with_suffix(".contrary")
        _write(contrary, now)
        raise WrongCoordinatorError(
            f"the coordinator at {client.swarm.address.target} rewrote its ledger: {error}, which it signed on "
            f"{_day(seen)}. Both of its statements are kept in {contrary.parent}: show them to others in the swarm, "
            "and lend it no machine until its operator explains"
        ) from error


def remembered(home: Path, swarm_id: str, signer_id: str) -> TreeHead | None:
    """The last checkpoint seen of a swarm; None before the first.

    Raises:
        HomeError: the file is damaged.
    """
    path = _path(home, swarm_id)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HomeError(f"cannot read {path} ({error.strerror}): make it readable by you") from error
    try:
        return checkpoint.read(data, swarm_id, signer_id)
    except CheckpointError as error:
        raise HomeError(
            f"{path} is damaged ({error}): restore it: without it a ledger that was rewritten is not found out"
        ) from error


def _path(home: Path, swarm_id: str) -> Path:
    """A serialised Envelope, as the coordinator sent it."""
    return home / "checkpoints" / f"{sha256_hex(swarm_id.encode())[:16]}.seen"


def _write(path: Path, head: TreeHead) -> None:
    durable.replace(durable.make_folder(path.parent) / path.name, head.signed)


def _day(head: TreeHead) -> str:
    try:
        return datetime.fromtimestamp(head.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "an impossible date"
