"""Text from outside, made safe to show on a terminal, in a commit or on a page. No I/O."""

import unicodedata

# Control, format (bidirectional overrides, zero-width), surrogate, private use, unassigned; line, paragraph separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def is_line(text: str, most: int) -> bool:
    """Whether `text` is one non-blank line of at most `most` printable characters."""
    return 0 < len(text) <= most and bool(text.strip()) and not any(map(_unsafe, text))


def clean_line(text: str, most: int) -> str:
    """One line: every unsafe character becomes a space, runs of space collapse, cut to `most` with an ellipsis."""
    line = " ".join("".join(" " if _unsafe(c) else c for c in text[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def clean_text(text: str, most: int) -> str:
    """Several lines: keeps newlines and tabs, drops every other unsafe character; cut to the LAST `most` characters."""
    return "".join(c for c in text[-most:] if c in "\n\t" or not _unsafe(c))


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE
