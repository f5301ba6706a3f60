"""The life of an order and its lease as atomic changes, and whether a result fills a lease. Pure.

    --make--> leased --fill--> done
                | ^ \\--renew--> leased
                v |
              ready              (expired, given back, or aborted: once, because the guard names the lease)

An order is made when a machine takes it; what comes back unfilled is `ready` and is leased again (`grant`) when the
planner wants such a trial, or withdrawn when its patch is decided. When to do which is decided by the callers; a change
whose guard fails changes nothing. Whatever makes an order, or makes it ready, is guarded by its patch, which may just
have been decided.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch import limits
from autoresearch.digest import is_sha256, sha256_hex
from autoresearch.judging.model import Lease, Order, Patch, Progress
from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.trial_pb2 import Outcome, Result
from coordinator.store import Bump, Change, Drop, Guard, Holds, Operation, Put, Rank, RankedUpTo, Unrank

READY = b"ready"
DONE = b"done"
CANCELLED = b"cancelled"
FOREVER = 9e15  # a score above any instant


@dataclass(frozen=True, slots=True)
class Offer:
    """What to lease to a machine. `patch`: as it was when that was planned, None if the order is not one's; `new`: the
    order is to be made."""

    order: Order
    patch: Patch | None
    new: bool


def leased(lease_id: str) -> bytes:
    """The state of an order under this lease."""
    return f"leased:{lease_id}".encode()


def make(order: Order, patch: Patch | None, lease: Lease, expires_at_ms: int) -> Change:
    """Makes a new order and leases it at once; `patch`: as it was when that was planned, None if it is not one's."""
    leasing = _lease(order, lease, expires_at_ms)
    new = (Holds("order_state", order.order_id, None), *_unchanged(patch), *leasing.guards)
    made = (Put("orders", order.order_id, order.to_bytes()), Bump("orders_made", order.line, 1.0))
    listed = Rank(f"underway:{order.line}", order.order_id, 0.0)
    return Change(new, (*made, listed, *leasing.operations))


def grant(order: Order, lease: Lease, expires_at_ms: int) -> Change:
    """Leases a ready order, unless the identity is already running the same patch."""
    leasing = _lease(order, lease, expires_at_ms)
    return Change((Holds("order_state", order.order_id, READY), *leasing.guards), leasing.operations)


def withdraw(order: Order) -> Change:
    """Takes a ready order back."""
    return Change((Holds("order_state", order.order_id, READY),), _finish(order, CANCELLED))


def renew(lease: Lease, progress: Progress, now_ms: int, expires_at_ms: int) -> Change:
    """A heartbeat: the lease lives on, and its machine is there."""
    guard = Holds("order_state", lease.order_id, leased(lease.lease_id))
    beat = (
        Rank("expiry", lease.lease_id, expires_at_ms),
        Put("progress", lease.lease_id, progress.to_bytes()),
        Rank("seen", lease.machine_id, now_ms),
    )
    return Change((guard,), beat)


def release(
    lease: Lease, order: Order, patch: Patch | None, *, wanted: bool, now_ms: int, only_expired: bool
) -> Change:
    """Ends a lease unfilled; its order is ready again if `wanted`, else cancelled. `patch`: as it was looked at."""
    guards: list[Guard] = [Holds("order_state", order.order_id, leased(lease.lease_id)), *_unchanged(patch)]
    if only_expired:
        guards.append(RankedUpTo("expiry", lease.lease_id, now_ms))
    ready = (Put("order_state", order.order_id, READY),)
    state: Sequence[Operation] = ready if wanted else _finish(order, CANCELLED)
    kept = (Put("ended", lease.lease_id, lease.to_bytes()), Rank("ended", lease.lease_id, now_ms))
    return Change(guards, (*_close(lease), *state, *kept))


def fill(lease: Lease, order: Order, result_sha256: str, *, late: bool) -> Change:
    """Ends a lease with a result. A late one fills its order only while nobody else holds it.

    A late one's lease was closed when it ended; its identity may be running the patch again under another.
    """
    held = Holds("order_state", order.order_id, READY if late else leased(lease.lease_id))
    guards = (Holds("filled", lease.lease_id, None), held)
    operations = (
        *(() if late else _close(lease)),
        *_finish(order, DONE),
        Put("filled", lease.lease_id, result_sha256.encode()),
        Drop("ended", lease.lease_id),
        Unrank("ended", lease.lease_id),
    )
    return Change(guards, operations)


def forget(lease_id: str) -> Change:
    """Drops an ended lease that no result will come for any more."""
    return Change((), (Drop("ended", lease_id), Unrank("ended", lease_id)))


def _unchanged(patch: Patch | None) -> tuple[Holds, ...]:
    return () if patch is None else (Holds("patches", patch.patch_id, patch.to_bytes()),)


def _lease(order: Order, lease: Lease, expires_at_ms: int) -> Change:
    guards: list[Guard] = []
    operations: list[Operation] = [
        Put("order_state", order.order_id, leased(lease.lease_id)),
        Put("leases", lease.lease_id, lease.to_bytes()),
        Rank("expiry", lease.lease_id, expires_at_ms),
        Rank(f"leased:{lease.machine_id}", lease.lease_id, lease.granted_at_ms),
        Put("progress", lease.lease_id, Progress("waiting", 0.0, 0, 0.0).to_bytes()),
    ]
    if order.patch_id:
        guards.append(Holds("running", _running(lease), None))
        operations.append(Put("running", _running(lease), lease.lease_id.encode()))
    return Change(guards, operations)


def _finish(order: Order, state: bytes) -> list[Operation]:
    return [Put("order_state", order.order_id, state), Unrank(f"underway:{order.line}", order.order_id)]


def _close(lease: Lease) -> list[Operation]:
    operations: list[Operation] = [
        Drop("leases", lease.lease_id),
        Drop("progress", lease.lease_id),
        Unrank("expiry", lease.lease_id),
        Unrank(f"leased:{lease.machine_id}", lease.lease_id),
    ]
    return [*operations, Drop("running", _running(lease))] if lease.patch_id else operations


def _running(lease: Lease) -> str:
    return f"{lease.patch_id}/{lease.identity_id}"


def refusal(result: Result, lease: Lease, order_sha256: str, signer_id: str, swarm_id: str) -> str:
    """Why a result is not for this lease; empty when it is."""
    if signer_id != lease.identity_id:
        return "it is signed by another key than the one that holds the lease"
    if result.swarm_id != swarm_id:
        return "it is for another swarm"
    if result.machine_id != lease.machine_id:
        return "it comes from another machine than the one that holds the lease"
    if result.order_sha256 != order_sha256:
        return "it answers another order than the lease's"
    return ""


def malformed(result: Result, order_fields: tuple[str, str, str, int], challenge: Challenge) -> str:
    """What is wrong with a result's values; empty when nothing is.

    `order_fields`: source sha256, challenge sha256, trial-code sha256 and seed, as ordered.
    """
    if result.protocol != limits.PROTOCOL:
        return f"protocol {result.protocol}; this swarm speaks {limits.PROTOCOL}: upgrade"
    if (result.source_sha256, result.challenge_sha256, result.trial_code_sha256, result.seed) != order_fields:
        return "source, challenge, trial code or seed differ from the order's"
    if result.outcome not in Outcome.values() or result.outcome == Outcome.OUTCOME_UNSPECIFIED:
        return f"unknown outcome {result.outcome}: upgrade"
    if (result.outcome == Outcome.OUTCOME_COMPLETED) != result.HasField("val_bpb"):
        return "val_bpb must be present exactly when the trial completed"
    if result.HasField("val_bpb") and not 0.0 < result.val_bpb <= limits.VAL_BPB_MAX:  # false for NaN too
        return f"val_bpb must be a number between 0 and {limits.VAL_BPB_MAX:g}, not {result.val_bpb}"
    if result.train_ms > challenge.budget_ms + challenge.grace_ms:
        return f"{result.train_ms} ms of training is more than the budget of {challenge.budget_ms} ms allows"
    return _oversized(result)


def _oversized(result: Result) -> str:
    if len(result.loss_curve) > limits.LOSS_POINTS or len(result.log_tail) > limits.LOG_TAIL_CHARACTERS:
        return "loss curve or log tail is over its limit"
    if max(len(result.reason), len(result.disturbed)) > limits.REASON_CHARACTERS:
        return "reason is over its limit"
    if result.ByteSize() > limits.RESULT_BYTES:  # what no field above bounds; the ledger keeps every byte
        return f"a result has at most {limits.RESULT_BYTES} bytes"
    if result.weights_sha256 and not is_sha256(result.weights_sha256):
        return "the weights are named by 64 lower-case hex digits"
    numbers = [result.cpu_share, *(number for point in result.loss_curve for number in (point.share, point.loss))]
    if not all(math.isfinite(number) for number in numbers):
        return "loss curve or cpu share holds a number that is not finite"
    return ""


def order_sha256(lease: Lease) -> str:
    """Digest of the signed order that this lease was granted with."""
    return sha256_hex(base64.b64decode(lease.order_payload))
