"""One stream after another to the coordinator: what comes in becomes events, what goes out is sent in order.

Left out: what is said (`session.py`) and when to try again (likewise).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from autoresearch.v1.volunteer_service_pb2 import SessionRequest
from volunteer.client import Client, SessionCall
from volunteer.errors import RpcError, VolunteerError
from volunteer.rpc_errors import of_status
from volunteer.session_events import LinkLost, Received

_FLUSH_S: Final = 3.0  # the last messages get so long to leave this machine


class Stream:
    """At most one open stream. `post` gets `Received` for each message and one `LinkLost` for each `open`."""

    def __init__(
        self,
        connect: Callable[[bool], Awaitable[Client]],
        post: Callable[[Received | LinkLost], None],
        chance: Callable[[], float],
    ) -> None:
        """`connect(enrol)` gives a verified client, and enrols this machine first when asked to."""
        self._connect = connect
        self._post = post
        self._chance = chance
        # While connected.
        self.client: Client | None = None
        self._call: SessionCall | None = None
        self._outgoing: asyncio.Queue[SessionRequest] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        # Enrol before the next stream; enrolled before the present one.
        self._enrol = False
        self._enrolled = False
        self._hang_up_reason = ""

    def open(self) -> asyncio.Task[None]:
        """Starts connecting. The task fails only by a fault of this program."""
        self._hang_up_reason = ""
        self._task = asyncio.create_task(self._serve())
        return self._task

    def send(self, message: SessionRequest) -> None:
        """Sends after what was sent before; what is sent while nothing is open is dropped."""
        if self._call:
            self._outgoing.put_nowait(message)

    def hang_up(self, reason: str = "") -> None:
        """Ends the stream now."""
        self._hang_up_reason = reason
        if self._task:
            self._task.cancel()

    async def finish(self) -> None:
        """Lets what was sent leave, tells the coordinator that this was all, and waits a little for it to hang up."""
        task = self._task
        if task is None or task.done():
            return
        try:
            async with asyncio.timeout(_FLUSH_S):
                if self._call:
                    await self._outgoing.join()
                    await self._call.done_writing()
                    await asyncio.wait([task])
        except (TimeoutError, asyncio.InvalidStateError, grpc.RpcError):
            pass  # it is over either way
        task.cancel()
        await asyncio.wait([task])

    async def _serve(self) -> None:
        """One stream from connection to end; posts one LinkLost, whatever the end is."""
        lost: BaseException = VolunteerError("disconnected")
        try:
            await self._talk()
        except (asyncio.CancelledError, VolunteerError) as error:
            lost = error
        finally:
            self._call = None
            client, self.client = self.client, None
            try:
                if client:
                    await client.close()
            finally:  # even when cancelled a second time meanwhile
                self._post(self._lost(lost))

    async def _talk(self) -> None:
        self._enrolled, self._enrol = self._enrol, False
        client = self.client = await self._connect(self._enrolled)
        call = client.open_session()
        self._call, self._outgoing = call, asyncio.Queue()
        writer = asyncio.create_task(_write(call, self._outgoing))
        try:
            async for message in call:
                self._post(Received(message))
            raise of_status(await call.code(), await call.details() or "", client.swarm.address.target)
        except grpc.aio.AioRpcError as error:
            raise client.failure(error) from None
        finally:
            writer.cancel()
            call.cancel()

    def _lost(self, error: BaseException) -> LinkLost:
        retry = isinstance(error, asyncio.CancelledError)
        if isinstance(error, RpcError):
            # Another coordinator, or one restored, may not know this machine: a refusal counts after enrolling again.
            retry = error.retry or not self._enrolled
            self._enrol = not error.retry
        return LinkLost(self._hang_up_reason or str(error) or "disconnected", retry, self._chance())


async def _write(call: SessionCall, outgoing: asyncio.Queue[SessionRequest]) -> None:
    try:
        while True:
            await call.write(await outgoing.get())
            outgoing.task_done()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return  # the stream is over; its reader says so
