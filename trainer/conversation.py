"""Waiting for a child's next word: until a deadline, a stop, or its end. Says in one place how each of these is
named."""

import threading
from collections import deque
from collections.abc import Callable

from trainer.log import one_line
from trainer.process import Child
from trainer.result import Outcome, TrialEnded
from trainer.wire import Frame, WireError

_STOP_POLL_S = 0.05  # how soon a stop is noticed
# A child that hung up is given this long to be found dead, and why: without a reason the blame is the candidate's.
_LAST_WORDS_S = 10.0


class Conversation:
    """Frames of one child in order. `where` begins every reason: empty while training, "in the exam: " there."""

    def __init__(self, child: Child, *, clock: Callable[[], float], stop: threading.Event, where: str = "") -> None:
        self.child = child
        self._clock = clock
        self._stop = stop
        self._where = where
        self._frames: deque[Frame] = deque()

    def frame(self, deadline_at: float) -> Frame | None:
        """The child's next frame; None once the clock has passed `deadline_at`.

        Raises:
            TrialEnded: stopped, or the child failed, ended, or sent nonsense.
        """
        self._check_stop()
        while not self._frames:
            self._check_stop()
            left_s = deadline_at - self._clock()
            if left_s <= 0:
                return None
            if self.child.hung_up:
                raise self._ending()
            self._frames.extend(self._poll(min(left_s, _STOP_POLL_S)))
        frame = self._frames.popleft()
        if frame.kind == "failed":
            raise self._failure(frame)
        return frame

    def ask(self, question: Frame, kind: str, payload_bytes: int, deadline_at: float) -> bytes:
        """The payload of the answer, which must be of this kind and size.

        Raises:
            TrialEnded: as for `frame`, and when it comes late or is another answer.
        """
        self.child.send(question)
        answer = self.frame(deadline_at)
        if answer is None:
            raise TrialEnded(Outcome.TIMED_OUT, f"{self._where}no answer within the time allowed")
        if answer.kind != kind or len(answer.payload) != payload_bytes:
            raise TrialEnded(
                Outcome.DISQUALIFIED,
                f"{self._where}answered with {len(answer.payload)} bytes of {one_line(answer.kind, 20)!r} where "
                f"{payload_bytes} bytes of {kind!r} were asked for",
            )
        return answer.payload

    def _poll(self, timeout_s: float) -> list[Frame]:
        try:
            return self.child.poll(timeout_s)
        except WireError as error:
            raise TrialEnded(Outcome.DISQUALIFIED, f"{self._where}wrote to the harness's pipe: {error}") from error

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise TrialEnded(Outcome.ABORTED, "stopped before it ended")

    def _failure(self, frame: Frame) -> TrialEnded:
        reason = one_line(str(frame.header.get("reason", "")))
        if frame.header.get("out_of_memory") is True or self.child.exceeded() == "memory":
            return TrialEnded(Outcome.OUT_OF_MEMORY, f"{self._where}{reason}")
        return TrialEnded(Outcome.CRASHED, f"{self._where}{reason}")

    def _ending(self) -> TrialEnded:
        """The child closed its pipe without a last word."""
        give_up_at = self._clock() + _LAST_WORDS_S
        while (status := self.child.exit_status()) is None and self._clock() < give_up_at:
            self._check_stop()
            self._poll(_STOP_POLL_S)
        exceeded = self.child.exceeded()
        if exceeded == "memory":
            return TrialEnded(Outcome.OUT_OF_MEMORY, f"{self._where}used more memory than a trial may")
        if exceeded is not None:
            return TrialEnded(Outcome.CRASHED, f"{self._where}ended for using more {exceeded} than a trial may")
        how = "closed its pipe" if status is None else f"exit status {status}" if status >= 0 else f"signal {-status}"
        return TrialEnded(Outcome.CRASHED, f"{self._where}ended without handing over a result ({how})")
