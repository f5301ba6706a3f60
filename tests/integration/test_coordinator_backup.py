"""Backups of a real swarm, beside a coordinator that serves and of one that stopped, and what is made of them."""

import asyncio
import json
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from autoresearch.checkpoint import TreeHead
from autoresearch.judging import ledger
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from coordinator import backups, restoring, upkeep
from coordinator.archive import Archive
from coordinator.cli import main as command
from coordinator.errors import OperatorError
from coordinator.segments import SEGMENT_ENTRIES, segment_name
from coordinator.settings import LEDGER, SIGNING_KEY
from tests.benchmarks.bench_ledger import make_folder
from tests.conftest import Until
from tests.integration.swarm_on_wire import Starter, Swarm
from tests.integration.swarm_that_lived import live, settled
from tests.integration.test_coordinator_rebuild import dump, history
from volunteer import address, witness
from volunteer.client import Client
from volunteer.errors import WrongCoordinatorError

NOW_MS = 1_900_000_000_000


def make(data_dir: Path, out: Path, *, with_keys: bool = True) -> backups.Backup:
    return backups.write(data_dir, out, with_keys=with_keys, now_ms=NOW_MS)


def restore(backup: Path, data_dir: Path, until: str = "", why: str = "") -> restoring.Restored:
    return restoring.restore(backup, data_dir, restoring.Wish(NOW_MS, "t", until, why), lambda line: None)


@pytest.fixture(scope="module")
def backup(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy it before changing it."""
    out = tmp_path_factory.mktemp("backups") / "backup"
    make(lived, out)
    return out


@pytest.fixture(scope="module")
def cut(backup: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A swarm that was set back."""
    data_dir = tmp_path_factory.mktemp("cut") / "swarm"
    restore(backup, data_dir, "20", "because")
    return data_dir


def entries(folder: Path) -> list[ledger.Entry]:
    return [ledger.parse(line) for line in Archive(folder).lines()]


def heads(folder: Path) -> list[TreeHead]:
    return sorted(Archive(folder).heads(), key=lambda head: head.size)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_restored_swarm_is_the_same_and_goes_on(lived: Path, backup: Path, tmp_path: Path) -> None:
    made = await asyncio.to_thread(restore, backup, tmp_path / "swarm")
    assert (made.forsaken, made.keyed) == (0, True)
    assert history(tmp_path / "swarm") == history(lived)
    async with Starter(tmp_path)() as swarm:
        await settled(swarm)
        assert swarm.running.swarm.swarm_id == made.rebuilt.swarm_id
    original, restored = await dump(lived), await dump(tmp_path / "swarm")
    for name, content in original.items():
        assert restored[name] == content, name


async def test_a_backup_beside_work_holds_everything_that_was_acknowledged(starter: Starter, tmp_path: Path) -> None:
    async with starter() as swarm:
        living = asyncio.create_task(live(swarm))
        number = 0
        while not living.done():
            await asyncio.sleep(0.05)
            before = len(entries(starter.folder / "swarm"))  # on the disk: nothing else is acknowledged
            out = tmp_path / f"backup-{number}"
            made = await asyncio.to_thread(make, starter.folder / "swarm", out)
            assert made.entries >= before
            assert upkeep.verify(out).entries == made.entries
            number += 1
        await living
        assert number > 1


def test_keys_are_left_out_unless_asked_for_and_are_nobody_elses_to_read(lived: Path, tmp_path: Path) -> None:
    assert make(lived, tmp_path / "without", with_keys=False).keys == []
    assert not {SIGNING_KEY, "operator.key"} & names(tmp_path / "without")
    assert make(lived, tmp_path / "with").keys == [SIGNING_KEY, "operator.key"]
    for path in (tmp_path / "with", *(tmp_path / "with" / name for name in backups.KEYS)):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    made = restore(tmp_path / "without", tmp_path / "swarm")
    assert not made.keyed
    keyed = restoring.restore(
        tmp_path / "without", tmp_path / "keyed", restoring.Wish(NOW_MS, "t", keys=lived), lambda line: None
    )
    assert keyed.keyed
    assert (tmp_path / "keyed" / SIGNING_KEY).read_bytes() == (lived / SIGNING_KEY).read_bytes()


# --- an earlier state ---


def first_of(found: list[ledger.Entry], kind: str) -> int:
    return next(entry.seq for entry in found if entry.kind == kind)


async def test_an_earlier_state_says_that_it_is_one_and_goes_on(lived: Path, backup: Path, tmp_path: Path) -> None:
    original = entries(lived)
    last = first_of(original, "promotion")
    made = await asyncio.to_thread(restore, backup, tmp_path / "swarm", str(last), "a bad day")
    kept = entries(tmp_path / "swarm")
    assert kept[:-1] == original[: len(kept) - 1]
    assert (len(kept) - 1, made.forsaken) == (last + 1, len(original) - last - 1)
    body = kept[-1].body
    assert (kept[-1].kind, body["kept"], body["forsaken"], body["reason"]) == (
        "restoration", last + 1, len(original), "a bad day",
    )  # fmt: skip
    async with Starter(tmp_path)() as swarm:
        await settled(swarm)
        assert (await swarm.running.app.records.best()).generation == 1
        peer = await swarm.peer("late").start()
        await peer.submit(
            b"--- a/train.py\n+++ b/train.py\n@@ -3,2 +3,2 @@\n-WIDTH = 256\n+WIDTH = 64\n RATE = 0.003\n"
        )
    upkeep.verify(tmp_path / "swarm")
    signed_before = {head.root for head in heads(lived)}
    assert all(head.size <= last + 1 or head.root not in signed_before for head in heads(tmp_path / "swarm"))


async def watch(swarm: Swarm, home: Path) -> int:
    """What a volunteer does when it joins."""
    async with await Client.open(address.parse(swarm.running.address)) as client:
        return (await witness.watch(client, home)).size


async def test_volunteers_refuse_an_earlier_state_until_their_owner_agrees(
    lived: Path, backup: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (tmp_path / "before").mkdir()
    async with Starter(tmp_path / "before", lived)() as swarm:
        seen = await watch(swarm, home)
    await asyncio.to_thread(restore, backup, tmp_path / "swarm", "20", "a bad day")
    async with Starter(tmp_path)() as swarm:
        with pytest.raises(WrongCoordinatorError, match="rewrote its ledger"):
            await watch(swarm, home)
        (remembered,) = (home / "checkpoints").glob("*.seen")
        remembered.unlink()
        assert await watch(swarm, home) < seen
        events = swarm.board.WatchEvents(board_pb2.WatchEventsRequest(start=20))
        texts = [answer.event.text async for answer in events]
        assert "set back to its first 21 entries: a bad day" in texts


def test_what_was_written_together_stays_or_goes_together(lived: Path, backup: Path, tmp_path: Path) -> None:
    promotion = first_of(entries(lived), "promotion")
    restore(backup, tmp_path / "swarm", str(promotion - 1), "a verdict without its promotion is none")
    kept = entries(tmp_path / "swarm")
    assert not any(entry.kind == "promotion" or entry.body.get("verdict") == "promoted" for entry in kept)


def test_an_instant(lived: Path, backup: Path, tmp_path: Path) -> None:
    original = entries(lived)
    at_ms = original[first_of(original, "promotion")].at_ms
    until = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms / 1000)) + f".{at_ms % 1000:03}"
    restore(backup, tmp_path / "swarm", until, "because")
    kept = entries(tmp_path / "swarm")[:-1]
    assert kept == [entry for entry in original if entry.at_ms <= at_ms]


def test_a_whole_backup_may_say_that_what_came_after_it_is_lost(backup: Path, tmp_path: Path) -> None:
    made = restore(backup, tmp_path / "swarm", why="the disk died")
    assert made.forsaken == 0
    *kept, last = entries(tmp_path / "swarm")
    assert kept == entries(backup)
    assert (last.kind, last.body["kept"], last.body["forsaken"]) == ("restoration", len(kept), 0)
    upkeep.verify(tmp_path / "swarm")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kept": 3}, "kept: "),
        ({"root": "0" * 64}, "not what stands before it"),
        ({"forsaken": 1}, "gives up nothing"),
        ({"forsaken_checkpoint": "AAAA"}, "checkpoint does not hold"),
    ],
)
def test_a_false_restoration_is_found_out(cut: Path, tmp_path: Path, change: dict[str, Any], why: str) -> None:
    shutil.copytree(cut, tmp_path / "swarm", ignore=shutil.ignore_patterns("store", "lineage.git"))
    path = tmp_path / "swarm" / LEDGER
    lines = path.read_bytes().splitlines()
    entry = ledger.parse(lines[-1])
    head = ledger.Head(entry.seq, entry.prev)
    line, _ = ledger.append(head, "restoration", {**entry.body, **change}, entry.at_ms)
    path.write_bytes(b"\n".join([*lines[:-1], line, b""]))
    with pytest.raises(OperatorError, match=why):
        upkeep.verify(tmp_path / "swarm")


# --- what goes wrong ---


def damage(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def record(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / backups.RECORD
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def refused(arguments: list[str], said: str, folder: Path) -> None:
    """One line on standard error, exit code 1, and nothing is made."""
    before = names(folder)
    done = CliRunner().invoke(command, arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("the backup holds ")]
    assert line.startswith("error: ")
    assert said in line
    assert names(folder) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / backups.RECORD).unlink(), "is no backup, or not a whole one"),
        (lambda folder: (folder / LEDGER).unlink(), "autoresearch.jsonl is missing"),
        (lambda folder: (folder / backups.RECORD).write_text("{"), "is damaged: use another backup"),
        (damage(LEDGER), "autoresearch.jsonl is damaged"),
        (damage(SIGNING_KEY), "signing.key is damaged"),
        (record(format=2), "made by a newer version"),
        (shutil.rmtree, "is no backup, or not a whole one"),
    ],
)
def test_a_bad_backup_makes_nothing(backup: Path, tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    shutil.copytree(backup, tmp_path / "copy")
    change(tmp_path / "copy")
    refused(["restore", str(tmp_path / "copy"), "--data", str(tmp_path / "swarm")], said, tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "yesterday", "--why", "x"], "neither an entry's number nor an instant"),
        (["--until", "1000000", "--why", "x"], "it has no entry 1000000"),
        (["--until", "1999-01-01", "--why", "x"], "nothing would be left"),
        (["--until", "5"], "needs a reason"),
        (["--keys", "/nonexistent"], "there is no signing.key"),
    ],
)
def test_a_wish_that_cannot_be_granted_makes_nothing(
    backup: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    refused(["restore", str(backup), "--data", str(tmp_path / "swarm"), *options], said, tmp_path)


def test_another_swarms_key_is_told(lived: Path, tmp_path: Path) -> None:
    make(lived, tmp_path / "backup", with_keys=False)
    (tmp_path / "keys").mkdir()
    shutil.copy(lived / "operator.key", tmp_path / "keys" / SIGNING_KEY)
    arguments = ["restore", str(tmp_path / "backup"), "--data", str(tmp_path / "swarm")]
    refused([*arguments, "--keys", str(tmp_path / "keys")], "but this swarm's is", tmp_path)


def test_nothing_that_exists_is_overwritten(lived: Path, backup: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "something").write_bytes(b"mine")
    refused(["restore", str(backup), "--data", str(tmp_path / "there")], "is not empty", tmp_path)
    refused(["backup", str(tmp_path / "there"), "--data", str(lived)], "is there already", tmp_path)
    refused(["backup", str(tmp_path / "out"), "--data", str(tmp_path / "there")], "there is no ledger", tmp_path)
    refused(["backup", str(tmp_path / "no" / "out"), "--data", str(lived)], "cannot write", tmp_path)
    assert names(tmp_path / "there") == {"something"}


def test_a_ledger_that_does_not_hold_is_not_backed_up(lived: Path, tmp_path: Path) -> None:
    shutil.copytree(lived, tmp_path / "swarm", ignore=shutil.ignore_patterns("store"))
    damage(LEDGER)(tmp_path / "swarm")
    refused(["backup", str(tmp_path / "out"), "--data", str(tmp_path / "swarm")], "ledger entry", tmp_path)


def run(*words: str, file_blocks: int = 0) -> "subprocess.Popen[str]":
    """The coordinator's command; `file_blocks`: no file may have more, as on a full disk."""
    limit = f"ulimit -f {file_blocks}; " if file_blocks else ""
    script = f'{limit}exec "$@"'
    whole = ["bash", "-c", script, "bash", sys.executable, "-m", "coordinator", *words]
    return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "words",
    [
        ["backup", "{out}", "--data", "{lived}"],
        pytest.param(["restore", "{backup}", "--data", "{out}"], marks=pytest.mark.full),
    ],
)
def test_a_full_disk_leaves_nothing(lived: Path, backup: Path, tmp_path: Path, words: list[str]) -> None:
    process = run(*(word.format(lived=lived, backup=backup, out=tmp_path / "out") for word in words), file_blocks=16)
    _, said = process.communicate()
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("error: ")
    assert names(tmp_path) == set()


def succeeds(*words: str) -> None:
    process = run(*words)
    _, said = process.communicate()
    assert process.returncode == 0, said


def killed(process: "subprocess.Popen[str]", until: Until, there: Callable[[], bool]) -> None:
    """Kills the command at once when something is there."""
    until(lambda: there() or process.poll() is not None, timeout_s=60)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "place", ["", pytest.param(LEDGER, marks=pytest.mark.full), pytest.param("backup.json", marks=pytest.mark.full)]
)
def test_a_killed_backup_is_none_and_the_next_one_ends_it(
    lived: Path, tmp_path: Path, until: Until, place: str
) -> None:
    out, partial = tmp_path / "out", tmp_path / ".out.part"
    words = ["backup", str(out), "--data", str(lived)]
    killed(run(*words), until, (partial / place).exists)
    if not out.exists():
        with pytest.raises(OperatorError, match="no backup"):
            backups.check(out)
        succeeds(*words)
    assert backups.check(out).entries == len(entries(lived))
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("place", [".rebuilding", pytest.param(LEDGER, marks=pytest.mark.full),
                                   pytest.param(".rebuilding/lineage.git", marks=pytest.mark.full)])  # fmt: skip
def test_a_killed_restore_made_nothing_and_the_next_one_does(
    backup: Path, tmp_path: Path, until: Until, place: str
) -> None:
    words = ["restore", str(backup), "--data", str(tmp_path / "swarm")]
    killed(run(*words), until, (tmp_path / ".swarm.restoring" / place).exists)
    if not (tmp_path / "swarm").exists():  # else it was quicker: all of it is there, in one step
        succeeds(*words)
    assert names(tmp_path) == {"swarm"}
    assert upkeep.verify(tmp_path / "swarm").entries == backups.check(backup).entries


def test_two_at_once_do_not_meet(lived: Path, tmp_path: Path) -> None:
    (tmp_path / ".out.part").mkdir()
    with backups.alone(tmp_path / ".out.part"):
        refused(["backup", str(tmp_path / "out"), "--data", str(lived)], "another command works in", tmp_path)


@pytest.mark.full
def test_a_ledger_with_closed_segments(tmp_path: Path) -> None:
    """One whole segment stays as it is, or is cut in the middle."""
    (tmp_path / "swarm").mkdir()
    make_folder(tmp_path / "swarm", SEGMENT_ENTRIES + 600)
    made = make(tmp_path / "swarm", tmp_path / "backup")
    assert segment_name(0) in made.files
    for until, closed in ((SEGMENT_ENTRIES + 100, 1), (SEGMENT_ENTRIES - 100, 0)):
        data_dir = tmp_path / f"until-{until}"
        restored = restore(tmp_path / "backup", data_dir, str(until), "because")
        assert restored.rebuilt.entries == until + 2
        assert len(list(data_dir.glob("autoresearch-*.jsonl.gz"))) == closed
        found = entries(data_dir)
        assert (len(found), found[-1].kind) == (until + 2, "restoration")
