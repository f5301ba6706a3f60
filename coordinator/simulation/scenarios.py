"""The rules and the worlds that are compared, by name."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from autoresearch.judging.rule import PRESETS, Rule, RuleError
from coordinator.errors import OperatorError
from coordinator.simulation.campaign import Campaign, Outcome
from coordinator.simulation.rivals import alone, lower_wins, t_test
from coordinator.simulation.state import Course
from coordinator.simulation.swarm import Swarm
from coordinator.simulation.world import World

TWO_DAYS_TRIALS = 48 * 12 * 16  # 48 hours of 16 machines
Rival = Callable[[Campaign], Iterator[None]]

# Votes without bounds multiply to the likelihood ratio of all pairs together: Wald's sequential test. Nobody is needed
# twice, no class is guarded, nobody is watched.
SPRT = Rule(eps=2e-6, beta=1e-6, cap=1e6, min_identities=1, min_classes=1, own_trials=0, harm_alpha=1.0)

RIVALS: Mapping[str, Rival] = {
    "alone": alone,
    "lower-wins": lambda campaign: lower_wins(campaign, tiers=False),
    "lower-wins-per-tier": lambda campaign: lower_wins(campaign, tiers=True),
    "t-test-5": lambda campaign: t_test(campaign, runs=5, miss=0.05, screen=False),
    "t-test-10": lambda campaign: t_test(campaign, runs=10, miss=0.01, screen=False),
    "t-test-10-screened": lambda campaign: t_test(campaign, runs=10, miss=0.01, screen=True),
}
OURS: Mapping[str, Course] = {
    **{name: Course(rule=rule) for name, rule in PRESETS.items() if name != "solo"},
    "sprt": Course(rule=SPRT, watch=False, audits=False),
}
RULES = (*RIVALS, *OURS)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, how long it lasts, and the delta that an operator would choose for it."""

    world: World
    trials: int = 10_000
    delta_bpb: float = 0.0  # 0: the rule's own


_W = World()
SCENARIOS: Mapping[str, Scenario] = {
    "honest": Scenario(_W),
    "mix-5": Scenario(replace(_W, liars="mix", liar_share=0.05)),
    "mix-20": Scenario(replace(_W, liars="mix", liar_share=0.20)),
    "flatter-5": Scenario(replace(_W, liars="flatter", liar_share=0.05)),
    "flatter-20": Scenario(replace(_W, liars="flatter", liar_share=0.20)),
    "worse-5": Scenario(replace(_W, liars="worse", liar_share=0.05)),
    "worse-20": Scenario(replace(_W, liars="worse", liar_share=0.20)),
    "ring-5": Scenario(replace(_W, liars="ring", liar_share=0.05)),
    "ring-20": Scenario(replace(_W, liars="ring", liar_share=0.20)),
    "offset-5": Scenario(replace(_W, liars="offset", liar_share=0.05)),
    "offset-20": Scenario(replace(_W, liars="offset", liar_share=0.20)),
    "lazy-5": Scenario(replace(_W, liars="lazy", liar_share=0.05)),
    "lazy-20": Scenario(replace(_W, liars="lazy", liar_share=0.20)),
    "drifting": Scenario(replace(_W, drift=0.1)),
    "flaky": Scenario(replace(_W, flaky_share=0.10)),
    "burst": Scenario(replace(_W, burst=1000)),
    "no-gains": Scenario(replace(_W, no_gains=True), trials=TWO_DAYS_TRIALS),
    "quiet": Scenario(replace(_W, noise_scale=0.3), delta_bpb=0.001),
    "noisy": Scenario(replace(_W, noise_scale=2.0), delta_bpb=0.004),
    "unlike-classes": Scenario(replace(_W, class_spread=1.0)),
    "never-dry": Scenario(replace(_W, drying_bpb=math.inf)),
    "six": Scenario(replace(_W, identities=6, at_once=4)),
    "hundred-sixty": Scenario(replace(_W, identities=160, at_once=64)),
}


def marks(scenario: Scenario) -> tuple[int, ...]:
    """Trials at which gains are noted."""
    return tuple(sorted({min(2_000, scenario.trials), scenario.trials}))


def course(rule: str, scenario: Scenario) -> Course | None:
    """How our machinery decides under that name in that world; None for a rival.

    Raises:
        OperatorError: no such rule, or a delta that it cannot have.
    """
    if rule in RIVALS:
        return None
    if rule not in OURS:
        raise OperatorError(f"no rule is called {rule!r}; there are {', '.join(RULES)}")
    own = OURS[rule]
    if not scenario.delta_bpb:
        return own
    try:
        return replace(own, rule=own.rule.scaled(scenario.delta_bpb))
    except RuleError as error:
        raise OperatorError(f"a delta of {scenario.delta_bpb:g} bpb cannot be used: {error}") from error


class Play:
    """A campaign under way.

    Raises:
        OperatorError: no such rule.
    """

    def __init__(self, rule: str, scenario: Scenario, seed: int) -> None:
        self.campaign = Campaign(scenario.world, seed, marks(scenario))
        own = course(rule, scenario)
        self._swarm = None if own is None else Swarm(self.campaign, own)
        self._rival = RIVALS[rule](self.campaign) if own is None else None

    def step(self) -> None:
        """One round."""
        if self._swarm is not None:
            self._swarm.step()
        else:
            assert self._rival is not None
            next(self._rival, None)

    def tested_of(self, author: str) -> int:
        """Patches of an author that were tested."""
        return 0 if self._swarm is None else self._swarm.tested_of[author]

    def outcome(self) -> Outcome:
        """What came of it until now."""
        return self.campaign.outcome([] if self._swarm is None else self._swarm.quarantined)


def play(rule: str, scenario: Scenario, seed: int) -> Outcome:
    """A whole campaign. Raises as `Play`."""
    playing = Play(rule, scenario, seed)
    while not playing.campaign.over:
        playing.step()
    return playing.outcome()
