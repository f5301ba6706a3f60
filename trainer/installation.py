"""Which parts of this Python installation a candidate may see, and the environment it starts with.

The package ships the validation text, and it may be installed in the same site-packages as torch. So the child does
not get site-packages: it gets a folder of links to everything in it and in the standard library but this project's
own packages, of which it gets the four modules it runs. What enforces that is `sandbox/`; what runs there is
`child.py`.
"""

import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trainer.errors import MachineError
from trainer.gpus import leased_gpu
from trainer.sandbox.paths import SYSTEM_PATHS, executables

PACKAGE = Path(__file__).resolve().parent
CHILD_MODULES = ("__init__.py", "child.py", "session.py", "wire.py")
_OWN_PREFIXES = ("trainer", "coordinator", "volunteer", "autoresearch", "__editable__", "__pycache__")


@dataclass(frozen=True)
class Installation:
    """`command` runs `python -m trainer.child`, given the role and two pipe ends; `read_paths` is all it needs to
    read."""

    command: tuple[str, ...]
    import_path: str
    read_paths: tuple[Path, ...]


def lay_out(folder: Path) -> Installation:
    """Fill `folder` with links to what a child may import.

    Raises:
        MachineError: torch is not installed beside this package.
    """
    targets = {**_standard_library(), **_site_packages()}
    links = folder / "python"
    (links / "trainer").mkdir(parents=True)
    for name, target in targets.items():
        (links / name).symlink_to(target)
    modules = [PACKAGE / name for name in CHILD_MODULES]
    for module in modules:
        (links / "trainer" / module.name).symlink_to(module)
    # -s -S: no user or site packages. -P: nothing from the working folder. Not -I, which would ignore the import path.
    command = (sys.executable, "-s", "-S", "-P", "-u", "-m", "trainer.child")
    found = (links, *targets.values(), *modules, *_interpreter())
    return Installation(command, str(links), tuple(dict.fromkeys(path for path in found if path.exists())))


def around(path: Path, hidden: Path) -> list[Path]:
    """`path`, or, when `hidden` lies in it, everything in it but that: a sandbox can grant, not take away."""
    if not path.exists() or hidden == path.resolve():
        return []
    if not hidden.is_relative_to(path.resolve()):
        return [path, path.resolve()]
    return [part for child in path.iterdir() for part in around(child, hidden)]


def environment(installation: Installation, home: Path, *, threads: int, device: str) -> dict[str, str]:
    """All of a child's environment. Nothing of the parent's is passed on; `home` is the only folder it may write."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "inductor"),
        "TRITON_CACHE_DIR": str(home / "cache" / "triton"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # its pool of processes needs semaphores: files in /dev/shm
        "PYTHONPATH": installation.import_path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # a replay iterates over sets in the same order
        **{
            f"{library}_NUM_THREADS": str(threads)
            for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB_MAXIMUM")
        },
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning at barriers costs 65-fold when another program wants the core
        "MKL_DYNAMIC": "FALSE",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # one of the two settings under which cuBLAS repeats itself exactly
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": gpu.name if (gpu := leased_gpu(device)) is not None else "",
    }


def _standard_library() -> dict[str, Path]:
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    hidden = ("site-packages", "dist-packages", "__pycache__")
    found = {path.name: path for path in stdlib.iterdir() if path.name not in hidden}
    for dynamic in (Path(path) for path in sys.path if path.endswith("lib-dynload")):
        found.update({path.name: path for path in dynamic.iterdir()})
    return found


def _site_packages() -> dict[str, Path]:
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        raise MachineError(
            "torch is not installed in this environment: install autoresearch-swarm with its dependencies"
        )
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    folders.add(Path(torch.origin).resolve().parent.parent)
    entries = [entry for folder in sorted(folders) if folder.is_dir() for entry in folder.iterdir()]
    return {entry.name: entry for entry in entries if not _is_hidden(entry)}


def _is_hidden(entry: Path) -> bool:
    return entry.name.startswith(_OWN_PREFIXES) or entry.suffix == ".pth"


def _interpreter() -> list[Path]:
    """The program itself and each link to it, its library and headers, its environment, the system's libraries."""
    folder, name = (sysconfig.get_config_var(key) for key in ("LIBDIR", "INSTSONAME"))
    shared_library = [Path(folder) / name] if folder and name else []
    own = [*executables(), *shared_library, Path(sys.prefix) / "pyvenv.cfg", Path(sysconfig.get_path("include"))]
    return own + [part for path in map(Path, SYSTEM_PATHS) for part in around(path, PACKAGE)]
