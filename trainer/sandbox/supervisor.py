"""The process between the trusted parent and the candidate: starts it, watches it, and leaves nothing of it behind.

How no process survives. Every process of the candidate is in one session and one process group, made before its first
instruction, and the filter lets none of them leave (`seccomp.py`). One `kill` to that group is atomic in the kernel: a
process that is forking at that moment either does not get its child or has it killed too, so a fork bomb cannot outrun
it. This process is the "child subreaper" of the tree: daemons come back to it, and when it has no child left, none is
alive. Where a pid namespace is allowed the kernel adds its own guarantee: when the namespace's first process ends, so
does everything in it.

Who ends it. The parent's word, the parent's death (its end of the channel closes, whatever killed it), the end of the
candidate's first process, a broken bound. Should this process itself be killed, the candidate's first process dies with
it (PR_SET_PDEATHSIG), with a pid namespace all do, and the parent, finding the channel closed, kills the group.

Channel: one stream socket. Down: the settings, marshalled, their length first; then `k` to kill, `u` to ask the usage.
Up, lines: `started PID PROTECTION`, `failed WHY`, `usage CPU_S PEAK_BYTES`, `ended STATUS CPU_S PEAK_BYTES BOUND`.
Runs without Python's site and imports little: its start is part of every trial's.
"""

import os
import select
import time

from trainer.sandbox import cgroup, channel, confine, kernel, landlock, namespaces
from trainer.sandbox.disk import is_too_full
from trainer.sandbox.watch import Tree

# Looking takes 0.3% of one core at these intervals, 0.6% with several processes; a program that grabs shared memory is
# stopped some 300 MB late.
_INTERVAL_S = 0.1
_SLOW_INTERVAL_S = 0.5
_SLOW_SHARE = 50  # looking at a folder of many files takes at most one part in so many of a core ...
_SLOWEST_INTERVAL_S = 2.0  # ... but a candidate that makes it slow does not win a minute unseen by it


def main(number: int) -> None:
    """Run one candidate to its end; `number` is the channel's descriptor."""
    settings = channel.receive(number)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    os.set_inheritable(number, False)
    try:
        supervisor = Supervisor(number, settings)
    except (OSError, ValueError) as error:
        channel.say(number, f"failed {error}")
        return  # what was started reads that its supervisor is gone, or dies with it
    supervisor.run()


class Supervisor:
    """One candidate, from start to end."""

    def __init__(self, number: int, settings: dict) -> None:  # type: ignore[type-arg] # from marshal
        """Start the candidate. Raises OSError, with the reason, where any protection could not be had."""
        self._number = number
        self._settings = settings
        self._group = cgroup.make(settings["memory_bytes"]) if settings["cgroup"] else None
        settings["pid_namespace"] = settings["namespaces"] and namespaces.enter()
        report, reporting = os.pipe()
        going, go = os.pipe()
        self._start = namespaces.start(settings, reporting, going)
        os.close(reporting)
        os.close(going)
        settings["own_root"] = settings["pid_namespace"] and bool(channel.line(report))
        self._candidate = _number(channel.line(report))
        self._join_group()
        # While these are open the kernel keeps the entries that Landlock's rules are tied to.
        self._pins = [os.open(path, os.O_PATH) for path in confine.own_proc(str(self._candidate))]
        os.write(go, b"g")
        os.close(go)
        channel.let_go(settings["pass_fds"])
        failure = channel.line(report)
        if failure:
            raise OSError(failure)
        os.close(report)
        self._tree = Tree(self._candidate, alone=settings["processes"] == 1)
        channel.say(number, f"started {self._candidate} {self._protection()}")

    def run(self) -> None:
        """Watch until something ends it, end all of it, and say how it went."""
        bound = self._watch()
        status, cpu_s = self._end()
        cpu_s = max(cpu_s, self._tree.cpu_s())
        if self._group is not None:
            cpu_s = max(cpu_s, self._group.cpu_s())
            bound = bound or ("memory" if self._group.ran_out() else None)
            self._group.remove()
        channel.say(self._number, f"ended {status} {cpu_s:.3f} {self._tree.peak_memory_bytes} {bound or '-'}")

    def _join_group(self) -> None:
        """Have the kernel keep the bounds, where it lets the candidate into the group."""
        if self._group is not None:
            try:
                self._group.take(self._candidate)
            except OSError:
                self._group.remove()
                self._group = None

    def _protection(self) -> str:
        """In words, what holds the candidate."""
        settings = self._settings
        abi = settings["landlock_abi"]
        parts = ["namespaces"] if settings["pid_namespace"] else []
        parts += ["own root"] if settings["own_root"] else []
        parts += ["cgroup"] if self._group is not None else []
        parts.append(f"Landlock {abi}" + (" with signals" if landlock.scopes_signals(abi) else ""))
        return ", ".join([*parts, "system-call filter"])

    def _watch(self) -> str | None:
        ended = os.pidfd_open(self._start.first)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(self._number, select.POLLIN)
        due_at = 0.0
        while True:
            ready = {number for number, _ in poll.poll(_INTERVAL_S * 1000)}
            if ended in ready:
                return None
            if self._number in ready and not self._obey():
                return None
            bound = self._tree.crowded(self._settings)
            now = time.monotonic()
            if bound is None and now >= due_at:
                bound = self._tree.spent(self._settings) or self._folder_bound()
                due_at = now + pause_s(time.monotonic() - now)
            if bound is not None:
                return bound

    def _obey(self) -> bool:
        """One word from the parent; False when it wants the end, or is no more."""
        if os.read(self._number, 1) != b"u":
            return False
        self._tree.spent(self._settings)
        channel.say(self._number, f"usage {self._tree.cpu_s():.3f} {self._tree.peak_memory_bytes}")
        return True

    def _folder_bound(self) -> str | None:
        folder, file_bytes = self._settings["write_dir"], self._settings["file_bytes"]
        return "disk" if is_too_full(folder, file_bytes, beside_bytes=self._tree.open_deleted_bytes()) else None

    def _end(self) -> tuple[int, float]:
        """Kill whatever is left and wait for each; the first process's status and the processor time of all."""
        self._tree.spent(self._settings)
        status, cpu_s = -kernel.SIGKILL, 0.0
        self._start.kill(self._candidate)
        while True:
            try:
                pid, raw, used = os.wait4(-1, 0)
            except ChildProcessError:
                return status, cpu_s
            cpu_s += used.ru_utime + used.ru_stime
            if pid == self._start.first:
                status = self._start.status(raw)


def pause_s(took_s: float) -> float:
    """From one look at the folder to the next, after one that took so long."""
    return min(max(_SLOW_INTERVAL_S, _SLOW_SHARE * took_s), max(_SLOWEST_INTERVAL_S, 2.0 * took_s))


def _number(said: str) -> int:
    """The candidate's process, or the reason there is none. Raises OSError."""
    if not said.isdigit():
        raise OSError(said or "the candidate's process died before it began")
    return int(said)
