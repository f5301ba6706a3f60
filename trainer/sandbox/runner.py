"""Chooses the machine's sandbox and starts a program in it.

Leaves out whether a sandbox keeps its word: `checkup.py` tries.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from trainer.sandbox import linux, macos, none
from trainer.sandbox.policy import Policy, SandboxedProcess, SandboxError

_SANDBOXES = {"linux": linux, "darwin": macos}
_LAUNCHES: dict[str, Callable[..., SandboxedProcess]] = {
    "linux": linux.launch,
    "landlock": partial(linux.launch, namespaces=False),
    "macos": macos.launch,
    "none": none.launch,
}


def available() -> str:
    """The sandbox this machine can have: `linux`, `macos`, or `none`."""
    if unavailable() is not None:
        return "none"
    return "linux" if sys.platform == "linux" else "macos"


def unavailable() -> str | None:
    """Why this machine can have no sandbox; None when it can."""
    sandbox = _SANDBOXES.get(sys.platform)
    return sandbox.unavailable() if sandbox else f"there is no sandbox for {sys.platform}"


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
    stdin, stdout, stderr: descriptors, or subprocess.DEVNULL. pass_fds: kept open under the same numbers. The program
    may do with any of them whatever the descriptor allows: give it pipes, never a terminal.
    kind: `auto`, `linux`, `landlock` (Linux without namespaces, as where they are forbidden), `macos`, or `none`, which
    protects nothing and is for a person who asked for it in words.
    """
    chosen = _LAUNCHES.get(_kind(kind))
    if chosen is None:
        raise SandboxError(f"there is no kind of sandbox called {kind!r}: use auto, {', '.join(_LAUNCHES)}")
    return chosen(argv, policy, env=env, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)


def _kind(asked: str) -> str:
    """`auto` is the machine's own, never none. Raises SandboxError where there is none."""
    reason = unavailable()
    if asked != "auto":
        return asked
    if reason is not None:
        raise SandboxError(f"{reason}; to run patches unprotected, at your own risk, say --unsafe-no-sandbox")
    return available()
