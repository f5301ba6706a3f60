"""The commands of authors and readers, as real processes against a coordinator on this machine."""

import asyncio
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoresearch.digest import sha256_hex
from autoresearch.judging.model import encode
from autoresearch.v1 import leaderboard_service_pb2 as board
from autoresearch.v1 import patch_pb2
from tests.integration.test_volunteer_fake import SOURCE, TIMEOUT_S, Authority, FakeCoordinator, make_certificate
from volunteer import cli as command_line

BASE = "x = 1\ny = 2\n"
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=best")
DIFF = "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n x = 1\n-y = 2\n+y = 3\n"


@dataclass
class Answer:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, "one object on one line"
        return json.loads(self.out)


class Author:
    """Runs `autoresearch-volunteer` in a home of its own."""

    def __init__(self, tmp_path: Path, address: str) -> None:
        self.home = tmp_path / "home"
        self.address = address
        self.environment: dict[str, str] = {}

    async def run(self, *arguments: str, stdin: bytes = b"") -> Answer:
        whole = ["-m", "volunteer", "--home", str(self.home), "--swarm", self.address, *arguments]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin"} | self.environment
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *whole,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        async with asyncio.timeout(3 * TIMEOUT_S):
            out, err = await process.communicate(stdin)
        return Answer(process.returncode or 0, out.decode(), err.decode())

    async def fails(self, *arguments: str, words: str, code: int = 1) -> None:
        answer = await self.run(*arguments)
        assert answer.code == code, answer
        assert answer.err.startswith("error: ")
        assert answer.err.count("\n") == 1, answer.err
        assert words in answer.err
        assert answer.out == ""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def make_lineage(folder: Path, **files: str) -> tuple[bytes, str]:
    """A bundle of branch `best` and its tip."""
    folder.mkdir()
    git(folder, "init", "-q")
    contents = files or {"train.py": BASE, "prepare.py": "p = 1\n", "program.md": "# Program\n"}
    for name, content in contents.items():
        (folder / name).write_text(content)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "Base")
    git(folder, "bundle", "create", "-q", "bundle", "best")
    return (folder / "bundle").read_bytes(), git(folder, "rev-parse", "HEAD")


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[FakeCoordinator]:
    bundle, tip = make_lineage(tmp_path / "lineage")
    best = patch_pb2.Best(generation=3, commit=tip, source_sha256=sha256_hex(SOURCE), title="Better y\x1b[2J")
    best.scores.add(hardware_class="a class", val_bpb=2.5, trials=4)
    async with FakeCoordinator(bundle=bundle, best=best) as fake:
        for number in range(250):
            patch = patch_pb2.Patch(patch_id=f"{number:016x}", title=f"Idea {number}", verdict=patch_pb2.VERDICT_OPEN)
            fake.patches[patch.patch_id] = patch
        fake.patches["0" * 16].verdict = patch_pb2.VERDICT_PARKED
        yield fake


@pytest.fixture
def author(tmp_path: Path, coordinator: FakeCoordinator) -> Author:
    return Author(tmp_path, coordinator.address)


async def test_from_checkout_to_submitted_patch(coordinator: FakeCoordinator, author: Author, tmp_path: Path) -> None:
    idea = tmp_path / "idea"
    made = (await author.run("checkout", str(idea), "--json")).json()
    assert made == {"folder": str(idea), "commit": coordinator.best.commit}
    assert names(idea) == {".git", "train.py", "prepare.py", "program.md"}
    assert git(idea, "branch", "--show-current") == "best"
    assert git(idea, "remote") == ""
    await author.fails("submit", str(idea), "--title", "None", words="no change to train.py")

    (idea / "train.py").write_text("x = 1\ny = 3\n")
    git(idea, "commit", "-q", "-am", "Mine")  # commits of one's own do not hide the base
    (idea / "train.py").write_text("x = 1\ny = 4\n")
    (idea / "notes.txt").write_text("untracked files are nobody's business")
    sent = (
        await author.run("submit", str(idea), "--title", "Larger y", "--tag", "y", "--author", "ann", "--json")
    ).json()
    (submission,) = coordinator.submissions
    assert submission.base_commit == coordinator.best.commit
    assert b"+y = 4" in submission.diff
    assert b"y = 3" not in submission.diff
    assert (submission.title, list(submission.tags), submission.author_name) == ("Larger y", ["y"], "ann")
    assert sent["patch"]["patch_id"] in coordinator.patches
    assert sent["patch"]["diff"] == submission.diff.decode()

    (idea / "prepare.py").write_text("p = 2\n")
    await author.fails("submit", str(idea), "--title", "t", words="only train.py may change, but so did prepare.py")


async def test_a_diff_from_a_file_or_a_pipe(coordinator: FakeCoordinator, author: Author, tmp_path: Path) -> None:
    file = tmp_path / "idea.diff"
    file.write_text(f"Title: From a file\nRationale: because\n\n{DIFF}")
    answer = await author.run("submit", str(file))
    assert answer.code == 0, answer.err
    assert "submitted on " + coordinator.best.commit[:12] in answer.out
    piped = await author.run("submit", "-", "--title", "Piped", "--base", "b" * 40, stdin=DIFF.encode())
    assert piped.code == 0, piped.err
    first, second = coordinator.submissions
    assert (first.title, first.rationale, first.base_commit) == ("From a file", "because", coordinator.best.commit)
    assert (second.title, second.base_commit, second.diff) == ("Piped", "b" * 40, DIFF.encode())


async def test_waiting_for_the_verdict(coordinator: FakeCoordinator, author: Author, tmp_path: Path) -> None:
    file = tmp_path / "idea.diff"
    file.write_text(DIFF)
    running = asyncio.create_task(author.run("submit", str(file), "--title", "Wait", "--wait"))
    await coordinator.until(lambda: coordinator.submissions)
    patch = coordinator.patches[next(reversed(coordinator.patches))]
    patch.evidence.sentence = "better beyond doubt"
    patch.verdict = patch_pb2.VERDICT_PROMOTED
    answer = await running
    assert answer.code == 0, answer.err
    assert "promoted" in answer.out
    assert "better beyond doubt" in answer.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "there is no diff"),
        (b"\xff" + DIFF.encode(), "not UTF-8"),
        (DIFF.replace("train.py", "prepare.py").encode(), "only train.py may change"),
        (b"x" * 400_000, "propose a smaller change"),
    ],
)
async def test_what_cannot_be_submitted_is_not_sent(
    coordinator: FakeCoordinator, author: Author, tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "idea.diff"
    file.write_bytes(content)
    await author.fails("submit", str(file), "--title", "t", words=words)
    assert coordinator.submissions == []


async def test_what_a_person_may_mistype(author: Author, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    await author.fails("submit", str(plain), "--title", "t", words="is no checkout of a swarm")
    await author.fails("submit", str(tmp_path / "nowhere"), words="No such file")
    await author.fails("patch", "feedbeef", words="no patch feedbeef")
    await author.fails("withdraw", "feedbeef", words="no patch feedbeef")
    await author.fails("patches", "--verdict", "great", words="see `autoresearch-volunteer patches --help`", code=2)


async def test_a_checkout_leaves_nothing_half_done(
    coordinator: FakeCoordinator, author: Author, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    await author.fails("checkout", str(full), words="is there already")
    await author.fails("checkout", str(tmp_path / "no" / "parent"), words="does not exist: make it first")
    empty = tmp_path / "empty"
    empty.mkdir()
    before = names(tmp_path)
    whole = coordinator.bundle
    for bundle in (b"", b"junk", whole[: len(whole) // 2], make_lineage(tmp_path / "other", a="b")[0]):
        coordinator.bundle = bundle
        await author.fails("checkout", str(empty), words="lineage")
        assert not any(empty.iterdir())
    assert names(tmp_path) - before <= {"other", "home"}
    coordinator.bundle = whole
    assert (await author.run("checkout", str(empty))).code == 0, "an empty folder may be used"


async def test_without_git(author: Author, tmp_path: Path) -> None:
    author.environment["PATH"] = str(tmp_path)
    await author.fails("checkout", str(tmp_path / "idea"), words="the program `git` is not installed")
    assert not (tmp_path / "idea").exists()


async def test_withdrawing_by_the_beginning_of_an_id(coordinator: FakeCoordinator, author: Author) -> None:
    done = (await author.run("withdraw", f"{249:016x}", "--json")).json()
    assert done["patch"]["verdict"] == "VERDICT_WITHDRAWN"
    assert coordinator.patches[f"{249:016x}"].verdict == patch_pb2.VERDICT_WITHDRAWN


async def test_patches_are_listed_over_pages(coordinator: FakeCoordinator, author: Author) -> None:
    coordinator.empty_page = True
    listed = (await author.run("patches", "--limit", "230", "--json")).json()["patches"]
    assert len(listed) == 230
    assert listed[0]["verdict"] == "VERDICT_PARKED"
    parked = await author.run("patches", "--verdict", "parked")
    assert "Idea 0" in parked.out
    assert "Idea 1" not in parked.out


async def test_one_patch_shows_its_evidence_and_votes(coordinator: FakeCoordinator, author: Author) -> None:
    patch = coordinator.patches["0" * 16]
    patch.diff = DIFF.encode()
    patch.evidence.CopyFrom(
        patch_pb2.Evidence(
            log_odds=1.9, promote_above=4.6, progress=0.41, gain_bpb=0.01, sentence="needs 2 more machines"
        )
    )
    patch.evidence.votes.add(name="[red]ann\x1b[31m", identity_id="a" * 32, log_odds=1.2, gain_bpb=0.01, sd_bpb=0.003)
    answer = await author.run("patch", "0" * 16, "--diff")
    assert answer.code == 0, answer.err
    assert "+1.90 of +4.60" in answer.out
    assert "needs 2 more machines" in answer.out
    assert "[red]ann [31m" in answer.out, "names are text, neither markup nor escape sequences"
    assert "+0.0100 ± 0.0030" in answer.out
    assert "+y = 3" in answer.out
    assert "\x1b" not in answer.out
    fields = (await author.run("patch", "0" * 16, "--json")).json()["patch"]
    assert fields["evidence"]["votes"][0]["gain_bpb"] == 0.01
    assert fields["diff"] == DIFF


async def test_readers_see_the_swarm(coordinator: FakeCoordinator, author: Author) -> None:
    coordinator.events = [
        board.Event(sequence=n, at_ms=1_700_000_000_000, kind="patch", text=f"event {n}") for n in range(3)
    ]
    assert "generation 3" in (await author.run("best")).out
    assert (await author.run("best", "--source")).out == SOURCE.decode()
    assert (await author.run("best", "--source", "--json")).json()["source"] == SOURCE.decode()
    assert "alice" in (await author.run("leaderboard")).out
    assert (await author.run("leaderboard", "--json")).json()["volunteers"][0]["train_ms"] == 720_000
    assert "tiny-test" in (await author.run("status")).out
    assert (await author.run("status", "--json")).json()["challenge_name"] == "tiny-test"
    assert "event 2" in (await author.run("events", "--start", "1")).out
    lines = (await author.run("events", "--json")).out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["event 0", "event 1", "event 2"]


async def test_an_unreachable_or_wrong_coordinator(coordinator: FakeCoordinator, author: Author) -> None:
    author.address = f"127.0.0.1:{coordinator.port}#{'a' * 32}"
    await author.fails("status", words="has another key")
    await author.fails("join", "--quiet", words="has another key")
    author.address = f"127.0.0.1:{coordinator.port}"
    await author.fails("status", words="--trust-first-use")
    await coordinator.stop()
    author.address = coordinator.address
    await author.fails("status", words="no coordinator answers")
    author.address = "127.0.0.1"
    await author.fails("status", words="has no port")


def test_a_malformed_address_is_said_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_HOME", str(tmp_path / "home"))
    (tmp_path / "diff").write_text(DIFF)
    given = ["join nonsense", "audit nonsense", f"audit nonsense --file {tmp_path / 'diff'}"]
    named = ["join", "audit", "whoami", "best", "patches", "leaderboard", "status", "events", "patch 0000"]
    named += ["withdraw 0000", "approve 0000", "refuse 0000", f"checkout {tmp_path / 'new'}"]
    named += [f"submit {tmp_path / 'diff'} --title it"]
    for words in given + [f"--swarm nonsense {words}" for words in named]:
        with pytest.raises(SystemExit) as ended:
            command_line.main(words.split())
        said = capsys.readouterr()
        assert (ended.value.code, said.out) == (1, ""), words
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert "nonsense" in said.err
        assert "has no port" in said.err
    assert names(tmp_path) == {"diff"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Missing command: see `autoresearch-volunteer --help`"),
        (["fly"], "No such command 'fly'"),
        (["events", "--start", str(2**63)], "is not in the range"),
        (["whoami", "--home", ""], "Invalid value for '--home': it names no folder"),
        (["checkout", ""], "it names no folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command_line.main(words)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert names(tmp_path) == set()


def test_a_ledger_of_somebody_else_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = encode({"seq": 0, "prev": "0" * 64, "at_ms": 1, "kind": "genesis\x1b[2J\x07", "body": {}})
    (tmp_path / "ledger").write_bytes(line + b"\n")
    line = encode({"seq": 0, "prev": "0" * 64, "at_ms": 1, "kind": "verdict", "body": {"\x1b]0;x\x07": "\x9b2J"}})
    (tmp_path / "another").write_bytes(line + b"\n")
    for name in ("ledger", "another"):
        with pytest.raises(SystemExit):
            command_line.main(["--home", str(tmp_path / "home"), "audit", "--file", str(tmp_path / name)])
        said = capsys.readouterr().err
        assert said.startswith("error: ledger entry 0: ")
        assert said.strip().isprintable(), said


async def test_a_source_moves_no_cursor_on_a_terminal(author: Author, tmp_path: Path) -> None:
    source = b"x = 1  # \x1b[2J\x9b\xff\n"
    best = patch_pb2.Best(generation=3, source_sha256=sha256_hex(source))
    async with FakeCoordinator(best=best) as coordinator:
        coordinator.sources[best.source_sha256] = source
        author.address = coordinator.address
        ours, its = pty.openpty()
        command = [sys.executable, "-m", "volunteer", "--home", str(author.home), "--swarm", author.address]
        command += ["best", "--source"]
        piped = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert (await piped.communicate())[0] == source
        process = await asyncio.create_subprocess_exec(
            *command, stdout=its, stderr=its, stdin=subprocess.DEVNULL, env={"TERM": "xterm"}
        )
        assert await process.wait() == 0
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # the other side is closed: that was all
            while chunk := os.read(ours, 1000):
                shown += chunk
        os.close(ours)
    assert shown.decode() == "x = 1  # [2J\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\r\n"


async def test_a_terminal_without_a_character_shows_another(coordinator: FakeCoordinator, author: Author) -> None:
    author.environment["PYTHONIOENCODING"] = "latin-1"
    coordinator.patches["0" * 16].title = "\N{CYRILLIC CAPITAL LETTER IO} grave"
    answer = await author.run("patch", "0" * 16)
    assert answer.code == 0, answer.err
    assert "? grave" in answer.out


def test_joining_without_an_address_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--home", str(tmp_path / "home"), "join"])
    said = capsys.readouterr()
    assert (said.out, "no swarm was joined" in said.err) == ("", True)
    assert not (tmp_path / "home").exists()


async def test_joining_a_swarm_of_another_release_says_to_upgrade(author: Author) -> None:
    answer = await author.run("join", "--device", "cpu")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "install the same release" in answer.err
    assert not (author.home / "swarm.json").exists(), "a swarm that could not be joined is not remembered"


async def test_a_public_certificate_needs_no_fingerprint(author: Author, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "roots.pem").write_bytes(authority.pem)
    async with FakeCoordinator(tls=make_certificate("swarm.example.org", authority)) as coordinator:
        author.address = f"127.0.0.1:{coordinator.port}"
        await author.fails("status", words="neither its own nor vouched for")
        author.environment["SSL_CERT_FILE"] = str(tmp_path / "roots.pem")
        assert (await author.run("status")).code == 0
        coordinator.named_tls_sha256 = ""  # TLS ends in front of it
        author.address = coordinator.address
        assert (await author.run("status")).code == 0
        coordinator.named_tls_sha256 = "0" * 64
        await author.fails("status", words="somebody stands in between")
        author.address = f"127.0.0.1:{coordinator.port}#{'a' * 32}"
        await author.fails("status", words="another key")


async def test_a_reader_of_the_output_may_leave(coordinator: FakeCoordinator, author: Author) -> None:
    coordinator.events = [board.Event(sequence=n, kind="patch", text=f"event {n}" * 20) for n in range(2000)]
    command = f"{sys.executable} -m volunteer --home {author.home} --swarm '{author.address}' events | head -1"
    process = await asyncio.create_subprocess_shell(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    assert out.count(b"\n") == 1
    assert err == b""
