"""Orders and leases: whatever happens in whatever order, an order has one live lease at most and is never lost."""

import base64
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from autoresearch import limits
from autoresearch.digest import sha256_hex
from autoresearch.judging.model import Lease, Order, Patch, Progress
from autoresearch.v1 import trial_pb2
from autoresearch.v1.challenge_pb2 import Challenge
from coordinator import leasing
from coordinator.store import Holds
from tests.unit.memory_store import MemoryStore

LEASE_MS = 100
MACHINES = {"m1": ("ada", "4090"), "m2": ("ada", "H100"), "m3": ("bea", "H100"), "m4": ("cyd", "4090")}
PATCHES = ("", "p", "q")
PROGRESS = Progress("training", 0.5, 10, 2.0)


def an_order(order_id: str = "o", patch_id: str = "p") -> Order:
    return Order(order_id, patch_id, "s" * 64, "b" * 64, "" if patch_id else "m1")


def a_lease(lease_id: str, order: Order, machine_id: str, now_ms: int = 0) -> Lease:
    identity_id, name = MACHINES[machine_id]
    payload = base64.b64encode(lease_id.encode()).decode()
    return Lease(lease_id, order.order_id, order.patch_id, identity_id, machine_id, name, payload, now_ms)


def a_patch(patch_id: str, reason: str = "") -> Patch:
    return Patch(patch_id, "author", "A", "t", "", (), "c" * 40, 0, "b" * 64, "s" * 64, "f", 1, reason=reason)


class Coordinators(RuleBasedStateMachine):
    """Several coordinators at once: each acts on what it read earlier, which may no longer be true."""

    leases = Bundle("leases")  # with the order beside it

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.now_ms = 1000
        self.made = 0
        self.granted: dict[str, Lease] = {}
        self.filled: list[str] = []
        self.outcomes: dict[str, list[str]] = {}
        self.judged = 0
        for patch_id in PATCHES[1:]:
            self._write_patch(patch_id)

    def _write_patch(self, patch_id: str) -> None:
        self.store.tables["patches"][patch_id] = a_patch(patch_id, str(self.judged)).to_bytes()

    def _patch(self, patch_id: str) -> Patch | None:
        return Patch.from_bytes(self.store.tables["patches"][patch_id]) if patch_id else None

    def _state(self, order_id: str) -> bytes:
        return self.store.tables["order_state"].get(order_id, b"")

    @rule(target=leases, patch_id=st.sampled_from(PATCHES), machine_id=st.sampled_from(sorted(MACHINES)))
    def make(self, patch_id: str, machine_id: str) -> object:
        order = an_order(f"{patch_id or 'baseline'}-{self.made}", patch_id)
        lease = a_lease(f"lease{len(self.granted)}", order, machine_id, self.now_ms)
        busy = f"{patch_id}/{lease.identity_id}" in self.store.tables["running"]
        made = leasing.make(order, self._patch(patch_id), lease, self.now_ms + LEASE_MS)
        assert (self.store.apply(made) is not None) == (bool(patch_id) and busy)
        if patch_id and busy:
            return multiple()
        self.made += 1
        self.granted[lease.lease_id] = lease
        other = a_lease("of another planner", order, "m4", self.now_ms)
        again = leasing.make(order, self._patch(patch_id), other, self.now_ms + LEASE_MS)
        assert self.store.apply(again) is not None  # two planners, one order
        return (lease, order)

    @rule(patch_id=st.sampled_from(PATCHES[1:]))
    def judge(self, patch_id: str) -> None:
        """The patch's record changes: nothing may be queued on what was known before."""
        before = self._patch(patch_id)
        self.judged += 1
        self._write_patch(patch_id)
        stale = an_order("stale", patch_id)
        assert self.store.apply(leasing.make(stale, before, a_lease("stale", stale, "m4"), 1)) is not None

    @rule(held=leases)
    def withdraw(self, held: tuple[Lease, Order]) -> None:
        ready = self._state(held[1].order_id) == leasing.READY
        assert (self.store.apply(leasing.withdraw(held[1])) is None) == ready

    @rule(target=leases, before=leases, machine_id=st.sampled_from(sorted(MACHINES)))
    def grant(self, before: tuple[Lease, Order], machine_id: str) -> object:
        """Somebody takes what came back."""
        order = before[1]
        lease = a_lease(f"lease{len(self.granted)}", order, machine_id, self.now_ms)
        running = f"{order.patch_id}/{lease.identity_id}"
        if self.store.apply(leasing.grant(order, lease, self.now_ms + LEASE_MS)) is not None:
            return multiple()
        assert not order.patch_id or self.store.tables["running"][running] == lease.lease_id.encode()
        self.granted[lease.lease_id] = lease
        return (lease, order)

    @rule(held=leases)
    def renew(self, held: tuple[Lease, Order]) -> None:
        lease, _ = held
        live = lease.lease_id in self.store.tables["leases"]
        assert (self.store.apply(leasing.renew(lease, PROGRESS, self.now_ms, self.now_ms + LEASE_MS)) is None) == live

    @rule(ms=st.integers(1, 2 * LEASE_MS))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(held=leases, wanted=st.booleans(), only_expired=st.booleans())
    def release(self, held: tuple[Lease, Order], wanted: bool, only_expired: bool) -> None:
        lease, order = held
        expires = self.store.rankings["expiry"].get(lease.lease_id)
        patch = self._patch(order.patch_id)
        change = leasing.release(
            lease, order, patch, wanted=wanted, now_ms=self.now_ms, only_expired=only_expired
        )  # fmt: skip
        done = self.store.apply(change) is None
        assert done == (expires is not None and (not only_expired or expires <= self.now_ms))
        if done:
            assert self._state(order.order_id) == (leasing.READY if wanted else leasing.CANCELLED)
            assert self.store.apply(change) is not None  # exactly once

    @rule(held=leases, number=st.integers(0, 1))
    def result(self, held: tuple[Lease, Order], number: int) -> None:
        """As the dispatcher does it: a live lease, else one that ended while its order is free."""
        lease, order = held
        late = lease.lease_id not in self.store.tables["leases"]
        if late and lease.lease_id not in self.store.tables["ended"]:
            return
        current = Order.from_bytes(self.store.tables["orders"][order.order_id])
        digest = f"{lease.lease_id}/{number}"
        if self.store.apply(leasing.fill(lease, current, digest, late=late)) is None:
            self.filled.append(order.order_id)
            assert self.store.apply(leasing.fill(lease, current, digest, late=late)) is not None
            assert self.store.tables["filled"][lease.lease_id] == digest.encode()

    @rule(held=consumes(leases))
    def forget(self, held: tuple[Lease, Order]) -> None:
        self.store.apply(leasing.forget(held[0].lease_id))

    @invariant()
    def an_order_is_filled_once(self) -> None:
        assert max(Counter(self.filled).values(), default=0) <= 1

    @invariant()
    def only_leases_that_ended_unfilled_wait_for_a_late_result(self) -> None:
        ended, filled, live = (self.store.tables[name].keys() for name in ("ended", "filled", "leases"))
        assert ended == self.store.rankings["ended"].keys()
        assert not ended & filled
        assert not ended & live

    @invariant()
    def live_leases_orders_and_deadlines_agree(self) -> None:
        live = self.store.tables["leases"]
        assert live.keys() == self.store.rankings["expiry"].keys() == self.store.tables["progress"].keys()
        by_machine = {one for machine in MACHINES for one in self.store.rankings[f"leased:{machine}"]}
        assert live.keys() == by_machine
        held = {self.granted[lease_id].order_id: lease_id for lease_id in live}
        assert len(held) == len(live)  # no order with two live leases
        states = self.store.tables["order_state"]
        assert {o: leasing.leased(lease_id) for o, lease_id in held.items()} == {
            order_id: state for order_id, state in states.items() if state.startswith(b"leased:")
        }

    @invariant()
    def an_order_is_under_way_until_it_is_done_or_cancelled(self) -> None:
        under_way = {o for line in (*PATCHES[1:], "@m1") for o in self.store.rankings[f"underway:{line}"]}
        finished = (leasing.DONE, leasing.CANCELLED)
        assert under_way == {o for o, state in self.store.tables["order_state"].items() if state not in finished}

    @invariant()
    def an_identity_runs_a_patch_once_at_a_time(self) -> None:
        live = [self.granted[lease_id] for lease_id in self.store.tables["leases"]]
        running = {f"{lease.patch_id}/{lease.identity_id}": lease.lease_id for lease in live if lease.patch_id}
        assert len(running) == sum(bool(lease.patch_id) for lease in live)
        assert {key: value.decode() for key, value in self.store.tables["running"].items()} == running


TestCoordinators = Coordinators.TestCase
TestCoordinators.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


class TestRelease:
    """What the state machine cannot see: which of the guards spoke."""

    def test_an_order_of_a_patch_that_was_just_decided_is_not_queued_again(self) -> None:
        store, patch = MemoryStore(), a_patch("p")
        store.tables["patches"]["p"] = patch.to_bytes()
        order = an_order()
        lease = a_lease("l", order, "m1")
        assert store.apply(leasing.make(order, patch, lease, 100)) is None
        store.tables["patches"]["p"] = replace(patch, verdict="rejected").to_bytes()
        release = leasing.release(lease, order, patch, wanted=True, now_ms=200, only_expired=True)
        failed = store.apply(release)
        assert isinstance(failed, Holds)
        assert failed.table == "patches"
        assert store.tables["order_state"]["o"] == leasing.leased("l")

    def test_a_late_result_leaves_the_identitys_next_lease_on_the_patch_alone(self) -> None:
        store, patch = MemoryStore(), a_patch("p")
        store.tables["patches"]["p"] = patch.to_bytes()
        first, second = an_order("o1"), an_order("o2")
        expired, live = a_lease("l1", first, "m1"), a_lease("l2", second, "m2")  # two machines of one identity
        assert store.apply(leasing.make(first, patch, expired, 100)) is None
        store.apply(leasing.release(expired, first, patch, wanted=True, now_ms=200, only_expired=True))
        assert store.apply(leasing.make(second, patch, live, 300)) is None
        assert store.apply(leasing.fill(expired, first, "digest", late=True)) is None
        assert store.tables["running"] == {"p/ada": b"l2"}


# --- whether a result fills a lease ---

LEASE = a_lease("l", an_order(), "m1")
CHALLENGE = Challenge(budget_ms=10_000, grace_ms=2_000)
TERMS = ("s" * 64, "c" * 64, "t" * 64, 7)
SWARM = "swarm"


def a_result(**fields: object) -> trial_pb2.Result:
    result = trial_pb2.Result(
        protocol=1,
        swarm_id=SWARM,
        lease_id="l",
        order_sha256=leasing.order_sha256(LEASE),
        machine_id="m1",
        outcome=trial_pb2.OUTCOME_COMPLETED,
        val_bpb=1.0,
        train_ms=10_000,
        source_sha256=TERMS[0],
        challenge_sha256=TERMS[1],
        trial_code_sha256=TERMS[2],
        seed=TERMS[3],
    )
    for name, value in fields.items():
        if value is None:
            result.ClearField(name)  # type: ignore[arg-type]  # one of the literals, by construction
        else:
            setattr(result, name, value)
    return result


def refused(result: trial_pb2.Result, signer_id: str = "ada") -> str:
    return leasing.refusal(result, LEASE, leasing.order_sha256(LEASE), signer_id, SWARM)


def test_a_result_of_the_holder_for_its_order_is_not_refused() -> None:
    assert refused(a_result()) == ""
    assert leasing.malformed(a_result(), TERMS, CHALLENGE) == ""


def test_an_order_is_named_by_the_bytes_that_were_signed() -> None:
    assert leasing.order_sha256(LEASE) == sha256_hex(base64.b64decode(LEASE.order_payload))


@pytest.mark.parametrize(
    ("result", "signer", "reason"),
    [
        (a_result(), "bea", "signed by another key"),
        (a_result(swarm_id="other"), "ada", "another swarm"),
        (a_result(machine_id="m2"), "ada", "another machine"),
        (a_result(order_sha256="0" * 64), "ada", "another order"),
    ],
)
def test_a_result_for_something_else_is_refused(result: trial_pb2.Result, signer: str, reason: str) -> None:
    assert reason in refused(result, signer)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"protocol": 2}, "protocol 2"),
        ({"source_sha256": "x" * 64}, "differ from the order"),
        ({"challenge_sha256": ""}, "differ from the order"),
        ({"trial_code_sha256": "x"}, "differ from the order"),
        ({"seed": 8}, "differ from the order"),
        ({"outcome": 0, "val_bpb": None}, "unknown outcome"),
        ({"outcome": 99, "val_bpb": None}, "unknown outcome 99"),
        ({"val_bpb": None}, "present exactly when"),
        ({"outcome": trial_pb2.OUTCOME_CRASHED}, "present exactly when"),
        ({"val_bpb": math.nan}, "not nan"),
        ({"val_bpb": math.inf}, "not inf"),
        ({"val_bpb": -math.inf}, "not -inf"),
        ({"val_bpb": 0.0}, "between 0 and 64"),
        ({"val_bpb": -1.0}, "between 0 and 64"),
        ({"val_bpb": math.nextafter(64.0, 65.0)}, "between 0 and 64"),
        ({"val_bpb": 1e308}, "between 0 and 64"),
        ({"train_ms": 12_001}, "more than the budget"),
        ({"train_ms": 2**64 - 1}, "more than the budget"),
        ({"log_tail": "x" * (limits.LOG_TAIL_CHARACTERS + 1)}, "over its limit"),
        ({"reason": "x" * (limits.REASON_CHARACTERS + 1)}, "reason is over"),
        ({"disturbed": "x" * (limits.REASON_CHARACTERS + 1)}, "reason is over"),
        ({"cpu_share": math.nan}, "not finite"),
        ({"weights_sha256": "x" * 64}, "64 lower-case hex"),
        ({"weights_sha256": "0" * limits.RESULT_BYTES}, "bytes"),
    ],
    ids=str,
)
def test_a_malformed_result_is_refused_with_its_reason(fields: dict[str, object], reason: str) -> None:
    assert reason in leasing.malformed(a_result(**fields), TERMS, CHALLENGE)


@pytest.mark.parametrize(
    "fields",
    [
        {"val_bpb": 64.0},
        {"val_bpb": 5e-324},
        {"train_ms": 12_000},
        {"outcome": trial_pb2.OUTCOME_CRASHED, "val_bpb": None, "reason": "x" * limits.REASON_CHARACTERS},
        {"outcome": trial_pb2.OUTCOME_ABORTED, "val_bpb": None},
        {"log_tail": "\U0001f98a" * limits.LOG_TAIL_CHARACTERS, "weights_sha256": "0" * 64},
    ],
    ids=str,
)
def test_the_widest_honest_results_are_taken(fields: dict[str, object]) -> None:
    result = a_result(**fields)
    points = [trial_pb2.LossPoint(share=n / limits.LOSS_POINTS, loss=2.0) for n in range(limits.LOSS_POINTS)]
    result.loss_curve.extend(points)
    result.hardware.CopyFrom(trial_pb2.Hardware(device_name="x" * limits.DEVICE_NAME_CHARACTERS))
    assert leasing.malformed(result, TERMS, CHALLENGE) == ""


def test_a_curve_with_too_many_points_or_a_hole_is_refused() -> None:
    point = trial_pb2.LossPoint(share=0.1, loss=1.0)
    many = a_result()
    many.loss_curve.extend([point] * (limits.LOSS_POINTS + 1))
    assert "over its limit" in leasing.malformed(many, TERMS, CHALLENGE)
    hole = a_result()
    hole.loss_curve.extend([point, trial_pb2.LossPoint(share=0.2, loss=math.inf)])
    assert "not finite" in leasing.malformed(hole, TERMS, CHALLENGE)
