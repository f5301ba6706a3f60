"""Work that must not be left half-known: what a thread writes goes on when the task that waits for it is cancelled."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits it also where it is cancelled meanwhile: a thread's write cannot be, and what it made must be known."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise


async def ended(task: "asyncio.Task[Any]") -> None:
    """Returns when it has ended in whatever way, however often the caller is cancelled."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
