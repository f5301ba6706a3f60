"""The puzzle that a new identity solves to enroll: costly to solve in time and memory, one try to check. No I/O.

scrypt (RFC 7914) with N = 2^14, r = 8, p = 1 over the swarm, the key and an answer must begin with so many zero bits:
16 MiB a try, so that cards and clouds gain little over a home machine. One bit more doubles the work. It is bound to
swarm and key: an answer serves nobody else and nowhere else.
"""

import hashlib
from collections.abc import Callable
from typing import Final

ANSWER_BYTES: Final = 8
BITS_MOST: Final = 16  # hours on a home machine: more would only keep honest people out
_COST: Final = 1 << 14
_BLOCK: Final = 8
_MEMORY_BYTES: Final = 2 * 128 * _COST * _BLOCK


def question(swarm_id: str, public_key: bytes) -> bytes:
    """What this key has to answer in this swarm."""
    return hashlib.sha256(b"autoresearch enrolment v1\0" + swarm_id.encode() + b"\0" + public_key).digest()


def holds(asked: bytes, answer: bytes, bits: int) -> bool:
    """Whether the answer solves the question with at least so many zero bits."""
    if bits <= 0:
        return True
    if len(answer) != ANSWER_BYTES:
        return False
    tried = hashlib.scrypt(asked + answer, salt=asked, n=_COST, r=_BLOCK, p=1, maxmem=_MEMORY_BYTES, dklen=32)
    return int.from_bytes(tried, "big") >> (8 * len(tried) - bits) == 0


def solve(asked: bytes, bits: int, goes_on: Callable[[int], bool]) -> bytes | None:
    """An answer; None when `goes_on`, told the number of tries so far before each, returns False.

    Takes 2^bits tries on average, each of about 40 to 100 ms on one core.
    """
    tries = 0
    while goes_on(tries):
        answer = tries.to_bytes(ANSWER_BYTES, "big")
        if holds(asked, answer, bits):
            return answer
        tries += 1
    return None
