"""Reads the ledger that lies in a data folder, whether or not a coordinator is running on it: closed segments, then the
live file, as one sequence of lines; and goes through all of it.

Left out: writing (`export.py`), and what makes a ledger hold (`auditing.py`).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from autoresearch import limits
from autoresearch.checkpoint import CheckpointError, TreeHead
from autoresearch.digest import key_id
from autoresearch.judging import ledger
from autoresearch.judging.auditing import Audited, Auditor
from autoresearch.judging.ledger import LedgerError
from autoresearch.merkle import Frontier, leaf_hash
from coordinator import checkpoints, segments
from coordinator.errors import OperatorError
from coordinator.segments import SEGMENT_ENTRIES, Segment
from coordinator.settings import LEDGER


@dataclass(frozen=True, slots=True)
class Archive:
    """The files of a ledger in a folder."""

    folder: Path
    segment_entries: int = SEGMENT_ENTRIES

    def lines(self) -> Iterator[bytes]:
        """Every whole line; an unfinished last one, which nobody was told of, is left out.

        Raises:
            OperatorError: there is no ledger, or a file of it is damaged or missing.
        """
        path = self.folder / LEDGER
        try:
            with path.open("rb") as live:  # first: if a segment is closed meanwhile, this still is the file before it
                closed = segments.load(self.folder, self.segment_entries)
                for segment in closed:
                    yield from self._checked(segment)
                yield from _after(live, len(closed) * self.segment_entries, path)
        except FileNotFoundError as error:
            raise OperatorError(f"there is no ledger in {self.folder}: name the coordinator's --data folder") from error
        except OSError as error:
            raise OperatorError(f"cannot read {path}: {error.strerror}") from error

    def _checked(self, segment: Segment) -> Iterator[bytes]:
        """A segment's lines; at their end, that they are those which the manifest names."""
        segments.check_file(self.folder, segment)
        content, tree, last = hashlib.sha256(), Frontier(), b""
        leaves = []
        for line in segments.read_lines(self.folder, segment):
            content.update(line + b"\n")
            leaves.append(leaf_hash(line))
            last = line
            yield line
        tree = Frontier().grown(leaves)
        found = (content.hexdigest(), tree.root.hex(), hashlib.sha256(last).hexdigest())
        if found != (segment.sha256, segment.root, segment.last_sha256):
            raise segments.SegmentError(
                f"{segment.name} does not hold what the manifest says: restore both from a copy"
            )

    def heads(self) -> list[TreeHead]:
        """The checkpoints that were kept beside the ledger.

        Raises:
            OperatorError: the ledger's first entry or a checkpoint is damaged.
        """
        first = next(iter(self.lines()), None)
        if first is None:
            return []
        try:
            body = ledger.parse(first).body
            signer_id = key_id(bytes.fromhex(body["coordinator_key"]))
            return list(checkpoints.read_kept(self.folder / checkpoints.CHECKPOINTS, body["swarm_id"], signer_id))
        except (ValueError, KeyError, TypeError) as error:
            raise OperatorError(f"the first entry of the ledger is not one: {error}") from error
        except (CheckpointError, OSError) as error:
            raise OperatorError(f"a checkpoint beside the ledger does not hold: {error}") from error

    def verified(self) -> Audited:
        """Goes through everything.

        Raises:
            OperatorError: names the first thing that is wrong.
        """
        auditor = Auditor(self.heads())
        try:
            for line in self.lines():
                auditor.take(line)
            return auditor.finish()
        except LedgerError as error:
            raise OperatorError(f"{self.folder}: {error}") from error


def _after(live: BinaryIO, known: int, path: Path) -> Iterator[bytes]:
    """The live file's lines from entry `known` on: a death may have left some there that a segment has too."""
    skip = None
    while line := live.readline(limits.LEDGER_LINE_BYTES + 2):
        if not line.endswith(b"\n"):
            if len(line) > limits.LEDGER_LINE_BYTES:
                raise OperatorError(f"{path} holds a line that is longer than {limits.LEDGER_LINE_BYTES} bytes")
            return
        if skip is None:
            skip = _skip(line[:-1], known)
        if skip:
            skip -= 1
        else:
            yield line[:-1]


def _skip(first: bytes, known: int) -> int:
    """How many lines of the live file are known, from its first one. Whatever is wrong with it is for the reader."""
    try:
        return max(0, known - ledger.parse(first).seq) if known else 0
    except ValueError:
        return 0
