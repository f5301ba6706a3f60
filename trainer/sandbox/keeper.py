"""Starts, limits and ends a program where `supervisor.py` cannot: on macOS, and where a person asked for no sandbox.

Works with process groups and the system's list of processes. When the policy lets the program start others, one that
leaves both its group and its parent between two looks (4 a second) can outlive it on macOS: only Linux's sandbox
excludes that. Memory is the sum of resident pages. Leaves out every protection: on macOS the program given is
`sandbox-exec`.

Speaks the channel described in `supervisor.py`.
"""

import contextlib
import os
import select
import signal
import sys
import time

from trainer.sandbox import channel, limits
from trainer.sandbox.disk import is_too_full
from trainer.sandbox.process_table import Row, processes

_INTERVAL_S = 0.02
_LOOK_INTERVAL_S = 0.25


def main(number: int) -> None:
    """Run one program to its end; `number` is the channel's descriptor."""
    settings = channel.receive(number)
    os.set_inheritable(number, False)
    _adopt_orphans()
    report, reporting = os.pipe()
    candidate = os.fork()
    if candidate == 0:
        _become(settings, reporting)
    os.close(reporting)
    failure = channel.line(report)
    channel.let_go(settings["pass_fds"])
    if failure:
        channel.say(number, f"failed {failure}")
        return
    channel.say(number, f"started {candidate} {settings['protection']}")
    Keeper(number, settings, candidate).run()


class Keeper:
    """One running program."""

    def __init__(self, number: int, settings: dict, candidate: int) -> None:  # type: ignore[type-arg] # from marshal
        self._number = number
        self._settings = settings
        self._candidate = candidate
        self._known: dict[int, str] = {}
        self._peak_bytes = 0
        self._cpu_s = 0.0
        self._status: int | None = None

    def run(self) -> None:
        """Watch until something ends it, end it, and say how it went."""
        bound = self._watch()
        self._end()
        channel.say(self._number, f"ended {self._status} {self._cpu_s:.3f} {self._peak_bytes} {bound or '-'}")

    def _watch(self) -> str | None:
        poll = select.poll()
        poll.register(self._number, select.POLLIN)
        due_at = 0.0
        while True:
            if poll.poll(_INTERVAL_S * 1000) and not self._obey():
                return None
            self._collect()
            if self._status is not None:
                return None
            if time.monotonic() >= due_at:
                bound = self._broken_bound()
                if bound is not None:
                    return bound
                due_at = time.monotonic() + _LOOK_INTERVAL_S

    def _obey(self) -> bool:
        """One word from the parent; False when it wants the end, or is no more."""
        if os.read(self._number, 1) != b"u":
            return False
        channel.say(self._number, f"usage {self._cpu_s:.3f} {self._peak_bytes}")
        return True

    def _broken_bound(self) -> str | None:
        alive = self._look()
        memory_bytes = sum(row.memory_bytes for row in alive)
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        self._cpu_s = max(self._cpu_s, sum(row.cpu_s for row in alive))
        if memory_bytes > self._settings["memory_bytes"]:
            return "memory"
        if len(alive) > self._settings["processes"]:
            return "processes"
        if self._cpu_s > self._settings["cpu_s"]:
            return "cpu"
        return "disk" if is_too_full(self._settings["write_dir"], self._settings["file_bytes"]) else None

    def _look(self) -> list[Row]:
        """The program's processes now; they stay known, by number and start, when they leave their parent."""
        table = processes()
        inside = {pid for pid, start in self._known.items() if pid in table and table[pid].start == start}
        size = -1
        while size != len(inside):
            size = len(inside)
            inside |= {pid for pid, row in table.items() if row.parent in inside or row.parent == os.getpid()}
            inside |= {pid for pid, row in table.items() if row.group == self._candidate}
        self._known = {pid: table[pid].start for pid in inside}
        return [table[pid] for pid in inside]

    def _end(self) -> None:
        """Kill all that is known of it until nothing of it is listed."""
        while self._look() or self._status is None:
            for pid in self._known:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._collect()
            time.sleep(_INTERVAL_S)

    def _collect(self) -> None:
        """Take in the exit status and the usage of children that ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, raw, used = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._cpu_s = max(self._cpu_s, used.ru_utime + used.ru_stime)
                if pid == self._candidate:
                    self._status = os.waitstatus_to_exitcode(raw)


def _adopt_orphans() -> None:
    """On Linux a daemon then comes back to this process, and cannot be missed."""
    if sys.platform == "linux":
        from trainer.sandbox import kernel  # noqa: PLC0415 - loads what only Linux has

        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)


def _become(settings: dict, report: int) -> None:  # type: ignore[type-arg] # from marshal
    """Turn this forked process into the program; never returns."""
    try:
        os.setsid()
        for name in os.listdir("/dev/fd"):
            if int(name) not in {0, 1, 2, report, *settings["pass_fds"]}:
                with contextlib.suppress(OSError):  # the descriptor that listed the folder
                    os.close(int(name))
        os.chdir(settings["write_dir"])
        limits.apply(settings)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(settings["argv"][0], settings["argv"], settings["env"])  # noqa: S606 - no shell is wanted
    except BaseException as error:  # noqa: BLE001 - a forked copy of the keeper must not run on as one
        os.write(report, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(127)
