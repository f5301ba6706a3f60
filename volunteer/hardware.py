"""Finds out what this machine is, without torch: processor, memory, GPU.

Left out: whether a trial can run on it (the trainer says so), and how others use it meanwhile.
"""

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch import limits
from autoresearch.text import clean_line
from autoresearch.v1.trial_pb2 import Hardware
from volunteer.errors import InputError, MachineError

_PROBE_S: Final = 20.0
_MIB: Final = 1024 * 1024
_QUERY: Final = ("nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Host:
    """What is asked of the operating system; a value, so that the rules below need none of it."""

    system: str
    release: str
    architecture: str
    # Text of /proc/cpuinfo, or the processor's name where there is no such file.
    cpu_text: str
    # Processors that this process may use.
    cores: int
    # Load average of the last minute.
    load: float
    memory_bytes: int
    # Output of nvidia-smi; empty when there is none.
    nvidia_text: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What to run trials on."""

    # "cpu", "mps" or "cuda:0", as the trainer takes it.
    device: str
    cores: int
    hardware: Hardware


def read_host(run: Callable[[Sequence[str]], str] | None = None) -> Host:
    """This host, as it is now. `run` executes a program and returns its output, "" when it fails."""
    run = run or _output
    system = platform.system()
    proc = Path("/proc/cpuinfo")
    return Host(
        system=system,
        release=platform.release(),
        architecture=platform.machine(),
        cpu_text=proc.read_text(errors="replace")
        if proc.exists()
        else run(["sysctl", "-n", "machdep.cpu.brand_string"]),
        cores=_cores(Path("/sys/fs/cgroup/cpu.max")),
        load=os.getloadavg()[0],
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        nvidia_text=run(_QUERY) if system == "Linux" else "",
    )


def choose(host: Host, device: str | None = None, threads: int | None = None) -> Machine:
    """What to run trials on: the device asked for, or the best there is.

    Raises:
        InputError: a name that no device has.
        MachineError: there is no such device.
    """
    kind, _, index = (device or _best(host)).partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and not (kind == "cuda" and index.isascii() and index.isdigit())):
        raise InputError(f"there is no device {device!r}: choose cpu, cuda, cuda:1 or mps")
    free = threads or free_threads(host.cores, host.load)
    if kind == "cuda":
        return _nvidia(host, int(index or 0), free)
    if kind == "mps" and not _apple(host):
        raise MachineError("this machine has no Apple GPU: leave --device out, or choose --device cpu")
    hardware = _hardware(host, kind, _cpu_name(host), memory_bytes=host.memory_bytes, threads=free)
    return Machine(kind, host.cores, hardware)


def free_threads(cores: int, load: float) -> int:
    """Processor threads that nobody uses; with more than that, training waits on itself and slows down many-fold."""
    return max(1, cores - round(load))


def _best(host: Host) -> str:
    if _gpus(host):
        return "cuda"
    return "mps" if _apple(host) else "cpu"


def _apple(host: Host) -> bool:
    return host.system == "Darwin" and host.architecture == "arm64"


def _nvidia(host: Host, index: int, threads: int) -> Machine:
    for found, name, memory_bytes, driver in _gpus(host):
        if found == index:
            hardware = _hardware(host, "cuda", name, memory_bytes=memory_bytes, threads=threads, driver=driver)
            return Machine(f"cuda:{index}", host.cores, hardware)
    raise MachineError(
        f"nvidia-smi shows no GPU {index} on this machine: check the driver, or use the processor with --device cpu"
    )


def _gpus(host: Host) -> list[tuple[int, str, int, str]]:
    """(index, name, memory in bytes, driver) of every NVIDIA GPU; lines of another form are passed over."""
    found = []
    for line in host.nvidia_text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit() and fields[2].isdigit():
            found.append((int(fields[0]), fields[1], int(fields[2]) * _MIB, fields[3]))
    return found


def _hardware(host: Host, kind: str, name: str, *, memory_bytes: int, threads: int, driver: str = "") -> Hardware:
    return Hardware(
        device_kind=kind,
        device_name=clean_line(name, limits.DEVICE_NAME_CHARACTERS),
        device_memory_bytes=memory_bytes,
        threads=threads,
        operating_system=clean_line(f"{host.system} {host.release}", limits.VERSION_CHARACTERS),
        driver=clean_line(driver, limits.VERSION_CHARACTERS),
    )


def _cpu_name(host: Host) -> str:
    for line in host.cpu_text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in {"model name", "Model", "cpu model"} and value.strip():
            return value.strip()
    first = host.cpu_text.strip().splitlines()[:1]
    return first[0] if first and ":" not in first[0] else f"{host.architecture} processor"


def _cores(quota: Path) -> int:
    """Processors that this process may use: its affinity, cut by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        granted, period = quota.read_text().split()
        return cores if granted == "max" else max(1, min(cores, int(granted) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
