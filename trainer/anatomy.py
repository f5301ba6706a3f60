"""What the names and shapes in a checked weights file tell people of a model: how many numbers, how many blocks.

Decides nothing; the file is one that `weights.py` has found sound.
"""

import json
import re
import struct
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path

_NUMBERED = re.compile(r"(.*?)\.(\d+)\.")


@dataclass(frozen=True)
class Anatomy:
    """parameters: numbers in all tensors. depth: parts 0 to n - 1 of the longest numbered list in it (`blocks.0.`)."""

    parameters: int = 0
    depth: int = 0


def read_anatomy(weights: Path) -> Anatomy:
    """Of a safetensors file."""
    with weights.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        tensors = json.loads(stream.read(header_bytes))
    tensors.pop("__metadata__", None)
    return Anatomy(sum(prod(tensor["shape"]) for tensor in tensors.values()), _depth(list(tensors)))


def _depth(names: list[str]) -> int:
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        if found := _NUMBERED.match(name):
            numbers[found[1]].add(int(found[2]))
    return max((len(found) for found in numbers.values() if found == set(range(len(found)))), default=0)
