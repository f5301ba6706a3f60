"""The lineage on real git: promotions in two steps, history, bundles, and what the machine may not do to them."""

import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from coordinator.admission import admit
from coordinator.errors import OperatorError
from coordinator.lineage import (
    Lineage,
    LineageError,
    LineageUnusableError,
    TipMovedError,
    UnknownCommitError,
    companion_files,
)

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SEED = "WIDTH = 128\n\n\ndef build_model():\n    return WIDTH\n\n\ndef main(session):\n    build_model()\n"
BETTER = SEED.replace("128", "192")
TRAILERS = [("Patch-Id", "p-1"), ("Author", "Ada é"), ("Evidence", "3 identities, odds 120 : 1")]


def create(path: Path, at: datetime = AT) -> Lineage:
    files = {"train.py": SEED.encode(), "prepare.py": b"x = 1\n", "program.md": b"# how\n", **companion_files()}
    return Lineage.create(path, files, message="The seed", at=at)


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    return create(tmp_path / "lineage.git")


def build(
    lineage: Lineage, source: str = BETTER, parent: str | None = None, title: str = "Wider", hours: int = 1
) -> str:
    at = AT + timedelta(hours=hours)
    parent = parent or lineage.tip()
    return lineage.build_promotion(parent, source, title=title, trailers=TRAILERS, author_name="Ada", at=at)


def git(*arguments: str, cwd: Path) -> str:
    plain = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=cwd, env=plain, check=True, capture_output=True, text=True)
    return done.stdout


@dataclass(frozen=True)
class Promotion:
    """One commit of the branch, as git shows it to anybody."""

    generation: int
    commit: str
    title: str
    at: datetime
    trailers: tuple[tuple[str, str], ...]


def history(lineage: Lineage, limit: int) -> list[Promotion]:
    """The last commits, newest first, at most `limit`."""
    form = "--format=%H%x00%ct%x00%s%x00%(trailers:only=true,unfold=true)%x00"
    count = int(git("rev-list", "--count", "--first-parent", "best", cwd=lineage.path))
    fields = git("log", "--first-parent", f"--max-count={limit}", form, "best", cwd=lineage.path).split("\0")
    found = []
    for n in range(len(fields) // 4):
        commit, at_s, title, trailers = fields[4 * n : 4 * n + 4]
        pairs = (line.partition(": ") for line in trailers.splitlines())
        at = datetime.fromtimestamp(int(at_s), UTC)
        named = tuple((key, value) for key, _, value in pairs)
        found.append(Promotion(count - 1 - n, commit.strip(), title, at, named))
    return found


# --- create and open ---


def test_a_new_lineage_has_its_files_and_one_commit(lineage: Lineage) -> None:
    assert lineage.source_at(lineage.tip()) == SEED
    assert git("ls-tree", "--name-only", "best", cwd=lineage.path).split() == [
        ".gitignore",
        "README.md",
        "prepare.py",
        "program.md",
        "train.py",
    ]
    (first,) = history(lineage, 10)
    assert (first.generation, first.commit, first.title, first.at) == (0, lineage.tip(), "The seed", AT)
    assert git("log", "-1", "--format=%an <%ae> %cn <%ce>", "best", cwd=lineage.path).strip() == (
        "autoresearch-swarm <swarm@localhost> autoresearch-swarm <swarm@localhost>"
    )
    git("fsck", "--strict", cwd=lineage.path)


def test_what_lies_beside_the_source_tells_how_to_take_part() -> None:
    files = companion_files()
    assert sorted(files) == [".gitignore", "README.md"]
    assert b"python -m trainer run train.py" in files["README.md"]
    assert b"autoresearch-volunteer submit ." in files["README.md"]
    assert b"__pycache__/" in files[".gitignore"]


def test_another_process_opens_it_and_sees_the_same(lineage: Lineage) -> None:
    assert Lineage.open(lineage.path).tip() == lineage.tip()


def test_the_path_may_have_spaces_and_any_letters(tmp_path: Path) -> None:
    lineage = create(tmp_path / "a swarm's = é" / "lineage")
    assert lineage.source_at(build(lineage)) == BETTER


def test_nothing_is_made_where_something_is(lineage: Lineage) -> None:
    before = lineage.tip()
    with pytest.raises(LineageUnusableError, match="is there already"):
        create(lineage.path, AT + timedelta(days=1))
    assert lineage.tip() == before


def test_a_creation_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    half = tmp_path / "lineage.git.building"
    half.mkdir()
    (half / "HEAD").write_text("ref: refs/heads/elsewhere\n")
    assert create(tmp_path / "lineage.git").source_at(create(tmp_path / "other.git").tip()) == SEED
    assert not half.exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "other repository"])
def test_a_folder_that_is_no_lineage_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "place"
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.mkdir()
    if kind == "other repository":
        git("init", "-q", "--bare", cwd=path)
    with pytest.raises(LineageUnusableError, match="place is not a lineage") as caught:
        Lineage.open(path)
    assert isinstance(caught.value, OperatorError)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x", "a\tb", ".git/config"])
def test_only_plain_file_names_are_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file names"):
        Lineage.create(tmp_path / "x", {"train.py": b"", name: b""}, message="m", at=AT)
    assert not list(tmp_path.iterdir())


# --- promotions ---


def test_a_promotion_is_built_first_and_moves_the_best_after(lineage: Lineage) -> None:
    seed = lineage.tip()
    commit = build(lineage)
    assert lineage.tip() == seed
    assert lineage.source_at(commit) == BETTER
    lineage.advance(commit, seed)
    assert lineage.tip() == commit
    newest, oldest = history(lineage, 5)
    assert (newest.generation, newest.title, newest.at) == (1, "Wider", AT + timedelta(hours=1))
    assert newest.trailers == tuple(TRAILERS)
    assert oldest.commit == seed
    assert history(lineage, 1) == [newest]
    assert git("show", "best:prepare.py", cwd=lineage.path) == "x = 1\n"


def test_advancing_again_after_a_crash_changes_nothing(lineage: Lineage) -> None:
    seed = lineage.tip()
    commit = build(lineage)
    lineage.advance(commit, seed)
    lineage.advance(commit, seed)
    assert lineage.tip() == commit


def test_the_best_does_not_move_when_it_is_not_where_it_was_seen(lineage: Lineage) -> None:
    seed = lineage.tip()
    first, second = build(lineage), build(lineage, title="Other")
    lineage.advance(first, seed)
    with pytest.raises(TipMovedError) as caught:
        lineage.advance(second, seed)
    assert (caught.value.tip, caught.value.expected) == (first, seed)
    assert lineage.tip() == first


def test_a_commit_that_does_not_follow_the_best_is_refused(lineage: Lineage) -> None:
    seed = lineage.tip()
    first = build(lineage)
    second = build(lineage, parent=first, title="Next")
    with pytest.raises(LineageError, match="does not follow"):
        lineage.advance(second, seed)
    assert lineage.tip() == seed


def test_of_many_at_once_one_moves_the_best(lineage: Lineage) -> None:
    seed = lineage.tip()

    def promote(number: int) -> str | None:
        commit = build(lineage, source=f"{SEED}# {number}\n", parent=seed)
        try:
            Lineage.open(lineage.path).advance(commit, seed)
        except TipMovedError:
            return None
        return commit

    with ThreadPoolExecutor(4) as pool:
        winners = [commit for commit in pool.map(promote, range(6)) if commit]
    assert winners == [lineage.tip()]
    git("fsck", "--strict", cwd=lineage.path)


def test_a_git_that_was_killed_stops_no_later_one(lineage: Lineage) -> None:
    seed = lineage.tip()
    commit = build(lineage)
    for name in ("HEAD.lock", "refs/heads/best.lock"):
        (lineage.path / name).touch()
    lineage.advance(commit, seed)
    assert lineage.tip() == commit


def test_a_roll_back_is_one_more_promotion(lineage: Lineage) -> None:
    seed = lineage.tip()
    lineage.advance(build(lineage), seed)
    back = build(lineage, source=lineage.source_at(seed), title="Roll back", hours=2)
    lineage.advance(back, lineage.tip())
    assert lineage.source_at(lineage.tip()) == SEED
    assert [promotion.generation for promotion in history(lineage, 9)] == [2, 1, 0]


@pytest.mark.parametrize("commit", ["0" * 40, "", "best", "HEAD~1", "--help", "0" * 39, "x\ny", "refs/heads/best"])
def test_an_unknown_commit_is_named(lineage: Lineage, commit: str) -> None:
    for use in (
        lambda: lineage.source_at(commit),
        lambda: build(lineage, parent=commit or "-"),
        lambda: lineage.advance(commit, lineage.tip()),
    ):
        with pytest.raises(UnknownCommitError, match="the lineage has no commit"):
            use()


# --- what comes from outside stays in its line ---

HOSTILE = [
    "Patch-Id: forged",
    "x\n\nPatch-Id: forged\nEvidence: forged",
    "x\r\nPatch-Id: forged",
    "x\u2028Patch-Id: forged\x00\x1b[31m",
    "--- a/train.py",
    "# comment",
    "",
    " \n ",
    "-",
    "\u202egnp.exe",
    "\ud800",
    "y" * 100_000,
    "Signed-off-by: a <a@b>",
    "---",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_titles_names_and_values_cannot_forge_trailers(lineage: Lineage, text: str) -> None:
    trailers = [("Patch-Id", "p-1"), ("Author", text), ("Generation", "1")]
    seed = lineage.tip()
    commit = lineage.build_promotion(seed, BETTER, title=text, trailers=trailers, author_name=text, at=AT)
    lineage.advance(commit, seed)
    (promotion, _) = history(lineage, 2)
    assert [key for key, _ in promotion.trailers] == ["Patch-Id", "Author", "Generation"]
    assert promotion.trailers[0] == ("Patch-Id", "p-1")
    assert promotion.trailers[2] == ("Generation", "1")
    assert 1 <= len(promotion.title) <= 100
    assert promotion.title.isprintable()
    assert 1 <= len(promotion.trailers[1][1]) <= 500
    assert promotion.commit == commit
    git("fsck", "--strict", cwd=lineage.path)


@pytest.mark.parametrize("name", ["<>", "...", "a <b@c> d\n", "Ada", "\x00", "'", "é 数"])
def test_any_name_makes_an_author(lineage: Lineage, name: str) -> None:
    commit = lineage.build_promotion(lineage.tip(), BETTER, title="t", trailers=[], author_name=name, at=AT)
    author = git("log", "-1", "--format=%an|%ae|%ce", commit, cwd=lineage.path).strip()
    assert author.endswith("|author@localhost|swarm@localhost")
    assert author[0] != "|"


@pytest.mark.parametrize("key", ["patch id", "A:", "", "-A", "A\nB", "a"])
def test_a_key_that_is_none_is_a_mistake_of_ours(lineage: Lineage, key: str) -> None:
    with pytest.raises(ValueError, match="is not a trailer key"):
        lineage.build_promotion(lineage.tip(), BETTER, title="t", trailers=[(key, "v")], author_name="a", at=AT)


# --- the same everywhere ---


def test_a_commit_id_is_a_function_of_what_was_passed_in(tmp_path: Path) -> None:
    one, other = create(tmp_path / "a"), create(tmp_path / "b", AT.astimezone(timezone(timedelta(hours=5))))
    assert one.tip() == other.tip()
    assert build(one) == build(other)
    assert build(one) != build(one, hours=2)
    with pytest.raises(ValueError, match="time zone"):
        create(tmp_path / "c", AT.replace(tzinfo=None))


def hook(path: Path, witness: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ntouch '{witness}'\nexit 1\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_nothing_of_the_machine_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = create(tmp_path / "expected")
    home, witness = tmp_path / "home", tmp_path / "ran"
    home.mkdir()
    evil = "[user]\n name=Eve\n email=e@e\n[commit]\n gpgSign=true\n[core]\n autocrlf=true\n hooksPath={0}/hooks\n"
    evil += "[i18n]\n commitEncoding=latin1\n logOutputEncoding=latin1\n[init]\n templateDir={0}/template\n"
    evil += "[log]\n showSignature=true\n[diff]\n noprefix=true\n external=false\n[format]\n pretty=oneline\n"
    (home / ".gitconfig").write_text(evil.format(home))
    hook(home / "hooks" / "reference-transaction", witness)
    hook(home / "template" / "hooks" / "reference-transaction", witness)
    for name, value in {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_DIR": "/nonexistent",
        "GIT_COMMON_DIR": "/nonexistent",
        "GIT_WORK_TREE": "/nonexistent",
        "GIT_OBJECT_DIRECTORY": str(home / "objects"),
        "GIT_INDEX_FILE": "/nonexistent",
        "GIT_NAMESPACE": "evil",
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_AUTHOR_NAME": "Eve",
        "GIT_COMMITTER_DATE": "@1 +0900",
        "GIT_EXTERNAL_DIFF": "false",
        "GIT_TRACE": str(home / "trace"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(home / "hooks"),
        "TZ": "Asia/Tokyo",
        "LC_ALL": "de_DE.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    lineage = create(tmp_path / "lineage")
    with (lineage.path / "config").open("a") as config:
        config.write(evil.format(home))
    hook(lineage.path / "hooks" / "reference-transaction", witness)
    seed = lineage.tip()
    commit = build(lineage)
    lineage.advance(commit, seed)
    assert (seed, commit) == (expected.tip(), build(expected))
    assert "+WIDTH = 192" in lineage.log_patch(1)
    assert not witness.exists()
    assert not (home / "trace").exists()


# --- for others ---


def test_a_bundle_clones_and_an_edit_of_the_clone_is_admitted(lineage: Lineage, tmp_path: Path) -> None:
    lineage.advance(build(lineage), lineage.tip())
    bundle = tmp_path / "best.bundle"
    bundle.write_bytes(lineage.bundle())
    git("clone", "-q", "-b", "best", str(bundle), str(tmp_path / "checkout"), cwd=tmp_path)
    checkout = tmp_path / "checkout"
    assert git("rev-parse", "HEAD", cwd=checkout).strip() == lineage.tip()
    assert sorted(path.name for path in checkout.iterdir() if path.name != ".git") == sorted(
        ["train.py", "prepare.py", "program.md", "README.md", ".gitignore"]
    )
    (checkout / "train.py").write_text(BETTER.replace("192", "256") + "\nDEPTH = 8")
    for options in (("diff",), ("-c", "diff.mnemonicPrefix=true", "diff"), ("diff", "--no-prefix", "-U0")):
        diff = git(*options, "--", "train.py", cwd=checkout)
        candidate = admit(diff.encode(), lineage.source_at(lineage.tip())).candidate_source
        assert candidate == (checkout / "train.py").read_text()
    git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "-a", "-m", "Deeper", cwd=checkout)
    mail = git("format-patch", "--stdout", "-1", cwd=checkout)
    assert admit(mail.encode(), BETTER).candidate_source == (checkout / "train.py").read_text()


def test_a_bundle_over_the_limit_is_refused(lineage: Lineage) -> None:
    with pytest.raises(LineageUnusableError, match="the limit is 100"):
        lineage.bundle(limit_bytes=100)


def test_the_log_shows_what_each_promotion_changed(lineage: Lineage) -> None:
    lineage.advance(build(lineage), lineage.tip())
    log = lineage.log_patch(1)
    assert f"commit {lineage.tip()}" in log
    assert "Date:   2026-03-01T13:00:00+00:00" in log
    assert "-WIDTH = 128\n+WIDTH = 192\n" in log
    assert "    Patch-Id: p-1\n" in log
    assert "new file mode" not in log
    assert "new file mode" in lineage.log_patch(2)
    for count in (0, 101):
        with pytest.raises(ValueError, match="from 1 to 100"):
            lineage.log_patch(count)


# --- a machine that fails ---


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """What a full disk looks like to every process that starts meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_leaves_nothing_half_done(lineage: Lineage, tmp_path: Path) -> None:
    tip = lineage.tip()
    incompressible = SEED + "".join(f"# {os.urandom(30).hex()}\n" for _ in range(4000))
    with files_of_at_most(64 * 1024), pytest.raises(LineageUnusableError, match="the disk is full; free some space"):
        build(lineage, source=incompressible)
    with files_of_at_most(10), pytest.raises(LineageUnusableError, match="the disk is full"):
        create(tmp_path / "another")
    assert not (tmp_path / "another").exists()
    assert lineage.tip() == tip
    assert create(tmp_path / "another").tip() == tip
    assert lineage.source_at(build(lineage, source=incompressible)) == incompressible


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LineageUnusableError, match="Not a directory; mend the folder"):
        create(tmp_path / "file" / "lineage")


def test_without_git_it_says_to_install_it(lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(binaries))
    opened = Lineage.open(lineage.path)
    (binaries / "git").unlink()
    for use in (opened.tip, lambda: Lineage.open(lineage.path), lambda: create(tmp_path / "another")):
        with pytest.raises(LineageUnusableError, match="cannot find git: install it"):
            use()
    # A process that never had git can load the module and fails as clearly.
    program = "import sys; from pathlib import Path; from coordinator.lineage import Lineage; Lineage.open(Path('x'))"
    environment = {"PATH": str(binaries), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "LineageUnusableError: cannot find git: install it" in done.stderr
