"""Runs git in an environment of its own, so that the same inputs make the same bytes on every machine.

No variable of ours reaches git, and no configuration, hook, attribute or signature of the machine or of the user:
commit ids are evidence, and a replayed ledger must give them again. Safe to call from many threads.

Leaves out: what is stored (`lineage`), and time: dates and identities are arguments.
"""

import errno
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from autoresearch.text import clean_line
from coordinator.errors import CoordinatorError, OperatorError

if TYPE_CHECKING:
    from git import Git

_NOTHING: Final[Mapping[str, str]] = {}
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/nonexistent",
    "TZ": "UTC",
    "LC_ALL": "C",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_DEFAULT_HASH": "sha1",
    "GIT_DEFAULT_REF_FORMAT": "files",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
# Said on the command line, where they win over the repository's own configuration too.
_CONFIGURATION: Final[Mapping[str, str]] = {
    "commit.gpgSign": "false",
    "core.attributesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.fsync": "all",  # git 2.36 and later: by default a loose object is not flushed to the disk
    "core.hooksPath": "/dev/null",
    "core.logAllRefUpdates": "false",  # a reflog would record the machine's clock
    "gc.auto": "0",
    "i18n.commitEncoding": "utf-8",
    "i18n.logOutputEncoding": "utf-8",
    "merge.conflictStyle": "merge",
    "pack.threads": "1",  # the coordinator's other work goes on meanwhile
}
_FULL: Final = ("No space left on device", "Disk quota exceeded", "File too large")
_FULL_ERRNO: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_COMMAND: Final = (126, 127)  # what `env` answers when it cannot start one


class LineageError(CoordinatorError):
    """Base of what is wrong with the lineage."""


class LineageUnusableError(LineageError, OperatorError):
    """git or its folder cannot be used: git is missing, the folder is no lineage, the disk is full."""


class GitFailedError(LineageUnusableError):
    """git refused a command of ours. `status` is its exit status, `complaint` its own words in one line."""

    def __init__(self, folder: Path, command: str, status: int, complaint: str) -> None:
        reason = complaint or f"status {status}"
        super().__init__(f"git {command} failed in {folder} ({reason}): mend the folder or restore it from its backup")
        self.status = status
        self.complaint = complaint


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a git command ended."""

    status: int
    output: bytes
    complaint: str


class SealedGit:
    """git on one repository folder, which need not exist yet."""

    def __init__(self, git_dir: Path) -> None:
        """Finds git.

        Raises:
            LineageUnusableError: there is no git, or no GitPython.
        """
        self._git_dir = git_dir
        self._executable = shutil.which("git")
        if self._executable is None:
            raise LineageUnusableError(_MISSING)
        self._git = _git_python(git_dir)

    def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        identity: Mapping[str, str] = _NOTHING,
        held_files: Sequence[int] = (),
    ) -> bytes:
        """What the command prints. The descriptors of held files stay open in git until it ends.

        Raises:
            GitFailedError: its status was not zero.
            LineageUnusableError: git has gone, or the disk is full.
        """
        outcome = self.call(*arguments, stdin=stdin, identity=identity, held_files=held_files)
        if outcome.status != 0:
            raise GitFailedError(self._git_dir, arguments[0], outcome.status, outcome.complaint)
        return outcome.output

    def line(self, *arguments: str, stdin: bytes = b"", identity: Mapping[str, str] = _NOTHING) -> str:
        """The same for a command that prints one line, such as an object's id."""
        return self.run(*arguments, stdin=stdin, identity=identity).decode().strip()

    def call(
        self,
        *arguments: str,
        stdin: bytes = b"",
        identity: Mapping[str, str] = _NOTHING,
        held_files: Sequence[int] = (),
    ) -> Outcome:
        """The same for a command whose status is an answer."""
        try:
            with tempfile.TemporaryFile() as given:
                given.write(stdin)
                given.seek(0)
                ended = self._git.execute(
                    [*self._prefix(identity), *arguments],
                    istream=given,
                    with_extended_output=True,
                    with_exceptions=False,
                    stdout_as_string=False,
                    strip_newline_in_stdout=False,
                    pass_fds=held_files,
                )
        except OSError as error:
            raise unusable(error, self._git_dir) from error
        status, output, complaint = ended
        assert isinstance(output, bytes)
        return self._checked(Outcome(status, output, clean_line(complaint, 300)))

    def _prefix(self, identity: Mapping[str, str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in {**_ENVIRONMENT, **identity}.items()]
        configuration = [word for name, value in _CONFIGURATION.items() for word in ("-c", f"{name}={value}")]
        # An explicit --git-dir also stops git from searching the parent folders and from asking who owns this one.
        return ["/usr/bin/env", "-i", *variables, str(self._executable), f"--git-dir={self._git_dir}", *configuration]

    def _checked(self, outcome: Outcome) -> Outcome:
        if outcome.status in _NO_COMMAND:
            raise LineageUnusableError(_MISSING)
        if outcome.status == -signal.SIGXFSZ or any(words in outcome.complaint for words in _FULL):
            raise _full(self._git_dir)
        return outcome


_MISSING: Final = "cannot find git: install it (apt install git, dnf install git, brew install git) and start again"


def unusable(error: OSError, path: Path) -> LineageUnusableError:
    """An error of the file system in words for the operator."""
    if error.errno in _FULL_ERRNO:
        return _full(path)
    return LineageUnusableError(f"cannot use {path}: {error.strerror or error}; mend the folder and try again")


def _full(path: Path) -> LineageUnusableError:
    return LineageUnusableError(f"cannot write to {path}: the disk is full; free some space and try again")


def _git_python(git_dir: Path) -> "Git":
    try:
        from git import Git  # noqa: PLC0415 - on import GitPython looks for git, whose absence is ours to word
    except ImportError as error:
        reason = clean_line(str(error), 120)
        message = f"cannot use GitPython ({reason}): pip install 'autoresearch-swarm[coordinator]', and install git"
        raise LineageUnusableError(message) from error
    return Git(str(git_dir))
