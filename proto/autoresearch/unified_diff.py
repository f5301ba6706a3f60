"""Reads a unified diff against the one file `train.py` and applies it exactly.

Strict: every line of a hunk must be in the base as it stands, at the line the hunk states or at one single other place;
the counts in a hunk's header must be true; whatever is not understood is an error and never skipped, because a patch
that is applied in part is a different patch. Linear in the diff and, per hunk, in the base.

Leaves out: fuzz, diffs of several files, renames, modes, binary patches; whether the result is Python (`admission`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from autoresearch.admission_errors import AdmissionCode, AdmissionError, quoted
from autoresearch.limits import DIFF_BYTES

PATCHED_FILE: Final = "train.py"
MAX_HUNKS: Final = 256
# Of what two lines begin with alike: so much would hide from where they differ; so much is shown before it.
_HIDES_CHARACTERS, _LEAD_CHARACTERS = 40, 10

# git's a/ and b/; with diff.mnemonicPrefix the sides are c (commit), i (index), o (object), w (work tree).
_ACCEPTED_NAMES: Final = frozenset([PATCHED_FILE, *(f"{side}/{PATCHED_FILE}" for side in "abciow")])
_MAKE_ONE: Final = f"make the diff with `git diff COMMIT -- {PATCHED_FILE}`"
# Seven digits: no file within the limits has more lines, and int() stays cheap.
_HUNK_HEADER: Final = re.compile(r"@@ -([0-9]{1,7})(?:,([0-9]{1,7}))? \+([0-9]{1,7})(?:,([0-9]{1,7}))? @@")
_NOT_EDITS: Final = {
    "old mode ": "changes the file's mode",
    "new mode ": "changes the file's mode",
    "new file mode ": "creates the file",
    "deleted file mode ": "deletes the file",
    "rename from ": "renames the file",
    "rename to ": "renames the file",
    "copy from ": "copies the file",
    "copy to ": "copies the file",
    "GIT binary patch": "is binary",
    "Binary files ": "is binary",
}


@dataclass(frozen=True, slots=True)
class Hunk:
    """One block of a diff. Lines keep their newline; only a file's last line can lack one."""

    diff_line: int  # of the header in the diff, from one
    old_start: int  # as stated: the first old line from one, or, with no old lines, the line to insert after
    old: tuple[str, ...]
    new: tuple[str, ...]
    added: int  # lines
    removed: int  # lines


@dataclass(frozen=True, slots=True)
class Applied:
    """The text that a diff makes, and in words which hunks were found away from the line they state."""

    text: str
    notes: tuple[str, ...]


def split_lines(text: str) -> list[str]:
    r"""Lines with their ends, split at \n alone: `str.splitlines` also splits at form feeds and other marks."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def apply_patch(diff: bytes, base: str) -> str:
    """The base with the diff applied.

    Raises:
        AdmissionError: as `parse_patch` and `apply_hunks`.
    """
    return apply_hunks(parse_patch(diff), base).text


def parse_patch(diff: bytes, *, max_bytes: int = DIFF_BYTES, max_hunks: int = MAX_HUNKS) -> tuple[Hunk, ...]:
    """The hunks of a diff against `train.py`, at least one.

    Free text may stand before the file header (a title, a mail header, git's extended headers), and a mail signature
    after the last hunk.

    Raises:
        AdmissionError: empty, too-large, not-utf8, not-a-diff, malformed-diff, other-file or not-an-edit.
    """
    lines = _decoded(diff, max_bytes).split("\n")
    if lines[-1] == "":
        lines.pop()
    at = _file_header(lines) + 2
    hunks: list[Hunk] = []
    while at < len(lines) and lines[at].startswith("@@"):
        if len(hunks) == max_hunks:
            _refuse(AdmissionCode.TOO_LARGE, at, f"more than {max_hunks} hunks; split the patch into smaller ones")
        hunk, at = _hunk(lines, at)
        hunks.append(hunk)
    if not hunks:
        _refuse(AdmissionCode.MALFORMED_DIFF, at, f"no hunk ('@@ -1,2 +1,3 @@') after the file header; {_MAKE_ONE}")
    _check_rest(lines, at, hunks[-1])
    return tuple(hunks)


def apply_hunks(hunks: Sequence[Hunk], base: str) -> Applied:
    """The base with every hunk applied, each to the base's own lines, in order and without overlap.

    Raises:
        AdmissionError: does-not-apply, naming the first hunk that does not match and where.
    """
    lines = split_lines(base)
    pieces: list[str] = []
    notes: list[str] = []
    done = 0
    for number, hunk in enumerate(hunks, 1):
        at = _place(number, hunk, base, lines)
        if at < done:
            _misfit(number, hunk, "overlaps the hunk before it, or the hunks are not in the file's order")
        if at != _stated(hunk):
            notes.append(f"hunk {number} applied at line {at + 1} of {PATCHED_FILE}; it says line {hunk.old_start}")
        pieces += lines[done:at]
        pieces += hunk.new
        done = at + len(hunk.old)
    pieces += lines[done:]
    _check_ends(pieces)
    return Applied("".join(pieces), tuple(notes))


def _refuse(code: AdmissionCode, index: int, message: str) -> NoReturn:
    """`index` is a position in the diff's lines, from zero."""
    raise AdmissionError(code, f"line {index + 1} of the diff: {message}", line=index + 1)


def _decoded(diff: bytes, max_bytes: int) -> str:
    if len(diff) > max_bytes:
        message = f"the diff has {len(diff)} bytes and the limit is {max_bytes}; split it into smaller patches"
        raise AdmissionError(AdmissionCode.TOO_LARGE, message)
    if not diff.strip():
        message = f"the diff is empty; edit {PATCHED_FILE} and {_MAKE_ONE}"
        raise AdmissionError(AdmissionCode.EMPTY, message)
    try:
        text = diff.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = " (it looks like UTF-16)" if diff[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        message = f"the diff is not UTF-8 at byte {error.start}{found}; save it as UTF-8"
        raise AdmissionError(AdmissionCode.NOT_UTF8, message) from None
    # A diff whose every line, headers included, ends in \r\n was converted on its way here. One whose headers end in \n
    # has \r in the file's lines, and those must match like anything else.
    converted = "\r\n" in text and text.count("\r\n") == text.count("\n")
    return text.replace("\r\n", "\n") if converted else text


def _file_header(lines: Sequence[str]) -> int:
    """Index of the line `--- a/train.py`; everything before it is free text or git's extended header."""
    in_git_header = False
    for at, line in enumerate(lines):
        if _is_file_header(lines, at):
            _check_names(at, line[4:].split("\t", 1)[0], lines[at + 1][4:].split("\t", 1)[0])
            return at
        if line.startswith("diff --git "):
            _check_git_names(at, line)
            in_git_header = True
        elif in_git_header:
            _check_extended_header(at, line)
    message = f"no file header ('--- a/{PATCHED_FILE}', then '+++ b/{PATCHED_FILE}'); {_MAKE_ONE}"
    raise AdmissionError(AdmissionCode.NOT_A_DIFF, message)


def _is_file_header(lines: Sequence[str], at: int) -> bool:
    return lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ ")


def _check_git_names(at: int, line: str) -> None:
    names = line.removeprefix("diff --git ").split(" ")
    _check_names(at, *(names if len(names) == 2 else [line, line]))


def _check_names(at: int, old: str, new: str) -> None:
    if "/dev/null" in (old, new):
        _refuse(AdmissionCode.NOT_AN_EDIT, at, f"creates or deletes a file; a patch edits {PATCHED_FILE}")
    for name in (old, new):
        if name not in _ACCEPTED_NAMES:
            message = f"touches {quoted(name)}; a patch edits {PATCHED_FILE} alone, so {_MAKE_ONE}"
            _refuse(AdmissionCode.OTHER_FILE, at, message)


def _check_extended_header(at: int, line: str) -> None:
    for prefix, what in _NOT_EDITS.items():
        if line.startswith(prefix):
            _refuse(AdmissionCode.NOT_AN_EDIT, at, f"{what}; a patch edits the lines of {PATCHED_FILE}")
    fields = line.split(" ")
    if fields[0] == "index" and len(fields) == 3 and fields[2] not in ("100644", "100755"):
        message = f"is a patch to a link or a module (mode {quoted(fields[2])}); a patch edits {PATCHED_FILE}"
        _refuse(AdmissionCode.NOT_AN_EDIT, at, message)


def _hunk(lines: Sequence[str], at: int) -> tuple[Hunk, int]:
    """The hunk whose header is at the index, and the index after it."""
    header = _HUNK_HEADER.match(lines[at])
    if header is None:
        _refuse(AdmissionCode.MALFORMED_DIFF, at, f"{quoted(lines[at])} is not a hunk header; {_MAKE_ONE}")
    old_start, old_count, _, new_count = (1 if digits is None else int(digits) for digits in header.groups())
    old: list[str] = []
    new: list[str] = []
    marks = ""
    end = at + 1
    while end < len(lines) and len(old) <= old_count and len(new) <= new_count:
        # An empty line is an empty line of context whose one space an editor or a mailer took away.
        mark, text = lines[end][:1] or " ", lines[end][1:] + "\n"
        if mark == "\\":
            _drop_newline(end, marks[-1:], old, new)
        elif len(old) == old_count and len(new) == new_count:
            break
        elif mark in " -+":
            old += [text] if mark != "+" else []
            new += [text] if mark != "-" else []
        else:
            _refuse(AdmissionCode.MALFORMED_DIFF, end, f"{quoted(lines[end])} starts with none of ' ', '-', '+'")
        marks += mark
        end += 1
    _check_counts(at, old, old_count, new, new_count)
    return Hunk(at + 1, old_start, tuple(old), tuple(new), marks.count("+"), marks.count("-")), end


def _drop_newline(at: int, mark: str, old: list[str], new: list[str]) -> None:
    r"""Takes the newline of the line that `\ No newline at end of file` follows."""
    if mark not in tuple(" -+"):
        _refuse(AdmissionCode.MALFORMED_DIFF, at, f"'\\ No newline at end of file' follows no line; {_MAKE_ONE}")
    for side in [old] * (mark != "+") + [new] * (mark != "-"):
        side[-1] = side[-1].removesuffix("\n")


def _check_counts(at: int, old: Sequence[str], old_count: int, new: Sequence[str], new_count: int) -> None:
    if (len(old), len(new)) != (old_count, new_count):
        message = f"the hunk states {old_count} old and {new_count} new lines and has {len(old)} and {len(new)}"
        _refuse(AdmissionCode.MALFORMED_DIFF, at, f"{message}; {_MAKE_ONE}")
    if not old and not new:
        _refuse(AdmissionCode.MALFORMED_DIFF, at, f"the hunk is empty; {_MAKE_ONE}")
    if any(not line.endswith("\n") for side in (old, new) for line in side[:-1]):
        message = f"'\\ No newline at end of file' stands before the end of the file; {_MAKE_ONE}"
        _refuse(AdmissionCode.MALFORMED_DIFF, at, message)


def _check_rest(lines: Sequence[str], at: int, last: Hunk) -> None:
    """After the last hunk only blank lines and a mail signature may follow, and never another file."""
    signed = False
    for index in range(at, len(lines)):
        line = lines[index]
        if line.startswith("diff --git "):
            _check_git_names(index, line)
        elif _is_file_header(lines, index):
            _check_names(index, line[4:].split("\t", 1)[0], lines[index + 1][4:].split("\t", 1)[0])
        elif signed or not line.strip():
            continue
        elif line.rstrip() == "--":
            signed = True
            continue
        else:
            message = f"belongs to no hunk: the one at line {last.diff_line} is complete by its counts; {_MAKE_ONE}"
            _refuse(AdmissionCode.MALFORMED_DIFF, index, message)
        _refuse(AdmissionCode.MALFORMED_DIFF, index, f"a second diff of {PATCHED_FILE}; join them: {_MAKE_ONE}")


def _stated(hunk: Hunk) -> int:
    """Index of the first base line the hunk says it replaces, or before which it inserts."""
    return hunk.old_start - 1 if hunk.old else hunk.old_start


def _place(number: int, hunk: Hunk, base: str, lines: Sequence[str]) -> int:
    """Index in the base's lines where the hunk belongs: where it says, or the single other place its lines occur."""
    stated = _stated(hunk)
    if 0 <= stated <= len(lines) and tuple(lines[stated : stated + len(hunk.old)]) == hunk.old:
        return stated
    if not hunk.old:
        _misfit(number, hunk, f"inserts after line {hunk.old_start} of {PATCHED_FILE}, which has {len(lines)} lines")
    first, another = _occurrences(hunk.old, base)
    if first is None:
        _misfit(number, hunk, _first_difference(hunk, lines))
    if another is not None:
        where = f"its lines occur at line {first + 1}, at line {another + 1} and perhaps more, not at the stated line"
        _misfit(number, hunk, where)
    return first


def _occurrences(old: Sequence[str], base: str) -> tuple[int | None, int | None]:
    """Indices of the first two places where these whole lines follow each other in the base."""
    text, wanted = "\n" + base, "\n" + "".join(old)
    if not wanted.endswith("\n"):  # matches at the base's end only: a longer line may begin with the same characters
        ends = text.endswith(wanted)
        return (text.count("\n", 0, len(text) - len(wanted)), None) if ends else (None, None)
    first = text.find(wanted)
    if first < 0:
        return None, None
    another = text.find(wanted, first + 1)
    return text.count("\n", 0, first), text.count("\n", 0, another) if another >= 0 else None


def _first_difference(hunk: Hunk, lines: Sequence[str]) -> str:
    for index, expected in enumerate(hunk.old, max(_stated(hunk), 0)):
        if index >= len(lines):
            return f"expects {quoted(expected)} at line {index + 1} of {PATCHED_FILE}, which has {len(lines)} lines"
        if lines[index] != expected:
            wanted, there = _quoted_apart(expected, lines[index])
            found = f"which has {there}" + _ending_hint(expected, lines[index])
            return f"expects {wanted} at line {index + 1} of {PATCHED_FILE}, {found}"
    return f"expects its lines at line {hunk.old_start} of {PATCHED_FILE}"


def _quoted_apart(one: str, other: str) -> tuple[str, str]:
    """Both lines quoted, from where one sees that they differ."""
    shared = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if shared <= _HIDES_CHARACTERS:
        return quoted(one), quoted(other)
    begin = shared - _LEAD_CHARACTERS
    return quoted("..." + one[begin:]), quoted("..." + other[begin:])


def _ending_hint(expected: str, found: str) -> str:
    r"""Lines that differ by their ends alone look the same to the eye."""
    if expected.rstrip() != found.rstrip():
        return ""
    return " (they differ in white space at the end of the line: save the diff unchanged, with \\n line ends)"


def _misfit(number: int, hunk: Hunk, what: str) -> NoReturn:
    message = f"hunk {number} (line {hunk.diff_line} of the diff) does not apply: {what}"
    remedy = "make the diff against the commit that the patch names as its base"
    raise AdmissionError(AdmissionCode.DOES_NOT_APPLY, f"{message}; {remedy}", line=hunk.diff_line)


def _check_ends(pieces: Sequence[str]) -> None:
    for index, line in enumerate(pieces[:-1]):
        if not line.endswith("\n"):
            message = f"the patch leaves line {index + 1} of {PATCHED_FILE} without a newline before more lines"
            raise AdmissionError(AdmissionCode.DOES_NOT_APPLY, f"{message}; {_MAKE_ONE}", line=index + 1)
