"""Patches that are known to lose, as a simulated swarm keeps them for trials with a known answer."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from autoresearch.judging.verdict import weigh
from coordinator.facts import KnownLoss, spared_classes
from coordinator.simulation.state import Course, Tested
from coordinator.simulation.world import Effect


class Losses:
    """By patch, with what they really do."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._known: dict[str, tuple[KnownLoss, Effect]] = {}

    def __iter__(self) -> Iterator[KnownLoss]:
        return (loss for loss, _ in self._known.values())

    def learn(self, own: Tested) -> None:
        """A rejected patch tells later who runs what it is sent, if it loses enough; as `gathering.known_loss` does."""
        decision = weigh(own.case)
        effect_bpb = -decision.interval[1] if decision.interval else 0.0
        if effect_bpb >= self._course.policy.known_answer_deltas * own.case.rule.delta_bpb:
            gains_bpb = {gain.hardware_class: gain.gain_bpb for gain in decision.class_gains}
            loss = KnownLoss(
                own.patch_id, own.author, own.patch_id, own.base.name, effect_bpb,
                frozenset(own.runs), spared_classes(gains_bpb, effect_bpb),
            )  # fmt: skip
            self._known[own.patch_id] = (loss, own.effect)

    def take(self, patch_id: str, identity: str) -> tuple[KnownLoss, Effect]:
        """The one that an identity runs now, and never again."""
        loss, effect = self._known[patch_id]
        self._known[patch_id] = (replace(loss, seen=loss.seen | {identity}), effect)
        return loss, effect

    def keep(self, bases: Collection[str]) -> None:
        """Only on these bases somebody may still run one."""
        self._known = {key: own for key, own in self._known.items() if own[0].base_sha256 in bases}
