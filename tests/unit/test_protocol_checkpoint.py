"""Checkpoints: who signed them, for which swarm, and that one continues another."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import checkpoint, envelope, limits, merkle
from autoresearch.checkpoint import CheckpointError, TreeHead
from autoresearch.digest import key_id
from autoresearch.v1.checkpoint_pb2 import Checkpoint
from autoresearch.v1.volunteer_service_pb2 import SwarmInfo

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
SIGNER = key_id(envelope.public_bytes(KEY))
LINES = [b"%d" % n for n in range(11)]
LEAVES = [merkle.leaf_hash(line) for line in LINES]


def head(size: int, *, leaves: list[bytes] = LEAVES, swarm: str = "swarm", key: Ed25519PrivateKey = KEY) -> TreeHead:
    return checkpoint.sign(swarm, size, merkle.root_of(leaves[:size]), 1000 + size, key)


def node(level: int, index: int) -> bytes:
    return merkle.root_of(LEAVES[index << level : (index + 1) << level])


def test_what_was_signed_reads_back() -> None:
    made = head(7)
    assert checkpoint.read(made.signed, "swarm", SIGNER) == made
    assert (made.size, made.at_ms, made.signer_id) == (7, 1007, SIGNER)
    assert len(made.signed) < limits.CHECKPOINT_BYTES


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a signed checkpoint"),
        (b"\xff" * 100, "not a signed checkpoint"),
        (b"\x00" * 2000, "at most"),
        (head(7, key=OTHER).signed, "and not by the coordinator"),
        (head(7, swarm="other").signed, "another swarm"),
        (envelope.sign(SwarmInfo(), envelope.SWARM_INFO, KEY).SerializeToString(), "not a signed checkpoint"),
    ],
)
def test_what_is_no_checkpoint_of_this_coordinator_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        checkpoint.read(data, "swarm", SIGNER)


@pytest.mark.parametrize(
    "message",
    [
        Checkpoint(protocol=2, swarm_id="swarm", tree_size=1, root_hash=bytes(32)),
        Checkpoint(protocol=1, swarm_id="swarm", tree_size=1, root_hash=bytes(31)),
        Checkpoint(protocol=1, swarm_id="swarm", tree_size=2**63, root_hash=bytes(32)),
    ],
)
def test_a_malformed_one_is_refused_though_its_signature_holds(message: Checkpoint) -> None:
    signed = envelope.sign(message, envelope.CHECKPOINT, KEY).SerializeToString()
    with pytest.raises(CheckpointError):
        checkpoint.read(signed, "swarm")


def test_a_bit_changed_anywhere_is_found() -> None:
    signed = head(7).signed
    for at in range(len(signed)):
        changed = bytearray(signed)
        changed[at] ^= 1
        with pytest.raises(CheckpointError):
            checkpoint.read(bytes(changed), "swarm", SIGNER)


def test_a_ledger_that_grew_continues_the_one_seen_before() -> None:
    for old in range(len(LINES) + 1):
        for new in range(old, len(LINES) + 1):
            checkpoint.check_continues(head(old), head(new), merkle.consistency_proof(old, new, node))


def test_a_rewritten_ledger_does_not_whatever_proof_comes_with_it() -> None:
    """The coordinator changed entry 3 and signed again: no proof from the old head exists, nor does the true one do."""
    rewritten = [*LEAVES[:3], merkle.leaf_hash(b"changed"), *LEAVES[4:]]

    def forged(level: int, index: int) -> bytes:
        return merkle.root_of(rewritten[index << level : (index + 1) << level])

    for made in (node, forged):
        with pytest.raises(CheckpointError, match="does not continue"):
            checkpoint.check_continues(head(7), head(11, leaves=rewritten), merkle.consistency_proof(7, 11, made))
    with pytest.raises(CheckpointError, match="different roots"):
        checkpoint.check_continues(head(7), head(7, leaves=rewritten), [])


def test_a_ledger_that_lost_entries_is_told() -> None:
    with pytest.raises(CheckpointError, match="has 6 entries, but 7 were signed for"):
        checkpoint.check_continues(head(7), head(6), [])
