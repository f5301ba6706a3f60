"""The text the package ships: six novels by Jane Austen, read from `data/austen.txt.xz`.

Checks the archive before believing it and cuts each book into chapters, the documents of the data set. Says nothing of
tokens, and fetches nothing: the `tiny` data set needs no network.
"""

import hashlib
import lzma
import re
from pathlib import Path

from trainer.errors import DataDamagedError

ARCHIVE = Path(__file__).parent / "data" / "austen.txt.xz"
ARCHIVE_TEXT_SHA256 = "4b901a55fc169dec4af4005f2345ce9d5907fd5b93fa7c18fb0d7cd36f778849"
ARCHIVE_TEXT_BYTES = 4_025_167

TRAIN_BOOKS = ("emma", "mansfieldpark", "prideprejudice", "sensesensibility")
VAL_BOOK = "persuasion"
RESERVE_BOOK = "northangerabbey"  # no patch is ever selected on it: fresh rows for examining baselines

_CHAPTER = re.compile(r"^(?=CHAPTER [IVXL\d]+|Chapter \d+)", re.MULTILINE)


def read_books(archive: Path = ARCHIVE) -> dict[str, str]:
    """Each book's whole text by its short name, in the archive's order.

    The archive is one xz stream of `@@ NAME BYTES\\n` lines, each followed by that many bytes of UTF-8.

    Raises:
        DataDamagedError: the archive is missing or not the one this version was made with.
    """
    text = _decompress(archive)
    books: dict[str, str] = {}
    at = 0
    while at < len(text):
        line_end = text.index(b"\n", at)
        _, name, size = text[at:line_end].decode("ascii").split(" ")
        at = line_end + 1 + int(size)
        books[name] = text[line_end + 1 : at].decode("utf-8")
    return books


def chapters(book: str) -> list[str]:
    """The book cut before every chapter heading; the title page stays with nothing and is dropped."""
    return [piece for piece in _CHAPTER.split(book)[1:] if piece.strip()]


def _decompress(archive: Path) -> bytes:
    try:
        with lzma.open(archive) as stream:
            text = stream.read(ARCHIVE_TEXT_BYTES + 1)  # bounded: a forged archive cannot fill the memory
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataDamagedError(archive, f"cannot be read ({error}); reinstall the package") from error
    if hashlib.sha256(text).hexdigest() != ARCHIVE_TEXT_SHA256:
        raise DataDamagedError(archive, "is not the text this version ships; reinstall the package")
    return text
