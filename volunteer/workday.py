"""Carries out what a session asks for: one queue of events feeds it, every action ends in another event.

Left out: every decision (`session.py`), the stream (`stream.py`), running trials (`bench.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from autoresearch import envelope, limits
from autoresearch.v1.identity_pb2 import SessionProof
from autoresearch.v1.volunteer_service_pb2 import Open, ResultDelivery, SessionRequest
from volunteer.bench import Bench
from volunteer.client import Client
from volunteer.display import Display
from volunteer.errors import RpcError, VolunteerError
from volunteer.results import Worker
from volunteer.session import Session
from volunteer.session_events import (
    Action,
    Connect,
    Deliver,
    Drop,
    Event,
    Fetch,
    Forget,
    Halt,
    HangUp,
    LeaveSlot,
    Progress,
    Prove,
    Quit,
    Received,
    Run,
    Say,
    Send,
    SlotTaken,
    StopAsked,
    TakeSlot,
    Tick,
    Vanished,
)
from volunteer.session_step import SessionError
from volunteer.slots import Slots, Turn
from volunteer.spool import Spool
from volunteer.stream import Stream
from volunteer.trials import Trials


@dataclass(frozen=True, slots=True)
class _SlotReady:
    """The slot that this task waited for is held; stale when it was given up meanwhile."""

    task: "asyncio.Task[Turn]"


@dataclass(frozen=True, slots=True)
class _Fault:
    """Something broke that no event describes."""

    error: BaseException


_Item: TypeAlias = Event | _SlotReady | _Fault


class Workday:
    """Works for the swarm until told to stop."""

    def __init__(
        self,
        session: Session,
        *,
        connect: Callable[[bool], Awaitable[Client]],
        worker: Worker,
        spool: Spool,
        slots: Slots,
        trials: Trials,
        display: Display,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """`connect(enrol)` gives a verified client, and enrols this machine first when asked to.

        `clock` is steady, in seconds; `chance` draws evenly from 0 to 1.
        """
        self._session = session
        self._worker = worker
        self._spool = spool
        self._slots = slots
        self._display = display
        self._clock = clock
        self._items: asyncio.Queue[_Item] = asyncio.Queue()
        self._slot: asyncio.Task[Turn] | None = None
        self._stream = Stream(connect, self._items.put_nowait, chance)
        self._bench = Bench(
            trials,
            spool,
            worker,
            fetch_source=self._fetch_source,
            others_wait=slots.others_wait,
            post=self._items.put_nowait,
            finished=display.finished,
        )

    async def run(self) -> None:
        """Works until the session ends.

        Raises:
            VolunteerError: it ended because something is wrong.
        """
        try:
            error = await self._loop()
        finally:
            await self._bench.close()
            self._leave_slot()
            await self._stream.finish()
        if error:
            raise VolunteerError(error)

    def stop(self, *, at_once: bool = False) -> None:
        """Asks for the end: after the trial under way, or (asked again, or `at_once`) now."""
        self._items.put_nowait(StopAsked(at_once))

    async def _loop(self) -> str:
        item: _Item = Tick()
        while True:
            for action in self._actions(item):
                if isinstance(action, Quit):
                    return action.error
                self._do(action)
            self._display.show(self._session.state, self._clock())
            item = await self._next()

    async def _next(self) -> _Item:
        wake_at = self._session.wake_at()
        try:
            async with asyncio.timeout(None if wake_at is None else max(0.0, wake_at - self._clock())):
                return await self._items.get()
        except TimeoutError:
            return Tick()

    def _actions(self, item: _Item) -> tuple[Action, ...]:
        match item:
            case _Fault(error):
                raise error
            case _SlotReady(task):
                return self._session.handle(SlotTaken(), self._clock()) if task is self._slot else ()
            case Received():
                try:
                    return self._session.handle(item, self._clock())
                except SessionError as error:
                    return (HangUp(f"the coordinator does not keep to the protocol: {error}"),)
            case Progress():
                self._bench.progress_seen()
                return self._session.handle(item, self._clock())
            case _:
                return self._session.handle(item, self._clock())

    def _do(self, action: Action) -> None:  # noqa: C901, PLR0912 - one line per action
        match action:
            case Connect():
                self._watch(self._stream.open())
            case HangUp(reason):
                self._stream.hang_up(reason)
            case Prove(nonce, held_lease_ids):
                self._stream.send(self._opening(nonce, held_lease_ids))
            case Send(message):
                self._stream.send(message)
            case Deliver(result_sha256):
                self._deliver(result_sha256)
            case Forget(ack):
                self._spool.forget(ack.result_sha256)
                self._display.acknowledged(ack)
            case TakeSlot():
                self._take_slot()
            case LeaveSlot():
                self._leave_slot()
            case Fetch(order):
                self._bench.fetch(order)
            case Run(order):
                self._watch(self._bench.run(order))
            case Halt():
                self._bench.halt()
            case Drop(lease_id):
                self._bench.drop(lease_id)
            case Say(text):
                self._display.say(text)

    def _opening(self, nonce: bytes, held_lease_ids: tuple[str, ...]) -> SessionRequest:
        proof = SessionProof(
            protocol=limits.PROTOCOL,
            swarm_id=self._session.state.terms.swarm_id,
            nonce=nonce,
            machine_id=self._worker.machine_id,
        )
        signed = envelope.sign(proof, envelope.SESSION_PROOF, self._worker.key)
        return SessionRequest(open=Open(proof=signed, held_lease_ids=held_lease_ids))

    def _deliver(self, result_sha256: str) -> None:
        if kept := self._spool.get(result_sha256):
            self._stream.send(SessionRequest(result=ResultDelivery(result=kept)))
        else:
            self._items.put_nowait(Vanished(result_sha256))

    async def _fetch_source(self, source_sha256: str) -> bytes:
        if self._stream.client is None:
            raise RpcError("the connection was lost before the source came", retry=True)
        return await self._stream.client.fetch_source(source_sha256)

    def _take_slot(self) -> None:
        def came(task: "asyncio.Task[Turn]") -> None:
            if not task.cancelled() and task.exception() is None:
                self._items.put_nowait(_SlotReady(task))

        self._slot = asyncio.create_task(self._slots.take())
        self._slot.add_done_callback(came)
        self._watch(self._slot)

    def _leave_slot(self) -> None:
        task, self._slot = self._slot, None
        if task:
            task.cancel()
            task.add_done_callback(_leave)

    def _watch(self, task: "asyncio.Task[None] | asyncio.Task[Turn]") -> None:
        """A task that breaks ends the workday with its error; nothing fails unseen."""

        def check(task: "asyncio.Task[None] | asyncio.Task[Turn]") -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._items.put_nowait(_Fault(error))

        task.add_done_callback(check)


def _leave(task: "asyncio.Task[Turn]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().leave()
