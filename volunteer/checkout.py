"""A git checkout of the swarm's best: made from the lineage's bundle, and read back as a diff of train.py.

Left out: how the bundle comes (`client.py`), what a diff must be (`drafts.py`).
"""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from autoresearch.unified_diff import PATCHED_FILE
from volunteer.drafts import Draft
from volunteer.errors import DiskError, InputError, WrongCoordinatorError
from volunteer.git import Git, GitError

_BRANCH: Final = "best"
# Where the swarm's best was when the checkout was made: commits of one's own on top do not hide it.
_BASE_REF: Final = "refs/autoresearch/best"


async def make(folder: Path, bundle: AsyncIterator[bytes], git: Git) -> str:
    """Makes `folder`, an absolute path, a checkout of branch `best`, or leaves nothing behind; the commit's id.

    Raises:
        InputError: the folder is there already and not empty.
        WrongCoordinatorError: what came is no lineage.
        DiskError: it cannot be written.
    """
    refuse_occupied(folder)
    with _beside(folder) as building:
        file = await received(bundle, building)
        commit = _clone(file, building / "tree", git)
        try:
            (building / "tree").rename(folder)  # onto an empty folder too
        except OSError as error:
            raise DiskError(folder, error.strerror or str(error)) from error
    return commit


async def received(bundle: AsyncIterator[bytes], folder: Path) -> Path:
    """The file in `folder` that holds the lineage's bundle.

    Raises:
        DiskError: it cannot be written.
    """
    file = folder / "lineage.bundle"
    try:
        with file.open("wb") as target:
            async for piece in bundle:
                target.write(piece)
    except OSError as error:
        raise DiskError(file, error.strerror or str(error)) from error
    return file


def refuse_occupied(folder: Path) -> None:
    """Raises InputError when something is at `folder` that a checkout would have to replace."""
    try:
        occupied = folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir())))
    except OSError as error:
        raise InputError(f"cannot look into {folder} ({error.strerror}): name another folder") from error
    if occupied:
        raise InputError(f"{folder} is there already: name a new or empty folder")
    if not folder.parent.is_dir():
        raise InputError(f"{folder.parent} does not exist: make it first")


def read_draft(folder: Path, git: Git) -> Draft:
    """The edits of train.py in a checkout, against the commit of the lineage that it was made from.

    Raises:
        InputError: it is no checkout, nothing was edited, or another file was.
    """
    try:
        top = Path(git.line(folder, "rev-parse", "--show-toplevel"))
        base = _base(top, git)
    except GitError as error:
        raise InputError(f"{folder} is no checkout of a swarm ({error}): make one with `checkout`") from error
    changed = git.run(top, "diff", "--name-only", "-z", base, "--").decode("utf-8", "replace").split("\0")
    if others := [name for name in changed if name and name != PATCHED_FILE]:
        raise InputError(
            f"only {PATCHED_FILE} may change, but so did {', '.join(others[:3])}: "
            f"undo that with `git -C {folder} checkout {base[:12]} -- {others[0]}`"
        )
    if PATCHED_FILE not in changed:
        raise InputError(f"{folder} has no change to {PATCHED_FILE}: edit it first")
    plain = (
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--no-renames",
        "--text",
        "--src-prefix=a/",
        "--dst-prefix=b/",
    )
    return Draft(diff=git.run(top, "diff", *plain, "--unified=3", base, "--", PATCHED_FILE), base_commit=base)


def _base(top: Path, git: Git) -> str:
    try:
        return git.line(top, "merge-base", "HEAD", _BASE_REF)
    except GitError:
        return git.line(top, "rev-parse", "--verify", "HEAD^{commit}")


def _clone(bundle: Path, tree: Path, git: Git) -> str:
    try:
        git.run(bundle.parent, "clone", "--quiet", "--branch", _BRANCH, "--origin", "swarm", str(bundle), str(tree))
        git.run(tree, "update-ref", _BASE_REF, "HEAD")
        git.run(tree, "remote", "remove", "swarm")  # it names a file that is gone in a moment
        commit = git.line(tree, "rev-parse", "HEAD")
    except GitError as error:
        raise WrongCoordinatorError(
            f"the coordinator's lineage cannot be checked out ({error}): tell its operator"
        ) from error
    if not (tree / PATCHED_FILE).is_file():
        raise WrongCoordinatorError(f"the coordinator's lineage holds no {PATCHED_FILE}: tell its operator")
    return commit


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same file system, gone afterwards whatever happened."""
    try:
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise DiskError(folder, error.strerror or str(error)) from error
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)
