"""Weights leave the sandbox as data: one safetensors file, checked without torch before anything else reads it.

`take_weights` is called when the whole process tree that wrote the file is dead. It follows no link, opens nothing
that could block, believes no length, and copies into a folder the candidate never saw. `seal_weights` is called
before, while that tree still lives: what is taken must be what was sealed. Whether the tensors fit the model is found
out in the exam.
"""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from trainer.result import Outcome, TrialEnded

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 16
_CHUNK_BYTES = 1 << 20
# All that torch's side of the format writes: a table of rotations is often complex.
_ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "BF16": 16, "F16": 16, "I16": 16,
    "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A checked copy of a candidate's weights."""

    path: Path
    sha256: str
    size_bytes: int


def seal_weights(written: Path, limit_bytes: int) -> str:
    """The sha256 of the file, after which its writer can no longer change it unnoticed.

    Raises:
        TrialEnded: it is not there, too large, or not a plain file.
    """
    with os.fdopen(_open_plain_file(written, limit_bytes), "rb") as source, Path(os.devnull).open("wb") as nowhere:
        return _copy(source, nowhere, limit_bytes)[0]


def take_weights(written: Path, copy: Path, limit_bytes: int, sealed: str | None = None) -> Weights:
    """Copy the file a candidate wrote to `copy`, and check what was copied.

    Raises:
        TrialEnded: it is not there, too large, not a plain file, not safetensors, or not what was sealed.
    """
    fd = _open_plain_file(written, limit_bytes)
    with os.fdopen(fd, "rb") as source, copy.open("xb") as target:
        digest, size_bytes = _copy(source, target, limit_bytes)
    if sealed is not None and digest != sealed:
        raise _refused("were changed after they were handed over")
    with copy.open("rb") as stream:
        problem = header_problem(stream, size_bytes)
    if problem:
        raise _refused(f"are not a sound safetensors file: {problem}")
    return Weights(copy, digest, size_bytes)


def header_problem(stream: BinaryIO, size_bytes: int) -> str:
    """What is wrong with a safetensors file of this size, or nothing.

    Eight bytes of little-endian header length, a JSON object of {name: {dtype, shape, data_offsets}}, then the data;
    the tensors must cover the data exactly, in order and without gaps.
    """
    prefix = stream.read(8)
    if len(prefix) < 8:
        return "it is too short"
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > min(MAX_HEADER_BYTES, size_bytes - 8):
        return f"its header would be {header_bytes} bytes long"
    try:
        tensors = json.loads(stream.read(header_bytes))
        if not isinstance(tensors, dict) or len(tensors) > MAX_TENSORS:
            return "its header is not a table of tensors"
        tensors.pop("__metadata__", None)
        return _layout_problem(tensors, size_bytes - 8 - header_bytes)
    except (ValueError, KeyError, TypeError, RecursionError):
        return "its header cannot be read"


def _layout_problem(tensors: Mapping[str, Any], data_bytes: int) -> str:
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = tensor["data_offsets"]
        shape = tensor["shape"]
        if len(shape) > MAX_DIMENSIONS or not all(_is_size(size) for size in (begin, end, *shape)):
            return f"tensor {name[:80]!r} has a strange shape"
        if begin != at or 8 * (end - begin) != prod(shape) * _ITEM_BITS[tensor["dtype"]]:
            return f"tensor {name[:80]!r} is not where it should be"
        at = end
    return "" if at == data_bytes else f"{data_bytes - at} bytes belong to no tensor"


def _is_size(size: object) -> bool:
    return type(size) is int and 0 <= size <= 1 << 48


def _open_plain_file(path: Path, limit_bytes: int) -> int:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TrialEnded(Outcome.CRASHED, "handed over no weights") from None
    except OSError as error:
        raise _refused(f"cannot be opened as a plain file ({error.strerror})") from error
    status = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        problem = "are not a plain file"
    elif status.st_size > limit_bytes:
        problem = f"are {status.st_size / 1e6:.0f} MB, over the limit of {limit_bytes / 1e6:.0f} MB"
    if problem:
        os.close(fd)
        raise _refused(problem)
    return fd


def _copy(source: BinaryIO, target: BinaryIO, limit_bytes: int) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK_BYTES):
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise _refused("grew while they were read")
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest(), size_bytes


def _refused(problem: str) -> TrialEnded:
    return TrialEnded(Outcome.DISQUALIFIED, f"the weights {problem}")
