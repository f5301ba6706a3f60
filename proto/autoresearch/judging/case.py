"""The evidence about one patch, kept so that one more result costs the work of one identity. Pure values in, sums out.

`verdict.decide` asks a `Case` that it filled at once; who follows a ledger or a simulation keeps the case and puts each
row as it changes. Both see the same numbers to the last bit: sums are exact (`math.fsum`), so neither the order of the
rows nor the way they came about is left in them. What follows from the sums is in `verdict`.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import NamedTuple

from autoresearch.judging.evidence import Moments, Pair, Row
from autoresearch.judging.overall import NO_HARM, Harm, harm, harm_without_each
from autoresearch.judging.rule import SLACK, Rule
from autoresearch.judging.tally import ClassGain, ClassTally, Witness, class_gain, hear_one


class Counts(NamedTuple):
    """What the verdict looks at, and nothing else."""

    log_odds: float
    finishers: int  # identities with a finished pair
    crashers: int  # identities with a machine on which it only crashed
    disqualifiers: int
    classes: int  # with a finished pair
    bad: int  # classes
    doubtful: int  # classes
    trials: int  # that count towards the limit
    trials_ahead: int  # that count towards twice the limit: of one identity twice as many
    harm: Harm = NO_HARM  # looked at where the votes are enough

    def enough(self, rule: Rule) -> bool:
        """The votes would promote the patch."""
        return (
            self.log_odds >= rule.upper - SLACK
            and self.finishers >= rule.min_identities
            and self.classes >= rule.min_classes
        )


class Case:
    """Rows of one patch by any keys, with everybody's vote and every class's tally.

    Raises (`put`, `set_noise`):
        EvidenceError: the noise lacks a class that has a finished pair, or holds an impossible one. The case is then
            of no more use.
    """

    def __init__(self, sigma: Mapping[str, float], rule: Rule) -> None:
        self.rule = rule
        self._sigma = sigma
        self._most_of_one = rule.max_trials_per_identity
        self._rows: dict[str, dict[Hashable, Row]] = {}  # by identity
        self._witnesses: dict[str, Witness] = {}
        self._votes: dict[str, float] = {}
        self._guards: dict[str, dict[str, float]] = {}  # class -> identity -> vote for "worse"
        self._crashers: dict[str, set[str]] = {}  # class -> identities on whose machine it only crashed
        self._tallies: dict[str, ClassTally] = {}
        self._gains: dict[str, ClassGain] = {}
        self._finishers = self._crashed = self._disqualified = self._trials = self._counted = self._counted_ahead = 0

    # --- what changes ---

    def put(self, key: Hashable, row: Row) -> None:
        """Takes a row in the place of the identity's row of that key, if there is one."""
        self._rows.setdefault(row.identity, {})[key] = row
        self._hear(row.identity)

    def put_all(self, rows: Iterable[Row]) -> None:
        """Takes many rows at once, each under a key of its own."""
        heard: dict[str, None] = {}  # in the order of the rows
        for key, row in enumerate(rows):
            own = self._rows.get(row.identity)
            if own is None:
                own = self._rows[row.identity] = {}
            own[key] = row
            heard[row.identity] = None
        for identity in heard:
            self._hear(identity)

    def drop(self, identity: str) -> None:
        """Forgets everything that an identity reported."""
        self._rows.pop(identity, None)
        self._forget(identity)

    def set_noise(self, sigma: Mapping[str, float]) -> None:
        """Weighs everything anew by another noise."""
        self._sigma = sigma
        for identity in self._rows:
            self._hear(identity)

    def _hear(self, identity: str) -> None:
        if identity in self._witnesses:
            self._forget(identity)
        witness = hear_one(identity, self._rows[identity].values(), self._sigma, self.rule)
        self._witnesses[identity] = witness
        if witness.vote is not None:
            self._votes[identity] = witness.vote
        for name, guard in witness.guards.items():
            own = self._guards.get(name)
            if own is None:
                own = self._guards[name] = {}
            own[identity] = guard
            if name in self._tallies or name in self._gains:
                self._unsettle(name)
        for name in witness.crash_classes:
            self._crashers.setdefault(name, set()).add(identity)
            self._unsettle(name)
        self._add(witness, 1)

    def _forget(self, identity: str) -> None:
        witness = self._witnesses.pop(identity, None)
        if witness is None:
            return
        self._votes.pop(identity, None)
        for name in witness.guards:
            del self._guards[name][identity]
            self._unsettle(name)
        for name in witness.crash_classes:
            self._crashers[name].discard(identity)
            self._unsettle(name)
        self._add(witness, -1)

    def _unsettle(self, name: str) -> None:
        """What is kept of a class no longer holds."""
        self._tallies.pop(name, None)
        self._gains.pop(name, None)

    def _add(self, witness: Witness, sign: int) -> None:
        trials, most = witness.trials, self._most_of_one
        if witness.pairs:
            self._finishers += sign
        if witness.crash_classes:
            self._crashed += sign
        if witness.disqualified:
            self._disqualified += sign
        self._trials += sign * trials
        self._counted += sign * min(most, trials)
        self._counted_ahead += sign * min(2 * most, trials)

    # --- what it amounts to ---

    @property
    def log_odds(self) -> float:
        """ "The patch helps" : "it does nothing"."""
        return math.fsum(self._votes.values())

    @property
    def trials(self) -> int:
        """Of the candidate, however they ended."""
        return self._trials

    @property
    def votes(self) -> Mapping[str, float]:
        """Log odds by identity, of those who finished, saw a crash or a failed exam."""
        return self._votes

    def keyed_rows(self, identity: str) -> list[tuple[Hashable, Row]]:
        """What one identity reported, under its keys."""
        return list(self._rows.get(identity, {}).items())

    def every_row(self) -> list[Row]:
        """What everybody reported."""
        return [row for own in self._rows.values() for row in own.values()]

    def witnesses(self) -> list[Witness]:
        """In the order of their names."""
        return [self._witnesses[identity] for identity in sorted(self._witnesses)]

    def pairs(self) -> list[Pair]:
        """Every finished pair."""
        return [pair for own in self._witnesses.values() for pairs in own.pairs.values() for pair in pairs]

    def classes(self) -> dict[str, ClassTally]:
        """One tally for every class on which somebody finished or crashed, by name."""
        return {
            name: tally for name in sorted(self._guards.keys() | self._crashers.keys()) if (tally := self._tally(name))
        }

    def _tally(self, name: str) -> ClassTally | None:
        tally = self._tallies.get(name)
        if tally is None:
            guards, crashers = self._guards.get(name, {}), len(self._crashers.get(name, ()))
            if not guards and not crashers:
                return None
            tally = self._tallies[name] = ClassTally(len(guards), crashers, math.fsum(guards.values()))
        return tally

    def class_gains(self) -> tuple[ClassGain, ...]:
        """As `tally.class_gains` of the witnesses; only those of classes that changed are worked out."""
        return tuple(self._gain(name, own) for name, own in sorted(self._guards.items()) if own)

    def _gain(self, name: str, finishers: Collection[str]) -> ClassGain:
        gain = self._gains.get(name)
        if gain is None:
            pairs = [pair for identity in finishers for pair in self._witnesses[identity].pairs[name]]
            gain = self._gains[name] = class_gain(name, len(finishers), pairs, self.rule.display_scale_bpb)
        return gain

    def counts(self) -> Counts:
        """All that the verdict depends on."""
        finished = bad = doubtful = 0
        for tally in self.classes().values():
            finished += tally.finishers > 0
            bad += tally.bad(self.rule)
            doubtful += tally.doubtful(self.rule)
        counts = Counts(
            self.log_odds, self._finishers, self._crashed, self._disqualified, finished, bad, doubtful, self._counted,
            self._counted_ahead,
        )  # fmt: skip
        if not counts.enough(self.rule) or not self._asks_for_harm:
            return counts
        return counts._replace(harm=harm(self._measured(), self.rule, late=self._late))

    def doubtful_classes(self, counts: Counts) -> frozenset[str]:
        """On which a promotion waits for another word. `counts`: of now."""
        perhaps_worse = frozenset(name for name, tally in self.classes().items() if tally.doubtful(self.rule))
        return perhaps_worse.union(counts.harm.classes if counts.harm.likely else ())

    def harm_without_each(self) -> dict[str, Harm]:
        """By identity with a pair: the harm if it had reported nothing, and the votes were enough."""
        if not self._asks_for_harm:
            return {}
        return harm_without_each(self._measured(), self.rule, late=self._late)

    @property
    def _asks_for_harm(self) -> bool:
        return self.rule.harm_alpha < 1.0

    @property
    def _late(self) -> bool:
        return self._counted_ahead >= self.rule.max_trials_ahead

    def _measured(self) -> dict[str, dict[str, Moments]]:
        """By class and identity."""
        return {
            name: {identity: self._witnesses[identity].by_class[name] for identity in own}
            for name, own in self._guards.items()
            if own
        }
