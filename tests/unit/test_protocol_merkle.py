"""The Merkle tree against the RFC's definition, known answers, and whatever could be done to a proof."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import merkle
from autoresearch.merkle import Frontier, ProofError

# Leaves and roots of the Certificate Transparency project's reference tests (google/certificate-transparency,
# merkletree/merkle_tree_test.cc), which RFC 6962's authors published with the specification.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
MANY = [b"%d" % n for n in range(130)]


def mth(lines: list[bytes]) -> bytes:
    """The root by the words of RFC 6962, section 2.1, and nothing else."""
    if not lines:
        return hashlib.sha256().digest()
    if len(lines) == 1:
        return hashlib.sha256(b"\x00" + lines[0]).digest()
    k = 1
    while 2 * k < len(lines):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(lines[:k]) + mth(lines[k:])).digest()


def path(m: int, lines: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(lines) == 1:
        return []
    k = 1
    while 2 * k < len(lines):
        k *= 2
    return [*path(m, lines[:k]), mth(lines[k:])] if m < k else [*path(m - k, lines[k:]), mth(lines[:k])]


def subproof(m: int, lines: list[bytes], whole: bool) -> list[bytes]:
    """RFC 6962, section 2.1.2."""
    if m == len(lines):
        return [] if whole else [mth(lines)]
    k = 1
    while 2 * k < len(lines):
        k *= 2
    if m <= k:
        return [*subproof(m, lines[:k], whole), mth(lines[k:])]
    return [*subproof(m - k, lines[k:], False), mth(lines[:k])]


def node_of(lines: list[bytes]) -> merkle.Node:
    return lambda level, index: mth(lines[index << level : (index + 1) << level])


def frontier(lines: list[bytes]) -> Frontier:
    return Frontier().grown(map(merkle.leaf_hash, lines))


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots(size: int) -> None:
    assert frontier(LEAVES[:size]).root.hex() == mth(LEAVES[:size]).hex() == ROOTS[size]
    assert merkle.root_of([merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == ROOTS[size]


def test_published_proofs() -> None:
    """From the same tests: the paths to leaves 1, 3 and 2 of trees of 1, 8 and 3, the proof from 6 to 8."""
    node = node_of(LEAVES)
    assert merkle.inclusion_proof(0, 1, node) == []
    assert [step.hex() for step in merkle.inclusion_proof(2, 3, node)] == [ROOTS[2]]
    assert [step.hex() for step in merkle.inclusion_proof(5, 8, node)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [step.hex() for step in merkle.consistency_proof(6, 8, node)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 13, 16, 21])
def test_every_proof_of_small_trees_is_the_rfcs_and_holds(size: int) -> None:
    lines, node = MANY[:size], node_of(MANY[:size])
    for seq in range(size):
        proof = merkle.inclusion_proof(seq, size, node)
        assert proof == path(seq, lines)
        assert merkle.root_from_inclusion(merkle.leaf_hash(lines[seq]), seq, size, proof) == mth(lines)
    for old in range(size + 1):
        proof = merkle.consistency_proof(old, size, node)
        assert proof == (subproof(old, lines, True) if 0 < old < size else [])
        merkle.check_consistency(old, mth(lines[:old]), size, mth(lines), proof)


@given(st.lists(st.binary(max_size=40), max_size=70), st.data())
def test_growing_in_pieces_is_the_same_tree_and_proofs_lead_anywhere(lines: list[bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(lines)))
    grown = frontier(lines[:cut]).grown(map(merkle.leaf_hash, lines[cut:]))
    assert grown == frontier(lines)
    assert grown.root == mth(lines)
    assert len(grown.peaks) == len(lines).bit_count()
    proof = merkle.consistency_proof(cut, len(lines), node_of(lines))
    assert len(proof) <= 2 * max(1, len(lines)).bit_length()
    merkle.check_consistency(cut, mth(lines[:cut]), len(lines), mth(lines), proof)


@given(st.integers(1, 130), st.data())
def test_a_proof_with_anything_changed_does_not_hold(size: int, data: st.DataObject) -> None:
    lines, node = MANY[:size], node_of(MANY[:size])
    seq = data.draw(st.integers(0, size - 1))
    proof, leaf = merkle.inclusion_proof(seq, size, node), merkle.leaf_hash(lines[seq])
    for wrong in mutations(proof, data):
        assert not included(leaf, seq, size, wrong, mth(lines))
    assert not included(merkle.leaf_hash(b"forged"), seq, size, proof, mth(lines))
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != seq)) if size > 1 else None
    if other is not None:
        assert not included(leaf, other, size, proof, mth(lines))
    old = data.draw(st.integers(1, size))
    consistent = merkle.consistency_proof(old, size, node)
    for wrong in mutations(consistent, data):
        assert not continues(old, mth(lines[:old]), size, mth(lines), wrong)
    if old < size:
        rewritten = [*lines[: old - 1], b"rewritten"]
        assert not continues(old, mth(rewritten), size, mth(lines), consistent)
        assert not continues(old, mth(lines[:old]), size, mth([*rewritten, *lines[old:]]), consistent)


def mutations(proof: list[bytes], data: st.DataObject) -> list[list[bytes]]:
    found = [[*proof, bytes(32)], [bytes(32), *proof]]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytearray(proof[at])
        flipped[data.draw(st.integers(0, 31))] ^= 1 << data.draw(st.integers(0, 7))
        found += [proof[1:], proof[:-1], [*proof[:at], bytes(flipped), *proof[at + 1 :]], [*proof[:at], b"short"]]
    return found


def included(leaf: bytes, seq: int, size: int, proof: list[bytes], root: bytes) -> bool:
    try:
        return merkle.root_from_inclusion(leaf, seq, size, proof) == root
    except ProofError:
        return False


def continues(old: int, old_root: bytes, new: int, new_root: bytes, proof: list[bytes]) -> bool:
    try:
        merkle.check_consistency(old, old_root, new, new_root, proof)
    except ProofError:
        return False
    return True


def test_a_node_cannot_pass_for_a_line() -> None:
    """Without different prefixes, the two halves of a node would be a line with the same root."""
    halves = merkle.leaf_hash(b"a") + merkle.leaf_hash(b"b")
    assert frontier([halves]).root != frontier([b"a", b"b"]).root


def test_what_has_no_proof_is_refused() -> None:
    node = node_of(MANY)
    for seq, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion_proof(seq, size, node)
        with pytest.raises(ProofError):
            merkle.root_from_inclusion(bytes(32), seq, size, [])
    for old, new in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="does not continue"):
            merkle.consistency_proof(old, new, node)
        with pytest.raises(ProofError):
            merkle.check_consistency(old, bytes(32), new, bytes(32), [])
    with pytest.raises(ProofError):
        merkle.check_consistency(0, bytes(32), 3, bytes(32), [])  # the tree of nothing has one root
    with pytest.raises(ProofError):
        merkle.root_from_inclusion(bytes(32), 0, 2**62, [bytes(32)] * 127)
    with pytest.raises(ValueError, match="peaks"):
        Frontier(3, (bytes(32),))
