"""Where trials are run: gets the source, runs the trial in a thread, signs and keeps the result.

One trial at a time. Everything that happens is posted as an event. Left out: when to run what (`session.py`).
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from autoresearch.v1 import trial_pb2
from trainer.errors import TrainerError
from trainer.trial import TrialProgress
from volunteer.background import in_thread
from volunteer.errors import RpcError, VolunteerError, WrongCoordinatorError
from volunteer.orders import CheckedOrder
from volunteer.results import TrialOutcome, Worker, sign_result
from volunteer.session_events import Failed, Finished, Progress, Stopped
from volunteer.spool import Spool
from volunteer.trials import Trials

_SOURCES: Final = 8  # kept in memory: the same source is often ordered with several seeds

_STEP_MOST: Final = 2**63 - 1
_LOSS_MOST: Final = 3.4e38  # of a 32-bit float
_TRY_AGAIN_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # a coordinator's restart is shorter


class Bench:
    """Runs the orders of one machine."""

    def __init__(
        self,
        trials: Trials,
        spool: Spool,
        worker: Worker,
        *,
        fetch_source: Callable[[str], Awaitable[bytes]],
        others_wait: Callable[[], bool],
        post: Callable[[Progress | Finished | Stopped | Failed], None],
        finished: Callable[[TrialOutcome], None],
    ) -> None:
        self._trials = trials
        self._spool = spool
        self._worker = worker
        self._fetch_source = fetch_source
        self._others_wait = others_wait
        self._post = post
        self._finished = finished
        self._stop = threading.Event()
        self._fetching: dict[str, asyncio.Task[bytes]] = {}
        self._sources: OrderedDict[str, bytes] = OrderedDict()
        self._reported = False

    def fetch(self, order: CheckedOrder) -> None:
        """Starts to get the source of an order that runs soon."""
        task = asyncio.create_task(self._source(order.order.source_sha256))
        task.add_done_callback(_look)
        self._fetching[order.lease_id] = task

    def drop(self, lease_id: str) -> None:
        """Forgets an order that was fetched."""
        if task := self._fetching.pop(lease_id, None):
            task.cancel()

    def run(self, order: CheckedOrder) -> asyncio.Task[None]:
        """Starts the trial of an order that was fetched. The task fails only by a fault of this program."""
        self._stop = threading.Event()
        return asyncio.create_task(self._run(order, self._stop))

    def halt(self) -> None:
        """Ends the trial under way."""
        self._stop.set()

    def progress_seen(self) -> None:
        """The last posted `Progress` was handled; the next may be posted."""
        self._reported = False

    def close(self) -> None:
        """Ends everything without waiting for it."""
        self.halt()
        for lease_id in tuple(self._fetching):
            self.drop(lease_id)

    async def _source(self, source_sha256: str) -> bytes:
        if source_sha256 not in self._sources:
            self._sources[source_sha256] = await self._patiently(source_sha256)
        self._sources.move_to_end(source_sha256)
        source = self._sources[source_sha256]
        while len(self._sources) > _SOURCES:
            self._sources.popitem(last=False)
        return source

    async def _patiently(self, source_sha256: str) -> bytes:
        """The connection may be lost just now; the lease lives on for a while."""
        for wait_s in _TRY_AGAIN_S:
            try:
                return await self._fetch_source(source_sha256)
            except RpcError as error:
                if not error.retry:
                    raise
            await asyncio.sleep(wait_s)
        return await self._fetch_source(source_sha256)

    async def _run(self, order: CheckedOrder, stop: threading.Event) -> None:
        self._reported = False
        try:
            source = await self._fetched(order.lease_id)
            ended = self._ended(order, await self._in_thread(order, source, stop), stop)
        except (RpcError, WrongCoordinatorError) as error:
            ended = Failed(order.lease_id, str(error), fatal=False)
        except (TrainerError, VolunteerError) as error:
            ended = Failed(order.lease_id, str(error), fatal=True)
        self._post(ended)

    async def _fetched(self, lease_id: str) -> bytes:
        task = self._fetching.pop(lease_id)
        await asyncio.wait([task])
        return task.result()

    async def _in_thread(self, order: CheckedOrder, source: bytes, stop: threading.Event) -> TrialOutcome:
        loop = asyncio.get_running_loop()

        def report(progress: TrialProgress) -> None:
            loop.call_soon_threadsafe(self._report, order.lease_id, progress)

        return await in_thread(lambda: self._trials.run(order.order, source, report, stop))

    def _ended(self, order: CheckedOrder, outcome: TrialOutcome, stop: threading.Event) -> Finished | Stopped | Failed:
        if outcome.outcome != trial_pb2.OUTCOME_ABORTED:
            kept = self._spool.keep(sign_result(order, outcome, self._worker))
            self._finished(outcome)
            return Finished(order.lease_id, kept.sha256)
        if stop.is_set():
            return Stopped(order.lease_id)
        return Failed(order.lease_id, outcome.reason or "the trial was aborted", fatal=False)

    def _report(self, lease_id: str, progress: TrialProgress) -> None:
        """At most one report is on its way: a fast trial must not drown everything else."""
        if not self._reported:
            self._reported = True
            contended = progress.stage == "exam" and self._others_wait()
            # Step and loss are the candidate's own words.
            loss = progress.loss if progress.loss is not None and abs(progress.loss) < _LOSS_MOST else 0.0  # nor NaN
            step = min(max(0, progress.step), _STEP_MOST)
            self._post(Progress(lease_id, progress.stage, progress.share, step, loss, contended))


def _look(task: "asyncio.Task[bytes]") -> None:
    """A failed fetch of an order that was dropped is nobody's business."""
    if not task.cancelled():
        task.exception()
