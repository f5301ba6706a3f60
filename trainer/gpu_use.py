"""What NVIDIA's driver tells of a GPU: which programs use it, why it is slowed down, how much memory is free.

Adapter around NVML (`nvidia-ml-py`). Samples are taken while a candidate starts up and trains; they are averaged into a
`GpuUse`, and say for how long the candidate's processes used the GPU. Where there is no such driver nothing is told.
Whether anything of it matters is `disturbance.py`'s and `training.py`'s business.
"""

import importlib
import os
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.disturbance import GpuUse
from trainer.log import one_line
from trainer.sandbox.process_table import processes

EVERY_S = 1.0
_MOST_NAMES = 3
_NAME_CHARACTERS = 40


class WatchedGpu:
    """One GPU, watched. `nvml` is the module `pynvml`, or one that answers as it does."""

    def __init__(
        self,
        index: int,
        *,
        processes_of: Callable[[int], Collection[int]],
        is_here: Callable[[int], bool],
        nvml: ModuleType | Any,
    ) -> None:
        """`processes_of(pid)` are that process and all that come of it; `is_here(pid)` whether there is such a one."""
        self._nvml = nvml
        self._processes_of = processes_of
        self._is_here = is_here
        self._followed: int | None = None
        self._followed_s = 0.0
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._samples = 0
        self._others = 0.0
        self._hot = 0
        self._braked = 0
        self._programs: dict[int, str] = {}
        self._seen_until = 0  # the driver's stamp of the newest sample taken, in microseconds
        self._sampled_at = -EVERY_S

    def sample(self, now: float) -> None:
        """Look, unless the last look was a moment ago: each takes about a millisecond."""
        if now - self._sampled_at < EVERY_S:
            return
        since_s = now - self._sampled_at if self._samples else EVERY_S
        self._sampled_at = now
        self._samples += 1
        busy = self._busy_now()
        if self._followed is not None and busy:
            followed = busy.keys() & self._processes_of(self._followed)
            self._followed_s += since_s * min(1.0, sum(busy[pid] for pid in followed) / 100)
        self._others += self._others_of(busy)
        reasons = self._reasons()
        nvml = self._nvml
        self._hot += bool(
            reasons & (nvml.nvmlClocksThrottleReasonSwThermalSlowdown | nvml.nvmlClocksThrottleReasonHwThermalSlowdown)
        )
        # A power cap set in software is how every card under load runs, and no disturbance.
        self._braked += bool(reasons & nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown)

    def used_s(self, pid: int, now: float) -> float:
        """For how long this process, and all that come of it, used the GPU since this was first asked. Of one only."""
        self.sample(now)
        self._followed = pid
        return self._followed_s

    def start_over(self) -> None:
        """Leave out of the averages what was before; what was followed stays counted."""
        self._samples, self._others, self._hot, self._braked = 0, 0.0, 0, 0
        self._programs.clear()

    def use(self) -> GpuUse:
        count = max(1, self._samples)
        names = tuple(sorted(set(self._programs.values())))[:_MOST_NAMES]
        return GpuUse(self._others / count, names, self._hot / count, self._braked / count)

    def memory_bytes(self) -> tuple[int, int] | None:
        """(free, in all); None where the driver does not tell."""
        try:
            memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        except self._nvml.NVMLError:
            return None
        return int(memory.free), int(memory.total)

    def _busy_now(self) -> dict[int, int]:
        """Per cent of the GPU's time that each process had since the last look: the driver's newest of each."""
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_until)
        except self._nvml.NVMLError:  # none since, or a card that does not tell
            return {}
        self._seen_until = max((sample.timeStamp for sample in samples), default=self._seen_until)
        return {sample.pid: sample.smUtil for sample in samples if sample.smUtil}

    def _others_of(self, busy: dict[int, int]) -> float:
        """The share of the GPU's time that processes had which do not come of this one.

        In a container that numbers its processes itself the driver speaks of outside, where nobody is known, and the
        trial's own work has a number that is not here.
        """
        others = busy.keys() - self._processes_of(os.getpid()) if busy else set()
        others = {pid for pid in others if self._is_here(pid)}
        for pid in others:
            self._programs.setdefault(pid, self._name(pid))
        return float(min(1.0, sum(busy[pid] for pid in others) / 100))

    def _name(self, pid: int) -> str:
        try:
            name = self._nvml.nvmlSystemGetProcessName(pid)
        except self._nvml.NVMLError:
            return f"process {pid}"
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        return one_line(Path(text.partition(" ")[0]).name, _NAME_CHARACTERS) or f"process {pid}"

    def _reasons(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        except self._nvml.NVMLError:
            return 0


def watch_gpu(device: str) -> WatchedGpu | None:
    """The GPU that `device` names, by the numbers of nvidia-smi; None for another device or without NVIDIA's driver."""
    if not device.startswith("cuda"):
        return None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        index = int(device.partition(":")[2] or 0)
        return WatchedGpu(index, processes_of=descendants, is_here=_is_here, nvml=nvml)
    except nvml.NVMLError:
        return None


def _is_here(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def descendants(root: int) -> set[int]:
    """The process and every process that comes of it, however far down.

    Of a process that comes of this one: all that come of the child of ours that it comes of, so that what has lost its
    parent, and was taken over by the supervisor of its sandbox, is found too.
    """
    table, own = processes(), os.getpid()
    if root != own:
        while (row := table.get(root)) is not None and row.parent in table and row.parent != own:
            root = row.parent
    children: dict[int, list[int]] = {}
    for pid, row in table.items():
        children.setdefault(row.parent, []).append(pid)
    found, pending = {root}, [root]
    while pending:
        new = children.get(pending.pop(), [])
        found.update(new)
        pending += new
    return found
