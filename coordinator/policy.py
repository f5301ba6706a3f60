"""The parameters of planning, with their reasons: one frozen value, so that a swarm or a simulation may vary them.

None of them changes a verdict: they say what is run next, how often, and by whom. What makes evidence count (how long
baselines live, which are slow) is in `periods`, the rule of the verdict in `rule`.
"""

import enum
from dataclasses import dataclass

from coordinator.errors import CoordinatorError

HOUR_MS = 3_600_000


class PolicyError(CoordinatorError, ValueError):
    """A policy that cannot be used."""


class Canaries(enum.StrEnum):
    """Whose machines run a patch of an unknown author first."""

    OFF = "off"  # anybody's
    PREFER = "prefer"  # a canary's while one is there, else anybody's
    WAIT = "wait"  # a canary's; without one the patch waits


@dataclass(frozen=True, slots=True)
class Policy:
    """What to run next.

    Raises:
        PolicyError: a parameter is out of its bounds.
    """

    # --- baselines ---
    # On a machine before its first candidate on a base; then as many as the square root of its candidates there.
    first_baselines: int = 1
    most_baselines: int = 6  # more would hardly narrow a pair that has one candidate
    # Where its candidates say where the machine's level is, too: one beside other work, the other to measure the noise.
    most_beside_trials: int = 2
    failed_baselines: int = 2  # a machine that cannot run the best itself gets nothing until it joins again
    # A promotion is audited by identities that measured the base before it. Three can roll back (votes are capped at
    # 5 : 1), and eight give the confirmed gain a third of one machine's error; each would measure the new best anyway.
    audit_identities: int = 8

    # --- candidates ---
    useful_share: float = 0.15  # of patches that help by delta or more, before the first trial: users' keep rate
    typical_vote: float = 1.2  # log odds a trial of a patch that helps adds on average; the cap is 1.8
    useless_runs: float = 1.3  # trials a patch that does nothing takes until it is parked, from wherever it stands
    # A card noisier than this multiple of the fleet's median finds out which patches are bad, and leaves those that
    # look good to quieter ones, unless its class has not spoken yet: 1 to 3 % more gain (simulated).
    screen_ratio: float = 1.25
    confirm_above: float = 0.5  # log odds from which a patch "looks good"
    missing_class_worth: float = 1.25  # a trial on a class that a promotion still lacks is worth this much more ...
    # Votes come from other classes while there are that many, also beyond what the verdict asks for: whoever a patch
    # harms is heard. As many gains, and among unlike classes a third of the lasting regressions (simulated).
    heard_classes: int = 5
    window: float = 0.75  # ... among patches worth at least this share of the best one
    look: int = 8  # that many of them are compared

    # --- authors ---
    # Authors take turns, this many patches each; within a turn the most valuable patch is first. One would let an
    # author with two good patches wait for every fresh one of everybody else; many would let a hundred go first.
    turn_patches: int = 3

    # --- second looks ---
    resume_after_ms: int = 600_000  # a parked patch rests this long, so that what is fresh comes first
    second_look_worth: float = 0.25  # of a fresh patch: parked ones below are not worth anybody's electricity

    # --- trust ---
    # Share of candidate trials that are known to lose. 2 % catch six of eight who invent numbers and cost honest
    # swarms 1 to 2 % of the gain; 4 % catch little more (simulated).
    known_answer_share: float = 0.02
    known_answer_deltas: float = 5.0  # how much it must lose, in the rule's delta: seen through by one trial or two
    known_answers: int = 3  # wanted per base; an identity gets one there, for all share its baselines
    quarantined_every_ms: int = HOUR_MS  # a machine in quarantine runs one trial in this time, which does not count

    # --- strangers' code ---
    canaries: Canaries = Canaries.PREFER  # who opted in is asked first; who did not is not made to wait for nobody

    def __post_init__(self) -> None:
        shares = (self.useful_share, self.known_answer_share, self.window, self.second_look_worth)
        counts = (
            self.first_baselines, self.most_baselines, self.most_beside_trials, self.failed_baselines,
            self.turn_patches, self.look, self.heard_classes,
        )  # fmt: skip
        if not all(0.0 <= share <= 1.0 for share in shares) or not 0.0 < self.useful_share < 1.0:
            raise PolicyError("a share is a number from 0 to 1, and useful_share neither of the two")
        if min(counts) < 1 or self.first_baselines > self.most_baselines:
            raise PolicyError("a count is at least 1, and first_baselines at most most_baselines")
        if min(self.typical_vote, self.useless_runs, self.screen_ratio, self.missing_class_worth) <= 0.0:
            raise PolicyError("a vote, a number of runs and a ratio are positive")

    def classes_to_hear(self, min_classes: int, there: int) -> int:
        """How many hardware classes should speak about a patch whose promotion needs `min_classes`, in a fleet that has
        `there`. A rule that needs one does without others."""
        wanted = min_classes if min_classes == 1 else max(min_classes, self.heard_classes)
        return max(1, min(wanted, there))


DEFAULT_POLICY = Policy()
