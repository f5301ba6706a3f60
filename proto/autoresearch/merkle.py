"""The Merkle tree over a ledger's lines, as RFC 6962 and RFC 9162 (section 2.1) define it: roots, proofs, their checks.

A leaf is a line's bytes without its newline; leaves and nodes are hashed with different prefixes, so that no node can
pass for a line. A tree grows at its right edge only: `Frontier` keeps the complete subtrees, one for each bit of the
size, which is all that appending and the root need. Proofs are made from a function that gives the hash of a complete
subtree; where those are kept is the caller's business. Pure, shared by both sides.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

HASH_BYTES = 32
MOST_LEVELS = 63  # a size is a 63-bit number: no proof has more than two hashes a level
EMPTY_ROOT = hashlib.sha256(b"").digest()

Node: TypeAlias = Callable[
    [int, int], bytes
]  # (level, index) -> hash of leaves index * 2**level to (index+1) * 2**level


class ProofError(Exception):
    """A proof that does not prove what it should."""


def leaf_hash(line: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree by its complete subtrees, the largest first: one hash for each bit that is set in `size`."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Refuses peaks that are not those of the size."""
        if self.size < 0 or len(self.peaks) != self.size.bit_count():
            raise ValueError(f"{len(self.peaks)} peaks are not those of a tree of {self.size}")

    def grown(self, leaves: Iterable[bytes]) -> "Frontier":
        """The tree after these leaf hashes were appended."""
        size, peaks = self.size, list(self.peaks)
        for leaf in leaves:
            carried, bits = leaf, size
            while bits & 1:
                carried = node_hash(peaks.pop(), carried)
                bits >>= 1
            peaks.append(carried)
            size += 1
        return Frontier(size, tuple(peaks))

    @property
    def root(self) -> bytes:
        """The tree's root hash."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of a tree with these leaf hashes."""
    return Frontier().grown(leaves).root


def inclusion_proof(seq: int, size: int, node: Node) -> list[bytes]:
    """The hashes that lead from leaf `seq` to the root of the tree of `size`.

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= seq < size:
        raise ValueError(f"a tree of {size} has no leaf {seq}")
    proof, first, end = [], 0, size
    while end - first > 1:
        middle = first + _split(end - first)
        if seq < middle:
            proof.append(range_hash(middle, end, node))
            end = middle
        else:
            proof.append(range_hash(first, middle, node))
            first = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """The hashes that lead from the root of the tree of `old` to that of `new`; none from or to nothing new.

    Raises:
        ValueError: `old` is not from 0 to `new`.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not continue one of {old}")
    if old in (0, new):
        return []
    proof, first, end, whole = [], 0, new, True  # whole: what is left of the old tree is a tree the asker knows
    while end - first > 1 and end != old:
        middle = first + _split(end - first)
        if old <= middle:
            proof.append(range_hash(middle, end, node))
            end = middle
        else:
            proof.append(range_hash(first, middle, node))
            first, whole = middle, False
    return ([] if whole else [range_hash(first, end, node)]) + proof[::-1]


def root_from_inclusion(leaf: bytes, seq: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that a leaf and its proof lead to (RFC 9162, 2.1.3.2); the caller compares it with the one it holds.

    Raises:
        ProofError: the proof cannot be one for that leaf and size.
    """
    if not 0 <= seq < size:
        raise ProofError(f"a tree of {size} has no entry {seq}")
    _check_form(proof)
    number, last, root = seq, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofError("the proof is longer than the tree is deep")
        if number & 1 or number == last:
            root = node_hash(step, root)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            root = node_hash(root, step)
        number, last = number >> 1, last >> 1
    if last != 0:
        raise ProofError("the proof is shorter than the tree is deep")
    return root


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Proves that the tree of `new` begins with the tree of `old` (RFC 9162, 2.1.4.2).

    Raises:
        ProofError: it does not, or the proof is malformed.
    """
    _check_form(proof)
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {new} does not continue one of {old}")
    if old in (0, new):
        if proof:
            raise ProofError("a proof where nothing is to be proved")
        if (old_root, old) not in ((new_root, new), (EMPTY_ROOT, 0)):
            raise ProofError(f"two trees of {old} entries with different roots")
        return
    _follow(old, old_root, new, new_root, proof)


def _follow(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    steps = list(proof) if old & (old - 1) else [old_root, *proof]
    if not steps:
        raise ProofError("the proof is empty")
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    was = now = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise ProofError("the proof is longer than the tree is deep")
        if number & 1 or number == last:
            was, now = node_hash(step, was), node_hash(step, now)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            now = node_hash(now, step)
        number, last = number >> 1, last >> 1
    if last != 0:
        raise ProofError("the proof is shorter than the tree is deep")
    if was != old_root:
        raise ProofError(f"what it continues is not the tree of {old} entries that was seen before")
    if now != new_root:
        raise ProofError(f"it does not lead to the tree of {new} entries")


def _check_form(proof: Sequence[bytes]) -> None:
    if len(proof) > 2 * MOST_LEVELS or not all(len(step) == HASH_BYTES for step in proof):
        raise ProofError(f"a proof is at most {2 * MOST_LEVELS} hashes of {HASH_BYTES} bytes")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return int(1 << ((size - 1).bit_length() - 1))


def range_hash(first: int, end: int, node: Node) -> bytes:
    """The hash over leaves `first` to `end`: the root of the first so many entries when `first` is 0.

    `first` must be a multiple of the largest power of two in the range.
    """
    size = end - first
    if not size:
        return EMPTY_ROOT
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, first >> level)
    middle = first + _split(size)
    return node_hash(range_hash(first, middle, node), range_hash(middle, end, node))
