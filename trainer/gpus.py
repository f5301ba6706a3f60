"""Which device nodes and which name a leased GPU has, so that a candidate is given that one and no other.

`cuda:N` counts as `nvidia-smi` does, by PCI address. The node is numbered by the driver and the CUDA library counts by
speed: either can be another order. Reads /proc; starts nothing.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")
# Not nvidia-uvm-tools, through which the memory of other programs can be watched.
_SHARED_NODES = ("nvidiactl", "nvidia-uvm")


@dataclass(frozen=True)
class Gpu:
    """A leased GPU: the device nodes it takes, what `CUDA_VISIBLE_DEVICES` calls it, and its maker's name for it."""

    nodes: tuple[str, ...]
    name: str
    model: str = ""


def leased_gpu(device: str, driver: Path = DRIVER, nodes: Path = Path("/dev")) -> Gpu | None:
    """The GPU that `device`, such as cuda:1, names; None for cpu and mps.

    Where the driver says nothing of its GPUs (WSL, some containers), numbers are taken to agree.
    """
    if not device.startswith("cuda"):
        return None
    index = int(device.removeprefix("cuda").removeprefix(":") or 0)
    minor, name, model = _known(driver).get(index, (str(index), str(index), ""))
    wanted = (nodes / node for node in (f"nvidia{minor}", *_SHARED_NODES))
    return Gpu(tuple(str(node) for node in wanted if sys.platform == "linux" and node.exists()), name, model)


def leased_devices(device: str) -> tuple[str, ...]:
    """What a sandbox's policy names for it: the device nodes on Linux; a Mac's GPU has none and is there or not."""
    if device == "mps":
        return ("mps",) if sys.platform == "darwin" else ()
    gpu = leased_gpu(device)
    return gpu.nodes if gpu is not None else ()


def _known(driver: Path) -> dict[int, tuple[str, str, str]]:
    """Minor number, unique name and model of each GPU, by its place in the order of PCI addresses."""
    try:
        facts = [(path / "information").read_text(errors="replace") for path in sorted(driver.iterdir())]
    except OSError:
        return {}
    found = {}
    for index, text in enumerate(facts):
        minor = re.search(r"^Device Minor:\s*(\d+)\s*$", text, re.MULTILINE)
        name = re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", text, re.MULTILINE)
        model = re.search(r"^Model:\s*(\S.*?)\s*$", text, re.MULTILINE)
        if minor and name:
            found[index] = (minor[1], name[1], model[1] if model else "")
    return found
