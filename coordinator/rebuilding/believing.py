"""What entries about trust make: whose results count, and promotions that no longer stand."""

from collections.abc import Sequence
from dataclasses import replace

from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Held, Proposal, Void
from autoresearch.judging.trust import Suspicion
from autoresearch.v1.operator_pb2 import Instruction
from coordinator import doubting
from coordinator.rebuilding.made import Made
from coordinator.store import Drop, Operation, Put


def quarantine(made: Made, entry: Entry) -> Sequence[Operation]:
    """An identity's results do not count from here on."""
    body = entry.body
    held = Held(
        body["identity_id"], body["suspicion"], body["log_odds"], body["reason"], entry.at_ms, entry.seq,
        body.get("with_ban", False),
    )  # fmt: skip
    made.held[held.identity_id] = held
    return doubting.held(held)


def reinstatement(made: Made, entry: Entry) -> Sequence[Operation]:
    """They count again."""
    identity_id = entry.body["identity_id"]
    by_hand = "instruction" in entry.body and made.held[identity_id].suspicion != Suspicion.OPERATOR
    return doubting.believed_again(identity_id, entry.seq, vouched=by_hand)


def invalidated(made: Made, order: Instruction, entry: int) -> list[Operation]:
    """Some results do not count any more."""
    own = order.invalidate
    made.voids[entry] = Void(entry, own.identity_id, own.result_sha256, own.since_ms, order.reason)
    return doubting.voided(made.voids[entry])


def restored(made: Made, ordered: int, entry: int) -> list[Operation]:
    """They do again; or an ordered roll-back falls."""
    void = made.voids.get(ordered)
    if void is None:
        return [Put("fallen", str(ordered), b"%d" % entry)]
    made.voids[ordered] = replace(void, restored=entry)
    return doubting.restored(void, entry)


def proposal(made: Made, entry: Entry) -> Sequence[Operation]:
    """A promotion no longer stands, or does again."""
    body = entry.body
    key = str(body["generation"])
    if body["stands"]:
        return [Drop("proposals", key)]
    title = made.patch(body["patch_id"]).title
    own = Proposal(body["generation"], body["patch_id"], title, body["reason"], entry.at_ms)
    return [Put("proposals", key, own.to_bytes())]
