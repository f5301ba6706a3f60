"""The machine's processes, from /proc where there is one, else from `ps`.

For programs run without Linux's sandbox, which has exact means. Leaves out what to do with them: `keeper.py`.
"""

import os
import subprocess
import sys
from pathlib import Path


class Row:
    """One process. start tells it from a later one of the same number; memory is its resident pages."""

    def __init__(self, parent: int, group: int, start: str, memory_bytes: int, cpu_s: float) -> None:
        self.parent = parent
        self.group = group
        self.start = start
        self.memory_bytes = memory_bytes
        self.cpu_s = cpu_s


def processes() -> dict[int, Row]:
    """Every process by number, without those that ended and wait to be collected."""
    return _from_proc() if sys.platform == "linux" else _from_ps()


def _from_proc() -> dict[int, Row]:
    page_bytes, ticks_per_s = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    rows = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if fields[0] not in "ZX":
            cpu_s = (int(fields[11]) + int(fields[12])) / ticks_per_s
            memory_bytes = int(fields[21]) * page_bytes
            rows[int(folder.name)] = Row(int(fields[1]), int(fields[2]), fields[19], memory_bytes, cpu_s)
    return rows


def _from_ps() -> dict[int, Row]:
    command = ["ps", "-axo", "pid=,ppid=,pgid=,rss=,time=,stat=,lstart="]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        rows = parse(listing.stdout.read())
    if listing.returncode != 0:
        raise OSError(f"ps ended with {listing.returncode}")
    rows.pop(listing.pid, None)  # it lists itself, and would pass for a process of the candidate
    return rows


def parse(listing: str) -> dict[int, Row]:
    """The rows of `ps -axo pid=,ppid=,pgid=,rss=,time=,stat=,lstart=`, sizes in KiB, times as [days-][hours:]min:s."""
    rows = {}
    for line in listing.splitlines():
        pid, parent, group, kib, time, state, start = line.split(None, 6)
        if not state.startswith("Z"):
            rows[int(pid)] = Row(int(parent), int(group), start, int(kib) * 1024, _seconds(time))
    return rows


def _seconds(time: str) -> float:
    days, _, clock = time.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part.replace(",", "."))
    return total + 86400 * int(days or 0)
