"""The life of every order, read from the store's own append-only file, which holds every write in its order.

    (new) -> leased -> ready | done | cancelled        ready -> leased | done | cancelled

So an order has at most one live lease, and each lease that ends unfilled puts its order back once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

TABLE = b"{autoresearch}:table:"
_NEXT = {
    "": {"leased"},
    "leased": {"ready", "done", "cancelled"},
    "ready": {"leased", "done", "cancelled"},
}


@dataclass
class History:
    """What the file says."""

    requeued: int = 0  # leases that ended unfilled and put their order back
    takeovers: int = 0  # changes of leader after the first
    double_leases: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # anything else that must not be
    _states: dict[str, str] = field(default_factory=dict)
    _leases: dict[str, str] = field(default_factory=dict)  # live lease -> order
    _used: set[str] = field(default_factory=set)  # leases that there were
    _epoch: int = 0

    def take(self, words: list[bytes]) -> None:
        """One command."""
        kind = words[0].upper()
        if kind == b"HSET" and words[1] == TABLE + b"order_state":
            for order, state in zip(words[2::2], words[3::2], strict=True):
                self._moved(order.decode(), state.decode())
        elif kind == b"HSET" and words[1] == TABLE + b"lead":
            for key, value in zip(words[2::2], words[3::2], strict=True):
                if key == b"epoch":
                    self._led(int(value))

    def _moved(self, order: str, state: str) -> None:
        before = self._states.get(order, "")
        self._states[order] = state
        was, _, old = before.partition(":")
        now, _, lease = state.partition(":")
        if was == "leased" and now == "leased":
            self.double_leases.append(f"{order}: {old} and {lease}")
        elif now not in _NEXT.get(was, set()):
            self.wrong.append(f"{order} went from {before or 'nothing'} to {state}")
        if now == "leased":
            if lease in self._used:
                self.wrong.append(f"lease {lease} of {order} lives again")
            self._used.add(lease)
        self.requeued += was == "leased" and now == "ready"

    def _led(self, epoch: int) -> None:
        if epoch != self._epoch + 1:
            self.wrong.append(f"epoch {epoch} after {self._epoch}")
        self.takeovers += epoch > 1
        self._epoch = epoch


def read(folder: Path) -> History:
    """From the folder of a store that was never told to rewrite its file."""
    history = History()
    for path in sorted(folder.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3])):
        with path.open("rb") as file:
            for words in commands(file):
                history.take(words)
    return history


def commands(file: BinaryIO) -> Iterator[list[bytes]]:
    """The commands in the file, up to one that was cut short."""
    while line := file.readline():
        if not line.startswith(b"*"):
            continue  # an annotation
        words = []
        for _ in range(int(line[1:])):
            size = int(file.readline()[1:] or -1)
            word = file.read(size)
            if size < 0 or len(word) < size or file.read(2) != b"\r\n":
                return
            words.append(word)
        yield words
