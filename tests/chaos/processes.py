"""The swarm's programs as processes: started, killed, frozen, and started again when they ended, as an operator's
service manager would. Each ends with this one, whatever becomes of it.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SOCKETS = shutil.ignore_patterns("*.sock")
AGAIN_S = 1.0  # a program that ended is started again after
END_S = 15.0
FILLINGS = 20
# Asks the kernel to kill it when this process dies, then becomes the program.
_BOUND = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,9,0,0,0);signal.signal(signal.SIGINT,signal.SIG_DFL);"
    "os.execv(sys.argv[1],sys.argv[1:])"
)


@dataclass
class Program:
    """One program; its output goes to `log`."""

    name: str
    command: Sequence[str]
    log: Path
    surprises: list[str] = field(default_factory=list)  # ends that nobody had asked for
    wanted: bool = True  # started again when it has ended
    _running: subprocess.Popen[bytes] | None = None
    _asked: bool = False
    _ended_at: float = 0.0

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOUND, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._asked, self._ended_at = False, 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs; a frozen one does."""
        return self._running is not None and self._running.poll() is None

    def kill(self) -> None:
        """As hard as it gets."""
        self._asked = True
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """Asks it to end."""
        self._asked = True
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)

    def finish(self) -> None:
        """Asks it to finish what it does and end for good."""
        self._asked, self.wanted = True, False
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGINT)

    def freeze(self) -> None:
        """Stops it where it is."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def look(self) -> None:
        """Starts it again if it has ended some time ago."""
        if self._running is None or self.alive or not self.wanted:
            return
        if not self._ended_at:
            self._ended_at = time.monotonic()
            if not self._asked:
                self.surprises.append(f"{self.name} ended with {self._running.returncode}: {self.last_words()}")
        elif time.monotonic() - self._ended_at >= AGAIN_S:
            self.start()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])

    async def gone(self, within_s: float = END_S) -> bool:
        """Waits for its end; False when it does not come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.alive:
                    await asyncio.sleep(0.05)
        return not self.alive

    def bury(self) -> None:
        """Makes sure that it is gone."""
        if self._running is not None:
            self._signal(signal.SIGKILL)
            self._running.wait()
            self._running = None

    def _signal(self, number: int) -> None:
        if self.alive:
            assert self._running is not None
            self._running.send_signal(number)


@dataclass
class Disk:
    """A small disk of its own, where mounting is allowed; else a plain folder, which is never full."""

    path: Path
    size_mb: int
    mounted: bool = False

    def make(self) -> None:
        """Makes and mounts it."""
        self.path.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.size_mb}m", "tmpfs", str(self.path)]
        with contextlib.suppress(OSError):
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Leaves no room: makes the disk as small as what is on it, which takes no time whatever its size."""
        for _ in range(FILLINGS):
            found = os.statvfs(self.path)
            if self._resize(max(1, found.f_blocks - found.f_bfree) * found.f_frsize):  # of size 0 it would have no end
                return

    def free(self) -> None:
        """Gives the room back."""
        if self.mounted:
            self._resize(self.size_mb << 20)

    def _resize(self, size_bytes: int) -> bool:
        """Whether it could be done; not when more is written meanwhile than would fit."""
        command = ["mount", "-o", f"remount,size={size_bytes // 1024}k", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def remove(self, *, keep: bool) -> None:
        """Unmounts it; `keep`: leaves a copy of what it held."""
        if self.mounted:
            if keep:
                shutil.copytree(self.path, self.path.with_suffix(".kept"), symlinks=True, ignore=_SOCKETS)
            subprocess.run(["umount", "-l", str(self.path)], check=False)
            self.mounted = False
