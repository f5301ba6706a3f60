"""No sandbox: for a person who said `--unsafe-no-sandbox`. The program may do whatever that person may.

Keeps only the limits on memory, time, processes and disk, and ends the program's processes. Leaves out all protection.
"""

from collections.abc import Mapping, Sequence

from trainer.sandbox.policy import Policy
from trainer.sandbox.supervised import SupervisedProcess, settings_of, start

PROTECTION = "nothing"


def launch(
    argv: Sequence[str],
    policy: Policy,
    *,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    pass_fds: tuple[int, ...] = (),
) -> SupervisedProcess:
    """Start `argv` unprotected. Raises SandboxError where it cannot be started."""
    settings = settings_of(argv, policy, env) | {"protection": PROTECTION}
    return start("trainer.sandbox.keeper", settings, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds)
