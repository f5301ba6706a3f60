"""Work beside the calls: tasks that last as long as their coordinator, which ends when one of them does.

A coordinator without one of its tasks would look alive and acknowledge nothing, or hand nothing out. Left out: what
the tasks do.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from coordinator.errors import CoordinatorError, OperatorError
from coordinator.store import StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Background:
    """The tasks of one coordinator, ended in the order of a stack."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self.over = asyncio.Event()  # a task ended by itself: the coordinator is to end too
        self._stack = stack
        self._failure: BaseException | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it until the stack unwinds."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._stack.push_async_callback(_end, task)

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Does something that takes its time, unless a task ends meanwhile.

        Raises:
            OperatorError, StoreError: as `check`.
        """
        own, over = asyncio.create_task(work), asyncio.create_task(self.over.wait())
        try:
            await asyncio.wait({own, over}, return_when=asyncio.FIRST_COMPLETED)
            self.check()
            return await own
        finally:
            await _end(own, over)

    def check(self) -> None:
        """Says why a task ended, if one failed.

        Raises:
            OperatorError, StoreError: it did.
        """
        if isinstance(self._failure, CoordinatorError | StoreError):
            raise self._failure
        if self._failure is not None:
            raise OperatorError("a part of the coordinator ended: report the lines above, and start it again")

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        self._failure = self._failure or error
        if error is not None and not isinstance(error, CoordinatorError | StoreError):
            log.critical("a background task ended", exc_info=error)
        self.over.set()


async def _end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancels them until they have ended: redis-py sends inside wait_for, which may swallow it (Python 3.11)."""
    while left := {task for task in tasks if not task.done()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)
