"""A coordinator's signed statement of its ledger as a whole: its form, who signed it, and that one continues another.

Pure, shared by both sides. Left out: when one is signed and where it is kept, and fetching the proofs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from autoresearch import envelope, limits, merkle
from autoresearch.envelope import EnvelopeError
from autoresearch.v1.checkpoint_pb2 import Checkpoint
from autoresearch.v1.envelope_pb2 import Envelope


class CheckpointError(Exception):
    """A checkpoint that cannot be believed, or that contradicts another one. Always the coordinator's fault."""


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What a checkpoint states, and the envelope that proves who stated it."""

    swarm_id: str
    size: int
    root: bytes
    at_ms: int
    signer_id: str
    signed: bytes  # the serialised Envelope, as it came

    def __str__(self) -> str:
        """Short, for people."""
        return f"{self.size} entries, root {self.root.hex()[:16]}"


def sign(swarm_id: str, size: int, root: bytes, at_ms: int, key: Ed25519PrivateKey) -> TreeHead:
    """A checkpoint, signed."""
    message = Checkpoint(protocol=limits.PROTOCOL, swarm_id=swarm_id, tree_size=size, root_hash=root, at_ms=at_ms)
    signed = envelope.sign(message, envelope.CHECKPOINT, key)
    return read(signed.SerializeToString(), swarm_id)


def read(data: bytes, swarm_id: str, signer_id: str = "") -> TreeHead:
    """The checkpoint in a serialised envelope, for that swarm and, if named, by that key.

    Raises:
        CheckpointError: malformed, wrongly signed, of another swarm or by another key.
    """
    if len(data) > limits.CHECKPOINT_BYTES:
        raise CheckpointError(f"a checkpoint of {len(data)} bytes; at most {limits.CHECKPOINT_BYTES} allowed")
    try:
        signed = Envelope.FromString(data)
        message, verified = envelope.open_as(signed, envelope.CHECKPOINT, Checkpoint)
    except (EnvelopeError, DecodeError) as error:
        raise CheckpointError(f"not a signed checkpoint: {error}") from error
    if signer_id not in ("", verified.signer_id):
        raise CheckpointError(f"it is signed by {verified.signer_id} and not by the coordinator {signer_id}")
    if message.protocol != limits.PROTOCOL or len(message.root_hash) != merkle.HASH_BYTES:
        raise CheckpointError("it is of another version, or malformed")
    if message.swarm_id != swarm_id:
        raise CheckpointError("it is of another swarm's ledger")
    if message.tree_size >> merkle.MOST_LEVELS:
        raise CheckpointError(f"no ledger has {message.tree_size} entries")
    return TreeHead(swarm_id, message.tree_size, message.root_hash, message.at_ms, verified.signer_id, data)


def check_continues(old: TreeHead, new: TreeHead, proof: Sequence[bytes]) -> None:
    """That the ledger of `new` begins with that of `old`.

    Raises:
        CheckpointError: it does not: the coordinator has shown two histories, and both envelopes together prove it.
    """
    if new.size < old.size:
        raise CheckpointError(f"the ledger has {new.size} entries, but {old.size} were signed for before")
    try:
        merkle.check_consistency(old.size, old.root, new.size, new.root, proof)
    except merkle.ProofError as error:
        raise CheckpointError(f"the ledger of {new} does not continue that of {old}: {error}") from error
