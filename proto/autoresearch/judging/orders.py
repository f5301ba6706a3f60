"""What operators ordered, as far as decisions depend on it: invalid results, quarantine by hand, roll-backs. Pure.

Takes a ledger's instructions in, and says of the entries that carry them out whether they are what was ordered. Left
out: whose signature is under an instruction (`attest`), and what follows for the verdicts (`replay`).
"""

from dataclasses import replace
from typing import NamedTuple

from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Void
from autoresearch.judging.voids import Voids

_CARRIED_OUT_AT_ONCE = ("quarantine", "reinstatement")  # kinds of entries that stand right after their instruction


class _Change(NamedTuple):
    """A change of the quarantine by hand."""

    instruction: int
    kind: str
    identity_id: str
    with_ban: bool = False


class Orders:
    """The orders of a swarm's operators until now."""

    def __init__(self) -> None:
        self.voids = Voids()
        self.vouched: set[str] = set()  # identities that evidence alone puts in quarantine no more
        self._voids: dict[int, Void] = {}
        self._by_hand: dict[str, bool] = {}  # in quarantine by an operator's word -> whether with a ban
        self._due: _Change | None = None
        self._back: dict[int, int] = {}  # instruction -> generation to be rolled back
        self._fallen: set[int] = set()  # those of them that were taken back

    def take(self, entry: Entry) -> bool:
        """An instruction. True when results of its subject count from here on, or do no more."""
        body = entry.body
        subject, action = body["subject"], body["action"]
        match action:
            case "quarantine":
                self._due = _Change(entry.seq, "quarantine", subject)
            case "ban" if body.get("exclude_results") and subject not in self._by_hand:
                self._due = _Change(entry.seq, "quarantine", subject, with_ban=True)
            case "reinstate":
                self._due = _Change(entry.seq, "reinstatement", subject)
            case "lift_ban" if self._by_hand.get(subject):
                self._due = _Change(entry.seq, "reinstatement", subject)
            case "invalidate":
                self._keep(Void(entry.seq, subject, body["result_sha256"], body["since_ms"], body["reason"]))
                return True
            case "restore" if body["restores"] in self._voids:
                self._keep(replace(self._voids[body["restores"]], restored=entry.seq))
                return True
            case "restore":
                self._fallen.add(body["restores"])
            case "roll_back":
                self._back[entry.seq] = body["generation"]
        return False

    def _keep(self, void: Void) -> None:
        self._voids[void.entry] = void
        self.voids = Voids(self._voids.values())

    def objection(self, entry: Entry) -> str:
        """What is wrong with the next entry, whatever its kind: it says that it was ordered and was not, or comes where
        what was ordered should; empty if nothing is."""
        due, self._due = self._due, None
        found = None
        if entry.kind in _CARRIED_OUT_AT_ONCE and "instruction" in entry.body:
            body = entry.body
            found = _Change(body["instruction"], entry.kind, body["identity_id"], body.get("with_ban", False))
        if found == due:
            return ""
        if due is None:
            return "no instruction before it orders this"
        return f"the {due.kind} of {due.identity_id} that entry {due.instruction} orders is missing"

    def changed(self, entry: Entry) -> None:
        """A quarantine or reinstatement, by hand or by evidence."""
        identity_id, by_hand = entry.body["identity_id"], "instruction" in entry.body
        if entry.kind == "quarantine":
            self.vouched.discard(identity_id)
            if by_hand:
                self._by_hand[identity_id] = entry.body["with_ban"]
        elif identity_id in self._by_hand:
            del self._by_hand[identity_id]
        elif by_hand:  # an operator lifts what the evidence gave, and so vouches for it
            self.vouched.add(identity_id)

    def rolls_back(self, instruction: int, old_generation: int, new_generation: int) -> bool:
        """Whether an instruction orders just this roll-back."""
        return self._back.get(instruction) == new_generation == old_generation + 1

    def fell(self, instruction: int) -> bool:
        """Whether the order of a roll-back was taken back."""
        return instruction in self._fallen
