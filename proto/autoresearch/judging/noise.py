"""Measures the noise of one trial per hardware class, and how large a gain is worth asking about.

Noise is the standard deviation of val_bpb over seeds on one machine, estimated from repeated trials of one source.
Every vote depends on it: assumed at half its true size, 3.6 % of useless patches pass instead of 0.4 % (simulated).
Leaves out collecting the repeats (baselines are such repeats) and dropping slow ones.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from autoresearch.judging.evidence import MAX_BPB, NOISE_BOUNDS_BPB, EvidenceError

# What to assume of a class, by a word in its name, until its own repeats are in; bpb, for five-minute trials.
PRIORS: Mapping[str, float] = MappingProxyType(
    {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020, "3090": 0.0028, "3060": 0.0045, "unknown": 0.003}
)
TIGHT_CLIPS_SD = (3.0, 3.0)  # where the prior is nearly right: one slow run must not make a class look noisy
WILD_SD = 100.0  # far beyond any clip, and no hazard to the sums
PRIOR_WEIGHT = 8.0  # repeats that a prior counts as
CLIPS_SD = (
    6.0,
    3.0,
)  # deviations are clipped at 6 prior sd, then at 3 sd of the first pass: slow runs must not inflate


def prior_for(hardware_class: str, priors: Mapping[str, float] = PRIORS) -> float:
    """The prior of the first model word that the class name holds as a word of its own, else that of "unknown"."""
    for word, noise_bpb in priors.items():
        # "RTX4090" is a 4090, "14090" and "40900" are not; "GH100" is not an H100.
        before = r"(?<!\d)" if word[:1].isdigit() else r"(?<![A-Za-z0-9])"
        if re.search(before + re.escape(word) + r"(?!\d)", hardware_class, re.IGNORECASE):
            return noise_bpb
    return priors["unknown"]


def estimate(
    groups: Mapping[str, Sequence[Sequence[float]]],
    prior: Mapping[str, float],
    default_prior: float = PRIORS["unknown"],
    weight: float = PRIOR_WEIGHT,
    clips_sd: Sequence[float] = CLIPS_SD,
) -> dict[str, float]:
    """Noise in bpb for every hardware class in `groups` or `prior`.

    `groups`: per class, the val_bpb of repeated trials of one source on one machine, one sequence per machine and
    source. Pooled within-group sd in two passes, clipped at `clips_sd`, in which the prior counts as `weight`
    observations; so a class without repeats has its prior, and no class ever has zero.

    Raises:
        EvidenceError: a result or a prior is not finite or absurd, or the weight is not positive.
    """
    if not 0.0 < weight < math.inf:
        raise EvidenceError(f"the prior's weight must be a positive number, not {weight!r}")
    noise = {}
    for name in sorted(groups.keys() | prior.keys()):
        own_prior = prior.get(name, default_prior)
        if not NOISE_BOUNDS_BPB[0] <= own_prior <= NOISE_BOUNDS_BPB[1]:
            raise EvidenceError(f"hardware class {name!r} has an impossible prior noise ({own_prior!r})")
        noise[name] = _pooled(name, groups.get(name, ()), own_prior, weight, clips_sd)
    return noise


def moved_priors(
    groups: Mapping[str, Sequence[Sequence[float]]], prior: Mapping[str, float], weight: float = PRIOR_WEIGHT
) -> dict[str, float]:
    """The priors, all times the factor by which the repeats of all these classes together are noisier than assumed.

    A budget or data other than those that the priors come from make every class noisier alike, and all together show
    that long before each does alone. That they are quieter is left to each class: until it shows, it costs a few
    trials, while a noise that is assumed too small promotes useless patches. `groups`: as `estimate` takes them, of
    classes with a prior.
    """
    together = [_in_noises(group, prior[name]) for name, repeats in sorted(groups.items()) for group in repeats]
    factor = max(1.0, _pooled("all", together, 1.0, weight, TIGHT_CLIPS_SD))
    return {name: noise_bpb * factor for name, noise_bpb in prior.items()}


def _in_noises(group: Sequence[float], noise_bpb: float) -> list[float]:
    """How far repeats are from their mean, in noises; the wildest no further than is clipped anyway."""
    mean = math.fsum(group) / max(1, len(group))
    return [max(-WILD_SD, min(WILD_SD, (bpb - mean) / noise_bpb)) for bpb in group]


def delta_for(sigmas: Iterable[float], multiple: float = 1.0, floor: float = 0.0005) -> float:
    """The gain in bpb to ask votes about: about one noise of the fleet's median card.

    `sigmas`: one noise per card of the fleet (not per class). Larger is quicker only at first, smaller spends trials
    on gains nobody can measure; below the floor a gain is not worth a trial.

    Raises:
        EvidenceError: no card, or an impossible noise.
    """
    noises = list(sigmas)
    if not noises:
        raise EvidenceError("no card to choose delta for: give the noise of at least one")
    if not all(NOISE_BOUNDS_BPB[0] <= noise_bpb <= NOISE_BOUNDS_BPB[1] for noise_bpb in noises):
        raise EvidenceError(f"impossible noise among {noises[:8]!r}")
    return max(floor, multiple * statistics.median(noises))


def _pooled(
    name: str, groups: Sequence[Sequence[float]], prior_bpb: float, weight: float, clips_sd: Sequence[float]
) -> float:
    repeats = [group for group in groups if len(group) >= 2]
    if not all(-MAX_BPB <= bpb <= MAX_BPB for group in repeats for bpb in group):
        raise EvidenceError(f"hardware class {name!r} has an impossible result among its repeats")
    freedom = weight + sum(len(group) - 1 for group in repeats)
    sd = prior_bpb
    for clip in clips_sd:
        squares = [weight * prior_bpb * prior_bpb]
        for group in repeats:
            mean = math.fsum(group) / len(group)
            limit = clip * sd * math.sqrt(1.0 - 1.0 / len(group))
            squares += [min(abs(bpb - mean), limit) ** 2 for bpb in group]
        sd = math.sqrt(math.fsum(squares) / freedom)
    return sd
