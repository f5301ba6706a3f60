"""A trial written down so that it can be replayed: source, seed, terms, every batch's rows and share, and the outcome.

One file: a magic line, the length of a JSON header, the header, the source, the batches (`batches.py`), and the sha256
of all that. Nothing in it is believed before its size and digest are checked, and nothing is ever unpickled.
Replaying is `trial.py`'s business, comparing `report.py`'s.
"""

import hashlib
import json
import math
import os
import struct
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer.batches import BYTES_PER_BATCH, MAX_BATCHES, BatchLog, from_bytes
from trainer.errors import MachineError, TrainerError
from trainer.manifest import Manifest
from trainer.result import DEVICE, TrialResult, TrialSpec

_MAGIC = b"autoresearch trial record 1\n"
_LENGTHS = struct.Struct(">III")  # of header, source and batches, in bytes
_DIGEST_BYTES = 32
_MAX_HEADER_BYTES = 16_384
_MAX_SOURCE_BYTES = 1 << 20
_MAX_BYTES = 1 << 27
_TEXT_CHARACTERS = 128


class RecordError(TrainerError):
    """A file is not the record of a trial, or is damaged."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path} {problem}: make one with `python -m trainer run train.py --record {path}`")


@dataclass(frozen=True)
class Record:
    """One completed trial. Names mean what they mean in `TrialSpec` and `TrialResult`."""

    source: bytes
    seed: int
    budget_s: float
    device: str
    threads: int
    dataset: str
    manifest_sha256: str
    trial_code_sha256: str
    torch: str
    val_bpb: float
    weights_sha256: str
    batches: BatchLog


def record_of(spec: TrialSpec, result: TrialResult, manifest: Manifest, trial_code_sha256: str) -> Record:
    """What to write of a completed trial."""
    assert result.val_bpb is not None
    assert result.weights_sha256 is not None
    return Record(
        source=spec.source,
        seed=spec.seed,
        budget_s=spec.budget_s,
        device=spec.device,
        threads=spec.threads,
        dataset=manifest.dataset,
        manifest_sha256=manifest.sha256,
        trial_code_sha256=trial_code_sha256,
        torch=metadata.version("torch"),
        val_bpb=result.val_bpb,
        weights_sha256=result.weights_sha256,
        batches=result.batches,
    )


def write_record(path: Path, record: Record) -> None:
    """The file appears whole or not at all.

    Raises:
        MachineError: it cannot be written.
    """
    content = encode(record)
    partial = ""
    try:
        fd, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(fd, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(path)
    except OSError as error:
        if partial:
            Path(partial).unlink(missing_ok=True)
        raise MachineError(f"cannot write {path} ({error.strerror}): choose another file for --record") from error


def read_record(path: Path) -> Record:
    """Raises RecordError for a file that cannot be read, or is not what `write_record` wrote."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RecordError(path, f"cannot be read ({error.strerror})") from error
    try:
        return decode(content)
    except ValueError as error:
        raise RecordError(path, f"is not the record of a trial ({error})") from error


def encode(record: Record) -> bytes:
    fields = {name: value for name, value in vars(record).items() if name not in ("source", "batches")}
    header = json.dumps(fields, sort_keys=True, allow_nan=False).encode()
    batches = record.batches.to_bytes()
    lengths = _LENGTHS.pack(len(header), len(record.source), len(batches))
    content = _MAGIC + lengths + header + record.source + batches
    return content + hashlib.sha256(content).digest()


def decode(content: bytes) -> Record:
    """Raises ValueError, with the reason, for anything that `encode` did not make."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    begin = len(_MAGIC) + _LENGTHS.size
    if content[: len(_MAGIC)] != _MAGIC or len(content) < begin + _DIGEST_BYTES:
        raise ValueError("it does not begin like one")
    header_bytes, source_bytes, batches_bytes = _LENGTHS.unpack(content[len(_MAGIC) : begin])
    if (
        header_bytes > _MAX_HEADER_BYTES
        or source_bytes > _MAX_SOURCE_BYTES
        or batches_bytes > MAX_BATCHES * BYTES_PER_BATCH
        or len(content) != begin + header_bytes + source_bytes + batches_bytes + _DIGEST_BYTES
    ):
        raise ValueError("its parts do not have the lengths it says")
    if hashlib.sha256(content[:-_DIGEST_BYTES]).digest() != content[-_DIGEST_BYTES:]:
        raise ValueError("it was damaged: its digest differs")
    source_at, batches_at = begin + header_bytes, begin + header_bytes + source_bytes
    fields = _checked(json.loads(content[begin:source_at]))
    return Record(
        **fields, source=content[source_at:batches_at], batches=from_bytes(content[batches_at:-_DIGEST_BYTES])
    )


def _checked(fields: Any) -> dict[str, Any]:
    """The header's fields, each of its type and possible; whoever made the file may have made its digest too."""
    kinds = {name: kind for name, kind in Record.__annotations__.items() if name not in ("source", "batches")}
    if not isinstance(fields, dict) or fields.keys() != kinds.keys():
        raise ValueError("its header has other fields")
    for name, kind in kinds.items():
        if type(fields[name]) is not kind:
            raise ValueError(f"its {name} is not a {kind.__name__}")
        if kind is str and (len(fields[name]) > _TEXT_CHARACTERS or not fields[name].isprintable()):
            raise ValueError(f"its {name} is not a short line")
    if not DEVICE.fullmatch(fields["device"]):
        raise ValueError("its device is none")
    if not 0 <= fields["seed"] < 2**63 or not 1 <= fields["threads"] <= 1024:
        raise ValueError("its seed or threads are out of range")
    if not 0 < fields["budget_s"] <= 86_400 or not math.isfinite(fields["val_bpb"]):
        raise ValueError("its budget or score is out of range")
    return fields
