"""Whether a coordinator's git lineage holds what its ledger says: each promotion's commit, with its source, in order.

Left out: whether those sources follow (`autoresearch.judging.texts`), and how the bundle comes (`client.py`).
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from autoresearch.digest import is_commit_id, sha256_hex
from autoresearch.judging.model import Best
from autoresearch.unified_diff import PATCHED_FILE
from volunteer.checkout import received
from volunteer.errors import AuditError
from volunteer.git import Git, GitError


async def check(bundle: AsyncIterator[bytes], lineage: Sequence[Best], git: Git) -> None:
    """Returns when branch `best` of the bundle holds every commit that the ledger names, each on the one before it.

    Raises:
        AuditError: the first one that differs, by the ledger entry that names it.
        WrongCoordinatorError, GitError, DiskError: what came is no lineage, or cannot be kept.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = await received(bundle, folder)
        git.run(folder, "clone", "--quiet", "--bare", str(file), "lineage")
        before = ""
        for best in lineage:
            _check(folder / "lineage", best, before, git)
            before = best.commit


def _check(repository: Path, best: Best, before: str, git: Git) -> None:
    if not is_commit_id(best.commit):  # git would take it for an option
        raise AuditError(best.entry, f"commit {best.commit[:40]!r} is no commit's id")
    try:
        parents = git.line(repository, "rev-list", "--parents", "-n", "1", best.commit).split()[1:]
        source = git.run(repository, "cat-file", "blob", f"{best.commit}:{PATCHED_FILE}")
    except GitError as error:
        raise AuditError(best.entry, f"commit {best.commit[:12]} is not in the lineage: {error}") from error
    if parents != [before] * bool(before):
        raise AuditError(best.entry, f"commit {best.commit[:12]} does not follow {before[:12] or 'nothing'}")
    if sha256_hex(source) != best.source_sha256:
        raise AuditError(best.entry, f"commit {best.commit[:12]} holds another source than {best.source_sha256[:12]}")
