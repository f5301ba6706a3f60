"""Which paths a child Python with torch has to read: the interpreter, its environment, the system's libraries.

Leaves out the person's own files and this program's: a caller adds the few it wants read.
"""

import sys
import sysconfig
from pathlib import Path

_OF_PREFIX = (
    *("bin", "lib", "lib32", "lib64", "libexec", "include", "pyvenv.cfg"),
    *("x86_64-conda-linux-gnu", "aarch64-conda-linux-gnu"),  # where conda keeps its compilers
    *("Frameworks", "Python", "Resources"),  # a framework build on macOS
)
# Shared libraries, compilers for GPU kernels (which ask /sbin/ldconfig for the driver), time zones and languages.
SYSTEM_PATHS = (
    *(f"/usr/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "include")),
    *("/usr/share/zoneinfo", "/usr/share/locale"),
    *(f"/usr/local/{name}" for name in ("bin", "lib", "lib64", "include", "cuda", "nvidia")),
    *("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/System/Library"),
    *("/opt/rocm", "/opt/cuda", "/nix/store", "/gnu/store", "/run/opengl-driver"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime"),
)
_LINKS_MAX = 40


def python_read_paths() -> tuple[Path, ...]:
    """The existing paths, links resolved and unresolved, that an interpreter like this one needs to import torch.

    Of a prefix only the folders Python puts there, since a virtual environment may lie in a project or at home.
    """
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    wanted = [Path(prefix) / name for prefix in prefixes for name in _OF_PREFIX]
    wanted += [Path(path) for key, path in sysconfig.get_paths().items() if key in {"stdlib", "platstdlib", "purelib"}]
    wanted += [*executables(), *(Path(path) for path in SYSTEM_PATHS)]
    existing = [form for path in wanted for form in (path, path.resolve()) if form.exists()]
    return tuple(dict.fromkeys(path for path in existing if not _holds_a_home(path)))


def executables() -> list[Path]:
    """The interpreter and each link on the way to the real one."""
    chain = [Path(sys.executable)]
    while chain[-1].is_symlink() and len(chain) < _LINKS_MAX:
        chain.append(chain[-1].parent / chain[-1].readlink())
    return chain


def home() -> Path:
    """The person's home folder; one that does not exist where the account has none (a container's bare user id)."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def _holds_a_home(path: Path) -> bool:
    """Whether the person's home lies in it; such a path is never handed out whole."""
    return home().resolve().is_relative_to(path.resolve())
