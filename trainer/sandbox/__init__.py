"""Runs candidate code so that it can train and nothing else.

`launch` starts a program under a `Policy`; `available` and `self_test` say what this machine can enforce. Leaves out
what is run, and what its output means: `trial.py`.
"""

import sys
from collections.abc import Mapping, Sequence

from trainer.sandbox import linux
from trainer.sandbox.paths import python_read_paths
from trainer.sandbox.policy import Policy, SandboxedProcess, SandboxError, Usage

__all__ = ["Policy", "SandboxError", "SandboxedProcess", "Usage", "available", "launch", "python_read_paths"]


def available() -> str:
    """The sandbox this machine can have: `linux`, `macos`, or `none`."""
    if sys.platform == "linux":
        return "none" if linux.unavailable() else "linux"
    return "none"


def launch(
    argv: Sequence[str],
    policy: Policy,
    *,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: tuple[int, ...] = (),
    kind: str = "auto",
) -> SandboxedProcess:
    """Start a program under `policy`. Raises SandboxError: then nothing of it ran.

    argv: the program, looked up on `env`'s PATH, and its arguments. env: its whole environment.
    stdin, stdout, stderr: descriptors, or subprocess.DEVNULL. pass_fds: kept open under the same numbers.
    kind: `auto`, `linux`, `macos`, or `none`, which protects nothing and is for a person who asked for it in words.
    """
    if kind == "auto":
        kind = available()
    return linux.launch(argv, policy, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)
