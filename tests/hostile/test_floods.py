"""A real coordinator under floods of connections from other addresses: its memory stays under the bound that is stated,
and honest volunteers from an address of their own are served throughout.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from autoresearch import envelope
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from coordinator.demo_processes import Process
from tests.integration.swarm_on_wire import Peer, Swarm

log = logging.getLogger(__name__)
# What docs/operator.md states: a coordinator's own, and for each connection. Half-sent messages come on top of it.
BASE_MB = 300.0
CONNECTION_MB = 0.1
# An honest volunteer for whom a trial and a newcomer's joining take longer counts as not served. New calls of everybody
# wait in one line, which moves by some thousand a second: the floods of the long form put ten thousand into it at once.
ANSWERED_S = 60.0
HELD_S = {"short": 1.5, "long": 12.0}
JOIN_MEANWHILE = 5  # newcomers, while all of the flood is held
ADDRESSES = 40
# Connections of each kind. The calls on them are a hundred times as many.
FLOODS = {
    "short": {"idle": 300, "tls": 40, "slow": 20, "half": 5, "sessions": 5, "events": 3, "resets": 3, "noise": 30},
    "long": {
        "idle": 8_900, "tls": 540, "slow": 200, "half": 25, "sessions": 20, "events": 10, "resets": 5, "noise": 300
    },
}  # fmt: skip


def memory_mb(pid: int) -> float:
    """The most resident memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Served:
    """A coordinator as a process, and honest volunteers who work for it and note how long each call takes."""

    def __init__(self, process: Process, swarm: Swarm, port: int) -> None:
        self.process = process
        self.swarm = swarm
        self.port = port
        self.waits_s: dict[str, list[float]] = {}
        self._names = iter(range(10**6))

    @property
    def pid(self) -> int:
        """Of the coordinator."""
        assert self.process.running is not None
        return self.process.running.pid

    @contextlib.contextmanager
    def timed(self, what: str) -> Any:
        """Notes how long something takes."""
        began = time.monotonic()
        yield
        self.waits_s.setdefault(what, []).append(time.monotonic() - began)

    async def work(self, until: asyncio.Event) -> int:
        """One volunteer works, and newcomers join, until told to stop; returns how many trials were taken."""
        steady = await self.swarm.peer("steady").start()
        trials = 0
        while not until.is_set():
            async with asyncio.timeout(ANSWERED_S):
                with self.timed("trial"):
                    trials += await self._trial(steady)
                newcomer = self.swarm.peer(f"newcomer {next(self._names)}")
                with self.timed("joining"):
                    await newcomer.start()
                await self._trial(newcomer)
                await newcomer.close()
            await asyncio.sleep(0.05)
        return trials

    async def _trial(self, peer: Peer) -> bool:
        answer = await peer.ask()
        if isinstance(answer, volunteer_pb2.NoOrder):
            return False
        ack = await peer.deliver(peer.result(answer, 1.0))
        assert ack.status == volunteer_pb2.RESULT_STATUS_ACCEPTED, ack.reason
        return True

    async def joined(self, count: int, working: asyncio.Task[int]) -> None:
        """Waits until so many more newcomers have joined; raises what `work` ended with."""
        wanted = len(self.waits_s.get("joining", ())) + count
        while len(self.waits_s.get("joining", ())) < wanted:
            if working.done():
                working.result()
            await asyncio.sleep(0.05)

    def waited(self) -> str:
        """The waits as a line."""
        parts = []
        for what, waits in self.waits_s.items():
            ordered = sorted(1000 * wait for wait in waits)
            late = ordered[int(0.95 * (len(ordered) - 1))]
            parts.append(f"{what}: {len(ordered)}, median {statistics.median(ordered):.0f} ms, 95 % {late:.0f} ms, "
                         f"longest {ordered[-1]:.0f} ms")  # fmt: skip
        return "; ".join(parts)


@pytest.fixture
async def served(tmp_path: Path, made_swarm: Path) -> AsyncIterator[Served]:
    data = tmp_path / "swarm"
    shutil.copytree(made_swarm, data)
    (data / "coordinator.address").unlink(missing_ok=True)
    arguments = ("-m", "coordinator", "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--enrolment", "open")
    process = Process("coordinator", arguments, tmp_path / "log")
    process.start()
    try:
        async with asyncio.timeout(60):
            while "serving" not in process.log.read_text():
                await asyncio.sleep(0.05)
        target = (data / "coordinator.address").read_text().strip()
        channel = grpc.aio.secure_channel(
            target,
            grpc.ssl_channel_credentials((data / "tls.crt").read_bytes()),
            options=[("grpc.ssl_target_name_override", "autoresearch-swarm")],
        )
        swarm = Swarm(cast(Any, None), channel, cast(Any, None))
        answer = await swarm.volunteers.GetSwarm(volunteer_pb2.GetSwarmRequest())
        info, signer = envelope.open_as(answer.info, envelope.SWARM_INFO, volunteer_pb2.SwarmInfo)
        facts = SimpleNamespace(swarm_id=info.swarm_id, coordinator_key=signer.public_key.hex())
        swarm.running = cast(Any, SimpleNamespace(swarm=facts))
        yield Served(process, swarm, int(target.rpartition(":")[2]))
        for peer in swarm.peers:
            await peer.close()
        await channel.close()
    finally:
        process.end()


class Attack:
    """A flood in a process of its own."""

    def __init__(self, port: int, kind: str, count: int) -> None:
        words = [sys.executable, "-m", "tests.hostile.flood", str(port), kind, str(count), str(ADDRESSES)]
        self.kind, self.count = kind, count
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def opened(self) -> int:
        """How many connections it got, once it has them."""
        assert self._process.stdout is not None
        return int((await asyncio.to_thread(self._process.stdout.readline)).split()[1])

    async def ended(self) -> int:
        """How many of them the server had left open, after ending it."""
        said, _ = await asyncio.to_thread(self._process.communicate, "")
        return int(said.split()[1])

    def kill(self) -> None:
        """At once."""
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("size", ["short", pytest.param("long", marks=pytest.mark.full)])
async def test_honest_volunteers_are_served_in_a_flood(served: Served, size: str) -> None:
    enough = asyncio.Event()
    calm_mb = memory_mb(served.pid)
    working = asyncio.create_task(served.work(enough))
    await asyncio.sleep(HELD_S[size] / 3)
    log.info("calm: %s; %.0f MB", served.waited(), calm_mb)
    served.waits_s.clear()
    attacks = [Attack(served.port, kind, count) for kind, count in FLOODS[size].items()]
    try:
        opened = {attack.kind: await attack.opened() for attack in attacks}
        await asyncio.sleep(HELD_S[size])
        await served.joined(JOIN_MEANWHILE, working)
        held = {attack.kind: await attack.ended() for attack in attacks}
    finally:
        for attack in attacks:
            attack.kill()
    flooded = served.waited()
    peak_mb = memory_mb(served.pid)
    served.waits_s.clear()
    await asyncio.sleep(HELD_S[size] / 3)
    enough.set()
    trials = await working
    log.info("flood: %s; opened %s, held at the end %s", flooded, json.dumps(opened), json.dumps(held))
    log.info("memory: %.0f MB at first, %.0f MB at most; afterwards: %s", calm_mb, peak_mb, served.waited())
    assert trials
    assert sum(opened.values()) >= 0.95 * sum(FLOODS[size].values())
    assert peak_mb < BASE_MB + CONNECTION_MB * sum(opened.values())
    assert served.process.running is not None
    assert served.process.running.poll() is None
    said = served.process.log.read_text()
    # gRPC itself complains of peers that hang up while it writes to them.
    assert "ERROR coordinator" not in said, said[-3_000:]
    assert "CRITICAL" not in said, said[-3_000:]
