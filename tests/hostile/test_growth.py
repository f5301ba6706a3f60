"""What small inputs may cost: admission of sources that are made to be expensive, and growth with size of every parser.

Growth is measured as the ratio of the times for a size and for twice that size, on the processor's clock: 2 where the
time is linear, 4 where it is quadratic.
"""

import contextlib
import time
import tracemalloc
from collections.abc import Callable

import pytest

from autoresearch.admission_errors import AdmissionError
from coordinator import admission
from tests.hostile import deep, parsers
from tests.hostile.parsers import PARSERS
from tests.integration.swarm_on_wire import SOURCE

MEMORY_BYTES = 256 << 20
LINEAR = 3.2  # twice the size may cost so many times as much; a quadratic step costs four times
WORTH_MEASURING_S = 0.02
MOST_BYTES = 1 << 19
UNITS = {
    "letters": b"a", "zeros": b"0", "spaces": b" ", "lines": b"\n", "dashes": b"-", "backslashes": b"\\",
    "commas": b",", "opened": b"[", "keys": b'{"a":', "lists": b"[],", "quotes": b'"', "added": b"+\n",
    "hunks": b"@@ -1 +1 @@\n-a\n+b\n", "context": b" \n", "dots": b"a.",
    "colons": b":", "keywords": b"title: \n", "names": b"--- a/train.py\n",
    "marks": b"\xef\xbb\xbf", "wide": "ß".encode(), "fields": b"\x0a\x00", "varints": b"\x80", "braces": b"{x}",
}  # fmt: skip
SHORT = {"diff", "draft", "ledger", "text"}
SHORT_SOURCES = ("statements within long names", "a long sum", "a long chain of elif", "a long number")


def submitted(source: str) -> bytes:
    """A diff that replaces the whole base by a source."""
    old, new = SOURCE.splitlines(True), source.splitlines(True)
    head = f"--- a/train.py\n+++ b/train.py\n@@ -1,{len(old)} +1,{len(new)} @@\n"
    return (head + "".join(f"-{line}" for line in old) + "".join(f"+{line}" for line in new)).encode()


def largest(make: Callable[[int], str]) -> bytes:
    """The largest diff of a kind that is admitted, or nearly."""
    count = 1 << 15
    while count > 2:
        diff = submitted(make(count) + deep.TAIL)
        try:
            admission.admit(diff, SOURCE)
        except AdmissionError:
            count = count * 4 // 5
        else:
            break
    return diff


@pytest.mark.parametrize("name", SHORT_SOURCES)
def test_a_source_of_some_kilobytes_takes_little_memory(name: str) -> None:
    assert peak_bytes(submitted(deep.SOURCES[name](1_500) + deep.TAIL)) < MEMORY_BYTES // 4


@pytest.mark.full
@pytest.mark.parametrize("name", deep.SOURCES)
def test_the_largest_source_takes_little_memory(name: str) -> None:
    assert peak_bytes(largest(deep.SOURCES[name])) < MEMORY_BYTES


def peak_bytes(diff: bytes) -> int:
    """What taking or refusing a diff takes at most."""
    tracemalloc.start()
    try:
        with contextlib.suppress(AdmissionError):
            parsers.admitted(diff)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds(take: Callable[[bytes], object], data: bytes) -> float:
    """Processor time of a run."""
    began = time.process_time()
    take(data)
    return time.process_time() - began


def growth(take: Callable[[bytes], object], seed: bytes, unit: bytes) -> float:
    """By how much the time grows at the first size, or the largest allowed, that takes long enough to be measured."""
    size = 1 << 10
    while seconds(take, seed + unit * (size // len(unit))) < WORTH_MEASURING_S:
        size *= 2
        if size > MOST_BYTES:
            return 0.0
    ratios = []
    for _ in range(4):  # another program on the same processor makes one of them too large, or too small
        once = seconds(take, seed + unit * (size // len(unit)))
        ratios.append(seconds(take, seed + unit * (2 * size // len(unit))) / once)
    return min(ratios)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.full) for name in PARSERS]
)
def test_no_parsers_time_grows_with_the_square(name: str) -> None:
    parser = PARSERS[name]
    seeds = (b"", parser.seeds[0][:200])
    found = {(unit, len(seed)): growth(parser.take, seed, UNITS[unit]) for unit in UNITS for seed in seeds}
    assert {case: ratio for case, ratio in found.items() if ratio > LINEAR} == {}
