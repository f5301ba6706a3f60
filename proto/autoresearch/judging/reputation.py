"""Everybody's reputation, kept so that one more decided patch costs the work of those who ran it. Pure.

The same judgements as `trust.review` over the same patches, which starts from nothing each time; who follows a ledger
or a simulation keeps this instead. A patch speaks about its own jury alone, so only they are assessed again; when
somebody enters or leaves quarantine, only the patches that they ran are measured anew.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from autoresearch.judging.agreement import Residual, alarms, deviations, residuals
from autoresearch.judging.reviewing import HISTORY, OWN_HISTORY
from autoresearch.judging.trust import Change, DecidedPatch, KnownAnswer, Quarantine, Reputation, assess, next_change


@dataclass(slots=True)
class _Record:
    """What is known of one identity: by number of the patch, oldest first."""

    residuals: dict[int, list[Residual]] = field(default_factory=dict)
    alarms: dict[int, bool] = field(default_factory=dict)
    answers: list[KnownAnswer] = field(default_factory=list)


class Reputations:
    """Whom to believe, by the patches decided last. `sigma`: noise of one trial per hardware class."""

    def __init__(
        self, sigma: Mapping[str, float], held: Iterable[Quarantine] = (), *, most_patches: int = HISTORY
    ) -> None:
        self._sigma = sigma
        self._held = {own.identity: own for own in held}
        self._patches: dict[int, DecidedPatch] = {}
        self._recent: deque[int] = deque(maxlen=most_patches)
        self._own: dict[str, deque[int]] = {}  # by identity, the last that it ran
        self._counting: set[int] = set()  # by which everybody is judged
        self._next = 0
        self._records: dict[str, _Record] = {}
        self._reputations: dict[str, Reputation] = {}
        self._touched: set[str] = set()

    @property
    def held(self) -> Mapping[str, Quarantine]:
        """Those in quarantine."""
        return self._held

    def add(self, patch: DecidedPatch) -> int:
        """Takes a patch that was just decided; its number."""
        number, self._next = self._next, self._next + 1
        self._patches[number] = patch
        self._recent.append(number)
        for identity in {row.identity for row in patch.rows}:
            self._own.setdefault(identity, deque(maxlen=OWN_HISTORY)).append(number)
        self._choose()
        return number

    def take_back(self, number: int) -> None:
        """A patch is open again, or about to be decided anew: what it said no longer counts."""
        patch = self._patches.pop(number, None)
        if patch is None:
            return  # forgotten long ago
        if number in self._counting:
            self._patches[number] = patch
            self._forget(number)
            self._counting.discard(number)
            del self._patches[number]
        if number in self._recent:
            self._recent.remove(number)
        for identity in {row.identity for row in patch.rows}:
            if number in self._own[identity]:
                self._own[identity].remove(number)

    def _choose(self) -> None:
        """The patches that count, as `reviewing.history` chooses them; what nobody may ask for any more is dropped."""
        counting = set(self._recent).union(*(self._own.get(identity, ()) for identity in self._held))
        for number in self._counting - counting:
            self._forget(number)
        for number in sorted(counting - self._counting):
            self._measure(number)
        self._counting = counting
        if len(self._patches) > 2 * (len(self._recent) + OWN_HISTORY * len(self._own)):
            wanted = counting.union(*self._own.values())
            self._patches = {number: own for number, own in self._patches.items() if number in wanted}

    def answered(self, identity: str, answer: KnownAnswer) -> None:
        """Takes an identity's answer to a trial with a known one."""
        self._record(identity).answers.append(answer)

    def set_noise(self, sigma: Mapping[str, float]) -> None:
        """Everybody is judged anew by another noise."""
        self._sigma = sigma
        self._touched |= self._records.keys()

    def hold(self, quarantine: Quarantine) -> None:
        """Puts somebody in quarantine by a person's decision."""
        self._change(Change(quarantine.identity, quarantine, quarantine.reason))

    def review(self) -> tuple[Change, ...]:
        """Who enters or leaves quarantine now, in this order; nobody twice. Raises as `trust.review`."""
        changes: list[Change] = []
        changed: set[str] = set()
        looked_at: set[str] = set()
        self._choose()
        while True:
            looked_at |= self._touched
            for identity in self._touched:
                self._reputations[identity] = self._assessed(identity)
            self._touched.clear()
            change = next_change([self._reputations[one] for one in sorted(looked_at - changed)], self._held)
            if change is None:
                self._touched |= changed  # they may change again at the next review
                return tuple(changes)
            changes.append(change)
            changed.add(change.identity)
            self._change(change)

    def reputations(self) -> dict[str, Reputation]:
        """Everybody's, as of the last review."""
        return dict(sorted(self._reputations.items()))

    def _record(self, identity: str) -> _Record:
        self._touched.add(identity)
        return self._records.setdefault(identity, _Record())

    def _assessed(self, identity: str) -> Reputation:
        own = self._records[identity]
        found = [residual for _, some in sorted(own.residuals.items()) for residual in some]
        refuted = [alarm for _, alarm in sorted(own.alarms.items())]
        return assess(identity, deviations(found, self._sigma), own.answers, refuted)

    def _measure(self, number: int) -> None:
        patch = self._patches[number]
        for row in patch.rows:
            self._record(row.identity)
        for residual in residuals(patch.rows, patch.sigma, patch.base, patch.rule, self._held):
            self._records[residual.identity].residuals.setdefault(number, []).append(residual)
        for identity, refuted in alarms(patch.rows, self._held).items():
            self._records[identity].alarms[number] = refuted

    def _forget(self, number: int) -> None:
        for identity in {row.identity for row in self._patches[number].rows}:
            own = self._record(identity)
            own.residuals.pop(number, None)
            own.alarms.pop(number, None)

    def _change(self, change: Change) -> None:
        if change.quarantine is None:
            del self._held[change.identity]
        else:
            self._held[change.identity] = change.quarantine
        for number in sorted(self._counting):
            if any(row.identity == change.identity for row in self._patches[number].rows):
                self._forget(number)
                self._measure(number)
