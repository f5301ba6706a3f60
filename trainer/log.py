"""What a child printed: bounded, and harmless to show in a terminal."""

import re
import sys
from pathlib import Path

from trainer.sandbox.paths import home

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
# Everything that moves a cursor, reverses text or hides itself: C0 but newline and tab, DEL, C1, bidi, zero-width, what
# varies the sign before it, and tags, in which a whole text can be hidden from people and be read by a model.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


class LogTail:
    """Keeps the last `limit_bytes` of a stream, however much is written."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > 2 * self._limit_bytes:  # trimmed now and then, not at every write
            del self._data[: -self._limit_bytes]

    def text(self) -> str:
        return printable(bytes(self._data[-self._limit_bytes :]).decode("utf-8", "replace"))


def printable(text: str) -> str:
    """The text without escape sequences and control characters; newlines and tabs stay."""
    return _UNSAFE.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def one_line(text: str, limit: int = 300) -> str:
    """The text fit for a one-line reason: printable, single spaces, at most `limit` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def anonymous(text: str, folder: Path) -> str:
    """The text without what paths tell of the person: the trial's folder, Python's, and the home folder go."""
    for path, stands_for in ((folder, ""), (sys.prefix, "python"), (sys.base_prefix, "python"), (home(), "~")):
        text = text.replace(f"{path}/", f"{stands_for}/" if stands_for else "")
    return text
