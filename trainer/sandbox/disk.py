"""How much a folder holds, whatever was put into it.

Leaves out files without a name, which only the system's list of open files knows: `watch.py`.
"""

import os

ENTRIES_MAX = 20_000
# A folder's whole content against one file's bound: a checkpoint may be written beside the one it replaces.
TOTAL_PER_FILE = 2


def folder_bytes(folder: str) -> tuple[int, int]:
    """Space taken and entries beneath `folder`, not following links. Raises OSError where it hides something."""
    size = entries = 0
    waiting = [folder]
    while waiting:
        try:
            listing = os.scandir(waiting.pop())
        except FileNotFoundError:
            continue
        with listing:
            for entry in listing:
                entries += 1
                try:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                if entries > ENTRIES_MAX:
                    return size, entries
    return size, entries


def is_too_full(folder: str, file_bytes: int, *, beside_bytes: int = 0) -> bool:
    """Whether `folder`, with what is held beside it, breaks the bound that goes with one file's, or hides something."""
    try:
        size, entries = folder_bytes(folder)
    except OSError:
        return True  # something was made that cannot be looked into
    return size + beside_bytes > TOTAL_PER_FILE * file_bytes or entries > ENTRIES_MAX
