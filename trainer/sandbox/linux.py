"""The Linux sandbox: which rules a policy becomes, and whether this kernel can hold them.

Leaves out the protection itself (`supervisor.py`, `confine.py`, `landlock.py`, `seccomp.py`, `namespaces.py`,
`root.py`, `watch.py`) and speaking with it (`supervised.py`).
"""

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.sandbox import landlock, seccomp
from trainer.sandbox.paths import home
from trainer.sandbox.policy import Policy, SandboxError
from trainer.sandbox.supervised import SupervisedProcess, settings_of, start

_READABLE = (
    *(f"/proc/{name}" for name in ("cpuinfo", "meminfo", "stat", "version", "filesystems", "devices")),
    *(f"/proc/sys/{name}" for name in ("vm/overcommit_memory", "vm/max_map_count", "kernel/osrelease")),
    *(f"/sys/{name}" for name in ("devices/system/cpu", "devices/system/node", "kernel/mm/transparent_hugepage")),
)
_READABLE_WITH_GPU = (
    *(f"/proc/{name}" for name in ("driver/nvidia", "sys/vm/mmap_min_addr", "modules")),
    *(f"/sys/{name}" for name in ("module/nvidia", "module/nvidia_uvm", "module/amdgpu", "class/drm", "class/kfd")),
    "/sys/devices/virtual/kfd",
)
_MANY = 16
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def unavailable() -> str | None:
    """Why this machine cannot have this sandbox; None when it can."""
    if sys.platform != "linux":
        return f"this is {sys.platform}, not Linux"
    if landlock.abi() < 1:
        return "this kernel has no Landlock (Linux 5.13 with `landlock` among its security modules is needed)"
    if not seccomp.supported():
        return f"no system-call filter is written for this processor ({os.uname().machine})"
    return None


def launch(
    argv: Sequence[str],
    policy: Policy,
    *,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: tuple[int, ...] = (),
    namespaces: bool = True,
    cgroup: bool = True,
    landlock_abi: int | None = None,
) -> SupervisedProcess:
    """Start `argv` under `policy`. Raises SandboxError if any protection could not be had; nothing ran then.

    namespaces, cgroup: use them where allowed. landlock_abi: use no more of Landlock than a kernel of that version has.
    """
    reason = unavailable()
    if reason is not None:
        raise SandboxError(reason)
    settings = settings_of(argv, policy, env) | {"namespaces": namespaces, "cgroup": cgroup}
    wanted = rules(policy)
    settings |= {"rules": wanted, "shown": shown([path for path, _ in wanted])}
    settings["landlock_abi"] = min(landlock_abi or landlock.abi(), landlock.abi())
    return start("trainer.sandbox.supervisor", settings, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)


def rules(policy: Policy) -> list[tuple[str, int]]:
    """What may be done beneath which path. Raises SandboxError for a path that does not exist."""
    readable = [*_READABLE, *((*_READABLE_WITH_GPU, *_pci_displays()) if policy.gpu_devices else ())]
    wanted = [(str(path), landlock.READ_AND_EXECUTE) for path in policy.read_paths]
    wanted += [(path, landlock.READ) for path in readable if Path(path).exists()]
    wanted += [(path, landlock.DEVICE) for path in _DEVICES if Path(path).exists()]
    wanted += [(path, landlock.DEVICE) for path in policy.gpu_devices]
    wanted.append((str(policy.write_dir), landlock.WRITE))
    missing = [path for path, _ in wanted if not Path(path).exists()]
    if missing:
        raise SandboxError(f"{missing[0]} does not exist: the sandbox cannot allow it")
    return wanted


def shown(paths: Sequence[str]) -> list[str]:
    """What the private root has to show for `paths`: of many in one folder the folder itself, unless a home is in it,
    and what links in it lead to elsewhere.

    Each mount takes a tenth of a millisecond; what may be read of it is Landlock's to say, and stays the same.
    """
    parents = [str(Path(path).parent) for path in paths]
    whose = home().resolve()
    many = [folder for folder, count in Counter(parents).items() if count >= _MANY]
    whole = {folder for folder in many if not whose.is_relative_to(Path(folder).resolve())}
    found: dict[str, None] = {}
    for path, parent in zip(paths, parents, strict=True):
        found[parent if parent in whole else path] = None
        if parent in whole and Path(path).is_symlink():  # Debian keeps a module of Python's in /etc
            found[path] = None
    return list(found)


def _pci_displays() -> list[str]:
    """What the kernel tells of the graphics cards, and of no other device."""
    displays = []
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            is_display = (device / "class").read_text().startswith("0x03")
        except OSError:
            continue
        if is_display:
            displays.append(str(device))
    return displays
