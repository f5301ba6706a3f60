"""Which baselines a trial is compared with: those of the same machine, on the same source, in the same period. Pure.

A machine drifts: its clocks, its heat, its driver. So a baseline speaks for the 24 hours that begin with its period
and for one setting (driver, torch, client), and no further; whoever comes later measures the base anew. Periods follow
from the results alone, in the ledger's order, so anyone can recompute them. Left out: when to order which baseline
(`planning`), and what a pair says (`evidence`).
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from autoresearch.judging.evidence import Row
from autoresearch.judging.level import OtherTrial, together
from autoresearch.judging.model import Trial, Tried

# An offset that drifts 0.1 sd a trial does no harm, 0.3 sd costs 5 % of the gain (simulated, statistics of the design):
# a day is some 250 trials of five minutes, of which few share a base.
BASELINE_LIFE_MS = 24 * 3600 * 1000
# A run that served fewer tokens than this share of its machine's median had less training than the others: something
# else was using the machine. A candidate may be slower by its own fault, so only baselines are dropped.
# Not on a CPU: its budget is processor time, whose worth differs by up to 20 % with what neighbours do to the caches
# (eight baselines of one demo beside other work served 102,000 to 141,000 tokens), for candidates no less than for
# baselines. Dropping only the slower baselines there would make every candidate look worse.
SLOW_SHARE = 0.97
CPU = "CPU "  # how `hardware_class` begins for a processor
FAILED = ("crashed", "out_of_memory", "timed_out")

Key = tuple[str, str]  # machine, hardware class: what it measured with other hardware compares with nothing


@dataclass(frozen=True, slots=True)
class Period:
    """Baselines of one machine on one source that speak for the same time. `baselines` are those that count."""

    begins_with: Trial  # the first one, slow or not
    baselines: tuple[Trial, ...]

    @property
    def setting(self) -> str:
        """What the machine ran with."""
        return self.begins_with.setting

    @property
    def begins_at_ms(self) -> int:
        """When it was accepted."""
        return self.begins_with.accepted_at_ms

    @property
    def ends_at_ms(self) -> int:
        """From then on it takes no more trials."""
        return self.begins_at_ms + BASELINE_LIFE_MS


def counts(trial: Trial) -> bool:
    """Whether a trial's number is evidence."""
    return trial.outcome == "completed" and not trial.disturbed and trial.val_bpb is not None


def slow(baselines: Iterable[Trial]) -> frozenset[str]:
    """Results (by digest) that served too few tokens: under 97 % of the median of their machine on the same code.

    Without a count of tokens nothing is slow; nor is a machine's only run, nor any on a CPU.
    """
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in baselines:
        if counts(trial) and trial.tokens > 0 and not trial.hardware_class.startswith(CPU):
            alike = (trial.machine_id, trial.hardware_class, trial.source_sha256, trial.setting)
            groups.setdefault(alike, []).append(trial)
    dropped: list[str] = []
    for group in groups.values():
        if len(group) > 1:
            least = SLOW_SHARE * statistics.median(trial.tokens for trial in group)
            dropped += [trial.result_sha256 for trial in group if trial.tokens < least]
    return frozenset(dropped)


def usable(baselines: Sequence[Trial]) -> list[Trial]:
    """The baselines whose numbers count, in their order: finished, undisturbed, not slow."""
    dropped = slow(baselines)
    return [trial for trial in baselines if counts(trial) and trial.result_sha256 not in dropped]


def periods(baselines: Sequence[Trial]) -> list[Period]:
    """The periods of one machine on one source, oldest first; `baselines` of nobody else, in the ledger's order.

    A period begins with the first finished baseline that the one before it does not cover, slow or not: so a later
    result never moves an earlier one into another period.
    """
    dropped = slow(baselines)
    begun: list[tuple[Trial, list[Trial]]] = []
    for trial in baselines:
        if not counts(trial):
            continue
        if not begun or not _covers(begun[-1][0], trial):
            begun.append((trial, []))
        if trial.result_sha256 not in dropped:
            begun[-1][1].append(trial)
    return [Period(first, tuple(own)) for first, own in begun]


def _covers(first: Trial, trial: Trial) -> bool:
    return trial.setting == first.setting and trial.accepted_at_ms < first.accepted_at_ms + BASELINE_LIFE_MS


def period_of(trial: Trial | Tried, own: Sequence[Period]) -> int | None:
    """Which of its machine's periods a candidate's trial belongs to; None while it waits for one.

    The last that began before it, if that still covers it; else the first that begins within a day after it.
    """
    last = None
    for index, period in enumerate(own):
        if period.setting != trial.setting:
            continue
        if period.begins_at_ms <= trial.accepted_at_ms:
            last = index if trial.accepted_at_ms < period.ends_at_ms else None
        elif last is None and period.begins_at_ms - trial.accepted_at_ms < BASELINE_LIFE_MS:
            return index
    return last


def periods_by_machine(baselines: Iterable[Trial]) -> dict[Key, list[Period]]:
    """The periods of every machine on one source."""
    own: dict[Key, list[Trial]] = {}
    for trial in baselines:
        own.setdefault((trial.machine_id, trial.hardware_class), []).append(trial)
    return {key: periods(trials) for key, trials in own.items()}


def tried(trial: Trial) -> Tried | None:
    """A candidate's trial as far as it says where its machine's level is; None if its number is no evidence."""
    if not counts(trial) or trial.val_bpb is None:
        return None
    return Tried(
        entry=trial.entry,
        patch_id=trial.patch_id,
        identity_id=trial.identity_id,
        machine_id=trial.machine_id,
        hardware_class=trial.hardware_class,
        setting=trial.setting,
        val_bpb=trial.val_bpb,
        accepted_at_ms=trial.accepted_at_ms,
        result_sha256=trial.result_sha256,
        earlier=trial.earlier,
    )


class Others(NamedTuple):
    """Finished trials of candidates on one source, by machine; of the last `most` candidates, one each is in a row."""

    by_machine: Mapping[str, Sequence[Tried]] = MappingProxyType({})
    most: int = 0

    def beside(self, key: Key, patch_id: str, own: Sequence[Period], index: int) -> tuple[OtherTrial, ...]:
        """Of other patches, what belongs to the machine's period of that index."""
        if not self.most:
            return ()
        begin, end, setting = own[index].begins_at_ms, own[index].ends_at_ms, own[index].setting
        alone = len(own) == 1  # nearly always
        found: dict[str, list[OtherTrial]] = {}
        for trial in self.by_machine.get(key[0], ()):
            if (
                begin - BASELINE_LIFE_MS < trial.accepted_at_ms < end
                and trial.setting == setting
                and trial.patch_id != patch_id
                and trial.hardware_class == key[1]
                and (alone or period_of(trial, own) == index)
            ):
                found.setdefault(trial.patch_id, []).append(OtherTrial(trial.val_bpb, trial.earlier))
        return tuple(map(together, found.values()))[-self.most :]


def rows(candidate: Iterable[Trial], baseline: Iterable[Trial], others: Others | None = None) -> list[Row]:
    """The evidence: one row per machine and period in which it ran the candidate, beside its baselines of that period
    and its trials of other candidates in it.

    Crashes and failed exams need no baseline; they stand in the machine's first row.
    """
    machines: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in candidate:
        if not trial.disturbed:
            machines.setdefault((trial.identity_id, trial.machine_id, trial.hardware_class), []).append(trial)
    known = periods_by_machine(baseline)
    return [
        row
        for (identity_id, machine_id, name), trials in machines.items()
        for row in _rows(identity_id, (machine_id, name), trials, known, others or Others())
    ]


def _rows(
    identity_id: str, key: Key, trials: Sequence[Trial], known: Mapping[Key, Sequence[Period]], others: Others
) -> list[Row]:  # fmt: skip
    own = known.get(key, ())
    groups: dict[int | None, list[float]] = {}
    for trial in trials:
        if trial.val_bpb is not None:
            groups.setdefault(period_of(trial, own), []).append(trial.val_bpb)
    crashes = sum(trial.outcome in FAILED for trial in trials)
    disqualifications = sum(trial.outcome == "disqualified" for trial in trials)
    found: list[Row] = []
    for index, numbers in groups.items() or [(None, [])]:
        baselines = own[index].baselines if index is not None else ()
        found.append(
            Row(
                identity=identity_id,
                machine=key[0],
                hardware_class=key[1],
                candidate=tuple(numbers),
                baseline=tuple(trial.val_bpb for trial in baselines if trial.val_bpb is not None),
                crashes=0 if found else crashes,
                disqualifications=0 if found else disqualifications,
                others=() if index is None else others.beside(key, trials[0].patch_id, own, index),
            )
        )
    return found
