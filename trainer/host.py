"""What the operating system tells of the machine: how busy, how hot, how short of memory, asleep for how long.

Adapter: counters are read at two instants, and their difference is a `HostUse`. A counter that a system does not have
counts as zero. Whether anything of it matters is `disturbance.py`'s business.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.disturbance import HostUse

_BUSY = ("user", "nice", "system", "irq", "softirq")  # what a machine below this one took (steal) is no program here
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq")


@dataclass(frozen=True)
class Counters:
    """Seconds since some instant in the past, each."""

    at_s: float
    busy_s: float  # of all processors together
    own_s: float  # of this process
    slowed_s: float  # of the processor that was slowed down longest
    stalled_s: float
    slept_s: float


def read_counters(clock: Callable[[], float], proc: Path = Path("/proc"), system: Path = Path("/sys")) -> Counters:
    return Counters(
        at_s=clock(),
        busy_s=_busy_s(_text(proc / "stat")),
        own_s=time.process_time(),
        slowed_s=_slowed_s(system / "devices" / "system" / "cpu"),
        stalled_s=_stalled_s(_text(proc / "pressure" / "memory")),
        slept_s=_slept_s(),
    )


def use_between(before: Counters, after: Counters, *, children_s: float) -> HostUse:
    """What happened between two readings; `children_s` is the processor time of the trial's children meanwhile."""
    wall_s = max(1e-9, after.at_s - before.at_s)
    return HostUse(
        wall_s=wall_s,
        cores=os.cpu_count() or 1,
        others_cores=max(0.0, (after.busy_s - after.own_s) - (before.busy_s - before.own_s) - children_s) / wall_s,
        slowed=min(1.0, max(0.0, after.slowed_s - before.slowed_s) / wall_s),
        stalled=min(1.0, max(0.0, after.stalled_s - before.stalled_s) / wall_s),
        slept_s=max(0.0, after.slept_s - before.slept_s),
    )


def available_memory_bytes(proc: Path = Path("/proc")) -> int | None:
    """What programs may still take without anything being written to disk; None where the system does not tell."""
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy_s(stat: str) -> float:
    """From the first line of /proc/stat, in ticks."""
    first = stat.partition("\n")[0].split()
    if first[:1] != ["cpu"]:
        return 0.0
    ticks = dict(zip(_COLUMNS, map(int, first[1:]), strict=False))
    return sum(ticks[column] for column in _BUSY) / os.sysconf("SC_CLK_TCK")


def _slowed_s(processors: Path) -> float:
    """Linux on Intel's processors counts the milliseconds of each core; others do not tell."""
    found = processors.glob("cpu[0-9]*/thermal_throttle/*_throttle_total_time_ms")
    return max((int(_text(path).strip() or 0) / 1000 for path in found), default=0.0)


def _stalled_s(pressure: str) -> float:
    """From /proc/pressure/memory: `full ... total=MICROSECONDS`."""
    for line in pressure.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "full":
            return int(rest.rpartition("total=")[2]) / 1e6
    return 0.0


def _slept_s() -> float:
    """The clock that runs on in sleep, less the one that does not."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
