"""`autoresearch-volunteer join` as a process that trains for real, and what Ctrl-C does to it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

import trainer
from autoresearch.digest import sha256_hex
from autoresearch.v1 import trial_pb2
from tests.integration.test_volunteer_fake import FakeCoordinator, make_challenge
from trainer.prepare import prepare
from trainer.trial import code_digest
from volunteer import main

TRIAL_S = 300.0  # a busy machine imports torch three times
PATIENCE_MS = 300_000  # for every stage of a trial, on such a machine
SOURCE = (Path(trainer.__file__).parent / "train.py").read_bytes()
# Has begun to train and never gets on, which costs none of its budget of processor time.
ENDLESS = b"""
import time

def build_model(config):
    raise NotImplementedError

def main(session):
    for batch in session.batches(1):
        time.sleep(3600)
"""


def thief(home: Path) -> bytes:
    """A candidate that looks for its volunteer's key everywhere, and crashes with what it found."""
    return f"""
import os
PLACES = ["{home}/identity.pem", "/proc/self/root{home}/identity.pem", "/proc/self/environ"]
PLACES += [f"/proc/{{number}}/{{name}}" for number in (os.getppid(), 1) for name in ("environ", "mem", "maps")]
PLACES += [f"/proc/self/fd/{{number}}" for number in range(3, 64)]

def build_model(config):
    found = [repr(os.environ)] if "PRIVATE KEY" in repr(os.environ) else []
    for place in PLACES:
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
            if b"PRIVATE KEY" in os.read(descriptor, 1 << 20):
                found.append(place)
        except OSError:
            pass
    try:
        found += os.listdir("{home}")
    except OSError:
        pass
    raise RuntimeError(f"no model today, but {{found}}")

def main(session):
    build_model(None)
""".encode()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
async def coordinator(data_dir: Path) -> AsyncIterator[FakeCoordinator]:
    manifest = prepare("tiny", data_dir)
    challenge = make_challenge(
        manifest_sha256=manifest.sha256, trial_code_sha256=code_digest(), base_source_sha256=sha256_hex(SOURCE),
        startup_ms=PATIENCE_MS, grace_ms=PATIENCE_MS, exam_ms=PATIENCE_MS,
    )  # fmt: skip
    async with FakeCoordinator(challenge=challenge) as fake:
        fake.sources |= {sha256_hex(source): source for source in (SOURCE, ENDLESS)}
        yield fake


@dataclass
class Volunteer:
    """A running `join`."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    async def says(self, words: str) -> None:
        """Reads until a line with these words."""
        assert self.process.stdout
        async with asyncio.timeout(TRIAL_S):
            while words not in (line := await self.process.stdout.readline()).decode():
                assert line, f"ended without saying {words!r}"

    async def ended(self) -> tuple[int, str]:
        """Exit code and stderr."""
        async with asyncio.timeout(TRIAL_S):
            out, err = await self.process.communicate()
        self.lines = out.decode().splitlines()
        return self.process.returncode or 0, err.decode()


@contextlib.asynccontextmanager
async def joined(
    tmp_path: Path, data_dir: Path, coordinator: FakeCoordinator, *options: str
) -> AsyncIterator[Volunteer]:
    arguments = ["join", coordinator.address, "--home", str(tmp_path / "home"), "--data-dir", str(data_dir)]
    arguments += ["--slots-dir", str(tmp_path / "slots"), "--device", "cpu", "--threads", "1", "--slots", "1", *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "volunteer", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield Volunteer(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


async def heard(coordinator: FakeCoordinator, stage: str) -> None:
    await coordinator.until(lambda: any(message.heartbeat.stage == stage for message in coordinator.heard), TRIAL_S)


async def test_a_real_trial_from_order_to_signed_result(
    coordinator: FakeCoordinator, data_dir: Path, tmp_path: Path
) -> None:
    stealing = thief(tmp_path / "home")
    coordinator.sources[sha256_hex(stealing)] = stealing
    coordinator.orders = [sha256_hex(SOURCE), sha256_hex(stealing)]
    async with joined(tmp_path, data_dir, coordinator, "--max-trials", "2") as volunteer:
        code, err = await volunteer.ended()
    assert (code, err) == (0, ""), volunteer.lines
    good, bad = coordinator.results.values()
    assert good.outcome == trial_pb2.OUTCOME_COMPLETED, good.reason
    assert 0.5 < good.val_bpb < 8
    assert good.tokens_served > 0
    assert good.software.torch
    assert good.hardware.threads == 1
    assert bad.outcome == trial_pb2.OUTCOME_CRASHED
    assert "RuntimeError: no model today, but []" in bad.log_tail
    assert "PRIVATE KEY" in (tmp_path / "home" / "identity.pem").read_text()
    stages = {message.heartbeat.stage for message in coordinator.heard if message.HasField("heartbeat")}
    assert {"starting", "training", "exam"} <= stages
    assert any("2 result(s) accepted" in line for line in volunteer.lines)
    assert not list((tmp_path / "home" / "scratch").iterdir())


async def test_ctrl_c_once_finishes_the_trial(coordinator: FakeCoordinator, data_dir: Path, tmp_path: Path) -> None:
    coordinator.orders = [sha256_hex(SOURCE)]
    async with joined(tmp_path, data_dir, coordinator) as volunteer:
        await heard(coordinator, "training")
        volunteer.process.send_signal(signal.SIGINT)
        await coordinator.until(lambda: coordinator.results, TRIAL_S)
        coordinator.orders.append(sha256_hex(SOURCE))  # not before: if it was examined by then, it may have asked
        code, err = await volunteer.ended()
    assert (code, err) == (0, ""), volunteer.lines
    assert len(coordinator.results) == 1
    assert coordinator.granted == 1


@pytest.mark.parametrize("politely_first", [True, False])
async def test_ctrl_c_twice_or_a_service_managers_signal_gives_the_lease_back(
    coordinator: FakeCoordinator, data_dir: Path, tmp_path: Path, politely_first: bool
) -> None:
    coordinator.challenge.budget_ms = 600_000
    coordinator.orders = [sha256_hex(SOURCE)]
    async with joined(tmp_path, data_dir, coordinator) as volunteer:
        await heard(coordinator, "training")
        if politely_first:
            volunteer.process.send_signal(signal.SIGINT)
            await volunteer.says("Ctrl-C again stops now")
        volunteer.process.send_signal(signal.SIGINT if politely_first else signal.SIGTERM)
        code, err = await volunteer.ended()
    assert (code, err) == (0, ""), volunteer.lines
    assert "lease_return" in coordinator.kinds()
    assert coordinator.results == {}
    assert not list((tmp_path / "home" / "scratch").iterdir())


@pytest.mark.parametrize("ignored", [True, False])
async def test_a_closed_terminal_ends_the_work_unless_started_to_outlive_it(ignored: bool) -> None:
    stopped: list[bool] = []
    workday = SimpleNamespace(stop=lambda *, at_once=False: stopped.append(at_once))
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with main._signals(workday):  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(TRIAL_S):
                while len(stopped) < 2 - ignored:
                    await asyncio.sleep(0)
        assert stopped == [True] * (2 - ignored)
        assert (signal.getsignal(signal.SIGHUP) is signal.SIG_IGN) == ignored
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not loop.remove_signal_handler(signal.SIGTERM), "left as they were"


async def test_a_killed_volunteer_comes_back_and_works_on(
    coordinator: FakeCoordinator, data_dir: Path, tmp_path: Path
) -> None:
    coordinator.orders = [sha256_hex(ENDLESS), sha256_hex(SOURCE)]
    async with joined(tmp_path, data_dir, coordinator) as volunteer:
        await heard(coordinator, "training")
        volunteer.process.kill()
        await volunteer.ended()
    coordinator.heard.clear()
    async with joined(tmp_path, data_dir, coordinator, "--max-trials", "1") as volunteer:
        code, err = await volunteer.ended()
    assert (code, err) == (0, ""), volunteer.lines
    assert len(coordinator.results) == 1
    assert not list((tmp_path / "home" / "scratch").iterdir()), "what the killed one left is cleared away"
    assert len({enrolment.machine_id for enrolment in coordinator.enrolments}) == 1
