"""Which of a swarm's coordinators leads: one at a time, and another one when it falls silent.

The leader gives a sign of life in the store every BEAT_S. Whoever stands by and has seen the same sign LOOKS times in a
row takes the lead by raising the epoch, which every change of the store names (`RedisStore.epoch`): from that instant
nothing that an earlier leader sends is written, however long it was frozen. Only counts of looks are compared, no
clocks, so that a pause of the store, or of whoever looks, is nobody's silence.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from autoresearch.judging.model import Record
from coordinator.errors import OperatorError
from coordinator.redis_store import RedisStore
from coordinator.store import Change, Holds, LostLeadError, Put, StoreError

log = logging.getLogger(__name__)
BEAT_S = 0.5
LOOK_S = 0.3
LOOKS = 10  # three seconds: a full disk queue or a busy machine is silent for less


@dataclass(frozen=True, slots=True)
class Sign(Record):
    """A leader's sign of life, as the store holds it."""

    epoch: int  # one more with every change of leader
    token: str  # of one life of one coordinator; empty once it has left
    name: str  # of the coordinator, for people
    beat: int


class Lead:
    """One coordinator's part in this. Used once: `win`, then `keep` as a task, then `leave`."""

    def __init__(self, store: RedisStore, token: str, name: str) -> None:
        """`store`: over connections of its own; at the lead's epoch once it is won. `token`: nobody else's."""
        self.lost = asyncio.Event()  # another one leads
        self._store = store
        self._own = Sign(0, token, name, 0)

    async def win(
        self,
        ended: asyncio.Event,
        tell: Callable[[str], None],
        meanwhile: Callable[[], Awaitable[object]],
        *,
        alone: bool,
    ) -> bool:
        """Waits for the lead; False when `ended` was set before. `meanwhile` is called between looks.

        `alone`: nobody else can be there, so a sign of life is one of the past.
        """
        seen, looks, told = None, 0, False
        while not ended.is_set():
            try:
                sign = await self._read()
                looks = looks + 1 if sign == seen else 1
                seen = sign
                if (alone or sign is None or not sign.token or looks > LOOKS) and await self._take(sign):
                    return True
                if sign is not None and not told:
                    tell(f"{sign.name} leads this swarm: standing by")
                    told = True
                await meanwhile()
            except (StoreError, OperatorError) as error:
                looks = 0
                log.warning("standing by, will try again: %s", error)
            await asyncio.sleep(LOOK_S)
        return False

    async def keep(self) -> None:
        """Gives signs of life until another coordinator leads, which sets `lost`."""
        while True:
            await asyncio.sleep(BEAT_S)
            self._own = replace(self._own, beat=self._own.beat + 1)
            try:
                await self._store.apply(Change((), (Put("lead", "sign", self._own.to_bytes()),)))
            except LostLeadError:
                self.lost.set()
                return
            except StoreError as error:
                log.warning("cannot give a sign of life, will try again: %s", error)

    async def leave(self) -> None:
        """Gives the lead up, if this coordinator has it, so that another one need not wait."""
        if not self._own.epoch or self.lost.is_set():
            return
        try:
            left = replace(self._own, token="")
            await self._store.apply(Change((), (Put("lead", "sign", left.to_bytes()),)))
        except StoreError as error:
            log.warning("the next leader has to wait for this one's silence: %s", error)

    async def _take(self, seen: Sign | None) -> bool:
        """Takes the lead from whoever gave this sign, unless there is a newer one."""
        epoch = seen.epoch if seen else 0
        own = replace(self._own, epoch=epoch + 1)
        unchanged = Holds("lead", "sign", seen.to_bytes() if seen else None)
        taken = (Put("lead", "sign", own.to_bytes()), Put("lead", "epoch", str(own.epoch).encode()))
        try:
            failed = await self._store.at(epoch).apply(Change((unchanged,), taken))
        except LostLeadError:
            failed = unchanged
        if failed is not None and await self._read() != own:  # else the answer to a first sending was lost
            return False
        self._own, self._store.epoch = own, own.epoch
        return True

    async def _read(self) -> Sign | None:
        data = await self._store.get("lead", "sign")
        try:
            return None if data is None else Sign.from_bytes(data)
        except ValueError as error:
            raise StoreError(f"{error}; run the version of the coordinator that wrote it, or a newer one") from error
