"""Where trials are run: gets the source, runs the trial in a thread, signs and keeps the result.

One trial at a time; the next may start up while one is examined. Everything that happens is posted as an event. Left
out: when to run what (`session.py`).
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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

_DROP_S: Final = 5.0  # the processes of a trial that was begun die in a fraction of it
_STEP_MOST: Final = 2**63 - 1
_LOSS_MOST: Final = 3.4e38  # of a 32-bit float
_TRY_AGAIN_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # a coordinator's restart is shorter


@dataclass(frozen=True, slots=True)
class _Coming:
    """An order that runs soon, and what was begun for it."""

    order: CheckedOrder
    source: "asyncio.Task[bytes]"
    stop: threading.Event


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
        self._stop: threading.Event | None = None  # of the trial under way
        self._coming: dict[str, _Coming] = {}
        self._dropping: set[asyncio.Task[None]] = set()
        self._sources: OrderedDict[str, bytes] = OrderedDict()
        self._reported = False

    def fetch(self, order: CheckedOrder) -> None:
        """Starts to get the source of an order that runs soon."""
        task = asyncio.create_task(self._source(order.order.source_sha256))
        coming = self._coming[order.lease_id] = _Coming(order, task, threading.Event())
        task.add_done_callback(lambda _: self._start_early(coming))

    def drop(self, lease_id: str) -> None:
        """Forgets an order that was fetched, and ends what was begun for it."""
        if coming := self._coming.pop(lease_id, None):
            coming.source.cancel()
            coming.stop.set()
            dropping = asyncio.create_task(in_thread(lambda: self._trials.drop(coming.order.order)))
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)

    def run(self, order: CheckedOrder) -> asyncio.Task[None]:
        """Starts the trial of an order that was fetched. The task fails only by a fault of this program."""
        coming = self._coming.pop(order.lease_id)
        self._stop = coming.stop
        return asyncio.create_task(self._run(coming))

    def halt(self) -> None:
        """Ends the trial under way."""
        if self._stop:
            self._stop.set()

    def progress_seen(self) -> None:
        """The last posted `Progress` was handled; the next may be posted."""
        self._reported = False

    async def close(self) -> None:
        """Ends everything; waits a little for what was begun early, and for nothing else."""
        self.halt()
        for lease_id in tuple(self._coming):
            self.drop(lease_id)
        if self._dropping:
            await asyncio.wait(self._dropping, timeout=_DROP_S)

    def _start_early(self, coming: _Coming) -> None:
        """The source came: if a trial is under way, which is being examined then, let this one start up meanwhile."""
        if coming.source.cancelled() or coming.source.exception() is not None:
            return  # told by `run`; nobody's business when the order was dropped
        if self._stop is not None and coming.order.lease_id in self._coming:
            self._trials.start_early(coming.order.order, coming.source.result(), coming.stop)

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

    async def _run(self, coming: _Coming) -> None:
        order, stop = coming.order, coming.stop
        self._reported = False
        try:
            await asyncio.wait([coming.source])
            ended = self._ended(order, await self._in_thread(order, coming.source.result(), stop), stop)
        except (RpcError, WrongCoordinatorError) as error:
            ended = Failed(order.lease_id, str(error), fatal=False)
        except (TrainerError, VolunteerError) as error:
            ended = Failed(order.lease_id, str(error), fatal=True)
        finally:
            self._stop = None
        self._post(ended)

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
