"""Measures a candidate's processes and its folder from outside, and says which bound they broke.

Memory is what would be lost to others: anonymous, shared and swapped pages and page tables; not the libraries' pages,
which are shared with everybody. Leaves out acting on it: `supervisor.py`.
"""

import os

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_COUNTED = (b"RssAnon:", b"RssShmem:", b"VmSwap:", b"VmPTE:")
THREADS_MAX = 4096
_SHARED = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
# All that was ever written against the same bound: rewriting is honest, wearing out a disk is not.
WRITTEN_PER_FILE = 64


class Tree:
    """The processes of one session, which the filter keeps them from leaving."""

    def __init__(self, session: int, *, alone: bool) -> None:
        """session: its number. alone: whether the filter forbids more processes, so that none need be looked for."""
        self._session = session
        self._alone = alone
        self._outside: set[str] = set()
        self._cpu_ticks: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self.peak_memory_bytes = 0

    def cpu_s(self) -> float:
        """Processor time of every process seen, the ended ones as last seen."""
        return sum(self._cpu_ticks.values()) / _TICKS_PER_S

    def crowded(self, settings: dict) -> str | None:  # type: ignore[type-arg]
        """Look at what can grow within moments: the name of the bound that is broken, if any."""
        pids = self._pids()
        memory, threads = self._measure(pids)
        if memory > self.peak_memory_bytes and len(pids) > 1:
            # Pages shared after a fork were counted once per process. Counting each its share is slow: only at peaks.
            memory = min(memory, _shares_bytes(pids))
            if memory > settings["memory_bytes"]:
                # Who ended meanwhile left its part to those that were counted after it: once more, without it.
                memory = min(memory, _shares_bytes(self._pids()))
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        if memory > settings["memory_bytes"]:
            return "memory"
        if len(pids) > settings["processes"]:
            return "processes"
        return "threads" if threads > THREADS_MAX else None

    def spent(self, settings: dict) -> str | None:  # type: ignore[type-arg]
        """Look at what adds up: the name of the bound that is broken, if any."""
        for pid in self._pids():
            self._account(pid)
        if self.cpu_s() > settings["cpu_s"]:
            return "cpu"
        written = sum(self._written.values())
        return "disk" if written > WRITTEN_PER_FILE * settings["file_bytes"] else None

    def open_deleted_bytes(self) -> int:
        """Space held by files that have no name left: unlinked while open, or anonymous from the start."""
        held: dict[tuple[int, int], int] = {}
        for pid in self._pids():
            for name in _list(f"/proc/{pid}/fd"):
                try:
                    facts = os.stat(f"/proc/{pid}/fd/{name}")
                except OSError:
                    continue  # closed meanwhile
                if facts.st_nlink == 0:
                    held[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
        return sum(held.values())

    def _pids(self) -> list[str]:
        if self._alone:
            return [str(self._session)]
        present = {name for name in os.listdir("/proc") if name.isdigit()}
        self._outside &= present
        inside = []
        for pid in present - self._outside:
            session = _session_of(pid)
            if session == self._session:
                inside.append(pid)
            elif session is not None:
                self._outside.add(pid)
        return inside

    def _measure(self, pids: list[str]) -> tuple[int, int]:
        memory = threads = 0
        for pid in pids:
            for line in _read(f"/proc/{pid}/status").splitlines():
                if line.startswith(_COUNTED):
                    memory += int(line.split()[1]) * 1024
                elif line.startswith(b"Threads:"):
                    threads += int(line.split()[1])
        return memory, threads

    def _account(self, pid: str) -> None:
        fields = _after_name(_read(f"/proc/{pid}/stat"))
        if len(fields) > 12:
            self._cpu_ticks[pid] = int(fields[11]) + int(fields[12])
        for line in _read(f"/proc/{pid}/io").splitlines():
            if line.startswith(b"write_bytes:"):
                self._written[pid] = int(line.split()[1])


def _shares_bytes(pids: list[str]) -> int:
    return sum(_share_bytes(pid) for pid in pids)


def _share_bytes(pid: str) -> int:
    lines = _read(f"/proc/{pid}/smaps_rollup").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_SHARED))


def _session_of(pid: str) -> int | None:
    fields = _after_name(_read(f"/proc/{pid}/stat"))
    return int(fields[3]) if len(fields) > 3 else None


def _after_name(stat: bytes) -> list[bytes]:
    """The fields of a stat line from the state on; the name before them may hold anything."""
    return stat.rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    """The file, or nothing where the process ended meanwhile."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
