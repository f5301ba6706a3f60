"""Which stretches of the lineage the baselines of its bests can audit, and by which trials. Pure.

A promotion is audited by machines that measured the best after it and the one before it. Where nobody measured a best
in between, because the next promotion came too soon, the promotions around it are audited together.
"""

from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from autoresearch.judging import pairing
from autoresearch.judging.evidence import Row
from autoresearch.judging.model import Best, Trial
from autoresearch.judging.periods import counts, rows
from autoresearch.judging.trust import believed

AUDITED_BESTS = 9  # so many of the last bests are looked at: the last eight promotions
ENOUGH_IDENTITIES = 20  # an audit that so many took part in is over: the promotion stands


@dataclass(frozen=True, slots=True)
class Span:
    """Promotions between two bests that were measured."""

    old: Best
    new: Best
    generations: tuple[int, ...]  # promoted after `old` up to `new`


def spans(lineage: Sequence[Best], measured: Container[str]) -> list[Span]:
    """What can be audited of the lineage, oldest first. `measured`: sources that have a baseline.

    A roll-back is not audited, nor is anything across one: it would compare more than a promotion. What was taken
    back is over.
    """
    undone = {generation for best in lineage for generation in best.undone}
    found: list[Span] = []
    old: Best | None = None
    since: tuple[int, ...] = ()
    for best in lineage[-AUDITED_BESTS:]:
        is_measured = best.source_sha256 in measured
        if best.undone or old is None:
            old, since = (best if is_measured else None), ()
            continue
        since = (*since, best.generation)
        if is_measured:
            if undone.isdisjoint(since):
                found.append(Span(old, best, since))
            old, since = best, ()
    return found


def held(lineage: Iterable[tuple[int, tuple[int, ...]]]) -> dict[int, frozenset[int]]:
    """Per generation, the promotions whose changes its source holds. `lineage`: of each best its generation, and the
    generations that it takes back; from the first."""
    found: dict[int, frozenset[int]] = {}
    standing: frozenset[int] = frozenset()
    for generation, undone in lineage:
        standing = standing - set(undone) if undone or not found else standing | {generation}
        found[generation] = standing
    return found


def ground(holds: Mapping[int, Set[int]], standing: Set[int], generation: int) -> int:
    """The newest generation up to this one that holds nothing but what stands: where a best goes back to that cannot be
    made by a merge. `holds`: see `held`. The first generation holds nothing, so there always is one."""
    return max(own for own, promoted in holds.items() if own <= generation and promoted <= standing)


def audit_rows(
    span: Span, baselines: Mapping[str, Sequence[Trial]], entry: int, quarantined: Container[str]
) -> tuple[Row, ...]:
    """Baselines of the new best beside those of the old one, by machine, of those who are believed; as `audit.audit`
    wants them. `baselines`: by source."""
    new, old = (pairing.before(baselines[best.source_sha256], entry) for best in (span.new, span.old))
    return believed(rows(new, old), quarantined)


def measured(baselines: Mapping[str, Sequence[Trial]], entry: int) -> set[str]:
    """Sources with a baseline that counts, as of a ledger entry."""
    return {source for source, trials in baselines.items() if any(map(counts, pairing.before(trials, entry)))}


def before(lineage: Sequence[Best], entry: int) -> list[Best]:
    """The bests that the ledger held before the entry."""
    return [best for best in lineage if best.entry < entry]
