"""Says in a few words what a session does, or what it waits for and why. Pure.

Left out: where the words go (`display.py`).
"""

from volunteer.session_rules import budget_share
from volunteer.session_state import Ending, Lease, Link, Slot, State

_STAGES = {
    "starting": "starting up",
    "training": "training",
    "weights": "taking the weights",
    "exam": "examining",
    "waiting": "waiting",
}


def doing(state: State, now_s: float) -> str:
    """One line without its end: what happens now, or what is waited for and why."""
    running = state.running
    if running:
        return trial(running) + _ending(state) + _offline(state, now_s)
    if state.link is Link.CLOSED:
        return "stopped"
    if state.link is not Link.OPEN:
        return _offline(state, now_s).removeprefix("; ") or "connecting to the coordinator"
    if state.ending is not Ending.NO:
        return f"delivering {len(state.outbox)} result(s), then stopping"
    if state.slot is Slot.WAITING:
        return "waiting for a slot: the volunteers of this machine take turns"
    if state.asked:
        return "asking for an order"
    if state.slot is Slot.NONE and state.no_order_reason and not state.leases:
        return f"waiting: {state.no_order_reason}; asking again in {max(0.0, state.ask_at - now_s):.0f} s"
    return "starting the next trial" if state.leases else "waiting for an order"


def trial(lease: Lease) -> str:
    """What runs, and how far it is."""
    name = f"trial of source {lease.order.order.source_sha256[:8]}"
    stage = _STAGES.get(lease.stage, lease.stage)
    if lease.stage != "training":
        return f"{name}: {stage}"
    loss = f", loss {lease.loss:.3f}" if lease.loss else ""
    return f"{name}: {stage} {budget_share(lease):.0%}, step {lease.step}{loss}"


def milestone(state: State) -> str:
    """Changes when a plain log should get a new line: with the stage, each quarter of training, the cause of a wait."""
    running = state.running
    if running:
        quarter = int(4 * running.share) if running.stage == "training" else 0
        return f"{running.lease_id} {running.stage} {quarter} {state.ending} {state.link is Link.OPEN}"
    return doing(state, 0.0).partition("; asking again")[0].partition("; trying")[0]


def _ending(state: State) -> str:
    if state.ending is Ending.POLITE:
        return "; stopping after this trial (Ctrl-C again stops now)"
    return "; stopping" if state.ending is Ending.NOW else ""


def _offline(state: State, now_s: float) -> str:
    if state.link in {Link.OPEN, Link.CLOSED} or not state.lost_reason:
        return ""
    again = (
        f"trying again in {max(0.0, state.reconnect_at - now_s):.0f} s" if state.link is Link.OFFLINE else "trying now"
    )
    return f"; offline: {state.lost_reason}; {again}"
