"""Patches in the order in which they are tried: authors take turns, and within a turn the best comes first.

An author's patches stand in a row: those with evidence by worth, then the fresh ones by age; `turn_patches` of them
make a turn. A patch of an earlier turn comes before one of a later turn, whoever wrote them: so nobody's first patch
waits for more than `turn_patches` of any other author, however many those have. Patches with enough trials under way
are not offered, but keep their places in the row: else an author with many would have all of them under way at once.

A value that is changed patch by patch. A change costs two searches in a sorted list of authors, and the order is made
as far as somebody reads it. Left out: who may run what (`planning`).
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Key = tuple[int, int, float, int, int, str]  # turn, 1 if fresh, minus worth, place, submitted at, patch id
_Tested = tuple[float, int, str]  # minus worth, submitted at, patch id
_Fresh = tuple[int, str]  # submitted at, patch id
_Item = _Tested | _Fresh


@dataclass(slots=True)
class _Author:
    tested: list[_Tested] = field(default_factory=list)
    fresh: list[_Fresh] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)  # patches with enough trials under way
    head: Key | None = None  # of its first patch, as it stands in the list of authors


class Turns:
    """The open patches that may be tried."""

    def __init__(self, turn_patches: int) -> None:
        self._turn_patches = turn_patches
        self._authors: dict[str, _Author] = {}
        self._heads: list[tuple[Key, str]] = []
        self._where: dict[str, tuple[str, _Item | None]] = {}  # author; the item, None for a busy one
        self._forget_order()

    def put(self, patch_id: str, author_id: str, submitted_at_ms: int, worth: float | None, *, offered: bool) -> None:
        """Places a patch, anew if it is there already. `worth`: None for a fresh one."""
        before = self._take(patch_id)
        if before is not None and before != author_id:
            self._refresh(before)
        author = self._authors.get(author_id) or self._authors.setdefault(author_id, _Author())
        item: _Item | None = None
        if not offered:
            author.busy.add(patch_id)
        elif worth is None:
            item = (submitted_at_ms, patch_id)
            insort(author.fresh, item)
        else:
            item = (-worth, submitted_at_ms, patch_id)
            insort(author.tested, item)
        self._where[patch_id] = (author_id, item)
        self._refresh(author_id)

    def load(self, patches: Iterable[tuple[str, str, int, float | None, bool]]) -> None:
        """Puts many patches (as `put`'s arguments) into a list that is empty: sorts once instead of many times."""
        authors, where = self._authors, self._where
        for patch_id, author_id, submitted_at_ms, worth, offered in patches:
            author = authors.get(author_id) or authors.setdefault(author_id, _Author())
            item: _Item | None = None
            if offered and worth is None:  # nearly always
                item = (submitted_at_ms, patch_id)
                author.fresh.append(item)
            elif offered and worth is not None:
                item = (-worth, submitted_at_ms, patch_id)
                author.tested.append(item)
            else:
                author.busy.add(patch_id)
            where[patch_id] = (author_id, item)
        for author_id, author in self._authors.items():
            author.tested.sort()
            author.fresh.sort()
            author.head = self._key(author, 0)
            if author.head is not None:
                self._heads.append((author.head, author_id))
        self._heads.sort()
        self._forget_order()

    def drop(self, patch_id: str) -> None:
        """Takes a patch out; none there is fine."""
        author_id = self._take(patch_id)
        if author_id is not None:
            self._refresh(author_id)

    def in_order(self) -> Iterator[Key]:
        """The keys of the patches that are offered, in their order; as far as somebody read it before, from memory."""
        order = self._order
        place = 0
        while True:
            if place == len(order):
                key = next(self._rest, None)
                if key is None:
                    return
                order.append(key)
            yield order[place]
            place += 1

    def _merged(self) -> Iterator[Key]:
        """The authors' rows, merged."""
        successors: list[tuple[Key, str, int]] = []
        heads = iter(self._heads)
        head = next(heads, None)
        while head is not None or successors:
            if head is not None and (not successors or head < successors[0][:2]):
                (key, author_id), place = head, 0
                head = next(heads, None)
            else:
                key, author_id, place = heapq.heappop(successors)
            yield key
            following = self._key(self._authors[author_id], place + 1)
            if following is not None:
                heapq.heappush(successors, (following, author_id, place + 1))

    def _forget_order(self) -> None:
        self._order: list[Key] = []
        self._rest = self._merged()

    def _key(self, author: _Author, place: int) -> Key | None:
        """Of the author's nth patch on offer."""
        rank = len(author.busy) + place
        turn = rank // self._turn_patches
        if place < len(author.tested):
            minus_worth, at_ms, patch_id = author.tested[place]
            return turn, 0, minus_worth, 0, at_ms, patch_id
        place -= len(author.tested)
        if place < len(author.fresh):
            at_ms, patch_id = author.fresh[place]
            return turn, 1, 0.0, rank, at_ms, patch_id
        return None

    def _take(self, patch_id: str) -> str | None:
        found = self._where.pop(patch_id, None)
        if found is None:
            return None
        author_id, item = found
        author = self._authors[author_id]
        if item is None:
            author.busy.discard(patch_id)
        elif len(item) == 2:
            del author.fresh[bisect_left(author.fresh, item)]
        else:
            del author.tested[bisect_left(author.tested, item)]
        return author_id

    def _refresh(self, author_id: str) -> None:
        self._forget_order()
        author = self._authors[author_id]
        if author.head is not None:
            del self._heads[bisect_left(self._heads, (author.head, author_id))]
        author.head = self._key(author, 0)
        if author.head is not None:
            insort(self._heads, (author.head, author_id))
        elif not author.busy:
            del self._authors[author_id]
