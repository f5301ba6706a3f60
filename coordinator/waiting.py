"""Patches that wait behind the open ones, each kind in its order: doubts, disputes, and parked ones by worth. A value
that is changed patch by patch; pure. Left out: who may run one, and when (`planning`)."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from coordinator.facts import PatchFacts


class Waiting:
    """Parked patches."""

    def __init__(self) -> None:
        self._doubts: list[tuple[int, str]] = []  # submitted at, patch id
        self._disputes: list[tuple[int, str]] = []  # likewise
        self._parked: list[tuple[float, int, str]] = []  # minus worth, submitted at, patch id

    @property
    def doubts(self) -> Sequence[tuple[int, str]]:
        """One identity saw them crash or fail the exam; oldest first."""
        return self._doubts

    @property
    def disputes(self) -> Sequence[tuple[int, str]]:
        """Identities contradict each other about them; oldest first."""
        return self._disputes

    @property
    def parked(self) -> Sequence[tuple[float, int, str]]:
        """The others, the most valuable first; minus its worth at the head of each."""
        return self._parked

    def put(self, facts: PatchFacts, worth: float) -> None:
        """Takes a patch that is not there."""
        listed = self._short(facts)
        if listed is None:
            insort(self._parked, (-worth, facts.submitted_at_ms, facts.patch_id))
        else:
            insort(listed, (facts.submitted_at_ms, facts.patch_id))

    def drop(self, facts: PatchFacts, worth: float) -> None:
        """Takes a patch out that was put with these."""
        listed = self._short(facts)
        if listed is None:
            del self._parked[bisect_left(self._parked, (-worth, facts.submitted_at_ms, facts.patch_id))]
        else:
            del listed[bisect_left(listed, (facts.submitted_at_ms, facts.patch_id))]

    def _short(self, facts: PatchFacts) -> list[tuple[int, str]] | None:
        if facts.doubted:
            return self._doubts
        return self._disputes if facts.disputed else None
