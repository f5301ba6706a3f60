"""The macOS sandbox: a profile for the system's `sandbox-exec`, written from the policy.

Its text is tested; no machine at hand ran it, so `self_test` decides on each Mac whether it holds. With one process
allowed, starting another is denied, so nothing can survive; with more, see `keeper.py`. Leaves out limits: `keeper.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.sandbox.policy import Policy, SandboxError
from trainer.sandbox.supervised import SupervisedProcess, settings_of, start

PROGRAM = Path("/usr/bin/sandbox-exec")
PROTECTION = "sandbox-exec profile"

_SYSTEM_READ = ("/System", "/usr/lib", "/usr/share", "/usr/bin", "/bin", "/Library/Apple", "/private/var/db/dyld")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_COMMON = """(version 1)
(deny default)
(deny network*)
(allow sysctl-read)
(allow process-info* (target self))
(allow signal (target self))
(allow file-read-metadata (literal "/"))
(allow mach-lookup (global-name "com.apple.system.opendirectoryd.libinfo"))
; OpenMP tells its copies apart by a shared memory object of this name
(allow ipc-posix-shm* (ipc-posix-name-regex #"^/?__KMP_REGISTERED_LIB_"))
"""
_METAL = """(allow iokit-open (iokit-user-client-class "AGXDeviceUserClient" "AGXSharedUserClient" "IOAccelerator"
  "IOSurfaceRootUserClient" "IOSurfaceAcceleratorClient"))
(allow iokit-get-properties)
(allow mach-lookup (global-name "com.apple.MTLCompilerService" "com.apple.gpumemd.source"))
(allow mach-lookup (xpc-service-name "com.apple.MTLCompilerService"))
"""


def unavailable() -> str | None:
    """Why this Mac cannot have this sandbox; None when it can."""
    return None if PROGRAM.exists() else f"{PROGRAM} is missing from this macOS"


def launch(
    argv: Sequence[str],
    policy: Policy,
    *,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: tuple[int, ...] = (),
) -> SupervisedProcess:
    """Start `argv` under the profile of `policy`. Raises SandboxError where that cannot be had."""
    reason = unavailable()
    if reason is not None:
        raise SandboxError(reason)
    settings = settings_of(argv, policy, env)
    program = settings["argv"]
    assert isinstance(program, list)
    settings |= {"argv": [str(PROGRAM), "-p", profile(policy), *program], "protection": PROTECTION}
    return start("trainer.sandbox.keeper", settings, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)


def profile(policy: Policy) -> str:
    """The profile's text: everything denied but what the policy names. Metal is allowed with any GPU device."""
    readable = [*_both_forms(policy.read_paths), *_SYSTEM_READ]
    written = _quoted(str(policy.write_dir.resolve()))
    lines = [f"(allow file-read* file-map-executable {_beneath(path)})" for path in readable]
    lines += [f"(allow process-exec {_beneath(path)})" for path in readable]
    lines += [
        f"(allow file-read-metadata (literal {_quoted(path)}))" for path in _ancestors([*readable, written[1:-1]])
    ]
    lines += [f"(allow file-read* file-write-data file-ioctl (literal {_quoted(path)}))" for path in _DEVICES]
    lines.append(f"(allow file-read* file-write* file-map-executable (subpath {written}))")
    # Whoever reads the folder later meets plain files only. The last rule that matches decides.
    lines += [f"(deny file-write-create (vnode-type {kind}))" for kind in ("SYMLINK", "FIFO", "SOCKET")]
    lines += [f"(deny file-write-create (vnode-type {kind}))" for kind in ("BLOCK-DEVICE", "CHARACTER-DEVICE")]
    lines += ["(deny file-write-mode)", "(deny file-write-flags)", "(deny file-write-setugid)"]
    lines.append("(allow process-fork)" if policy.processes > 1 else "(deny process-fork)")
    return _COMMON + (_METAL if policy.gpu_devices else "") + "\n".join(lines) + "\n"


def _both_forms(paths: Sequence[Path]) -> list[str]:
    """As given and with links followed: macOS compares real paths, and keeps /tmp and /var behind links."""
    return list(dict.fromkeys(str(form) for path in paths for form in (path, path.resolve())))


def _ancestors(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(str(parent) for path in paths for parent in Path(path).parents if str(parent) != "/"))


def _beneath(path: str) -> str:
    return f"(subpath {_quoted(path)})"


def _quoted(path: str) -> str:
    """A path as a string of the profile language. Raises SandboxError for what the language has no safe form for."""
    if any(ord(character) < 32 for character in path):
        raise SandboxError(f"the path {path!r} holds control characters: choose another folder")
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
