"""Whether a patch that has won its votes may still harm the fleet as a whole: the mean over the hardware classes.

Votes for a patch come from the classes that it helps most plainly; a noisy card that was heard once can speak neither
for it nor against it. Where what helps one class harms another, a sum of such votes promotes what makes the mean worse.
So the classes are looked at side by side, each counted once, whatever its noise: how many of its standard errors their
mean is above zero. Too few hold a promotion back until the classes to which the mean owes most of its error were heard
again; this never makes a promotion. Why, and what it gains: docs/decisions/mean-over-classes.md.
"""

import math
from collections.abc import Collection, Mapping
from heapq import nsmallest
from typing import NamedTuple

from autoresearch.judging.evidence import Moments, total
from autoresearch.judging.rule import SLACK, Rule

Heard = Mapping[str, Mapping[str, Moments]]  # what identities measured: class -> identity -> moments of its pairs

MOST_SAID = 3.0  # delta: what one identity may say of a class, either way, so that one saboteur hardly moves the mean
UNSURE_CLASSES = 3  # another word is waited for on so many of them at once
FEWEST_CLASSES = 2  # of one class nothing is known but what the votes say


class Harm(NamedTuple):
    """Whether the mean over the classes may be a loss."""

    chance: float  # that it is: one-sided, for normal errors, by these results alone
    likely: bool = False  # likelier than the rule allows
    one_word: bool = False  # though not without one of the identities; looked at only where that matters
    classes: tuple[str, ...] = ()  # on which another word would tell the most


NO_HARM = Harm(0.0)


def harm(heard: Heard, rule: Rule, *, late: bool) -> Harm:
    """By what was heard of a patch. `late`: the patch ends now, so one identity's word matters."""
    mean = _Mean(heard, rule)
    return mean.harm((), late=late)._replace(classes=mean.unsure())


def harm_without_each(heard: Heard, rule: Rule, *, late: bool) -> dict[str, Harm]:
    """By identity: what `harm` would be if it had said nothing; its `classes` are not worked out."""
    mean = _Mean(heard, rule)
    return {own: mean.harm((own,), late=late) for own in mean.said}


class _Mean:
    """The mean over classes, also without some identities."""

    def __init__(self, heard: Heard, rule: Rule) -> None:
        self._alpha = rule.harm_alpha + SLACK
        most = MOST_SAID * rule.delta_bpb
        self.said: dict[str, dict[str, Moments]] = {}  # by identity and class
        self._sums: dict[str, Moments] = {}  # by class
        self._voices = {name: len(own) for name, own in heard.items()}
        for name, own in sorted(heard.items()):
            words = {who: Moments(i, max(-most * i, min(most * i, score))) for who, (i, score) in own.items()}
            self._sums[name] = total(list(words.values()))
            for who, word in words.items():
                self.said.setdefault(who, {})[name] = word
        self._rest: dict[tuple[str, ...], tuple[float, float]] = {}  # by classes: what all others sum up to

    def harm(self, left_out: tuple[str, ...], *, late: bool) -> Harm:
        """Without these identities."""
        likely = (chance := self._chance(left_out)) > self._alpha
        return Harm(chance, likely, likely and late and self._is_one_word(left_out))

    def _is_one_word(self, left_out: tuple[str, ...]) -> bool:
        return any(self._chance((*left_out, own)) <= self._alpha for own in self.said if own not in left_out)

    def unsure(self) -> tuple[str, ...]:
        """The classes to which the mean owes most of its error."""
        least = nsmallest(UNSURE_CLASSES, self._sums, key=lambda name: (self._sums[name].information, name))
        return tuple(sorted(least))

    def _chance(self, left_out: tuple[str, ...]) -> float:
        """0 where too few classes are left."""
        changed: Collection[str] = self.said[left_out[0]].keys() if left_out else ()
        if len(left_out) > 1:
            changed = sorted({name for who in left_out for name in self.said[who]})
        gains_bpb, variances = self._without(tuple(changed))
        classes = len(self._sums)
        for name in changed:
            gone = [own[name] for who in left_out if name in (own := self.said[who])]
            if len(gone) == self._voices[name]:
                classes -= 1
                continue
            information, score = self._sums[name]
            for word in gone:
                information -= word.information
                score -= word.score
            gains_bpb += score / information
            variances += 1.0 / information
        if classes < FEWEST_CLASSES:
            return 0.0
        return 0.5 * math.erfc(gains_bpb / math.sqrt(2.0 * variances))

    def _without(self, classes: tuple[str, ...]) -> tuple[float, float]:
        """Sums of the gains, and of their variances, over the other classes."""
        if classes not in self._rest:
            others = [own for name, own in self._sums.items() if name not in classes]
            gains_bpb = math.fsum(own.score / own.information for own in others)
            self._rest[classes] = gains_bpb, math.fsum(1.0 / own.information for own in others)
        return self._rest[classes]
