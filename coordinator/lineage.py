"""Keeps the lineage: a bare git repository whose branch `best` has one commit for every promotion.

A promotion has two steps, because its ledger entry is written between them: `build_promotion` makes the commit and
moves nothing, `advance` moves the branch if it still stands where the caller saw it. Commit ids are a function of what
is passed in alone, so that a replayed ledger makes the same history. Every call blocks for some milliseconds.

Leaves out: what deserves promotion (`verdict`), what a source must be (`admission`), how texts merge (`merging`).
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Final

from autoresearch.limits import LINEAGE_BYTES, NAME_CHARACTERS, REASON_CHARACTERS, TITLE_CHARACTERS
from autoresearch.text import clean_line
from autoresearch.unified_diff import PATCHED_FILE
from coordinator.merging import Conflict, merge
from coordinator.sealed_git import GitFailedError, LineageError, LineageUnusableError, SealedGit, unusable

__all__ = [
    "Conflict",
    "Lineage",
    "LineageError",
    "LineageUnusableError",
    "TipMovedError",
    "UnknownCommitError",
    "companion_files",
    "merge",
]

BRANCH: Final = "best"
_REF: Final = f"refs/heads/{BRANCH}"
_SWARM: Final = "autoresearch-swarm <swarm@localhost>"
_COMMIT_ID: Final = re.compile(r"[0-9a-f]{40}")
_FILE_NAME: Final = re.compile(r"\.?[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRAILER_KEY: Final = re.compile(r"[A-Z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
MAX_PATCHES_SHOWN: Final = 100


class UnknownCommitError(LineageError):
    """The lineage has no such commit."""

    def __init__(self, commit: str) -> None:
        shown = clean_line(commit, 40)
        super().__init__(f"the lineage has no commit {shown!r}; `autoresearch-volunteer best` shows the newest one")
        self.commit = commit


class TipMovedError(LineageError):
    """The branch stands somewhere else than the caller believed. Nothing was changed."""

    def __init__(self, tip: str, expected: str) -> None:
        super().__init__(f"the best is now {tip} and not {expected}: decide again on the new best")
        self.tip = tip
        self.expected = expected


def companion_files() -> dict[str, bytes]:
    """What lies beside `train.py` in every checkout and is this program's own: file name to content."""
    folder = resources.files("coordinator").joinpath("lineage_files")
    # Kept without its dot: packaging skips hidden files, and here it would hide files from this project's own git.
    kept_as = {"README.md": "README.md", ".gitignore": "gitignore"}
    return {name: folder.joinpath(kept).read_bytes() for name, kept in kept_as.items()}


class Lineage:
    """The repository at one path. `create` and `open` make it; any number of processes may hold it."""

    def __init__(self, path: Path, git: SealedGit) -> None:
        self.path = path
        self._git = git

    @classmethod
    def create(cls, path: Path, files: Mapping[str, bytes], *, message: str, at: datetime) -> "Lineage":
        """A new lineage whose first commit holds the files (names without folders; `train.py` among them).

        All or nothing: it is made beside `path` and renamed when complete.

        Raises:
            LineageUnusableError: something is at the path already, git is missing, or the disk is full.
        """
        if PATCHED_FILE not in files or not all(_FILE_NAME.fullmatch(name) for name in files):
            raise ValueError(f"needs {PATCHED_FILE} and plain file names, got {sorted(files)}")
        with _file_system(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise LineageUnusableError(f"{path} is there already: open it, or name another folder")
            building = path.with_name(f"{path.name}.building")
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            git = SealedGit(building)
            git.run("init", "--quiet", "--bare", "--template=")
            git.run("symbolic-ref", "HEAD", _REF)
            draft = cls(building, git)
            tree = draft._write_tree({name: draft._write_blob(content) for name, content in files.items()})
            git.run("update-ref", _REF, draft._write_commit(tree, [], _text(message, ()), _SWARM, at), "")
            building.rename(path)
            _flush_folder(path.parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "Lineage":
        """The lineage at the path.

        Raises:
            LineageUnusableError: there is none, or git is missing.
        """
        lineage = cls(path, SealedGit(path))
        try:
            lineage.source_at(lineage.tip())
        except (GitFailedError, UnknownCommitError) as error:
            reason = f"no {PATCHED_FILE} on its branch `{BRANCH}`" if path.exists() else "it does not exist"
            message = f"{path} is not a lineage ({reason}): point to the right folder, or restore it from its backup"
            raise LineageUnusableError(message) from error
        return lineage

    def tip(self) -> str:
        """The commit at the tip of branch `best`."""
        return self._git.line("rev-parse", "--verify", "--quiet", f"{_REF}^{{commit}}")

    def source_at(self, commit: str) -> str:
        """The text of `train.py` in the commit, whether or not the branch has reached it.

        Raises:
            UnknownCommitError: there is no such commit.
        """
        try:
            return self._git.run("cat-file", "blob", f"{_commit_id(commit)}:{PATCHED_FILE}").decode("utf-8")
        except GitFailedError as error:
            raise UnknownCommitError(commit) from error

    def build_promotion(
        self,
        parent_commit: str,
        source: str,
        *,
        title: str,
        trailers: Sequence[tuple[str, str]],
        author_name: str,
        at: datetime,
    ) -> str:
        """Writes the commit that promotes the source after its parent, and returns its id. Moves no branch.

        Title, author and values come from outside: each becomes one bounded line. Keys are ours (`Patch-Id`).

        Raises:
            UnknownCommitError: there is no such parent.
            LineageUnusableError: the disk is full.
            ValueError: a key that is no trailer key, or an instant without time zone.
        """
        tree = self._tree_of(parent_commit)
        tree[PATCHED_FILE] = self._write_blob(source.encode("utf-8"))
        author = f"{_author(author_name)} <author@localhost>"
        return self._write_commit(self._write_tree(tree), [parent_commit], _text(title, trailers), author, at)

    def advance(self, commit: str, expected_parent: str) -> None:
        """Moves branch `best` from the expected parent to the commit; does nothing when it is there already.

        Raises:
            TipMovedError: the branch stands elsewhere.
            UnknownCommitError: there is no such commit.
            LineageError: the commit does not follow the expected parent.
        """
        if self.tip() == commit:
            return
        if self._parent_of(commit) != expected_parent:
            raise LineageError(f"commit {commit} does not follow {expected_parent}: build the promotion again")
        try:
            with self._alone() as lock:
                self._git.run("update-ref", _REF, commit, expected_parent, held_files=[lock])
        except GitFailedError as error:
            tip = self.tip()
            if tip == expected_parent:  # not a race: git could not write
                raise
            if tip != commit:
                raise TipMovedError(tip, expected_parent) from error

    def bundle(self, limit_bytes: int = LINEAGE_BYTES) -> bytes:
        """Branch `best` with its whole history as one file that `git clone -b best` accepts.

        Raises:
            LineageUnusableError: it is larger than the limit.
        """
        data = self._git.run("bundle", "create", "--quiet", "-", "HEAD", _REF)
        if len(data) > limit_bytes:
            message = f"the bundle of {self.path} has {len(data)} bytes and the limit is {limit_bytes}: raise the limit"
            raise LineageUnusableError(message)
        return data

    def log_patch(self, count: int) -> str:
        """The last commits with their diffs, as `git log -p` prints them."""
        if not 1 <= count <= MAX_PATCHES_SHOWN:
            raise ValueError(f"count must be from 1 to {MAX_PATCHES_SHOWN}")
        plain = ["--no-ext-diff", "--no-textconv", "--no-color", "--text", "--src-prefix=a/", "--dst-prefix=b/"]
        how = ["--first-parent", f"--max-count={count}", "--format=medium", "--date=iso-strict", "--patch"]
        return self._git.run("log", *how, *plain, _REF).decode("utf-8", "replace")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Holds the right to move the branch, against other processes too, until git and we have both let go of it.

        A git that was killed leaves lock files, which would stop every later one. Whoever holds this lock, which no
        death leaves behind, knows that they are stale.
        """
        with _file_system(self.path), (self.path / "moving").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name in ("HEAD", _REF):
                (self.path / f"{name}.lock").unlink(missing_ok=True)
            yield lock.fileno()

    def _write_blob(self, content: bytes) -> str:
        return self._git.line("hash-object", "-w", "--no-filters", "--stdin", stdin=content)

    def _write_tree(self, blobs: Mapping[str, str]) -> str:
        entries = b"".join(f"100644 blob {blob}\t{name}\0".encode() for name, blob in blobs.items())
        return self._git.line("mktree", "-z", stdin=entries)

    def _write_commit(self, tree: str, parents: Sequence[str], text: str, author: str, at: datetime) -> str:
        parent_options = [word for parent in parents for word in ("-p", parent)]
        identity = {**_identity("AUTHOR", author, at), **_identity("COMMITTER", _SWARM, at)}
        message = text.encode("utf-8")
        return self._git.line("commit-tree", *parent_options, "-F", "-", tree, stdin=message, identity=identity)

    def _tree_of(self, commit: str) -> dict[str, str]:
        try:
            listing = self._git.run("ls-tree", "-z", _commit_id(commit)).decode()
        except GitFailedError as error:
            raise UnknownCommitError(commit) from error
        entries = (entry.split("\t", 1) for entry in listing.split("\0") if entry)
        return {name: kind.split(" ")[2] for kind, name in entries}

    def _parent_of(self, commit: str) -> str:
        answer = self._git.call("rev-parse", "--verify", "--quiet", f"{_commit_id(commit)}^")
        if answer.status != 0:
            raise UnknownCommitError(commit)
        return answer.output.decode().strip()


@contextlib.contextmanager
def _file_system(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unusable(error, path) from error


def _flush_folder(folder: Path) -> None:
    """A rename is durable when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit_id(commit: str) -> str:
    """Only a whole id: anything else could be an option or an expression to git."""
    if _COMMIT_ID.fullmatch(commit) is None:
        raise UnknownCommitError(commit)
    return commit


def _identity(role: str, who: str, at: datetime) -> dict[str, str]:
    if at.tzinfo is None:
        raise ValueError("the instant needs a time zone")
    name, email = who.removesuffix(">").split(" <")
    return {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": email, f"GIT_{role}_DATE": f"@{int(at.timestamp())} +0000"}


def _author(name: str) -> str:
    """A name as git takes it: no angle brackets, and not of punctuation alone."""
    plain = clean_line(re.sub("[<>]", " ", name), NAME_CHARACTERS).strip(" .,:;\"'\\")
    return plain or "anonymous"


def _text(title: str, trailers: Sequence[tuple[str, str]]) -> str:
    """A commit message: one line of title, an empty one, one line for each trailer."""
    for key, _ in trailers:
        if _TRAILER_KEY.fullmatch(key) is None:
            raise ValueError(f"{key!r} is not a trailer key such as Patch-Id")
    lines = [f"{key}: {clean_line(value, REASON_CHARACTERS) or '-'}\n" for key, value in trailers]
    head = clean_line(title, TITLE_CHARACTERS) or "Untitled"
    return "".join([f"{head}\n", "\n" * bool(lines), *lines])
