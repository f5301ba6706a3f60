"""What planning knows of a patch, a machine and a trial with a known answer. Values only; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Lease = tuple[str, str]  # identity id, hardware class


@dataclass(frozen=True, slots=True)
class PatchFacts:
    """An undecided patch: its evidence as the last decision left it, and its trials under way."""

    patch_id: str
    author_id: str
    base_sha256: str
    submitted_at_ms: int
    parked: bool = False  # else open
    doubted: bool = False  # one identity saw it crash or fail its exam; another one's word settles it
    disputed: bool = False  # identities contradict each other: see `disputes`
    decided_at_ms: int = 0  # last parked
    log_odds: float = 0.0
    gain_bpb: float | None = None  # what to expect of it, shrunk; None before the first pair
    runs: Mapping[str, int] = field(default_factory=dict)  # identity -> trials it has had, disturbed ones too
    votes: Mapping[str, float] = field(default_factory=dict)  # identity -> log odds, of those that count
    trials: int = 0  # undisturbed
    classes: frozenset[str] = frozenset()  # hardware classes with a finished pair
    doubtful: frozenset[str] = frozenset()  # classes that it crashes on or harms, perhaps: a promotion waits for them
    heard: frozenset[str] = frozenset()  # identities with an undisturbed trial
    leased: tuple[Lease, ...] = ()  # trials under way
    canary: bool = False  # of an author who was unknown: the first run is for a canary machine

    @property
    def unproven(self) -> bool:
        """No canary has come back from it yet: none of its trials, however it ended, was taken."""
        return self.canary and not self.runs


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What a machine did on one base, in the period that its last baseline is in."""

    baselines: int = 0  # that count
    ends_at_ms: int = 0  # from then on they are stale
    runs: int = 0  # candidate trials in the period
    failed: int = 0  # baselines that did not complete since the machine joined
    ever: bool = False  # some baseline completed, stale or not
    leased: int = 0  # baselines under way


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """A machine that was heard of lately."""

    machine_id: str
    identity_id: str
    hardware_class: str
    bases: Mapping[str, BaseFacts] = field(default_factory=dict)  # by source
    last_trial_at_ms: int = 0
    canary: bool = False  # its owner takes the first run of unknown authors' patches


@dataclass(frozen=True, slots=True)
class KnownLoss:
    """A patch that is known to lose, by several identities' word: whoever runs it must see that."""

    patch_id: str
    author_id: str
    source_sha256: str
    base_sha256: str
    effect_bpb: float  # it loses at least this much
    seen: frozenset[str] = frozenset()  # identities that ran it before
    spared: frozenset[str] = frozenset()  # hardware classes on which it was not seen to lose so much


def spared_classes(gains_bpb: Mapping[str, float], effect_bpb: float) -> frozenset[str]:
    """The hardware classes on which a patch was not seen to lose so much, by its gain on each."""
    return frozenset(name for name, gain_bpb in gains_bpb.items() if gain_bpb > -effect_bpb)
