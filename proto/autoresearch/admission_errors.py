"""Why a patch was not taken: one exception with a stable code, for people, agents and the wire.

Leaves out the decisions themselves: `unified_diff` and `admission` raise what is named here.
"""

from enum import StrEnum


class AdmissionCode(StrEnum):
    """The stable name of each reason. Names are never reused; new reasons are added."""

    EMPTY = "empty"  # no bytes but white space
    TOO_LARGE = "too-large"  # the diff or the source it makes is over a limit
    NOT_UTF8 = "not-utf8"  # the diff's bytes, or the encoding that the source declares
    NOT_A_DIFF = "not-a-diff"  # there is no file header to apply
    MALFORMED_DIFF = "malformed-diff"  # a header that cannot be read, or line counts that do not add up
    OTHER_FILE = "other-file"  # touches a file that is not train.py
    NOT_AN_EDIT = "not-an-edit"  # creates, deletes, renames, changes a mode, or is binary
    DOES_NOT_APPLY = "does-not-apply"  # the lines it expects are not in the base
    NO_CHANGE = "no-change"  # the program that results is the base
    FORBIDDEN_CHARACTER = "forbidden-character"  # control characters and text-direction marks
    DOES_NOT_PARSE = "does-not-parse"  # not Python
    MISSING_ENTRY_POINT = "missing-entry-point"  # lacks a name that the trial calls


class AdmissionError(Exception):
    """A patch cannot be taken. The author must act; the message is one line and says how.

    `line` is a line of the diff or of the source, counted from one and named in the message, where one is to blame.
    """

    def __init__(self, code: AdmissionCode, message: str, *, line: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.line = line


def quoted(text: str, limit_chars: int = 60) -> str:
    """Text from outside as it may appear in a message: bounded, and harmless to a terminal."""
    shown = text if len(text) <= limit_chars else text[:limit_chars] + "..."
    return repr(shown)
