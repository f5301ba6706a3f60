"""Promotions that somebody may be found out to have lied about, and which of them an operator takes back then. Pure.

As in a swarm: when whose results count changes, every promotion is looked at again on the evidence that it was given
on, and proposed to be rolled back if it does not stand. The simulated operator carries a proposal out at once where
nothing is left that speaks for the patch, and leaves the rest to its audit: most of that is good.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoresearch.judging.evidence import Row
from autoresearch.judging.rule import Rule
from autoresearch.judging.trust import recheck
from autoresearch.judging.verdict import Verdict
from coordinator.simulation.campaign import Promotion


@dataclass(frozen=True, slots=True)
class _Won:
    number: int
    promotion: Promotion
    rows: Sequence[Row]  # of everybody
    sigma: Mapping[str, float]


class Proposals:
    """What was promoted, with its evidence."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._won: list[_Won] = []

    def add(self, number: int, promotion: Promotion, rows: Sequence[Row], sigma: Mapping[str, float]) -> None:
        """A patch was promoted on these rows; the how manieth promotion it is."""
        self._won.append(_Won(number, promotion, rows, sigma))

    def heeded(self, changed: Collection[str], held: Collection[str]) -> Iterator[int]:
        """The numbers of the promotions that go, oldest first; none that went meanwhile. `changed`: identities that
        entered or left quarantine; `held`: who is in it now."""
        self._won = [own for own in self._won if not own.promotion.undone]
        for own in self._won:
            touched = not own.promotion.undone and any(row.identity in changed for row in own.rows)
            if touched and self._goes(own, held):
                yield own.number

    def _goes(self, own: _Won, held: Collection[str]) -> bool:
        again = recheck(own.rows, own.sigma, self._rule, held, Verdict.PROMOTED)
        return again.roll_back and again.after.log_odds <= 0.0
