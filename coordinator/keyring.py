"""Whom a key speaks for: identities keep their name when they move to a new key. Loads, asks the rules (`succession`),
writes.

Who changes anything on somebody's word guards that the key was still theirs, so that no entry of the ledger is signed
by a key that an earlier one replaced.
"""

from base64 import b64encode
from dataclasses import dataclass

from autoresearch import limits, succession
from autoresearch.succession import ITSELF, RETIRED
from autoresearch.v1.envelope_pb2 import Envelope
from coordinator import ordering
from coordinator.journal import Journal, Note
from coordinator.records import Records, Swarm
from coordinator.refusals import AlreadyExistsError, InvalidRequestError, NotAllowedError, UnauthenticatedError
from coordinator.store import Holds


@dataclass(frozen=True, slots=True)
class Owner:
    """The identity that a key speaks for. `unchanged`: guard that it still does."""

    identity_id: str
    unchanged: Holds


async def owner(records: Records, signer_id: str) -> Owner:
    """Whom the key of that name speaks for.

    Raises:
        UnauthenticatedError: another key has come in its place.
    """
    known = await records.store.get("keys", signer_id)
    if known == RETIRED.encode():
        raise UnauthenticatedError(
            "this key was replaced by another one: use that; if `rotate` was interrupted here, run it again"
        )
    return Owner(signer_id if known is None else known.decode(), Holds("keys", signer_id, known))


class Keys:
    """Gives identities of a swarm new keys."""

    def __init__(self, swarm: Swarm, records: Records, journal: Journal) -> None:
        self._swarm = swarm
        self._records = records
        self._store = records.store
        self._journal = journal

    async def rotate(self, signed: Envelope) -> tuple[str, bool]:
        """Gives an identity a new key; which one, and whether that had been done before.

        Raises:
            EnvelopeError, InvalidRequestError: it is malformed, or for another swarm.
            UnauthenticatedError: the old key does not speak for it any more.
            NotAllowedError: it is banned, or the swarm does not know it.
            AlreadyExistsError: the new key is known already.
        """
        moved = succession.read(signed)
        if moved.protocol != limits.PROTOCOL:
            raise InvalidRequestError(f"protocol {moved.protocol}; this swarm speaks {limits.PROTOCOL}: upgrade")
        if moved.swarm_id != self._swarm.swarm_id:
            raise InvalidRequestError("this was signed for another swarm")
        while True:
            new = await self._store.get("keys", moved.new_key_id)
            old = await self._store.get("keys", moved.old_key_id)
            if (new, old) == (moved.identity_id.encode(), RETIRED.encode()):
                await self._journal.all_durable()
                return moved.identity_id, True
            until_now = await owner(self._records, moved.old_key_id)
            guards = [until_now.unchanged, *await self._free(moved, until_now)]
            body = {
                "identity_id": moved.identity_id,
                "old_key_id": moved.old_key_id,
                "new_key_id": moved.new_key_id,
                "envelope": b64encode(signed.SerializeToString()).decode(),
            }
            outcome = await self._journal.commit([Note("rotation", body)], guards, ordering.rotated(moved))
            if isinstance(outcome, int):
                await self._journal.durable(outcome)
                return moved.identity_id, False

    async def _free(self, moved: succession.Moved, until_now: Owner) -> list[Holds]:
        """Guards that the rotation is still possible."""
        if await self._store.get("bans", until_now.identity_id) is not None:
            raise NotAllowedError("this identity was shut out by the operator: its key stays as it is")
        if moved.old_key_id == moved.new_key_id:
            raise InvalidRequestError(ITSELF)
        if until_now.identity_id != moved.identity_id:
            raise NotAllowedError("the old key does not speak for that identity")
        known = [await self._store.get(table, moved.identity_id) for table in ("identities", "roles")]
        if known == [None, None]:
            raise NotAllowedError("this identity is not enrolled in the swarm: there is nothing to move")
        taken = [Holds(table, moved.new_key_id, None) for table in ("keys", "identities", "roles", "bans")]
        for guard in taken:
            if await self._store.get(guard.table, guard.key) is not None:
                raise AlreadyExistsError("the new key is known to the swarm already: make another")
        return [*taken, Holds("bans", moved.identity_id, None)]
