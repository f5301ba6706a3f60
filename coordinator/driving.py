"""Drives an open session: its machine's messages to the use cases, their answers and what it is told back.

Which message may come when is `session.py`'s to say. How a session begins is the servicer's business.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from autoresearch import limits
from autoresearch.judging.model import Machine, Progress
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from coordinator.app import Idle, Told
from coordinator.edge import Edge
from coordinator.refusals import NotNowError
from coordinator.session import Message, Session

SILENCE_S = 600.0  # a session that says nothing for so long is dropped; its leases have long expired


class Driver:
    """Carries out what an open session asks for, and passes on what its machine is told."""

    def __init__(self, edge: Edge, machine: Machine) -> None:
        self._edge = edge
        self._machine = machine
        self._ear = edge.hub.join(machine)

    def close(self) -> None:
        """Ends it."""
        self._edge.hub.leave(self._ear)

    async def welcome(self, opened: volunteer_pb2.Open) -> volunteer_pb2.Welcome:
        """What the machine is told first."""
        app = self._edge.app
        live = await app.resume(self._machine, set(opened.held_lease_ids))
        return volunteer_pb2.Welcome(
            heartbeat_ms=app.dispatch.lease_ms // 4,
            live_lease_ids=live,
            generation=(await app.records.best()).generation,
        )

    async def run(
        self, session: Session, requests: AsyncIterator[volunteer_pb2.SessionRequest]
    ) -> AsyncIterator[volunteer_pb2.SessionResponse]:
        """Answers until the peer ends or is silent for too long."""
        incoming = aiter(requests)
        asked: asyncio.Future[Any] = asyncio.ensure_future(anext(incoming, None))
        told = asyncio.ensure_future(self._ear.queue.get())
        try:
            while True:
                done, _ = await asyncio.wait({asked, told}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    return
                if told in done:
                    yield _told_response(told.result())
                    told = asyncio.ensure_future(self._ear.queue.get())
                if asked in done:
                    request = asked.result()
                    if request is None:
                        return
                    await self._edge.gate.message(self._machine.machine_id)
                    session, message = session.receive(request)
                    yield await self._act(message)
                    asked = asyncio.ensure_future(anext(incoming, None))
        finally:
            for task in (asked, told):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _act(self, message: Message) -> volunteer_pb2.SessionResponse:
        match message:
            case volunteer_pb2.LeaseRequest():
                return await self._lease(message)
            case volunteer_pb2.Heartbeat():
                return await self._heartbeat(message)
            case volunteer_pb2.ResultDelivery():
                return await self._result(message)
            case volunteer_pb2.LeaseReturn():
                await self._edge.app.give_back(message.lease_id, self._machine.machine_id)
                stop = volunteer_pb2.StopTrial(lease_id=message.lease_id, reason="given back")
                return volunteer_pb2.SessionResponse(stop=stop)
        raise AssertionError(f"the session state machine let {type(message).__name__} through")

    async def _lease(self, message: volunteer_pb2.LeaseRequest) -> volunteer_pb2.SessionResponse:
        answer = await self._edge.app.lease(self._machine)
        if isinstance(answer, Idle):
            none = volunteer_pb2.NoOrder(
                request_id=message.request_id, reason=answer.reason, retry_after_ms=answer.retry_ms
            )
            return volunteer_pb2.SessionResponse(no_order=none)
        _, order = answer
        lease_ms = self._edge.app.dispatch.lease_ms
        grant = volunteer_pb2.LeaseGrant(request_id=message.request_id, order=order, lease_ms=lease_ms)
        return volunteer_pb2.SessionResponse(grant=grant)

    async def _heartbeat(self, message: volunteer_pb2.Heartbeat) -> volunteer_pb2.SessionResponse:
        app = self._edge.app
        progress = Progress(message.stage, message.share, message.step, message.loss)
        if not await app.heartbeat(message.lease_id, self._machine.machine_id, progress):
            stop = volunteer_pb2.StopTrial(lease_id=message.lease_id, reason="the lease has ended")
            return volunteer_pb2.SessionResponse(stop=stop)
        ack = volunteer_pb2.HeartbeatAck(lease_id=message.lease_id, lease_ms=app.dispatch.lease_ms)
        return volunteer_pb2.SessionResponse(heartbeat_ack=ack)

    async def _result(self, message: volunteer_pb2.ResultDelivery) -> volunteer_pb2.SessionResponse:
        await self._edge.gate.holder(self._machine.identity_id)
        receipt = await self._edge.app.accept(message.result, self._machine.identity_id)
        ack = volunteer_pb2.ResultAck(result_sha256=receipt.result_sha256, status=receipt.status, reason=receipt.reason)
        return volunteer_pb2.SessionResponse(result_ack=ack)


def _told_response(told: Told | None) -> volunteer_pb2.SessionResponse:
    if told is None:
        raise NotNowError("this machine opened another session, and has one at a time: end one of its two volunteers")
    if told.lease is not None:
        stop = volunteer_pb2.StopTrial(lease_id=told.lease.lease_id, reason=told.text)
        return volunteer_pb2.SessionResponse(stop=stop)
    notice = volunteer_pb2.Notice(text=told.text[: limits.REASON_CHARACTERS], generation=told.generation)
    return volunteer_pb2.SessionResponse(notice=notice)
