"""Who may call what, in one table, and what an identity may do. Pure: the guard that applies it is `gate`.

Reading is for everybody, because anybody shall be able to check every decision; it is only bounded in rate. Whatever
changes the swarm is signed by an identity that holds a role for it. Left out: how a signature or token is verified.
"""

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.quotas import AUTHENTICATE, BULK, ENROL, INSTRUCT, LIST, PROOF, READ, SESSION, SUBMIT, Quota


class Role(enum.StrEnum):
    """What an identity may do."""

    VOLUNTEER = "volunteer"  # runs trials
    AUTHOR = "author"  # submits patches
    APPROVER = "approver"  # approves patches of others
    OPERATOR = "operator"  # grants roles, bans, pauses, says whose results count


BY_ENROLMENT = frozenset({Role.VOLUNTEER, Role.AUTHOR})  # what enrolling gives, unless it was taken away


class By(enum.Enum):
    """What a call proves its caller with."""

    NOTHING = "nothing"
    SIGNATURE = "signature"  # of the message in it
    TOKEN = "token"  # noqa: S105 - the kind of proof, not one


@dataclass(frozen=True, slots=True)
class Terms:
    """Who may make a call: any of `roles`, proved by `by`; and how often. No roles: whoever gives the proof."""

    by: By
    quota: Quota
    roles: frozenset[Role] = frozenset()


_VOLUNTEER, _PATCH, _BOARD, _ACCESS, _OPERATOR = (
    f"/autoresearch.v1.{name}Service/" for name in ("Volunteer", "Patch", "Leaderboard", "Access", "Operator")
)
_STAFF = frozenset({Role.APPROVER, Role.OPERATOR})

# Every call of the swarm's services. A call that is not here is refused.
CALLS: Mapping[str, Terms] = {
    _VOLUNTEER + "GetSwarm": Terms(By.NOTHING, READ),
    _VOLUNTEER + "Enroll": Terms(By.SIGNATURE, ENROL),  # anybody who is not banned; see SwarmInfo for what it costs
    _VOLUNTEER + "FetchSource": Terms(By.NOTHING, READ),
    _VOLUNTEER + "Session": Terms(By.SIGNATURE, SESSION, frozenset({Role.VOLUNTEER})),
    _PATCH + "SubmitPatch": Terms(By.SIGNATURE, SUBMIT, frozenset({Role.AUTHOR})),
    _PATCH + "WithdrawPatch": Terms(By.SIGNATURE, SUBMIT, frozenset({Role.AUTHOR})),
    _PATCH + "GetPatch": Terms(By.NOTHING, READ),
    _PATCH + "ListPatches": Terms(By.NOTHING, LIST),
    _PATCH + "GetBest": Terms(By.NOTHING, READ),
    _PATCH + "FetchLineage": Terms(By.NOTHING, BULK),
    _BOARD + "GetLeaderboard": Terms(By.NOTHING, READ),
    _BOARD + "GetStatus": Terms(By.NOTHING, READ),
    _BOARD + "WatchEvents": Terms(By.NOTHING, BULK),
    _BOARD + "ReadLedger": Terms(By.NOTHING, BULK),
    _BOARD + "GetCheckpoint": Terms(By.NOTHING, PROOF),
    _BOARD + "GetInclusionProof": Terms(By.NOTHING, PROOF),
    _BOARD + "GetConsistencyProof": Terms(By.NOTHING, PROOF),
    _ACCESS + "GetNonce": Terms(By.NOTHING, AUTHENTICATE),
    _ACCESS + "Authenticate": Terms(By.SIGNATURE, AUTHENTICATE),
    _ACCESS + "GetStanding": Terms(By.NOTHING, READ),
    _ACCESS + "RotateKey": Terms(By.SIGNATURE, ENROL),  # of both keys; whose identity is not banned
    _OPERATOR + "Instruct": Terms(By.SIGNATURE, INSTRUCT, _STAFF),
    _OPERATOR + "GetRegister": Terms(By.TOKEN, READ, _STAFF),
}

# What is for probes and tools, by the beginning of the calls' names.
OTHERS: Mapping[str, Terms] = {
    "/grpc.health.v1.Health/": Terms(By.NOTHING, READ),
    "/grpc.reflection.v1alpha.ServerReflection/": Terms(By.NOTHING, READ),
}

# Which of them may give which instruction (the name of the field in Instruction.action).
INSTRUCTIONS: Mapping[str, frozenset[Role]] = {
    "grant": frozenset({Role.OPERATOR}),
    "revoke": frozenset({Role.OPERATOR}),
    "ban": frozenset({Role.OPERATOR}),
    "lift_ban": frozenset({Role.OPERATOR}),
    "approve": _STAFF,
    "refuse": _STAFF,
    "invite": frozenset({Role.OPERATOR}),
    "pause": frozenset({Role.OPERATOR}),
    "resume": frozenset({Role.OPERATOR}),
    "quarantine": frozenset({Role.OPERATOR}),
    "reinstate": frozenset({Role.OPERATOR}),
    "invalidate": frozenset({Role.OPERATOR}),
    "restore": frozenset({Role.OPERATOR}),
    "roll_back": frozenset({Role.OPERATOR}),
}


def roles_of(*, enrolled: bool, changes: Mapping[Role, bool], banned: bool) -> frozenset[Role]:
    """What an identity may do; `changes`: role -> granted (True) or taken away (False), as last ordered."""
    if banned:
        return frozenset()
    given = {role for role, holds in changes.items() if holds}
    taken = {role for role, holds in changes.items() if not holds}
    return frozenset(((BY_ENROLMENT if enrolled else frozenset()) | given) - taken)


def objection(held: Collection[Role], wanted: frozenset[Role], *, enrolled: bool, banned: str | None) -> str:
    """Why somebody who holds `held` may not do what needs one of `wanted`; empty when they may.

    `banned`: the reason of a ban, None without one.
    """
    if banned is not None:
        return f"this identity was shut out by the operator: {banned}"
    if not wanted or wanted & set(held):
        return ""
    if not enrolled and wanted <= BY_ENROLMENT:
        return "this identity is not enrolled in the swarm: enroll first"
    return f"this needs the role {' or '.join(sorted(wanted))}: ask an operator for it"
