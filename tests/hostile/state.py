"""Everything that a coordinator keeps, as one digest: ledger, lineage and store. What nobody may change unasked."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.integration.swarm_on_wire import Swarm

# Quotas count refused calls too, whoever leads gives signs of life, and a machine that opens a session was seen: none
# of it is the swarm's state.
_VOLATILE = (b":count:", b":table:lead")
_SEEN = (b"seen",)


class State:
    """Reads the state of a running swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._ledger = swarm.running.ledger
        self._lineage = swarm.running.lineage
        self._store = redis.Redis.from_url(swarm.running.store)

    def close(self) -> None:
        """Lets the store go."""
        self._store.close()

    def digest(self) -> str:
        """The state now. Two that are equal mean that nothing was changed."""
        found = hashlib.sha256(self._ledger.read_bytes())
        for piece in (*self._refs(self._lineage), *self._entries()):
            found.update(len(piece).to_bytes(8, "big") + piece)
        return found.hexdigest()

    @staticmethod
    def _refs(lineage: Path) -> Iterator[bytes]:
        for path in sorted([*lineage.glob("refs/**/*"), *lineage.glob("packed-refs"), *lineage.glob("HEAD")]):
            if path.is_file():
                yield path.name.encode() + path.read_bytes()

    def _entries(self) -> Iterator[bytes]:
        keys = sorted(key for key in self._store.scan_iter(count=1000) if not any(part in key for part in _VOLATILE))
        keys = [key for key in keys if not key.endswith(_SEEN)]
        with self._store.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.dump(key)
            for key, value in zip(keys, pipeline.execute(), strict=True):
                yield key + (value or b"")
