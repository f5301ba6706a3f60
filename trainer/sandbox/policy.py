"""What a sandbox allows, what a run of it used, and how it is held: the words every platform's sandbox shares.

Leaves out how any of it is enforced; that is `linux.py`, `macos.py` and `none.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.errors import TrainerError


class SandboxError(TrainerError):
    """The sandbox could not be built. Nothing of the candidate ran."""


@dataclass(frozen=True)
class Policy:
    """What candidate code may touch and use.

    read_paths: files and folders it may read and execute; each must exist.
    write_dir: the one folder it may write; also where it starts.
    memory_bytes: bound on the anonymous and shared memory of all its processes together.
    file_bytes: bound on any one file; all of write_dir together is bounded by twice this.
    processes: how many processes it may have at once. 1 forbids starting any; compilers need more.
    cpu_s: processor time of all its processes together.
    gpu_devices: device nodes of the leased GPU, such as /dev/nvidia0, /dev/nvidiactl, /dev/nvidia-uvm. On macOS,
        where a GPU has no node, any name allows it.
    """

    read_paths: tuple[Path, ...]
    write_dir: Path
    memory_bytes: int
    file_bytes: int
    processes: int
    cpu_s: int
    gpu_devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What the whole tree of processes used so far: processor seconds, and its highest memory seen, in bytes."""

    cpu_s: float
    peak_memory_bytes: int


class SandboxedProcess(Protocol):
    """A running candidate."""

    @property
    def pid(self) -> int:
        """The candidate's first process, as this machine numbers it."""

    @property
    def protection(self) -> str:
        """In words, what holds this candidate."""

    @property
    def exceeded(self) -> str | None:
        """Which bound ended it: memory, processes, threads, cpu, disk. None while none did."""

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while anything of the tree is alive."""

    def wait(self, timeout_s: float) -> int:
        """Wait for the whole tree to end. Raises TimeoutError."""

    def kill_tree(self) -> None:
        """End every process of the candidate; when this returns none is alive. Raises SandboxError if one cannot be."""

    def usage(self) -> Usage:
        """What the tree used so far, or in all once it ended."""
