"""The mark of a store that is being filled from a ledger: while it is there, nobody takes the store for a swarm.

It is the first thing in the empty store, and goes last, when the data folder is in its place as well. Every change in
between names the mark and moves it on, so that nothing gets in that another command sends, or that is sent twice
because its answer was lost. A death leaves it: coordinators then refuse the store, and the next filling empties it and
starts over.

Left out: what is filled in (`rebuilding`).
"""

from collections.abc import Sequence

from coordinator.errors import OperatorError
from coordinator.store import Change, Drop, Erase, Guard, Holds, LostLeadError, Operation, Put, Store

MARK = ("meta", "filling")
_KEPT = (("table", MARK[0]), ("table", "lead"))
_ERASED_AT_ONCE = 1_000


class Filling:
    """One command's filling of a store: `begin`, changes, `end`."""

    def __init__(self, store: Store, token: str, where: str) -> None:
        """`token`: no other command's. `where`: the store, for people."""
        self._store = store
        self._token = token
        self._where = where
        self._mark: bytes | None = None
        self._changes = 0

    async def begin(self) -> bool:
        """Marks the store; empties it if it was filled in part before, and returns whether it was.

        Raises:
            OperatorError: it holds something else.
        """
        store = self._store
        self._mark = await store.get(*MARK)
        if self._mark is None:
            if await store.length("ledger") or await store.get("meta", "swarm") or await store.get("meta", "best"):
                raise OperatorError(f"the store {self._where} holds a swarm, whole or in part: give an empty one")
            await self._change(())
            return False
        await self._change(())
        left = [Erase(*own) for own in await store.names() if own not in _KEPT]
        for first in range(0, len(left), _ERASED_AT_ONCE):
            await self._change(left[first : first + _ERASED_AT_ONCE])
        await self._change([Drop(MARK[0], key) for key in await store.entries(MARK[0]) if key != MARK[1]])
        return True

    async def get(self, table: str, key: str) -> bytes | None:
        """See `Store.get`."""
        return await self._store.get(table, key)

    async def apply(self, change: Change) -> Guard | None:
        """See `Store.apply`; a change of a filling has no guards of its own.

        Raises:
            OperatorError: another command fills this store, or a coordinator has made a swarm in it.
        """
        await self._change(change.operations)
        return None

    async def end(self) -> None:
        """Takes the mark away: from now on the store is a swarm's.

        Raises:
            OperatorError: as `apply`.
        """
        failed = await self._store.apply(Change((Holds(*MARK, self._mark),), (Drop(*MARK),)))
        if failed is not None and await self._store.get(*MARK) is not None:
            raise self._meddled()

    async def _change(self, operations: Sequence[Operation]) -> None:
        self._changes += 1
        mark = f"{self._token} {self._changes}".encode()
        try:
            failed = await self._store.apply(Change((Holds(*MARK, self._mark),), (*operations, Put(*MARK, mark))))
        except LostLeadError as error:
            raise self._meddled() from error
        if failed is not None and await self._store.get(*MARK) != mark:  # else the answer to a first sending was lost
            raise self._meddled()
        self._mark = mark

    def _meddled(self) -> OperatorError:
        return OperatorError(f"a coordinator or another command uses the store {self._where}: give an empty one")


async def check(store: Store, where: str) -> None:
    """That nobody fills this store, nor died over it.

    Raises:
        OperatorError: somebody does, or did.
    """
    if await store.get(*MARK) is not None:
        raise OperatorError(
            f"the store {where} was filled only in part: a `restore` or `rebuild` is at work on it, or has died; run "
            "it again to its end, or give another store"
        )
