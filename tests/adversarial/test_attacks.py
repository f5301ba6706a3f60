"""Every attack in `attacks/`, run for real: it ends as its file says, gains nothing, and leaves no trace.

A file's head says how it must end: `outcome`, part of the `reason` (or one of several, where the exam may notice in
more ways than one), `limits` other than the usual ones, `run: long` for those that `make test-full` runs, `sandbox:
landlock` where it needs one without namespaces, `brings: text` where the source holds some, and `unprotected`: what the
same attack reaches where there is no sandbox, so that an attack that has lost its teeth is noticed.
"""

import base64
import contextlib
import ctypes
import gc
import lzma
import os
import resource
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.trial_bench import Bench
from trainer.corpus import ARCHIVE
from trainer.log import printable
from trainer.manifest import load_manifest
from trainer.packing import Packer
from trainer.prepare import prepare
from trainer.result import Outcome, TrialResult
from trainer.sandbox import available

HERE = Path(__file__).parent
HONEST = (HERE / "honest.py").read_text()
ATTACKS = sorted((HERE / "attacks").glob("*.py"))
NOTHING_REACHED = "SystemExit: reached []"
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/etc")
# Steps within a processor second differ with the load: a score this much better than after twice the budget is a gain.
NOISE_BPB = 0.01

pytestmark = pytest.mark.skipif(available() != "linux", reason="there is no Linux sandbox on this machine")


@dataclass(frozen=True)
class Attack:
    """One attack and how it must end."""

    path: Path
    head: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Attack":
        _, text, _ = path.read_text().split('"""', 2)
        lines = (line.partition(": ") for line in text.splitlines()[1:] if ": " in line)
        return cls(path, {key: value for key, _, value in lines})

    def source(self, targets: dict[str, object]) -> str:
        attack = self.path.read_text()
        assert "\nfrom honest import *\n" in attack
        return f"TARGETS = {targets!r}\n" + attack.replace("\nfrom honest import *\n", f"\n{HONEST}\n")

    def limits(self) -> dict[str, float]:
        pairs = (setting.partition("=") for setting in self.head.get("limits", "").split())
        return {name: int(value) for name, _, value in pairs}


class Grounds:
    """Something to find and to harm: a home with keys, services, this process; and whether all of it is as it was."""

    def __init__(self, folder: Path, data_dir: Path, port: int, path: str) -> None:
        self.home = folder / "home"
        for name in (".ssh/id_ed25519", ".config/autoresearch-swarm/identity.pem", "notes.txt"):
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(f"the secret in {name}")
        self.secret = ctypes.create_string_buffer(b"a secret in the parent's memory")
        self.targets: dict[str, object] = {
            "home": str(self.home),
            "files": {
                "the key": str(self.home / ".ssh/id_ed25519"),
                "the identity": str(self.home / ".config/autoresearch-swarm/identity.pem"),
                "the text": str(ARCHIVE),
                **{f"the data: {file.name}": str(file) for file in data_dir.iterdir() if file.is_file()},
                "the examiner": str(ARCHIVE.parents[1] / "examiner.py"),
            },
            "folders": {"the home": str(self.home), "the data": str(data_dir), "the tests": str(HERE)},
            "parent": os.getpid(),
            "secret": "the secret in",
            "secret_at": ctypes.addressof(self.secret),
            "port": port,
            "socket": path,
        }
        self._before, self._open_before, self._left_before = self.state(), self.open(), left_in_shared_folders()

    def state(self) -> list[object]:
        gc.collect()  # mapped data of the trial before
        files = [(str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in sorted(self.home.rglob("*"))]
        contents = [path.read_bytes() for path in sorted(self.home.rglob("*")) if path.is_file()]
        limits = [resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_CORE)]
        handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
        own = [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), self.secret.raw, self.home.stat().st_mode]
        return [files, contents, limits, handlers, own]

    def open(self) -> set[object]:
        """Descriptors and threads of this process. What an earlier test left may end; nothing may come."""
        found: set[object] = {thread.ident for thread in threading.enumerate()}
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # the listing's own
                found.add((descriptor.name, str(descriptor.readlink())))
        return found

    def assert_unharmed(self) -> None:
        assert self.state() == self._before
        assert self.open() <= self._open_before
        assert left_in_shared_folders() <= self._left_before


def left_in_shared_folders() -> set[Path]:
    return {path for folder in SHARED_FOLDERS for path in Path(folder).glob("*adversarial*")}


def text_of(data_dir: Path) -> str:
    """1,024 rows to train on, as an author may write them into a source: it has room for little more."""
    manifest = load_manifest(data_dir)
    packer = Packer(manifest.shards(), row_tokens=manifest.row_tokens, bos_id=manifest.bos_id, seed=9)
    return base64.b64encode(lzma.compress(packer.batch(1024).tobytes())).decode()


def living(folder: Path) -> list[str]:
    """Processes that work in `folder` or were told of it, other than this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            facts = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            facts += os.fsencode((process / "cwd").readlink())
        except OSError:
            continue
        if os.fsencode(folder) in facts and int(process.name) != os.getpid():
            found.append(facts.decode(errors="replace"))
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return prepare("tiny", tmp_path_factory.mktemp("tiny")).data_dir


@pytest.fixture(scope="module")
def honest_bpb(tiny, tmp_path_factory) -> float:
    """What the honest model scores after twice the budget: no attack may score better."""
    result = Bench(tiny, tmp_path_factory.mktemp("honest")).run(HONEST, budget_s=2.0)
    assert result.outcome is Outcome.COMPLETED, result
    assert result.exam_margin is not None
    assert result.exam_margin < 0.01
    return float(result.val_bpb or 0)


@pytest.fixture
def bench(tiny, tmp_path) -> Bench:
    (tmp_path / "work").mkdir()
    return Bench(tiny, tmp_path / "work")


@pytest.fixture
def grounds(tiny, tmp_path, monkeypatch) -> Iterator[Grounds]:
    with (
        tempfile.TemporaryDirectory(prefix="grounds-") as short,  # a socket's path has room for about 100 characters
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        for server, address in ((named, f"{short}/s"), (abstract, f"\0{short}/s")):
            server.bind(address)
            server.listen()
        made = Grounds(tmp_path, tiny, tcp.getsockname()[1], f"{short}/s")
        monkeypatch.setenv("HOME", str(made.home))
        monkeypatch.setenv("MY_SECRET", "the secret in the environment")
        yield made


def check(attack: Attack, result: TrialResult, bench: Bench, grounds: Grounds, honest_bpb: float | None) -> None:
    wanted = attack.head["outcome"]
    assert wanted in (result.outcome.name, "ANY"), result
    assert any(part in result.reason for part in attack.head["reason"].split(" | ")), result
    assert printable(result.reason + result.log_tail) == result.reason + result.log_tail
    assert len(result.log_tail) <= bench.limits.log_tail_bytes
    assert (result.val_bpb is None) == (result.outcome is not Outcome.COMPLETED)
    if result.val_bpb is not None:
        assert honest_bpb is not None
        assert result.val_bpb > honest_bpb - NOISE_BPB
    limits = bench.limits
    stages_s = limits.startup_s + limits.stretch * bench.spec.budget_s + limits.grace_s + 2 * limits.exam_s
    assert result.wall_s < stages_s + 60  # to end it, on a busy machine
    assert living(bench.spec.work_dir) == []
    grounds.assert_unharmed()


def cases() -> list[object]:
    found = []
    for path in ATTACKS:
        attack = Attack.read(path)
        long = [pytest.mark.full] if attack.head.get("run") == "long" else []
        found.append(pytest.param(attack, attack.head.get("sandbox", "auto"), id=path.stem, marks=long))
        if attack.head["reason"] == NOTHING_REACHED:  # where namespaces are forbidden
            found.append(pytest.param(attack, "landlock", id=f"{path.stem}-landlock", marks=[pytest.mark.full]))
    return found


@pytest.mark.parametrize(("attack", "kind"), cases())
def test_an_attack_ends_as_it_must_and_gains_nothing(attack, kind, bench, grounds, request):
    completes = attack.head["outcome"] in ("COMPLETED", "ANY")
    honest_bpb = request.getfixturevalue("honest_bpb") if completes else None
    text = {"text": text_of(bench.spec.data_dir)} if attack.head.get("brings") == "text" else {}
    result = bench.run(attack.source(grounds.targets | text), limits=attack.limits(), sandbox=kind)
    check(attack, result, bench, grounds, honest_bpb)


@pytest.mark.full
@pytest.mark.parametrize("path", [path for path in ATTACKS if "unprotected" in Attack.read(path).head])
def test_the_attack_has_teeth_where_nothing_protects(path, bench, grounds):
    attack = Attack.read(path)
    result = bench.run(attack.source(grounds.targets), sandbox="none")
    assert attack.head["unprotected"] in result.log_tail


def test_every_attack_says_how_it_must_end():
    heads = [Attack.read(path).head for path in ATTACKS]
    assert len(heads) > 90
    assert all({"outcome", "reason"} <= head.keys() for head in heads)
    assert {head["outcome"] for head in heads} - {"ANY"} <= {outcome.name for outcome in Outcome}
