"""Promotions between two bases that machines measured, until enough have: what a simulated swarm audits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from autoresearch.judging.audit import audit
from autoresearch.judging.rule import Rule
from autoresearch.judging.spans import ENOUGH_IDENTITIES
from autoresearch.judging.tally import REPORTS_FOR_A_FACT
from coordinator.simulation.campaign import Version
from coordinator.simulation.state import Benches


@dataclass(frozen=True, slots=True)
class Span:
    """The promotions from `first` up to, and without, `end` (by number) lie between the two."""

    old: Version
    new: Version
    first: int
    end: int


class Spans:
    """Those whose audits go on."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._end = 0  # promotions that the last base has

    def begin(self, old: Version, new: Version, promotions: int) -> None:
        """The base moved; `promotions` that the new one has."""
        self._spans.append(Span(old, new, self._end, promotions))
        self._end = promotions

    def failed(
        self, measured: Collection[str], benches: Benches, held: Collection[str], sigma: Mapping[str, float], rule: Rule
    ) -> Span | None:
        """The oldest promotions that their audit speaks against. `measured`: bases that somebody just measured."""
        for span in list(self._spans):
            if span.old.name not in measured and span.new.name not in measured:
                continue
            rows = benches.audit_rows(span.old.name, span.new.name, held)
            if len(rows) > ENOUGH_IDENTITIES:
                self._spans.remove(span)
            elif len(rows) > REPORTS_FOR_A_FACT and audit(rows, sigma, rule).roll_back:
                return span
        return None

    def begin_anew(self, promotions: int) -> None:
        """After a roll-back: nothing is audited across it."""
        self._spans.clear()
        self._end = promotions
