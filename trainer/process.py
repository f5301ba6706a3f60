"""One sandboxed child seen from the trusted parent: frames out, frames in, its log, its end.

Single-threaded and never blocking longer than asked: everything goes through one poll. What is said on the pipes is the
business of `training.py` and `examiner.py`; what confines the child is `sandbox/`.
"""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer import sandbox
from trainer.installation import Installation, environment
from trainer.log import LogTail
from trainer.wire import Frame, FrameReader, encode_frame

_CPUCLOCK_SCHED = 2
READ_BYTES = 1 << 18
MAX_UNSENT_BYTES = 1 << 25  # answers to a child that asks and never reads


class Child:
    """A running child. Use as a context manager: leaving it leaves no process and no open descriptor."""

    def __init__(
        self,
        role: str,
        installation: Installation,
        policy: sandbox.Policy,
        *,
        kind: str,
        threads: int,
        device: str,
        log: LogTail,
        max_payload_bytes: int,
    ) -> None:
        self._log = log
        self._reader = FrameReader(max_payload_bytes)
        self._unsent = bytearray()
        self._processor_s = 0.0
        self._has_ended = False
        self._scheduled = (0.0, 0.0)
        self.hung_up = False
        orders_read, self._orders = os.pipe()
        self._answers, answers_write = os.pipe()
        self._output, output_write = os.pipe()
        ours = (self._orders, self._answers, self._output)
        theirs = (orders_read, answers_write, output_write)
        try:
            self._process = sandbox.launch(
                [*installation.command, role, str(orders_read), str(answers_write)],
                policy,
                env=environment(installation, policy.write_dir, threads=threads, device=device),
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(orders_read, answers_write),
                kind=kind,
            )
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        for fd in ours:
            os.set_blocking(fd, False)
        self._open = set(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def send(self, frame: Frame) -> None:
        """Queue a frame and write what the pipe takes at once; the rest goes out in `poll`."""
        self._unsent += encode_frame(frame)
        self._write()

    def poll(self, timeout_s: float) -> list[Frame]:
        """Wait at most `timeout_s` for something to happen; return the frames that are complete by then.

        Raises:
            WireError: the child sent what no child sends.
        """
        frames: list[Frame] = []
        for fd in self._ready(timeout_s):
            if fd == self._orders:
                self._write()
            elif fd == self._output:
                self._log.add(self._read(fd))
            else:
                frames += self._reader.feed(self._read(fd))
        self.hung_up = self._answers not in self._open
        return frames

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_status(self) -> int | None:
        return self._process.poll()

    def exceeded(self) -> str | None:
        """Which limit ended the child, in a word, or None."""
        return self._process.exceeded

    def usage(self) -> sandbox.Usage:
        return self._process.usage()

    def processor_s(self) -> float:
        """Processor time of the child's process so far, all its threads together; it never goes back."""
        if not self._has_ended:
            now_s = _process_clock(self._process.pid) or self._process.usage().cpu_s
            self._processor_s = max(self._processor_s, now_s)
        return self._processor_s

    def scheduled(self) -> tuple[float, float]:
        """Seconds for which the child's main thread ran, and waited for a processor, so far."""
        return self._scheduled if self._has_ended else _scheduled(self._process.pid)

    @property
    def starved_share(self) -> float:
        """Of the time in which the main thread wanted a processor: how much of it it waited for one."""
        ran_s, waited_s = self.scheduled()
        return waited_s / max(1e-9, ran_s + waited_s)

    def end(self) -> None:
        """Kill the whole tree, keep the last of its log, close everything. When it returns no process is alive."""
        if self._has_ended:
            return
        self._scheduled = self.scheduled()
        self.processor_s()
        self._has_ended = True
        self._process.kill_tree()
        for _ in range(64):  # what a pipe holds at most; the writers are dead
            if self._output not in self._open:
                break
            self._log.add(self._read(self._output))
        _close(self._open)
        self._open.clear()

    def _ready(self, timeout_s: float) -> list[int]:
        poller = select.poll()
        for fd in self._open:
            if fd != self._orders:
                poller.register(fd, select.POLLIN)
            elif self._unsent:
                poller.register(fd, select.POLLOUT)
        return [fd for fd, _ in poller.poll(max(0.0, timeout_s) * 1000)]

    def _read(self, fd: int) -> bytes:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._shut(fd)
        return data

    def _write(self) -> None:
        if self._orders not in self._open:
            self._unsent.clear()
            return
        try:
            while self._unsent:
                sent = os.write(self._orders, self._unsent[:READ_BYTES])
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._shut(self._orders)
            self._unsent.clear()

    def _shut(self, fd: int) -> None:
        self._open.discard(fd)
        os.close(fd)

    @property
    def is_clogged(self) -> bool:
        return len(self._unsent) > MAX_UNSENT_BYTES


def _process_clock(pid: int) -> float | None:
    """Another process's own clock, exact and cheap where there is one: clock_getcpuclockid(3) on Linux."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None  # it has ended


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds for which a process's main thread ran, and waited for a processor; zeros where the system does not tell.

    Linux: /proc/PID/schedstat holds both, in nanoseconds. Sleeping counts as neither.
    """
    try:
        ran, waited = map(int, Path(f"/proc/{pid}/schedstat").read_text().split()[:2])
    except (OSError, ValueError):
        return 0.0, 0.0
    return ran / 1e9, waited / 1e9


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
