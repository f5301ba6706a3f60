"""Runs little programs in the real sandbox, once with all that this machine allows and once without namespaces."""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer.sandbox import Policy, SandboxedProcess, available, launch, python_read_paths

MIB = 1 << 20
TIME_S = 300.0  # a bomb leaves little to whoever watches it on a busy machine


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    status: int
    output: str
    process: SandboxedProcess

    @property
    def exceeded(self) -> str | None:
        return self.process.exceeded


class Sandbox:
    """Starts programs in one kind of sandbox, with a write folder of its own."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.folder = folder / "inside"
        self.outside = folder / "outside"
        self.folder.mkdir()
        self.outside.mkdir()
        self._started: list[SandboxedProcess] = []

    def policy(self, **changes: object) -> Policy:
        values = {"memory_bytes": 512 * MIB, "file_bytes": 8 * MIB, "processes": 1, "cpu_s": 60}
        return Policy(**({"read_paths": python_read_paths(), "write_dir": self.folder} | values | changes))

    def start(self, program: str, *arguments: object, env: dict[str, str] | None = None, **changes: object):
        """The running program and the end of a pipe to read what it says."""
        pass_fds = changes.pop("pass_fds", ())
        reading, writing = os.pipe()
        try:
            process = launch(
                [sys.executable, "-I", "-c", textwrap.dedent(program), *map(str, arguments)],
                self.policy(**changes),
                env=env or {},
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                pass_fds=pass_fds,
                kind=self.kind,
            )
        finally:
            os.close(writing)
        self._started.append(process)
        return process, os.fdopen(reading, "rb", buffering=0)

    def run(self, program: str, *arguments: object, **changes: object) -> Ran:
        """Run a program to its end."""
        process, output = self.start(program, *arguments, **changes)
        with output, _deadline(process):
            said = output.readall().decode(errors="replace")
        return Ran(process.wait(TIME_S), said, process)

    def end(self) -> None:
        for process in self._started:
            process.kill_tree()
        shutil.rmtree(self.folder)


class _deadline:
    """Kills a program that does not end, so that a test fails rather than hangs."""

    def __init__(self, process: SandboxedProcess) -> None:
        self._timer = threading.Timer(TIME_S, process.kill_tree)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()


@pytest.fixture(params=["linux", "landlock"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sandbox]:
    if available() != "linux":
        pytest.skip(f"this machine has no Linux sandbox (it has {available()!r}): it takes Linux 5.13 with Landlock")
    made = Sandbox(tmp_path, request.param)
    yield made
    made.end()


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same person, outside, with a secret in its environment."""
    program = "import sys; print('ready', flush=True); sys.stdin.read()"
    environment = {"SECRET": "the key to the house"}
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        assert process.poll() is None, "it was harmed"
        process.kill()


@pytest.fixture
def session_members() -> Callable[[int], list[int]]:
    """The living processes of a candidate, by the number of its first one."""

    def members(session: int) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(folder.name))
        return found

    return members
