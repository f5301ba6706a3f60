"""An instruction as a ledger entry says it: the facts in its body, taken from what was signed. Pure, shared by both
sides: the coordinator writes them, an audit holds them against the signature.
"""

from typing import Any

from autoresearch.v1.operator_pb2 import Instruction


def facts(order: Instruction) -> dict[str, Any]:
    """What the body of its entry says besides who signed it. Only for an order that has an action."""
    action = str(order.WhichOneof("action"))
    return {"action": action, "subject": subject(order), "reason": order.reason, **_more(order, action)}


def subject(order: Instruction) -> str:
    """The identity or patch concerned, or empty."""
    message = getattr(order, str(order.WhichOneof("action")))
    for name in ("identity_id", "patch_id", "subject"):
        if own := getattr(message, name, ""):
            return str(own)
    return ""


def _more(order: Instruction, action: str) -> dict[str, Any]:
    """What decisions depend on."""
    match action:
        case "ban" if order.ban.exclude_results:
            return {"exclude_results": True}
        case "invalidate":
            own = order.invalidate
            return {"result_sha256": own.result_sha256, "since_ms": own.since_ms}
        case "restore":
            return {"restores": order.restore.sequence}
        case "roll_back":
            return {"generation": order.roll_back.generation}
    return {}
