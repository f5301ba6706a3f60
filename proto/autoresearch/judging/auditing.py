"""Goes through a ledger from its first line and stops at the first difference: from the form it must have, the chain,
what was signed, what the coordinator stated of the whole, and, if asked, what follows from the facts. Pure.

One pass, entry by entry; memory for what the facts need. Left out: where lines and checkpoints come from.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from autoresearch.attest import Attestations, AttestError
from autoresearch.checkpoint import TreeHead
from autoresearch.judging import ledger
from autoresearch.judging.ledger import Entry, Head, LedgerError
from autoresearch.judging.replay import Replay
from autoresearch.judging.texts import TextError, Texts
from autoresearch.merkle import Frontier, leaf_hash

GROWN_EVERY = 512  # leaves appended to the tree at once


@dataclass(frozen=True, slots=True)
class Audited:
    """A ledger, or its beginning, that holds."""

    swarm_id: str
    coordinator_id: str
    entries: int
    last_sha256: str
    root: bytes
    checkpoints: int  # that were compared
    unmade: int  # texts that take a merge which could not be made here


class Auditor:
    """Takes lines in.

    `heads`: what the coordinator stated, in any order; each is compared when its size is reached. `coordinator_id`:
    whose ledger it must be. `decisions`: whether every verdict, change of the quarantine and move of the best is
    recomputed. `texts`: makes every text again, if given.
    """

    def __init__(
        self,
        heads: Iterable[TreeHead] = (),
        coordinator_id: str = "",
        *,
        decisions: bool = False,
        texts: Texts | None = None,
    ) -> None:
        self.replay = Replay() if decisions else None
        self._texts = texts
        self._heads = sorted(heads, key=lambda own: own.size)
        self._coordinator_id = coordinator_id  # whose ledger it must be; empty: whoever the genesis entry names
        self._compared = 0
        self._head: Head = ledger.EMPTY
        self._tree = Frontier()
        self._leaves: list[bytes] = []
        self._signed = Attestations()
        self._compare()

    def take(self, line: bytes) -> Entry:
        """The next entry, checked.

        Raises:
            LedgerError: names the entry and what is wrong with it.
        """
        entry, head = ledger.read(line, self._head)
        try:
            self._signed.take(entry.kind, entry.body)
        except AttestError as error:
            raise LedgerError(entry.seq, str(error)) from error
        if not entry.seq:
            self._check_owner()
        if entry.kind == "restoration":
            self._check_cut(entry)
        self._recompute(entry)
        self._make(entry)
        self._head = head
        self._leaves.append(leaf_hash(line))
        if len(self._leaves) == GROWN_EVERY or self._due():
            self._grow()
            self._compare()
        return entry

    def _check_owner(self) -> None:
        if self._coordinator_id not in ("", self._signed.coordinator_id):
            raise LedgerError(
                0, f"it is the ledger of the coordinator {self._signed.coordinator_id}, not of {self._coordinator_id}"
            )

    def _check_cut(self, entry: Entry) -> None:
        self._grow()
        if entry.body["root"] != self._tree.root.hex():
            raise LedgerError(entry.seq, "what it says was kept is not what stands before it")

    def _recompute(self, entry: Entry) -> None:
        if self.replay is None:
            return
        try:
            self.replay.follow([entry])
        except (ValueError, LookupError, ArithmeticError, AssertionError, StopIteration) as error:
            raise LedgerError(entry.seq, str(error) or "it cannot be where it is") from error
        if self.replay.differences:
            raise LedgerError(*self.replay.differences[0])

    def _make(self, entry: Entry) -> None:
        if self._texts is None:
            return
        try:
            self._texts.take(entry)
        except (TextError, KeyError, TypeError) as error:
            raise LedgerError(entry.seq, str(error)) from error

    def finish(self) -> Audited:
        """What was gone through.

        Raises:
            LedgerError: the coordinator stated more entries than there are.
        """
        self._grow()
        if self._compared < len(self._heads):
            more = self._heads[-1].size
            raise LedgerError(self._head.length, f"the ledger ends here, but {more} entries were signed for")
        return Audited(
            swarm_id=self._signed.swarm_id,
            coordinator_id=self._signed.coordinator_id,
            entries=self._head.length,
            last_sha256=self._head.last_sha256,
            root=self._tree.root,
            checkpoints=self._compared,
            unmade=self._texts.unmade if self._texts else 0,
        )

    def _due(self) -> bool:
        return self._compared < len(self._heads) and self._heads[self._compared].size == self._head.length

    def _grow(self) -> None:
        self._tree = self._tree.grown(self._leaves)
        self._leaves = []

    def _compare(self) -> None:
        while self._due():
            head = self._heads[self._compared]
            if head.root != self._tree.root:
                before = self._heads[self._compared - 1].size if self._compared else 0
                raise LedgerError(
                    head.size - 1,
                    f"the tree of {head.size} entries has the root {self._tree.root.hex()[:16]}, but "
                    f"{head.root.hex()[:16]} was signed for: one of entries {before} to {head.size - 1} was changed",
                )
            self._compared += 1
