"""A real swarm on 127.0.0.1: a store, two coordinators, volunteers, relays between them, and authors.

Every program is a process with a disk of its own kind; what runs here are the relays, the authors who keep the swarm
busy, and whoever starts again what ended.
"""

import asyncio
import contextlib
import difflib
import itertools
import json
import random  # noqa: TID251  # always seeded
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from redis.asyncio import Redis
from redis.exceptions import RedisError

from autoresearch import envelope
from autoresearch.v1.patch_pb2 import PatchSubmission
from coordinator.archive import Archive
from coordinator.embedded_server import find_binary
from tests.chaos.processes import Disk, Program
from tests.chaos.relay import Front, Relay
from volunteer import address, enrolling
from volunteer.client import Client
from volunteer.errors import VolunteerError
from volunteer.identity import Identity

DEVICES = ("NVIDIA H100", "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3060")
SHARED = ("signing.key", "operator.key", "tls.key", "tls.crt")
DISK_FULL = ("No space left on device", "AOF write error")  # words of volunteers and of the store that end for it
LEASE_S = 4.0
TRIAL_S = 0.7
KNOBS = 40
AUTHORS = 8
PATCH_EVERY_S = 0.5
SUBMIT_S = 5.0  # then the author connects anew
WAIT_S = 60.0  # for anything that is to come
# The store's file is never rewritten, for it is the history of all that happened: what it may take.
DISK_MB, FAULT_MB = 128, 3
SETTLE_S = 40.0  # a volunteer's last trial and delivery
FAREWELLS, FAREWELL_S = 3, 30.0
SOURCE = (
    '"""A source whose knobs say what it measures."""\n\n'
    + "\n\n".join(f"KNOB_{n:02d} = 0.0\n\n\ndef spacer_{n:02d}():\n    return {n}\n" for n in range(KNOBS))
    + "\n\ndef build_model(config):\n    return config\n\n\n"
    + "def main(session):\n    for batch in session:\n        print(batch)\n"
)


class TroubleError(Exception):
    """The swarm could not be brought up, or did not settle."""


class Swarm:
    """All of it. `start`, break things, `settle`, look, `stop`."""

    def __init__(self, folder: Path, seed: int, volunteers: int, faults: int) -> None:
        """`faults`: how many are to come, which says how large the disks have to be."""
        self.folder = folder
        self._size = volunteers
        size_mb = DISK_MB + faults * FAULT_MB
        self.store_disk = Disk(folder / "store", size_mb)
        self.volunteers_disk = Disk(folder / "volunteers", 64)
        self.disks = {name: Disk(folder / name, size_mb) for name in ("a", "b")}
        self.coordinators: dict[str, Program] = {}
        self.volunteers: list[Program] = []
        self.links = {name: Relay() for name in ("a", "b")}  # from a coordinator to the store
        self.swarm_address = ""
        self._reserved = {name: _reserved() for name in ("store", "a", "b")}
        self._ports = {name: held.getsockname()[1] for name, held in self._reserved.items()}
        self.front = Front([self._ports["a"], self._ports["b"]])
        self._chance = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self._submitted = 0
        self._leader = "a"
        self._noted: dict[Path, tuple[int, list[tuple[str, str, float]]]] = {}
        self.redis = Redis(port=self._ports["store"], socket_timeout=0.5, socket_connect_timeout=0.5)

    # --- life ---

    async def start(self) -> None:
        """Brings it up: returns when the first result was acknowledged."""
        for disk in (self.store_disk, self.volunteers_disk, *self.disks.values()):
            disk.make()
        (self.folder / "source.py").write_text(SOURCE)
        self.store = Program("store", self._store_command(), self.folder / "store.log")
        self.store.start()
        for link in self.links.values():
            link.target = self._ports["store"]
            await link.start()
        await self.front.start()
        self._run(self.front.watch())
        await self._until(lambda: _listens(self._ports["store"]), "the store listens")
        await self._start_coordinator("a", "join ")
        for name in SHARED:
            shutil.copy(self.data("a") / name, _made(self.data("b")))
        await self._start_coordinator("b", "standing by")
        for number in range(self._size):
            self.volunteers.append(self._volunteer(number))
            self.volunteers[-1].start()
        self._run(self._supervise())
        self._authoring = self._run(self._author())
        await self._until(lambda: any(self.volunteers_disk.path.glob("*.acknowledged")) and self.acknowledged(), "work")

    async def settle(self) -> None:
        """Mends everything, lets the volunteers deliver what they have, and the coordinators come to an end of it."""
        self.mend()
        if self._authoring.done():
            self._authoring.result()  # says why nobody submitted any more
        self._authoring.cancel()
        await self._until(lambda: all(one.alive for one in (*self.coordinators.values(), self.store)), "all are back")
        await self._until(lambda: self.front.target, "a coordinator serves")
        for program in self.volunteers:
            await self._finish(program)
        await self._until(self._followed, "everything is followed up")

    async def _finish(self, program: Program) -> None:
        """Lets a volunteer deliver what it has; again if it had no connection just then."""
        for _ in range(FAREWELLS):
            program.finish()
            if not await program.gone(SETTLE_S):
                raise TroubleError(f"{program.name} does not finish: {program.last_words()}")
            if not self.kept(program):
                return
            program.start()
            await self._delivered(program)
        raise TroubleError(f"{program.name} keeps results that nobody takes: {program.last_words()}")

    async def _delivered(self, program: Program) -> None:
        """Waits until a volunteer that was started again has delivered everything, or for long enough."""
        deadline = time.monotonic() + FAREWELL_S
        while self.kept(program) and program.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    def kept(self, program: Program) -> list[Path]:
        """Results that a volunteer could not deliver yet."""
        return sorted((self.volunteers_disk.path / program.name.split()[1]).glob("spool/*/*.result"))

    async def stop(self, *, keep: bool) -> None:
        """Ends it all; `keep`: leaves what the disks held."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.redis.aclose()
        for program in (*self.volunteers, *self.coordinators.values(), self.store):
            program.bury()
        for relay in (self.front, *self.links.values()):
            await relay.stop()
        for held in self._reserved.values():
            held.close()
        for disk in (self.store_disk, self.volunteers_disk, *self.disks.values()):
            disk.remove(keep=keep)

    # --- what can be broken ---

    async def leader(self) -> str:
        """The coordinator that leads, as the store says; the last one known while it does not answer."""
        with contextlib.suppress(RedisError, OSError, ValueError, TypeError):
            sign = json.loads(await self.redis.hget("{autoresearch}:table:lead", "sign"))
            self._leader = "a" if f"{self.data('a')} " in sign["name"] else "b"
        return self._leader

    async def standby(self) -> str:
        """The other one."""
        return "b" if await self.leader() == "a" else "a"

    def mend(self) -> None:
        """Everything goes on."""
        for relay in (self.front, *self.links.values()):
            relay.resume()
        for disk in (self.store_disk, self.volunteers_disk, *self.disks.values()):
            disk.free()
        for program in (*self.volunteers, *self.coordinators.values(), self.store):
            program.thaw()

    # --- what is to be seen ---

    def data(self, name: str) -> Path:
        """A coordinator's data folder."""
        return self.disks[name].path / "swarm"

    def acknowledged(self) -> list[tuple[str, str, float]]:
        """Digest, status and instant of every acknowledgement that a volunteer noted."""
        for path in sorted(self.volunteers_disk.path.glob("*.acknowledged")):
            at, known = self._noted.get(path, (0, []))
            with path.open("rb") as file:
                file.seek(at)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            known += [(digest, status, float(when)) for digest, status, when in _notes(whole.decode())]
            self._noted[path] = (at + len(whole), known)
        return [note for _, known in self._noted.values() for note in known]

    def turns(self) -> list[tuple[float, str]]:
        """From when on which coordinator was reached."""
        names = {self._ports[name]: f"coordinator {name} serves" for name in self.coordinators}
        return [(at, names.get(port, "nobody serves")) for at, port in self.front.turns]

    def surprises(self) -> list[str]:
        """Programs that ended though nobody had killed them, nor filled their disk."""
        programs = (self.store, *self.coordinators.values(), *self.volunteers)
        return [own for program in programs for own in program.surprises if not any(word in own for word in DISK_FULL)]

    # --- starting ---

    def _store_command(self) -> list[str]:
        settings = {
            "port": self._ports["store"], "bind": "127.0.0.1", "dir": self.store_disk.path, "appendonly": "yes",
            "appendfsync": "always", "save": "", "auto-aof-rewrite-percentage": 0, "maxmemory-policy": "noeviction",
        }  # fmt: skip
        return [str(find_binary()), *itertools.chain(*((f"--{name}", str(value)) for name, value in settings.items()))]

    async def _start_coordinator(self, name: str, sign: str) -> None:
        command = [
            *(sys.executable, "-m", "coordinator", "serve", "--data", str(self.data(name))),
            *("--listen", f"127.0.0.1:{self._ports[name]}", "--public", f"127.0.0.1:{self.front.port}"),
            *("--store", f"redis://127.0.0.1:{self.links[name].port}/0", "--enrolment", "open"),
            *("--lease", str(LEASE_S), "--budget", "10", "--noise", "0.002"),
            *("--source", str(self.folder / "source.py")),
        ]
        program = Program(f"coordinator {name}", command, self.folder / f"{name}.log")
        program.start()
        self.coordinators[name] = program
        await self._until(lambda: sign in program.log.read_text(), f"coordinator {name} says {sign!r}")
        if not self.swarm_address:
            self.swarm_address = program.log.read_text().split("'")[1]

    def _volunteer(self, number: int) -> Program:
        name = f"v{number}"
        script = Path(__file__).with_name("stub_volunteer.py")
        arguments = [self.swarm_address, str(self.volunteers_disk.path / name), name, str(TRIAL_S)]
        command = [sys.executable, str(script), *arguments, DEVICES[number % len(DEVICES)]]
        return Program(f"volunteer {name}", command, self.folder / f"{name}.log")

    # --- what goes on beside ---

    async def _supervise(self) -> None:
        while True:
            for program in (self.store, *self.coordinators.values(), *self.volunteers):
                program.look()
            await asyncio.sleep(0.1)

    async def _author(self) -> None:
        authors = [Identity(Ed25519PrivateKey.generate(), "0" * 32) for _ in range(AUTHORS)]
        while True:
            with contextlib.suppress(VolunteerError, grpc.RpcError, TimeoutError):
                async with await Client.open(address.parse(self.swarm_address)) as client:
                    while True:
                        async with asyncio.timeout(SUBMIT_S):
                            await self._submit(client, authors[self._submitted % AUTHORS])
                        await asyncio.sleep(PATCH_EVERY_S)
            await asyncio.sleep(0.5)

    async def _submit(self, client: Client, who: Identity) -> None:
        """One patch in four helps, one in four a little, one in twelve crashes, the others do nothing or harm."""
        await enrolling.as_author(client, who, "author", "", lambda line: None, at_ms=self._submitted)
        best = (await client.best()).best
        before = (await client.fetch_source(best.source_sha256)).decode()
        self._submitted += 1
        kind = self._submitted % 12
        helps = self._chance.uniform(0.002, 0.004) if kind % 2 else -self._chance.uniform(0.0, 0.02)
        value = {0: "None", 1: "0.02", 5: "0.03", 9: "0.025"}.get(kind, f"{helps:.6f}")
        knob = f"KNOB_{self._chance.randrange(KNOBS):02d}"
        old = re.search(rf"^{knob} = (.+)$", before, re.MULTILINE)
        assert old is not None
        new = value if kind == 0 else f"{float(old[1]) + float(value):.6f}"
        after = before.replace(old[0], f"{knob} = {new}")
        lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "a/train.py", "b/train.py")
        message = PatchSubmission(
            protocol=1, swarm_id=client.swarm.swarm_id, base_commit=best.commit, diff="".join(lines).encode(),
            title=f"patch {self._submitted}", author_name="author",
        )  # fmt: skip
        await client.submit(envelope.sign(message, envelope.PATCH, who.key))

    def _run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    # --- waiting ---

    async def _followed(self) -> bool:
        prefix = "{autoresearch}"
        with contextlib.suppress(RedisError, OSError):
            length = await self.redis.llen(f"{prefix}:list:ledger")
            followed = int(await self.redis.hget(f"{prefix}:table:meta", "followed") or 0)
            leases = await self.redis.hlen(f"{prefix}:table:leases")
            if followed == length and leases == 0:
                best = json.loads(await self.redis.hget(f"{prefix}:table:meta", "best"))
                return all(self._caught_up(name, length, best["commit"]) for name in self.coordinators)
        return False

    def _caught_up(self, name: str, length: int, commit: str) -> bool:
        """Whether a coordinator's folder has everything; the one that stands by looks a few times a second."""
        tip = self.data(name) / "lineage.git" / "refs" / "heads" / "best"
        return tip.read_text().strip() == commit and sum(1 for _ in Archive(self.data(name)).lines()) == length

    async def _until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            if time.monotonic() > deadline:
                raise TroubleError(f"not within {WAIT_S:.0f} s: {what}")
            await asyncio.sleep(0.05)


def _notes(text: str) -> Iterator[tuple[str, str, str]]:
    """What a volunteer noted; a line that its full disk cut off is none."""
    for line in text.splitlines():
        words = line.split(" ", 3)
        if len(words) == 4:
            yield words[0], words[1], words[2]


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _reserved() -> socket.socket:
    """A port that nobody is given by chance while this is open, and at which a program that asks for it can listen."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
