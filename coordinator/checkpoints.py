"""Signs statements of the ledger as a whole, keeps some of them beside it, and proves that they belong together.

A checkpoint is signed over entries that are on disk, and for whoever asks. One is kept in
`autoresearch.checkpoints.jsonl` when the coordinator starts and stops, and while it runs every KEEP_EVERY_MS or
KEEP_EVERY_ENTRIES if the ledger grew. A ledger that is not the one which was signed for stops the coordinator at its
start: signing on would make it a liar.
"""

import asyncio
import json
import logging
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import checkpoint, envelope, merkle
from autoresearch.checkpoint import CheckpointError, TreeHead
from autoresearch.digest import key_id
from autoresearch.merkle import leaf_hash
from coordinator import segments
from coordinator.ending import to_the_end
from coordinator.errors import OperatorError
from coordinator.export import LedgerExport
from coordinator.journal import Journal
from coordinator.refusals import InvalidRequestError
from coordinator.segments import Segment

T = TypeVar("T")
log = logging.getLogger(__name__)
CHECKPOINTS = "autoresearch.checkpoints.jsonl"
KEEP_EVERY_MS = 300_000
KEEP_EVERY_ENTRIES = 1_000
LOOK_EVERY_S = 1.0
AGAIN_S = 60.0  # after a checkpoint that could not be written
KEPT_LINE_BYTES = 4096
SEGMENTS_CACHED = 64  # leaf hashes of so many closed segments are kept in memory: 32 MiB for a million entries


class Checkpoints:
    """Signs and proves for one ledger. `start`, then run `run` as a task until cancelled, then `stop`."""

    def __init__(
        self, swarm_id: str, export: LedgerExport, journal: Journal, key: Ed25519PrivateKey, now_ms: Callable[[], int]
    ) -> None:
        self.path = export.path.with_name(CHECKPOINTS)
        self._swarm_id = swarm_id
        self._export = export
        self._journal = journal
        self._key = key
        self._now_ms = now_ms
        self._kept: TreeHead | None = None
        self._leaves: dict[int, list[bytes]] = {}  # of closed segments, the last used ones last
        self._loading = threading.Lock()

    async def start(self) -> None:
        """Holds the ledger against the last checkpoint that was kept, and keeps one of what it is now.

        Raises:
            OperatorError: it is another ledger, or checkpoints cannot be read or written.
        """
        try:
            self._kept = await asyncio.to_thread(last_kept, self.path, self._swarm_id, self._signer)
        except OSError as error:
            raise OperatorError(f"cannot use {self.path}: {error.strerror}") from error
        if self._kept is not None:
            await self._hold_against(self._kept)
        await self._keep()

    async def _hold_against(self, kept: TreeHead) -> None:
        length = self._export.length
        if kept.size > length:
            raise OperatorError(
                f"the ledger has {length} entries, but {kept.size} were signed for: store and ledger were set back. "
                "Restore the newest copy of both; volunteers would take anything less for a rewritten history"
            )
        if await self._in_thread(lambda node: merkle.range_hash(0, kept.size, node)) != kept.root:
            raise OperatorError(
                f"the first {kept.size} entries of the ledger are not those that were signed for: "
                "restore the files of the ledger and the store from one copy"
            )

    async def run(self) -> None:
        """Keeps a checkpoint now and then until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._keep_if_due()
            except OperatorError as error:
                log.warning("will try again: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def _keep_if_due(self) -> None:
        kept, length = self._kept, self._export.length
        grown = length - (kept.size if kept else 0)
        waited = self._now_ms() - (kept.at_ms if kept else 0)
        if grown >= KEEP_EVERY_ENTRIES or (grown and waited >= KEEP_EVERY_MS):
            await self._keep()

    async def stop(self) -> None:
        """Keeps a last one."""
        await self._keep()

    async def current(self) -> TreeHead:
        """A checkpoint of everything that is in the ledger now.

        Raises:
            OperatorError: it cannot be made durable now.
        """
        await self._journal.all_durable()
        return self._sign()

    async def inclusion(self, seq: int, size: int) -> list[bytes]:
        """The proof that entry `seq` is in the tree of `size`.

        Raises:
            InvalidRequestError: no such entry or tree.
        """
        if not seq < size <= self._export.length:
            raise InvalidRequestError(f"this ledger of {self._export.length} has no entry {seq} in a tree of {size}")
        return await self._in_thread(lambda node: merkle.inclusion_proof(seq, size, node))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` continues that of `old`.

        Raises:
            InvalidRequestError: no such trees.
        """
        if not old <= new <= self._export.length:
            raise InvalidRequestError(f"this ledger of {self._export.length} has no trees of {old} and then {new}")
        return await self._in_thread(lambda node: merkle.consistency_proof(old, new, node))

    async def _keep(self) -> None:
        """Writes a checkpoint to the file, unless the last one is of the same tree."""
        if self._kept is None or self._kept.size != self._export.length:
            await to_the_end(self._write(self._sign()))

    async def _write(self, head: TreeHead) -> None:
        try:
            await asyncio.to_thread(_append, self.path, head)
        except OSError as error:
            raise OperatorError(f"cannot write {self.path}: {error.strerror}") from error
        self._kept = head

    def _sign(self) -> TreeHead:
        tree = self._export.tree
        return checkpoint.sign(self._swarm_id, tree.size, tree.root, self._now_ms(), self._key)

    @property
    def _signer(self) -> str:
        return key_id(envelope.public_bytes(self._key))

    # --- nodes of the tree ---

    async def _in_thread(self, prove: Callable[[merkle.Node], T]) -> T:
        closed, live = self._export.closed, list(self._export.live_leaves)
        return await asyncio.to_thread(lambda: prove(self._node_of(closed, live)))

    def _node_of(self, closed: Sequence[Segment], live: Sequence[bytes]) -> merkle.Node:
        """Nodes above a segment are made from the segments' roots, those below from its lines."""
        each = self._export.segment_entries
        height = each.bit_length() - 1
        roots = [bytes.fromhex(segment.root) for segment in closed]

        def node(level: int, index: int) -> bytes:
            first, end = index << level, (index + 1) << level
            if level >= height and end <= len(roots) * each:
                return merkle.root_of(roots[first >> height : end >> height])
            if level > height:  # part of it is in the live file, which may hold more than a segment for a while
                return merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
            number, skip = divmod(first, each)
            if number < len(roots):
                return merkle.root_of(self._segment_leaves(closed[number])[skip : skip + end - first])
            begin = first - len(roots) * each
            return merkle.root_of(live[begin : begin + end - first])

        return node

    def _segment_leaves(self, segment: Segment) -> list[bytes]:
        with self._loading:  # one at a time: each takes some tens of megabytes through the processor
            found = self._leaves.pop(segment.number, None)
            if found is None:
                lines = segments.read_lines(self._export.path.parent, segment)
                found = [leaf_hash(line) for line in lines]
            self._leaves[segment.number] = found
            while len(self._leaves) > SEGMENTS_CACHED:
                self._leaves.pop(next(iter(self._leaves)))
            return found


def read_kept(path: Path, swarm_id: str, signer_id: str) -> Iterator[TreeHead]:
    """The checkpoints that were kept, oldest first; none where there is no file. A half-written last one is left out.

    Raises:
        OSError: the file cannot be read.
        CheckpointError: one is damaged, or not of that swarm and coordinator.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while line := file.readline(KEPT_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) == KEPT_LINE_BYTES:
                    raise CheckpointError(f"{path} holds a line that is too long")
                return
            try:
                data = b64decode(json.loads(line)["envelope"], validate=True)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise CheckpointError(f"{path} holds a line that is no checkpoint") from error
            yield checkpoint.read(data, swarm_id, signer_id)


def last_kept(path: Path, swarm_id: str, signer_id: str) -> TreeHead | None:
    """The last checkpoint that was kept; cuts off a half-written one after it.

    Raises:
        OSError: the file cannot be used.
        OperatorError: it is damaged.
    """
    last = None
    try:
        for last in read_kept(path, swarm_id, signer_id):  # noqa: B007 - the last one is wanted
            pass
    except CheckpointError as error:
        raise OperatorError(f"{path} is damaged ({error}): restore it from a copy, or remove it") from error
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return last


def line_of(head: TreeHead) -> bytes:
    """A checkpoint as a line of the file."""
    record = {
        "tree_size": head.size,
        "root": head.root.hex(),
        "at_ms": head.at_ms,
        "envelope": b64encode(head.signed).decode(),
    }
    return json.dumps(record).encode() + b"\n"


def _append(path: Path, head: TreeHead) -> None:
    fresh = not path.exists()
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            file.write(line_of(head))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
    if fresh:
        segments.sync_folder(path.parent)
