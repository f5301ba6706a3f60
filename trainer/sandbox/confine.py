"""What the candidate's process does to itself before it becomes the candidate; each step can only be tightened later.

In order: a session of its own, death with its supervisor, first choice of the out-of-memory killer, no inherited
descriptors, resource limits, no privileges and no way to gain any, Landlock, the system-call filter, exec. Any step
that fails ends the start: nothing runs half-protected. Leaves out what must be watched from outside: `supervisor.py`.
"""

import os

from trainer.sandbox import kernel, landlock, limits, seccomp
from trainer.sandbox.syscalls import ARCHITECTURES

# What programs read about themselves. Not the whole folder: `net` beneath it shows the machine's connections.
_OWN_PROC = ("maps", "smaps", "stat", "statm", "status", "cmdline", "auxv", "limits", "cgroup", "fd", "fdinfo")


def become_candidate(settings: dict, report: int, go: int) -> None:  # type: ignore[type-arg] # from marshal
    """Turn this forked process into the candidate. Returns only by raising OSError or ValueError.

    report: written this process's number, then closed by the exec. go: read until the supervisor has what it needs.
    """
    os.setsid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
    _offer_to_oom_killer()
    os.write(report, os.readlink("/proc/self").encode() + b"\n")
    close_all_but({0, 1, 2, report, go, *settings["pass_fds"]})  # the other end of `go` too: who is gone is then known
    if os.read(go, 1) != b"g":
        raise OSError("the supervisor is gone")
    os.close(go)
    os.chdir(settings["write_dir"])
    limits.apply(settings)
    kernel.default_signals()
    kernel.drop_capabilities(ARCHITECTURES[os.uname().machine][1]["capset"])
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    own = [(path, landlock.READ) for path in own_proc("self")]
    landlock.restrict(settings["rules"] + own, settings["landlock_abi"])
    seccomp.install(_filter(settings))
    os.execve(settings["argv"][0], settings["argv"], settings["env"])  # noqa: S606 - no shell is wanted


def own_proc(process: str) -> list[str]:
    """The entries of /proc that the candidate may read about itself."""
    return [path for name in _OWN_PROC if os.path.exists(path := f"/proc/{process}/{name}")]


def _filter(settings: dict) -> seccomp.Filter:  # type: ignore[type-arg]
    signals = landlock.scopes_signals(settings["landlock_abi"])
    namespaced = settings["pid_namespace"]
    processes = settings["processes"]
    return seccomp.Filter(os.getpid(), processes, pid_namespace=namespaced, signals=signals, gpu=settings["gpu"])


def _offer_to_oom_killer() -> None:
    """Should the machine run out of memory, this is what goes first. A courtesy: some containers forbid it."""
    try:
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write("1000")
    except OSError:
        pass


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor but these."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor that listed the folder
