"""Everything that a coordinator keeps, by digests: ledger, lineage and store. What nobody may change unasked."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import redis

from tests.integration.swarm_on_wire import Swarm

# Quotas count refused calls too, whoever leads gives signs of life, and a machine that opens a session was seen: none
# of it is the swarm's state. Read in one step of the store's: a state of its own, and quick enough to ask for after
# each of thousands of calls.
_VOLATILE = (":count:", ":table:lead")
_SEEN = "seen"
_ENTRIES = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local is_state = string.sub(key, -#ARGV[1]) ~= ARGV[1]
  for at = 2, #ARGV do
    is_state = is_state and not string.find(key, ARGV[at], 1, true)
  end
  if is_state then
    table.insert(found, key .. ' ' .. redis.sha1hex(redis.call('DUMP', key)))
  end
end
return found
"""


class State:
    """Reads the state of a running swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._ledger = swarm.running.ledger
        self._lineage = swarm.running.lineage
        self._store = redis.Redis.from_url(swarm.running.store)

    def close(self) -> None:
        """Lets the store go."""
        self._store.close()

    def look(self) -> dict[str, str]:
        """What there is now, each with its digest. Two looks that are equal mean that nothing was changed."""
        ledger = {"ledger": _sha256(self._ledger.read_bytes())}
        return ledger | {path.name: _sha256(path.read_bytes()) for path in self._refs()} | dict(self._entries())

    def is_settled(self) -> bool:
        """Whether everything that follows from the ledger was written, and all of it is on the disk."""
        length = cast(int, self._store.llen("{autoresearch}:list:ledger"))
        followed = int(cast(bytes, self._store.hget("{autoresearch}:table:meta", "followed")) or 0)
        return length == followed == self._ledger.read_bytes().count(b"\n")

    async def settled(self) -> dict[str, str]:
        """A look at it once nothing changes any more by itself."""
        before, after = {}, self.look()
        while before != after or not self.is_settled():
            await asyncio.sleep(0.02)
            before, after = after, self.look()
        return after

    def _refs(self) -> list[Path]:
        found = [*self._lineage.glob("refs/**/*"), *self._lineage.glob("packed-refs"), *self._lineage.glob("HEAD")]
        return [path for path in found if path.is_file()]

    def _entries(self) -> Iterator[tuple[str, str]]:
        for found in cast(list[bytes], self._store.eval(_ENTRIES, 0, _SEEN, *_VOLATILE)):
            name, _, digest = found.rpartition(b" ")
            yield repr(name), digest.decode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
