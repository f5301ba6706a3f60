"""Runs the `git` program, bounded in time, away from the person's hooks and the environment's repositories.

Left out: what is asked of it (`checkout.py`).
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch import limits
from autoresearch.text import clean_line
from volunteer.errors import InputError, MachineError

_GIT_S: Final = 120.0
# Text of strangers is checked out: no hooks, no links out of the folder, nothing executed on the way.
_CAUTION: Final = ("-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=false", "-c", "core.fsmonitor=false")


class GitError(InputError):
    """git refused; the text is its own last word."""


@dataclass(frozen=True, slots=True)
class Git:
    """The program, with the environment it is given."""

    environment: Mapping[str, str]

    def run(self, folder: Path, *arguments: str) -> bytes:
        """What `git arguments` prints when run in `folder`.

        Raises:
            MachineError: there is no git.
            GitError: it failed.
        """
        done = self._done(folder, arguments)
        if done.returncode:
            raise GitError(f"`git {arguments[0]}` failed: {_last_word(done.stderr)}")
        return done.stdout

    def attempt(self, folder: Path, answers: int, *arguments: str) -> bytes | None:
        """Likewise; None where it says no by an exit status of 1 to `answers`."""
        done = self._done(folder, arguments)
        if 0 < done.returncode <= answers:
            return None
        if done.returncode:
            raise GitError(f"`git {arguments[0]}` failed: {_last_word(done.stderr)}")
        return done.stdout

    def _done(self, folder: Path, arguments: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        command = ("git", *_CAUTION, "-C", str(folder), *arguments)
        try:
            return subprocess.run(command, capture_output=True, timeout=_GIT_S, check=False, env=dict(self.environment))
        except FileNotFoundError as error:
            raise MachineError("the program `git` is not installed: install it and try again") from error
        except subprocess.TimeoutExpired as error:
            raise GitError(
                f"`git {arguments[0]}` did not end within {_GIT_S:.0f} s: is the disk slow or the folder locked?"
            ) from error

    def line(self, folder: Path, *arguments: str) -> str:
        """Likewise, for an answer of one line."""
        return self.run(folder, *arguments).decode("utf-8", "replace").strip()


def _last_word(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    said = next(
        (line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "no reason given"
    )
    return clean_line(said, limits.REASON_CHARACTERS)
