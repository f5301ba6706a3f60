"""Promotions that somebody may be found out to have lied about. Pure.

As in a swarm: when whose results count changes, every promotion is looked at again on the evidence that it was given
on, and proposed to be rolled back if it does not stand. Where less than half of the evidence is left, the simulated
operator carries the proposal out at once and then takes the order back: so the patch goes on with that evidence, and
wins again if it is good. What is nearly proven is left to its audit.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from autoresearch.judging.rule import Rule
from autoresearch.judging.trust import recheck
from autoresearch.judging.verdict import Verdict
from coordinator.simulation.campaign import Promotion
from coordinator.simulation.state import Tested

HEEDED_BELOW = 0.5  # of the way to winning


@dataclass(frozen=True, slots=True)
class Won:
    """A promotion, the how manieth it is, and the patch with the noise that it won by."""

    number: int
    promotion: Promotion
    patch: Tested
    sigma: Mapping[str, float]


class Proposals:
    """What was promoted, with its evidence."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._won: list[Won] = []

    def add(self, own: Won) -> None:
        """A patch was promoted."""
        self._won.append(own)

    def heeded(self, changed: Collection[str], held: Collection[str]) -> Iterator[Won]:
        """What is taken back, oldest first; nothing that went meanwhile. `changed`: identities that entered or left
        quarantine; `held`: who is in it now."""
        self._won = [own for own in self._won if not own.promotion.undone]
        for own in list(self._won):
            touched = not own.promotion.undone and not own.patch.runs.keys().isdisjoint(changed)
            if touched and self._falls(own, held):
                yield own

    def _falls(self, own: Won, held: Collection[str]) -> bool:
        again = recheck(own.patch.every_row(), own.sigma, self._rule, held, Verdict.PROMOTED)
        return again.roll_back and again.after.progress < HEEDED_BELOW
