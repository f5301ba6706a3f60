"""A patch before it is signed: read from a diff with a few leading lines, checked before anything is sent. Pure.

The coordinator checks again and strictly; this finds early what a person can mend at once. Left out: signing, sending.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from autoresearch import limits
from autoresearch.digest import is_commit_id
from autoresearch.text import is_line
from volunteer.errors import InputError

_HEAD_BYTES: Final = 8 * limits.RATIONALE_CHARACTERS  # leading lines: a rationale in UTF-8, a title, tags
MOST_BYTES: Final = limits.DIFF_BYTES + _HEAD_BYTES
_KEYS: Final = re.compile(r"(title|rationale|tags|base):[ \t]*(.*)", re.IGNORECASE)
_DIFF_STARTS: Final = re.compile(r"diff --git |--- |Index: ")
_HUNK: Final = re.compile(r"@@ -[0-9]+(?:,([0-9]+))? \+[0-9]+(?:,([0-9]+))? @@")
_NAME: Final = re.compile(r"(?:[abciow]/)?train\.py(?:\t.*)?")
_TAG: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Draft:
    """What an author proposes. Empty texts and no commit mean not said yet."""

    diff: bytes
    base_commit: str = ""
    title: str = ""
    rationale: str = ""
    tags: tuple[str, ...] = ()

    def completed(self, *, title: str, rationale: str, tags: tuple[str, ...], base_commit: str) -> "Draft":
        """With what was said on the command line in place of what the file says."""
        return replace(
            self,
            title=title or self.title,
            rationale=rationale or self.rationale,
            tags=tags or self.tags,
            base_commit=base_commit or self.base_commit,
        )


def parse(data: bytes) -> Draft:
    """The draft in a file: a diff, before it lines like `Title: ...`, `Rationale: ...`, `Tags: a, b`, `Base: COMMIT`.

    A value goes on over the lines that follow it; other leading text is passed over.

    Raises:
        InputError: too large, not UTF-8, or without a diff.
    """
    if len(data) > MOST_BYTES:
        raise InputError(f"the patch has more than {MOST_BYTES} bytes: propose a smaller change")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"the patch is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    start = next((number for number, line in enumerate(lines) if _DIFF_STARTS.match(line)), None)
    if start is None:
        raise InputError("there is no diff in the patch: make one with `git diff COMMIT -- train.py`")
    head = _head(lines[:start])
    return Draft(
        diff="\n".join(lines[start:]).encode(),
        base_commit=head.get("base", "").strip(),
        title=" ".join(head.get("title", "").split()),
        rationale=head.get("rationale", "").strip(),
        tags=tuple(re.split(r"[,\s]+", head["tags"].strip())) if head.get("tags", "").strip() else (),
    )


def check(draft: Draft) -> None:
    """Raises InputError, naming what to mend, when the coordinator would refuse the draft for its form."""
    if problem := _text_problem(draft) or _diff_problem(draft.diff):
        raise InputError(problem)


def _head(lines: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    key = ""
    for line in lines:
        if found := _KEYS.fullmatch(line.rstrip("\r")):
            key = found[1].lower()
            values[key] = found[2]
        elif key:
            values[key] += "\n" + line.rstrip("\r")
    return values


def _text_problem(draft: Draft) -> str:
    if not draft.title:
        return "the patch has no title: give --title, or a first line `Title: what it does`"
    if not is_line(draft.title, limits.TITLE_CHARACTERS):
        return f"the title must be one line of 1 to {limits.TITLE_CHARACTERS} printable characters: choose another one"
    if len(draft.rationale) > limits.RATIONALE_CHARACTERS:
        return f"the rationale has more than {limits.RATIONALE_CHARACTERS} characters: say it shorter"
    if len(draft.tags) > limits.TAGS:
        return f"{len(draft.tags)} tags; at most {limits.TAGS} are taken: leave some out"
    for tag in draft.tags:
        if len(tag) > limits.TAG_CHARACTERS or not _TAG.fullmatch(tag):
            return f"the tag {tag[:40]!r} is not made of lower-case letters, digits and dashes: change it"
    if draft.base_commit and not is_commit_id(draft.base_commit):
        return f"the base {draft.base_commit[:50]!r} is not a whole commit id of 40 hex digits: see `best`"
    return ""


def _diff_problem(diff: bytes) -> str:
    if len(diff) > limits.DIFF_BYTES:
        return f"the diff has {len(diff)} bytes; at most {limits.DIFF_BYTES} are taken: propose a smaller change"
    try:
        lines = diff.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        return f"the diff is not UTF-8 (byte {error.start}): save train.py as UTF-8"
    outside = list(_outside_hunks(lines))
    for line in outside:
        if line.startswith(("--- ", "+++ ")) and not _NAME.fullmatch(line[4:].rstrip("\r")):
            return f"the diff touches {line[4:60].strip()}, and only train.py may change: leave that file out"
    if not any(_HUNK.match(line) for line in outside):
        return "the diff changes nothing: edit train.py first"
    return ""


def _outside_hunks(lines: list[str]) -> Iterator[str]:
    """The lines that are not a hunk's content, hunk headers among them."""
    old = new = 0
    for line in lines:
        if old <= 0 and new <= 0:
            if found := _HUNK.match(line):
                old, new = (1 if count is None else int(count) for count in found.groups())
            yield line
        elif not line.startswith("\\"):
            old -= line[:1] != "+"
            new -= line[:1] != "-"
