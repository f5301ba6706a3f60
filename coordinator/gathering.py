"""Turns records into the facts that planning needs. Pure.

What a patch's record, trials and orders say about it (`patch_facts`), what a machine's trials say about its bases
(`base_facts`), and which decided patches are known to lose (`known_loss`). Left out: reading them (`scheduling`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from autoresearch.judging.model import Patch, Trial
from autoresearch.judging.periods import periods
from autoresearch.judging.rule import Rule
from coordinator.disputes import Voice, disputed
from coordinator.facts import BaseFacts, KnownLoss, Lease, PatchFacts, spared_classes
from coordinator.policy import Policy


def patch_facts(patch: Patch, trials: Sequence[Trial], leased: Iterable[Lease]) -> PatchFacts:
    """What is known of an undecided patch. `leased`: its trials under way."""
    decision: Mapping[str, Any] = patch.decision or {}
    voted = [vote for vote in decision.get("votes", ()) if vote["gain_bpb"] is not None]
    heard = [trial for trial in trials if not trial.disturbed]
    return PatchFacts(
        patch_id=patch.patch_id,
        author_id=patch.author_id,
        base_sha256=patch.base_sha256,
        submitted_at_ms=patch.submitted_at_ms,
        parked=patch.verdict == "parked",
        doubted=patch.verdict == "parked" and bool(decision.get("doubts")),
        disputed=disputed([Voice(vote["gain_bpb"], vote["sd_bpb"]) for vote in voted]),
        decided_at_ms=patch.decided_at_ms,
        log_odds=decision.get("log_odds", 0.0),
        gain_bpb=decision.get("shrunk_gain_bpb"),
        runs=Counter(trial.identity_id for trial in trials),
        votes={vote["identity"]: vote["log_odds"] for vote in voted},
        trials=len(heard),
        classes=frozenset(decision.get("classes", ())),
        doubtful=frozenset(decision.get("doubtful_classes", ())),
        heard=frozenset(trial.identity_id for trial in heard),
        leased=tuple(sorted(leased)),
        canary=patch.canary,
    )


def period_entry(baselines: Sequence[Trial]) -> int | None:
    """The ledger entry with which the last period of a machine on a base began; None without one."""
    known = periods(baselines)
    return known[-1].begins_with.entry if known else None


def base_facts(
    baselines: Sequence[Trial], runs: int, setting: str, enrolled_at_ms: float, leased: int
) -> BaseFacts:  # fmt: skip
    """What a machine did on a base. `runs`: candidates since its last period began; `setting`: that it has now;
    `leased`: its baselines there under way."""
    known = periods(baselines)
    failed = sum(t.outcome != "completed" for t in baselines if t.accepted_at_ms >= enrolled_at_ms)
    if not known or known[-1].setting != setting:
        return BaseFacts(failed=failed, ever=bool(known), leased=leased)
    current = known[-1]
    return BaseFacts(len(current.baselines), current.ends_at_ms, runs, failed, ever=True, leased=leased)


def setting_now(enrolled: str, enrolled_at_ms: float, trials: Iterable[Trial]) -> str:
    """What a machine runs with: as its last trial says, unless it enrolled since."""
    last = max(trials, key=lambda trial: trial.accepted_at_ms, default=None)
    return enrolled if last is None or last.accepted_at_ms < enrolled_at_ms else last.setting


def known_loss(patch: Patch, seen: Collection[str], rule: Rule, policy: Policy) -> KnownLoss | None:
    """The patch as one that is known to lose, or None if that is not known well enough.

    It was rejected, which takes two identities, and all of its 95 % interval lies beyond the loss that one trial shows.
    What it is said to lose is the interval's near end: if it loses more, an honest answer is only the clearer.
    """
    decision: Mapping[str, Any] = patch.decision or {}
    interval = decision.get("interval")
    if patch.verdict != "rejected" or not interval:
        return None
    effect_bpb = -float(interval[1])
    if effect_bpb < policy.known_answer_deltas * rule.delta_bpb:
        return None
    gains_bpb = {own["hardware_class"]: own["gain_bpb"] for own in decision.get("class_gains", ())}
    return KnownLoss(
        patch.patch_id, patch.author_id, patch.candidate_sha256, patch.base_sha256, effect_bpb,
        frozenset(seen), spared_classes(gains_bpb, effect_bpb),
    )  # fmt: skip
