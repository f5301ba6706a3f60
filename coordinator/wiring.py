"""Puts a coordinator's use cases together over what they stand on. Builds only: nothing is started or read here."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.app import App, Told
from coordinator.confirming import Confirmer
from coordinator.deciding import Decider
from coordinator.dispatch import Chance, Dispatch
from coordinator.export import LedgerExport
from coordinator.following import Follower
from coordinator.intake import Intake
from coordinator.journal import Journal
from coordinator.lineage import Lineage
from coordinator.policy import DEFAULT_POLICY, Canaries
from coordinator.promoting import Promoter
from coordinator.queries import Queries
from coordinator.records import Records, Swarm
from coordinator.register import Register
from coordinator.scheduling import Scheduler
from coordinator.settings import Approval, Enrolment, Settings
from coordinator.watching import Watch


@dataclass(frozen=True, slots=True)
class Ground:
    """One swarm: what is kept of it, and the key that speaks for it."""

    swarm: Swarm
    records: Records
    journal: Journal
    export: LedgerExport
    lineage: Lineage
    key: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Outside:
    """Clock and chance. `draw`: from 0 to 1."""

    now_ms: Callable[[], int]
    chance: Chance
    draw: Callable[[], float]


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the calls of peers go to."""

    app: App
    queries: Queries


def use_cases(
    ground: Ground, settings: Settings, outside: Outside, register: Register, tell: Callable[[Told], None]
) -> UseCases:
    """`tell`: is given what machines should hear of."""
    swarm, records, journal, now_ms = ground.swarm, ground.records, ground.journal, outside.now_ms
    promoter = Promoter(swarm, records, journal, ground.lineage, now_ms)
    decider = Decider(swarm, records, journal, promoter, now_ms)
    confirmer = Confirmer(swarm, records, decider, promoter)
    watch = Watch(swarm, records, journal, decider, now_ms)
    policy = replace(DEFAULT_POLICY, canaries=Canaries(settings.canaries))
    scheduler = Scheduler(swarm, records, decider.noise_now, now_ms=now_ms, draw=outside.draw, policy=policy)
    enrolment, approval = Enrolment.of(settings.enrolment), Approval(settings.approval)
    intake = Intake(swarm, records, journal, now_ms, enrolment=enrolment, approval=approval)
    dispatch = Dispatch(
        swarm,
        records,
        journal,
        ground.key,
        now_ms=now_ms,
        chance=outside.chance,
        lease_ms=round(settings.lease_s * 1000),
        touched=scheduler.touch,
    )
    follower = Follower(records, decider, confirmer, watch, promoter)
    app = App(records, intake, dispatch, follower, scheduler, register=register, now_ms=now_ms, tell=tell)
    queries = Queries(
        swarm,
        records,
        decider,
        confirmer,
        watch=watch,
        lineage=ground.lineage,
        export=ground.export,
        now_ms=now_ms,
        first_run=scheduler.first_run,
    )
    return UseCases(app, queries)
