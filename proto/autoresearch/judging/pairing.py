"""Which trials are evidence at which moment: of a patch, and of the noise of a class.

Pure. Everything is asked "as of" a ledger entry: only what the ledger held before that entry counts. So an answer does
not depend on when somebody looked, and whoever has the ledger gets the same one (`replay`). What follows from the
evidence is in `verdict`, `audit` and `trust`; which baselines a trial is compared with in `periods`; whose trials count
is passed in.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from autoresearch.judging import noise
from autoresearch.judging.evidence import Row
from autoresearch.judging.model import Belief, Best, Trial, Tried
from autoresearch.judging.periods import Others, periods_by_machine, rows
from autoresearch.judging.rule import Rule


class Ran(Protocol):
    """What there is to know of a trial when only who ran it where and when matters; a `Trial` says more."""

    @property
    def entry(self) -> int:
        """Of the ledger."""

    @property
    def identity_id(self) -> str:
        """Who ran it."""

    @property
    def machine_id(self) -> str:
        """Where."""

    @property
    def disturbed(self) -> bool:
        """Whether it counts for nothing."""

    @property
    def result_sha256(self) -> str:
        """Of the result."""

    @property
    def accepted_at_ms(self) -> int:
        """When the result was taken."""


T = TypeVar("T", bound=Ran)
NOISE_SOURCES = 8  # baselines of this many bests are repeats that the noise is estimated from ...
NOISE_SOURCES_FEW = 32  # ... where a machine measures each only once or twice, and not every best at all


def before(trials: Sequence[T], entry: int) -> Sequence[T]:
    """Those that the ledger held before that entry; `trials` in the ledger's order."""
    if not trials or trials[-1].entry < entry:  # nearly always
        return trials
    return trials[: bisect_left(trials, entry, key=lambda trial: trial.entry)]


def evidence(
    candidate: Sequence[Trial],
    baseline: Sequence[Trial],
    tried: Mapping[str, Sequence[Tried]],
    entry: int,
    rule: Rule,
) -> list[Row]:
    """The rows of a patch as of a ledger entry, of everybody. `tried`: by machine, its finished trials of candidates on
    the patch's base; needed only of machines that ran the patch, and if the rule wants them."""
    then = before(candidate, entry)
    machines = {trial.machine_id for trial in then}  # a large fleet has many more baselines than a patch has trials
    own = {machine: before(tried[machine], entry) for machine in machines & tried.keys()}
    measured = [trial for trial in before(baseline, entry) if trial.machine_id in machines]
    return rows(then, measured, Others(own, rule.own_trials))


def jurors(candidate: Sequence[Ran], entry: int) -> set[str]:
    """The identities of which `evidence` has rows."""
    return {trial.identity_id for trial in before(candidate, entry) if not trial.disturbed}


def looks(candidate: Sequence[Ran], baseline: Sequence[Ran], looked: int, until: int) -> list[int]:
    """The ledger entries from `looked` to `until` that brought evidence about a patch: after each of them it is judged.

    One after the other, however late somebody comes to it: otherwise a verdict would depend on how busy the
    coordinator was. A baseline is evidence about the patches that its machine has run.
    """
    machines = {trial.machine_id for trial in candidate}
    fresh = [trial.entry for trial in since(candidate, looked)]
    fresh += [trial.entry for trial in since(baseline, looked) if trial.machine_id in machines]
    return sorted(entry for entry in fresh if entry <= until)


def since(trials: Sequence[T], entry: int) -> Sequence[T]:
    """Those from that ledger entry on; `trials` in the ledger's order."""
    return trials[bisect_left(trials, entry, key=lambda trial: trial.entry) :]


# --- noise ---


def noise_entry(entry: int) -> int:
    """The noise at a ledger entry is that of the trials before this one: the entry's number cut to its first six
    binary digits, so that noise is estimated anew whenever the ledger has grown by one to two parts in sixty-four.

    A class's noise hardly moves with one more repeat among hundreds, while estimating it reads all of them.
    """
    step = 1 << max(0, entry.bit_length() - 6)
    return entry // step * step


def noise_sources(lineage: Sequence[Best], entry: int, rule: Rule) -> list[str]:
    """Sources whose baselines are the repeats: of the last bests that the ledger held before the entry."""
    most = NOISE_SOURCES_FEW if rule.own_trials else NOISE_SOURCES
    recent: list[str] = []
    for best in reversed(lineage):
        if best.entry < entry and best.source_sha256 not in recent:
            recent.append(best.source_sha256)
            if len(recent) == most:
                break
    return recent


def held_before(beliefs: Iterable[Belief], entry: int) -> set[str]:
    """Who was in quarantine before a ledger entry; the changes oldest first."""
    held: set[str] = set()
    for change in beliefs:
        if change.entry < entry:
            (held.discard if change.counts else held.add)(change.identity_id)
    return held


def estimate_noise(
    repeats: Iterable[Sequence[Trial]], entry: int, quarantined: Container[str], prior_bpb: float
) -> dict[str, float]:
    """Noise of one trial per hardware class. `repeats`: the baselines of each of `noise_sources`; `quarantined`: then,
    so that it is the same whenever it is asked for; `prior_bpb`: of every class, or 0 for the published ones."""
    groups: dict[str, list[list[float]]] = {}
    for trials in repeats:
        believed = [trial for trial in before(trials, entry) if trial.identity_id not in quarantined]
        for (_, name), own in periods_by_machine(believed).items():
            numbers = [[trial.val_bpb for trial in one.baselines if trial.val_bpb is not None] for one in own]
            groups.setdefault(name, []).extend(numbers)
    prior = {name: prior_for(name, prior_bpb) for name in groups}
    return noise.estimate(groups, noise.moved_priors(groups, prior), clips_sd=noise.TIGHT_CLIPS_SD)


def prior_for(hardware_class: str, prior_bpb: float) -> float:
    """What is assumed of a class without repeats."""
    return prior_bpb or noise.prior_for(hardware_class)


def with_priors(noise_bpb: Mapping[str, float], classes: Iterable[str], prior_bpb: float) -> dict[str, float]:
    """The noise, and a prior for those of the classes that have none yet."""
    missing = set(classes) - noise_bpb.keys()
    return {**noise_bpb, **{name: prior_for(name, prior_bpb) for name in sorted(missing)}}


def rule_for(rule: Rule, noise_bpb: Mapping[str, float]) -> Rule:
    """The rule for a fleet that has these hardware classes: more than there are cannot be asked for."""
    return replace(rule, min_classes=max(1, min(rule.min_classes, len(noise_bpb))))
