"""What was made from what, noted beside a data set while it is being prepared, and believed only after a look.

A receipt says that some files were made from certain inputs; it counts as long as each file still has the sha256 that
it had then. The note of sources keeps what the hub said of its files, so that a later run asks for the same ones.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from trainer.answers import MAX_FILE_BYTES, RemoteFile
from trainer.files import file_sha256, write_file

FOLDER: Final = ".receipts"
_SOURCES: Final = "sources.json"
_MAX_BYTES: Final = 4_000_000
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


class Receipts:
    """The receipts of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / FOLDER

    def find(self, name: str, made_from: Mapping[str, object]) -> dict[str, str] | None:
        """The sha256 of each file that was made from that, if all of them are still what they were."""
        receipt = self._read(f"{name}.json")
        if receipt.get("made_from") != made_from or not isinstance(receipt.get("files"), dict):
            return None
        files = {str(file): str(sha256) for file, sha256 in receipt["files"].items() if Path(file).name == file}
        try:
            sound = all(file_sha256(self._data_dir / file) == sha256 for file, sha256 in files.items())
        except FileNotFoundError:
            return None
        return files if sound and files else None

    def write(self, name: str, made_from: Mapping[str, object], files: Iterable[str]) -> dict[str, str]:
        """Note that the files were made from that; the sha256 of each."""
        digests = {file: file_sha256(self._data_dir / file) for file in files}
        self._write(f"{name}.json", {"made_from": made_from, "files": digests})
        return digests

    def sources(self, repository: str) -> tuple[str | None, dict[str, RemoteFile]]:
        """Commit and files of a repository, as they were noted; None and nothing where there is no such note."""
        note = self._read(_SOURCES)
        commit, files = note.get("commit"), note.get("files")
        if note.get("repository") != repository or not isinstance(commit, str) or not isinstance(files, dict):
            return None, {}
        if not _COMMIT.fullmatch(commit):
            return None, {}
        remotes = (_remote(name, commit, fields) for name, fields in files.items())
        return commit, {remote.path: remote for remote in remotes if remote is not None}

    def note_sources(self, repository: str, commit: str, files: Iterable[RemoteFile]) -> None:
        """Keep what the hub said."""
        described = {remote.path: [remote.size_bytes, remote.sha256] for remote in files}
        self._write(_SOURCES, {"repository": repository, "commit": commit, "files": described})

    def _read(self, name: str) -> dict[str, Any]:
        try:
            with (self._folder / name).open("rb") as stream:
                content = json.loads(stream.read(_MAX_BYTES))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, name: str, content: object) -> None:
        self._folder.mkdir(exist_ok=True)
        write_file(self._folder / name, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode("ascii"))


def _remote(name: str, commit: str, fields: object) -> RemoteFile | None:
    match fields:
        case [int(size), str(sha256)] if 0 < size <= MAX_FILE_BYTES and _SHA256.fullmatch(sha256):
            return RemoteFile(name, commit, size, sha256)
    return None
