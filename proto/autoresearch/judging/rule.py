"""The parameters of the "bounded votes" rule, their meaning, their bounds and the presets: one place for all of them.

A rule is recorded in the ledger beside every verdict, so that anyone can recompute it; `Rule.from_json` therefore
checks everything and fills in nothing but what older ledgers did without. What the parameters do to the evidence is
in `evidence` and `verdict`; how large `delta_bpb` should be for a fleet is in `noise`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

# Bounds, both included, of every parameter. Wide: they keep the arithmetic finite, they do not choose for the operator.
BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "delta_bpb": (1e-6, 1.0),
        "alpha": (1e-9, 0.5),
        "park": (-50.0, 0.0),  # never above 0: a patch nobody has run yet must not be parked
        "beta": (1e-9, 0.5),
        "eps": (1e-6, 0.5),
        "cap": (1.1, 1e6),  # at 1 nobody could ever vote for a patch
        "tau_bpb": (0.0, 1.0),
        "min_identities": (1, 1000),
        "min_classes": (1, 1000),
        "max_trials": (1, 1_000_000),
        "guard_delta_bpb": (1e-6, 1.0),
        "guard_alpha": (1e-9, 0.5),
        "own_trials": (0, 1000),
        "harm_alpha": (1e-9, 1.0),
    }
)
SLACK = 1e-9  # log odds this close to a bound have reached it: rounding must not cost a volunteer's run
# What ledgers from before there was a choice did.
OLD: Mapping[str, float | int] = MappingProxyType({"own_trials": 0, "harm_alpha": 1.0})
WHOLE_NUMBERS = frozenset({"min_identities", "min_classes", "max_trials", "own_trials"})


class RuleError(ValueError):
    """A rule that cannot be used. `parameter` names the culprit, `value` is what it was given."""

    def __init__(self, parameter: str, value: object, reason: str) -> None:
        self.parameter = parameter
        self.value = value
        super().__init__(f"rule parameter {parameter!r} is {value!r}: {reason}")


@dataclass(frozen=True, slots=True)
class Rule:
    """All that a verdict depends on besides the results and the noise.

    Raises:
        RuleError: a parameter is out of its bounds, or two of them together would give one identity the power to
            reject a patch for good.
    """

    delta_bpb: float = 0.002  # the gain one vote is asked about: "helps by delta" against "does nothing"
    alpha: float = 0.01  # promote when the odds reach 1/alpha : 1; bounds the share of useless patches ever promoted
    park: float = -0.1  # spend no more trials while the log odds are below this; the evidence stays valid
    beta: float = 0.01  # reject for good when the odds fall to beta : 1
    eps: float = 0.05  # weight of "this identity's numbers mean nothing"; the strongest vote against is eps : 1
    cap: float = 6.0  # the strongest vote for is cap : 1, whatever the identity claims and however many machines it has
    tau_bpb: float = 0.0003  # standard deviation of a patch's effect from machine to machine
    min_identities: int = 3  # identities with a finished pair needed to promote
    min_classes: int = 3  # hardware classes with a finished pair needed; give min(3, classes in the fleet)
    max_trials: int = 24  # trials after which a patch that is neither won nor lost ends as inconclusive
    guard_delta_bpb: float = 0.003  # a hardware class that looks worse by this ...
    guard_alpha: float = 0.05  # ... at odds of 1/guard_alpha : 1 stops the patch
    # A machine's last so many trials of other candidates beside the same baselines say where its level is (`level`);
    # 0: only its baselines do. More hardly narrow it: the patch's own trial is one.
    own_trials: int = 48
    # A promotion waits while the mean over hardware classes is likelier than this to be a loss (`overall`); 1: never.
    harm_alpha: float = 0.02

    upper: float = field(init=False, repr=False, compare=False)  # log odds at which a patch has won
    lower: float = field(init=False, repr=False, compare=False)  # log odds at which it is rejected for good
    guard_upper: float = field(init=False, repr=False, compare=False)  # log odds at which a class is worse
    guard_doubt: float = field(init=False, repr=False, compare=False)  # half of that: it may be

    def __post_init__(self) -> None:
        for name, bounds in BOUNDS.items():
            _check(name, getattr(self, name), bounds)
        if self.eps <= self.beta:
            raise RuleError("eps", self.eps, f"must be above beta ({self.beta}), or one vote against rejects for good")
        if self.min_identities > 1 and self.cap * self.guard_alpha >= 1.0:
            raise RuleError("cap", self.cap, f"must be below 1/guard_alpha ({1 / self.guard_alpha:g}) for several "
                            "identities, or one of them stops a patch alone")  # fmt: skip
        if self.max_trials < self.min_identities:
            raise RuleError("max_trials", self.max_trials, f"must be at least min_identities ({self.min_identities})")
        object.__setattr__(self, "upper", -math.log(self.alpha))
        object.__setattr__(self, "lower", math.log(self.beta))
        object.__setattr__(self, "guard_upper", -math.log(self.guard_alpha))
        object.__setattr__(self, "guard_doubt", self.guard_upper / 2.0)

    @property
    def alarm(self) -> float:
        """Log odds of the vote of an identity that saw the patch crash or fail its exam: two of them reject."""
        return self.lower / 2.0

    @property
    def display_scale_bpb(self) -> float:
        """How large gains are expected to be, for the intervals that people see."""
        return 1.5 * self.delta_bpb

    @property
    def max_trials_ahead(self) -> int:
        """Trials after which a patch that has its votes ends though it may harm the mean over classes: what is nearly
        won is worth as many again."""
        return 2 * self.max_trials

    @property
    def max_trials_per_identity(self) -> int:
        """How many of one identity's trials count towards `max_trials`.

        Without this limit one identity could end a good patch as inconclusive by running it over and over.
        """
        return self.max_trials // self.min_identities

    def scaled(self, delta_bpb: float) -> Self:
        """The same rule for a fleet with other noise: what is measured in bits per byte moves together."""
        return replace(self, delta_bpb=delta_bpb, guard_delta_bpb=1.5 * delta_bpb, tau_bpb=0.15 * delta_bpb)

    def to_json(self) -> dict[str, float | int]:
        """A plain dict with every parameter; `from_json` gives the equal rule back."""
        return {name: getattr(self, name) for name in BOUNDS}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Read a recorded rule. Every parameter must be there, but for those that older ledgers lack: a default
        may change, a recorded verdict may not.

        Raises:
            RuleError: a parameter is missing, unknown, not a number or out of its bounds.
        """
        for name in data:
            if name not in BOUNDS:
                raise RuleError(str(name)[:80], None, f"no such parameter; there are {', '.join(BOUNDS)}")
        data = {**OLD, **data}
        return cls(**{name: _number(name, data.get(name)) for name in BOUNDS})  # type: ignore[arg-type]  # whole or not


def _check(name: str, value: object, bounds: tuple[float, float]) -> None:
    number = _number(name, value)
    if name in WHOLE_NUMBERS and not isinstance(number, int):
        raise RuleError(name, value, "must be a whole number")
    if not bounds[0] <= number <= bounds[1]:
        raise RuleError(name, value, f"must be from {bounds[0]:g} to {bounds[1]:g}")


def _number(name: str, value: object) -> float | int:
    """A parameter as the rule keeps it. JSON writers differ in whether 6.0 is `6` and 3 is `3.0`: both are read."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise RuleError(name, value, "must be a finite number")
    if name in WHOLE_NUMBERS and int(value) == value:
        return int(value)
    return float(value)


DEFAULT = Rule()
FAST = Rule(alpha=0.1)  # a trusted or young swarm: more, smaller, less certain promotions
PATIENT = Rule(park=-1.5, max_trials=40)  # patches are scarcer than GPU time: look twice before parking
STRICT = Rule(alpha=0.001, min_identities=4)  # at most 1 in 1000 useless patches, and three liars are not enough
SOLO = Rule(min_identities=1, min_classes=1, cap=1e6)  # one trusted volunteer; no protection against lies
PRESETS: Mapping[str, Rule] = MappingProxyType(
    {"default": DEFAULT, "fast": FAST, "patient": PATIENT, "strict": STRICT, "solo": SOLO}
)
