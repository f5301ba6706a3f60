"""What the watch says of processes that come and go while it counts them."""

import pytest

from trainer.sandbox import watch
from trainer.sandbox.watch import Tree

SHARED_BYTES = 150


class Family:
    """Five processes that share all their memory; the children end once each of them has been counted."""

    def __init__(self, own_bytes: int) -> None:
        self.own_bytes = own_bytes  # of the parent, beside what is shared
        self.alive = ["child", "second", "third", "last child", "parent"]

    def measured(self, pids: list[str]) -> tuple[int, int]:
        return SHARED_BYTES * len(pids) + self.own_bytes, len(pids)

    def share(self, pid: str) -> int:
        part = SHARED_BYTES // len(self.alive) + (self.own_bytes if pid == "parent" else 0)
        if pid == "last child":
            self.alive = ["parent"]
        return part


@pytest.mark.parametrize(("own_bytes", "bound"), [(0, None), (200, "memory")])
def test_what_ends_while_others_are_counted_is_not_counted_in_their_shares(own_bytes, bound, monkeypatch):
    """Four fifths of the memory were counted with the children, and then all of it with the parent."""
    family, tree = Family(own_bytes), Tree(1, alone=False)
    monkeypatch.setattr(tree, "_pids", lambda: list(family.alive))
    monkeypatch.setattr(tree, "_measure", family.measured)
    monkeypatch.setattr(watch, "_share_bytes", family.share)
    assert tree.crowded({"memory_bytes": 256, "processes": 8}) == bound
    assert tree.peak_memory_bytes == SHARED_BYTES + own_bytes
