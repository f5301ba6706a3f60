"""The resource limits the kernel keeps for each process by itself.

Leaves out the sums over all of a candidate's processes: `watch.py`.
"""

import resource
import sys

_GIB = 1 << 30
_OPEN_FILES = 1024
_THREADS_OF_A_PERSON = 8192
_CPU_SLACK_S = 5  # the watch comes first, because it says why
# Libraries map far more than they use: address space is bounded loosely, memory itself by RLIMIT_DATA and the watch.
_ADDRESS_SPACE_SLACK = 16 * _GIB


def apply(settings: dict) -> None:  # type: ignore[type-arg] # from marshal
    """Limit this process and each it starts, as far as its own hard limits allow. Raises OSError, ValueError."""
    for kind, value in _wanted(settings).items():
        _, hard = resource.getrlimit(kind)
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def _wanted(settings: dict) -> dict[int, int]:  # type: ignore[type-arg]
    memory = settings["memory_bytes"]
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: settings["file_bytes"],
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CPU: settings["cpu_s"] + _CPU_SLACK_S,
    }
    if sys.platform != "linux":  # macOS has the names of the others and keeps none of them
        return limits
    limits |= {resource.RLIMIT_MEMLOCK: memory, resource.RLIMIT_NPROC: _THREADS_OF_A_PERSON}
    if settings["gpu"]:  # GPU drivers reserve terabytes of address space
        return limits | {resource.RLIMIT_DATA: memory + _ADDRESS_SPACE_SLACK}
    return limits | {resource.RLIMIT_DATA: memory, resource.RLIMIT_AS: memory + _ADDRESS_SPACE_SLACK}
