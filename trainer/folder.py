"""The folder of one trial: made for it, gone after it, whatever was left in it.

What lies in it is `stages.py`'s business.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import MachineError, NoSpaceError


@contextmanager
def trial_folder(work_dir: Path, needed_bytes: int) -> Iterator[Path]:
    """A fresh folder in `work_dir`, removed at the end.

    Raises:
        NoSpaceError: less than `needed_bytes` are free.
        MachineError: `work_dir` cannot be written.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        check_space(work_dir, needed_bytes)
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=work_dir.resolve()))
    except OSError as error:
        raise MachineError(f"cannot write {work_dir} ({error.strerror}): choose another work folder") from error
    try:
        yield folder
    finally:
        remove_tree(folder)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raises NoSpaceError where less than `needed_bytes` are free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise NoSpaceError(folder, needed_bytes, free_bytes)


def copy_whole(source: Path, target: Path) -> None:
    """`target` appears whole or not at all.

    Raises:
        MachineError: it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MachineError(f"cannot write {target} ({error.strerror}): choose another file") from error


def remove_tree(root: Path) -> None:
    """Remove `root` and all in it: folders without permissions, links (not what they point to), any depth.

    `shutil.rmtree` recurses, and a candidate can nest folders deeper than Python's stack. Here every folder found is
    first moved to the top. Nobody else may be writing: call it when the process tree that did is dead.
    """
    pending = [root]
    moved = 0
    while pending:
        folder = pending.pop()
        folder.chmod(0o700)
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                while os.path.lexists(top := root / f".removed-{moved}"):  # a candidate may have used such a name
                    moved += 1
                os.chmod(entry.path, 0o700)  # noqa: PTH101  (a path too long for pathlib's checks is still a path)
                os.rename(entry.path, top)  # noqa: PTH104  (likewise)
                pending.append(top)
            else:
                os.unlink(entry.path)  # noqa: PTH108  (likewise)
        if folder != root:
            folder.rmdir()
    root.rmdir()
