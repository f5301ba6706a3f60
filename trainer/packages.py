"""Packages that only the data set `climbmix` needs, loaded when it is prepared: the extra `climbmix` of pyproject.toml.

A volunteer of a `tiny` swarm does without them.
"""

import importlib
from types import ModuleType
from typing import Final

from trainer.errors import MissingPackageError

REQUIREMENTS: Final = ("pyarrow>=18", "requests>=2.32", "urllib3>=2.3")


def needed(module: str) -> ModuleType:
    """The module.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(module.partition(".")[0], REQUIREMENTS) from error
