"""The demo's processes: starts them, starts them again when somebody kills one, ends them in order.

Every process ends with the demo, even when the demo is killed (on Linux, by the parent-death signal).
"""

import ctypes.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

END_S = 10.0  # a process that ignores a polite signal for so long is killed
RESTARTS = 20  # a process that dies more often than this is broken
PATCH_S = 60.0  # submitting is one call

# Run before the program itself: asks the kernel to end it when the demo dies, then becomes it.
_BOUND = (
    "import ctypes,os,sys;ctypes.CDLL(None).prctl(1,15,0,0,0);os.execv(sys.executable,[sys.executable,*sys.argv[1:]])"
)


class DemoError(Exception):
    """The demo cannot go on; the message says why and where to look."""


@dataclass
class Process:
    """One program of the demo; its output goes to `log`."""

    name: str
    arguments: Sequence[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None
    restarts: int = field(default=-1)

    def start(self) -> None:
        """Starts it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                _command(self.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is the demo's; it ends the others in order
            )
        self.restarts += 1

    def revive(self, say: Callable[[str], None]) -> bool:
        """Starts it again if it is gone; whether it was.

        Raises:
            DemoError: it keeps dying.
        """
        if self.running is None or self.running.poll() is None:
            return False
        if self.restarts >= RESTARTS:
            raise DemoError(f"{self.name} keeps ending (exit code {self.running.returncode}); read {self.log}")
        say(f"{self.name} is gone (exit code {self.running.returncode}): starting it again")
        self.start()
        return True

    def end(self) -> None:
        """Ends it: politely, at once, then for certain."""
        if self.running is None:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            if self.running.poll() is None:
                self.running.send_signal(number)
        try:
            self.running.wait(END_S)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()


def _command(arguments: Sequence[str]) -> list[str]:
    bound = sys.platform == "linux" and ctypes.util.find_library("c") is not None
    return [sys.executable, "-c", _BOUND, *arguments] if bound else [sys.executable, *arguments]


def submit(arguments: Sequence[str]) -> str:
    """Submits a patch with the volunteer's own command; returns its id.

    Raises:
        DemoError: it was refused.
    """
    command = [sys.executable, "-m", "volunteer", "submit", "--json", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATCH_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"a sample patch was not taken within {PATCH_S:g} s; start the demo again") from error
    if done.returncode:
        raise DemoError(f"a sample patch was refused: {done.stderr.strip() or done.stdout.strip()}")
    return str(json.loads(done.stdout)["patch"]["patch_id"])
