"""A control group of the candidate's own, where the system lets this person make one: the kernel then keeps the bounds.

It counts exactly what the watch can only sample, for all processes together, and it holds for root. Where it cannot be
had (no cgroup v2, controllers not delegated: many containers, logins over ssh) the resource limits and the watch do the
work. Leaves out those: `limits.py`, `watch.py`.
"""

import contextlib
import os

from trainer.sandbox.watch import THREADS_MAX

_NAME = "autoresearch-"
# Beside the candidate's own memory the group is charged for the pages of files it reads and for the kernel's tables.
_SLACK_BYTES = 256 << 20


class Group:
    """One group, made and bounded."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def take(self, pid: int) -> None:
        """Move a process in; its children stay in. Raises OSError where the system forbids it."""
        _write(f"{self._folder}/cgroup.procs", str(pid))

    def ran_out(self) -> bool:
        """Whether the kernel had to kill for memory."""
        return _value(f"{self._folder}/memory.events", "oom_kill") > 0

    def cpu_s(self) -> float:
        """Processor time of everything that ever ran in it."""
        return _value(f"{self._folder}/cpu.stat", "usage_usec") / 1e6

    def remove(self) -> None:
        """Kill what is in it and take it away."""
        with contextlib.suppress(OSError):  # before Linux 5.14 there is no such file; all is dead already
            _write(f"{self._folder}/cgroup.kill", "1")
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)


def make(memory_bytes: int) -> Group | None:
    """A new group beside or beneath this process's own, with its bounds set; None where that is not allowed."""
    for base in _places():
        _remove_stale(base)
        folder = f"{base}/{_NAME}{os.getpid()}"
        try:
            os.mkdir(folder)
        except OSError:
            continue
        group = Group(folder)
        try:
            _bound(folder, memory_bytes)
        except OSError:
            group.remove()
            continue
        return group
    return None


def _bound(folder: str, memory_bytes: int) -> None:
    """Raises OSError where the controllers are not given to this part of the tree."""
    _write(f"{folder}/memory.max", str(memory_bytes + _SLACK_BYTES))
    _write(f"{folder}/pids.max", str(THREADS_MAX))
    _write(f"{folder}/memory.oom.group", "1")
    with contextlib.suppress(OSError):  # no swap, no such file
        _write(f"{folder}/memory.swap.max", "0")


def _places() -> list[str]:
    """Where a group may be made: beside this process's own, then beneath it; never above the hierarchy's mount."""
    try:
        with open("/proc/self/cgroup") as groups:
            paths = [line[3:].rstrip("\n") for line in groups if line.startswith("0::")]
        with open("/proc/self/mountinfo") as mounts:
            fields = [line.split() for line in mounts if " - cgroup2 " in line]
    except OSError:
        return []
    if not paths or not fields:
        return []
    root, mount = fields[0][3], fields[0][4]
    within = (paths[0].removeprefix(root) if root != "/" else paths[0]).strip("/")
    own = f"{mount}/{within}".rstrip("/")
    return [os.path.dirname(own), own] if within else [mount]


def _remove_stale(base: str) -> None:
    """Take away groups whose supervisor was killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            if name.startswith(_NAME) and not os.path.exists(f"/proc/{name.removeprefix(_NAME)}"):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{base}/{name}")


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never makes one: the file exists where the kernel has it
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _value(path: str, name: str) -> int:
    try:
        with open(path) as file:
            return next((int(line.split()[1]) for line in file if line.startswith(name + " ")), 0)
    except OSError:
        return 0
