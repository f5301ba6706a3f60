"""What NVIDIA's driver tells of a GPU: which programs use it, why it is slowed down, how much memory is free.

Adapter around NVML (`nvidia-ml-py`). Samples are taken while a candidate trains and averaged into a `GpuUse`. Where
there is no such driver nothing is told. Whether anything of it matters is `disturbance.py`'s business.
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

    def __init__(self, index: int, *, own_processes: Callable[[], Collection[int]], nvml: ModuleType | Any) -> None:
        self._nvml = nvml
        self._own_processes = own_processes
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
        self._sampled_at = now
        self._samples += 1
        self._others += self._others_now()
        reasons = self._reasons()
        nvml = self._nvml
        self._hot += bool(
            reasons & (nvml.nvmlClocksThrottleReasonSwThermalSlowdown | nvml.nvmlClocksThrottleReasonHwThermalSlowdown)
        )
        # A power cap set in software is how every card under load runs, and no disturbance.
        self._braked += bool(reasons & nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown)

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

    def _others_now(self) -> float:
        """The share of the GPU's time that other programs had since the last look: the driver's newest of each."""
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, self._seen_until)
        except self._nvml.NVMLError:  # none since, or a card that does not tell
            return 0.0
        self._seen_until = max((sample.timeStamp for sample in samples), default=self._seen_until)
        busy = {sample.pid: sample.smUtil for sample in samples if sample.smUtil}
        others = busy.keys() - self._own_processes() if busy else set()
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
        return WatchedGpu(int(device.partition(":")[2] or 0), own_processes=descendants, nvml=nvml)
    except nvml.NVMLError:
        return None


def descendants() -> set[int]:
    """This process and every process that comes of it, however far down."""
    children: dict[int, list[int]] = {}
    for pid, row in processes().items():
        children.setdefault(row.parent, []).append(pid)
    found, pending = {os.getpid()}, [os.getpid()]
    while pending:
        new = children.get(pending.pop(), [])
        found.update(new)
        pending += new
    return found
