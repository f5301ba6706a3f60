"""Merges texts as a coordinator does: by lines, with git's own three-way merge of single files, with no repository.

Left out: what is merged (`autoresearch.judging.texts`).
"""

import tempfile
from pathlib import Path
from typing import Final

from autoresearch.judging.texts import Merge
from volunteer.errors import MachineError
from volunteer.git import Git

_CONFLICTS_MOST: Final = 127  # what git's exit status can say; above are signals and errors


def merger(git: Git) -> Merge | None:
    """How texts are merged here; None where there is no git."""
    try:
        git.run(Path("/"), "--version")
    except MachineError:
        return None

    def merge(base: str, ours: str, theirs: str) -> str | None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for side, text in (("best", ours), ("base", base), ("patch", theirs)):
                (folder / side).write_bytes(text.encode())
            labels = [word for side in ("best", "base", "patch") for word in ("-L", side)]
            merged = git.attempt(folder, _CONFLICTS_MOST, "merge-file", "-p", "-q", *labels, "best", "base", "patch")
        return None if merged is None else merged.decode()

    return merge
