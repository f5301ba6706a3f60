"""Which results an operator has had counted no more. Pure.

A quarantine is about an identity and lasts; this is about results that the ledger holds: one of them, or all that an
identity gave since some instant, up to the instruction. Left out: who may order it (`coordinator.access`), and what
follows for the verdicts (`replay`, `coordinator.deciding`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoresearch.judging.model import Trial, Void
from autoresearch.judging.pairing import Ran, T


class Voids:
    """The invalidations of a swarm, those taken back too."""

    def __init__(self, known: Iterable[Void] = (), *, at: int | None = None) -> None:
        """`at`: as they were before that ledger entry; None: as they are now."""
        self._known = tuple(known)
        if at is None:
            self._valid = [void for void in self._known if not void.restored]
        else:
            self._valid = [void for void in self._known if void.entry < at and not 0 < void.restored < at]
        self._identities = frozenset(void.identity_id for void in self._valid)

    @property
    def identities(self) -> frozenset[str]:
        """Whose results some of these are about."""
        return self._identities

    @property
    def in_force(self) -> tuple[int, ...]:
        """The ledger entries of those that hold: what tells one state of this from another."""
        return tuple(void.entry for void in self._valid)

    def before(self, entry: int) -> "Voids":
        """As they were before a ledger entry."""
        return Voids(self._known, at=entry)

    def why_not(self, trial: Ran) -> str | None:
        """Why a trial does not count, or None if it does as far as this goes."""
        if trial.identity_id not in self._identities:
            return None
        return next((void.reason for void in self._valid if _covers(void, trial)), None)

    def counting(self, trials: Sequence[T]) -> Sequence[T]:
        """The trials that count."""
        if not self._identities:  # nearly always
            return trials
        return [trial for trial in trials if self.why_not(trial) is None]

    def marked(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """All of them, those that do not count as disturbed: they were run, and say nothing."""
        if not self._identities:
            return trials
        return [trial if self.why_not(trial) is None else replace(trial, disturbed=True) for trial in trials]


NONE = Voids()


def _covers(void: Void, trial: Ran) -> bool:
    if trial.identity_id != void.identity_id or trial.entry >= void.entry:
        return False
    if void.result_sha256:
        return trial.result_sha256 == void.result_sha256
    return trial.accepted_at_ms >= void.since_ms
