"""Merges a candidate onto a best that has moved since the candidate was made: texts in, a text or a conflict out.

By lines, with git's own three-way merge of single files, in temporary files and with no repository. Deterministic.

Leaves out: when to merge (`planning`), and the lineage.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoresearch.text import clean_line
from autoresearch.unified_diff import split_lines
from coordinator.admission import AdmissionError, check_source
from coordinator.sealed_git import GitFailedError, SealedGit, unusable

_EXCERPT_LINES: Final = 12
_EXCERPT_CHARACTERS: Final = 120
_MOST_CONFLICTS: Final = 127  # what git's exit status can say; above are signals and errors


@dataclass(frozen=True, slots=True)
class Conflict:
    """The two sides do not merge. `reason` is one line for the author; the excerpt is the first place, cut short."""

    reason: str
    excerpt: tuple[str, ...] = ()


def merge(base: str, ours: str, theirs: str) -> str | Conflict:
    """The best (`ours`) with the changes that lead from the base to the candidate (`theirs`).

    Every source it returns has passed `check_source`: two edits that fit by lines can still make no program.

    Raises:
        LineageError: git cannot be used.
    """
    merged = _merge_lines(base, ours, theirs)
    if isinstance(merged, Conflict):
        return merged
    try:
        check_source(merged)
    except AdmissionError as error:
        return Conflict(f"merged with the best it cannot be tried: {error}")
    return merged


def _merge_lines(base: str, ours: str, theirs: str) -> str | Conflict:
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = [folder / side for side in ("best", "base", "patch")]
            for path, text in zip(paths, (ours, base, theirs), strict=True):
                path.write_bytes(text.encode("utf-8"))
            labels = [word for path in paths for word in ("-L", path.name)]
            outcome = SealedGit(folder / "none").call("merge-file", "-p", "-q", *labels, *map(str, paths))
    except OSError as error:
        raise unusable(error, Path(tempfile.gettempdir())) from error
    if not 0 <= outcome.status <= _MOST_CONFLICTS:
        raise GitFailedError(Path(tempfile.gettempdir()), "merge-file", outcome.status, outcome.complaint)
    text = outcome.output.decode("utf-8")
    return text if outcome.status == 0 else _conflict(text, outcome.status)


def _conflict(text: str, places: int) -> Conflict:
    where = "in one place" if places == 1 else f"in {places} places"
    reason = f"the best has changed the same lines {where}: check out the best, make the change there and submit again"
    return Conflict(reason, tuple(_first_conflict(text)))


def _first_conflict(text: str) -> Iterator[str]:
    lines = split_lines(text)
    start = next(at for at, line in enumerate(lines) if line.startswith("<<<<<<< best"))
    for line in lines[start : start + _EXCERPT_LINES]:
        yield clean_line(line, _EXCERPT_CHARACTERS)
        if line.startswith(">>>>>>> patch"):
            return
