"""A bounded number of places for calls, given to addresses in turn: whoever has many keeps only their own waiting.

Leaves out what the places are for: `gate` admits calls on them, `receiving` reads messages.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class Places:
    """`most` places, of which one address has `of_address` at a time."""

    def __init__(self, most: int, of_address: int) -> None:
        self.most = most
        self.free = most
        self._of_address = of_address
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # the addresses in the order of their turns

    @contextlib.asynccontextmanager
    async def one(self, address: str) -> AsyncIterator[None]:
        """Waits for a place, and has it while the block runs."""
        await self._enter(address)
        try:
            yield
        finally:
            self._leave(address)

    async def _enter(self, address: str) -> None:
        if self.free and self._may_have(address) and address not in self._waiting:
            self._take(address)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(address, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had its place already
                self._leave(address)
            raise

    def _leave(self, address: str) -> None:
        self.free += 1
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]
        self._give()

    def _give(self) -> None:
        """Gives what is free to those whose turn it is."""
        while self.free:
            address = next(filter(self._may_have, self._waiting), None)
            if address is None:
                return
            turns = self._waiting.pop(address)
            turn = turns.popleft()
            if turns:
                self._waiting[address] = turns  # behind all others
            if not turn.done():  # else its caller has hung up
                self._take(address)
                turn.set_result(None)

    def _may_have(self, address: str) -> bool:
        return self._held[address] < self._of_address

    def _take(self, address: str) -> None:
        self.free -= 1
        self._held[address] += 1
