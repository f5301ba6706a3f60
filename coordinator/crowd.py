"""How many calls are open, by address and kind: one address cannot take all the room there is in a process.

Leaves out how often somebody calls, which the store counts for all processes (`quotas`, `gate`).
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

from coordinator.quotas import Quota
from coordinator.refusals import TooOftenError

OPEN_MOST: Final = 16_384  # in one process: some tens of kilobytes each
AGAIN_MS: Final = 5_000  # when to try again; a guess, for calls end when their callers like
_AGAIN: Final = f"{AGAIN_MS // 1000} s"


class Crowd:
    """The calls that are open in this process."""

    def __init__(self, *, most: int = OPEN_MOST) -> None:
        self._most = most
        self._open: Counter[tuple[str, str]] = Counter()
        self._total = 0

    @contextlib.contextmanager
    def inside(self, quota: Quota, address: str) -> Iterator[None]:
        """One call more while the block runs.

        Raises:
            TooOftenError: there is no room for it.
        """
        kind = (quota.name, address)
        if self._open.get(kind, 0) >= quota.address_open:
            raise TooOftenError(f"too many open calls from your address: end some, or call in {_AGAIN}", AGAIN_MS)
        if self._total >= self._most:
            raise TooOftenError(f"the coordinator has as many open calls as it can take: call in {_AGAIN}", AGAIN_MS)
        self._open[kind] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._open[kind] -= 1
            if not self._open[kind]:
                del self._open[kind]
