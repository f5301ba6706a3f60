"""Runs candidate code so that it can train and nothing else.

`launch` starts a program under a `Policy`; `available` and `self_test` say what this machine can enforce. Leaves out
what is run, and what its output means: `trial.py`.
"""

from trainer.sandbox.checkup import self_test
from trainer.sandbox.paths import python_read_paths
from trainer.sandbox.policy import Policy, SandboxedProcess, SandboxError, Usage
from trainer.sandbox.runner import available, launch

__all__ = [
    "Policy",
    "SandboxError",
    "SandboxedProcess",
    "Usage",
    "available",
    "launch",
    "python_read_paths",
    "self_test",
]
