"""Process, network, IPC and host-name namespaces around the candidate, where the kernel and its owner allow them.

They are an addition: the fences that always hold are in `landlock.py` and `seccomp.py`. With them, other processes have
no number in the candidate's world, there is no network device at all, and the kernel ends everything when the
namespace's first process, made here, ends. Ubuntu 24.04 and many containers forbid them to ordinary users: then nothing
is lost but that. Leaves out the file system.
"""

import os

from trainer.sandbox import confine, kernel, root

_NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC, _NEW_UTS = 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x04000000
_WANTED = _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS


class Start:
    """A candidate being started: the process to wait for, and where its status comes if that process is not itself."""

    def __init__(self, first: int, statuses: int | None) -> None:
        self.first = first
        self._statuses = statuses

    def kill(self, candidate: int) -> None:
        """Kill the whole tree; both ways, each complete by itself."""
        for target, call in ((self.first if self._statuses is not None else None, os.kill), (candidate, os.killpg)):
            if target is None:
                continue
            try:
                call(target, kernel.SIGKILL)
            except ProcessLookupError:
                continue  # it ended before

    def status(self, raw: int) -> int:
        """The candidate's exit status, negative for a signal, from the first process's own."""
        if self._statuses is not None:
            told = os.read(self._statuses, 4)
            raw = int.from_bytes(told, "little") if len(told) == 4 else kernel.SIGKILL
        return os.waitstatus_to_exitcode(raw)


def enter() -> bool:
    """Move this process's future children into new namespaces; whether that was allowed.

    A child tries first: where a security module lets namespaces be made but not be used (AppArmor on Ubuntu 24.04),
    this process would be stuck half-way. Raises OSError should the second time fail.
    """
    for flags in (_WANTED, _WANTED | _NEW_USER):
        if _works(flags):
            _enter(flags)
            return True
    return False


def _works(flags: int) -> bool:
    trying = os.fork()
    if trying == 0:
        try:
            _enter(flags)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(trying, 0)[1] == 0


def _enter(flags: int) -> None:
    user, group = os.getuid(), os.getgid()
    kernel.unshare(flags)
    if flags & _NEW_USER:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")


def start(settings: dict, report: int, go: int) -> Start:  # type: ignore[type-arg] # from marshal
    """Fork the candidate, behind a first process of its own where there is a pid namespace."""
    if not settings["pid_namespace"]:
        return Start(_fork_candidate(settings, report, go), None)
    statuses, telling = os.pipe()
    first = os.fork()
    if first == 0:
        _be_first(settings, report, go, telling)
    os.close(telling)
    return Start(first, statuses)


def _be_first(settings: dict, report: int, go: int, telling: int) -> None:  # type: ignore[type-arg]
    """Be the namespace's first process: start the candidate, collect the dead, end with the candidate."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
        has_own_root = root.replace(settings["shown"], settings["write_dir"])
        os.write(report, b"own root\n" if has_own_root else b"\n")
        candidate = _fork_candidate(settings, report, go)
        confine.close_all_but({telling})
        while True:
            pid, raw = os.wait()
            if pid == candidate:
                os.write(telling, raw.to_bytes(4, "little"))
                break
    finally:
        os._exit(0)


def _fork_candidate(settings: dict, report: int, go: int) -> int:  # type: ignore[type-arg]
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        confine.become_candidate(settings, report, go)
    except BaseException as error:  # noqa: BLE001 - a forked copy of the supervisor must not run on as one
        os.write(report, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(127)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
