"""The names that results are compared within: a machine's hardware class, and what it runs with. Pure."""

from autoresearch.digest import sha256_hex
from autoresearch.v1.trial_pb2 import Hardware, Software

_GIB = 1024**3


def hardware_class(hardware: Hardware) -> str:
    """What a result is comparable within: device name and memory; for a CPU its threads too, which decide its speed."""
    name = " ".join(hardware.device_name.split()) or "unknown"
    gib = max(1, round(hardware.device_memory_bytes / _GIB))
    if hardware.device_kind == "cpu":
        plural = "" if hardware.threads == 1 else "s"
        return f"CPU {name}, {hardware.threads} thread{plural}"
    return f"{name} {gib} GB"


def setting(hardware: Hardware, software: Software) -> str:
    """What must not change between a candidate's trial and its baselines, as 16 hex digits: driver, torch, client."""
    return sha256_hex("\0".join((hardware.driver, software.torch, software.client)).encode())[:16]
