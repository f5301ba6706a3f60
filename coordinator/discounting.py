"""What an operator orders about whose results count, and about a promotion: checks it against what there is, and says
what it writes.

Each is an instruction in the ledger; a quarantine by hand, or its end, is a second entry right after it, as an
automatic one would be. Left out: who may order it (`register`), and what follows for verdicts and lineage
(`following`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoresearch.digest import is_sha256
from autoresearch.judging import ledger
from autoresearch.judging.model import Held, Void
from autoresearch.judging.trust import ACCUSATIONS, Suspicion
from autoresearch.v1.operator_pb2 import Invalidation, Restoration, RollBack
from coordinator import doubting
from coordinator.journal import Note
from coordinator.records import Records
from coordinator.refusals import InvalidRequestError, NotFoundError, NotNowError
from coordinator.store import Guard, Holds, Operation, Put

Consequence = tuple[list[Note], list[Operation]]  # further ledger entries, and what is written with them


def _nothing(_: int) -> Consequence:
    return [], []


@dataclass(frozen=True, slots=True)
class Effect:
    """What an instruction changes. `at`: what depends on its ledger entry, whose number it is given."""

    guards: Sequence[Guard]
    operations: Sequence[Operation] = ()
    at: Callable[[int], Consequence] = field(default=_nothing)


class Discounting:
    """Reads what such an order is about."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store

    async def quarantine(self, identity_id: str, reason: str, now_ms: int, *, with_ban: bool = False) -> Effect:
        """Puts an identity in quarantine by hand; with a ban, one that is so already stays as it is."""
        jury = await self._records.jury()
        known = jury.held.get(identity_id)
        if known is not None and known.suspicion == Suspicion.OPERATOR:
            if with_ban:
                return Effect([jury.unchanged])
            raise NotNowError(f"identity {identity_id} is in quarantine by an operator's order already")
        if await self._records.identity(identity_id) is None:
            raise NotFoundError(f"no identity {identity_id} in this swarm")
        said = f"{ACCUSATIONS[Suspicion.OPERATOR]}: {reason}" if reason else ACCUSATIONS[Suspicion.OPERATOR]

        def entered(seq: int) -> Consequence:
            held = Held(identity_id, Suspicion.OPERATOR.value, 0.0, said, now_ms, seq + 1, with_ban)
            body = {
                "identity_id": identity_id,
                "suspicion": held.suspicion,
                "log_odds": held.log_odds,
                "reason": said,
                "instruction": seq,
                "with_ban": with_ban,
            }
            return [Note("quarantine", body)], doubting.held(held)

        return Effect([jury.unchanged], at=entered)

    async def reinstate(self, identity_id: str, reason: str) -> Effect:
        """Lifts a quarantine; one that the evidence gave does not come back by evidence."""
        jury = await self._records.jury()
        known = jury.held.get(identity_id)
        if known is None:
            raise NotFoundError(f"identity {identity_id} is not in quarantine")
        return self._lifted(known, jury.unchanged, reason or "an operator says so")

    async def unbanned(self, identity_id: str, reason: str) -> Effect:
        """The lifting of a ban ends the quarantine that came with it."""
        jury = await self._records.jury()
        known = jury.held.get(identity_id)
        if known is None or not known.with_ban:
            return Effect([jury.unchanged])
        return self._lifted(known, jury.unchanged, reason or "its ban was lifted")

    def _lifted(self, known: Held, unchanged: Holds, reason: str) -> Effect:
        def entered(seq: int) -> Consequence:
            body = {"identity_id": known.identity_id, "reason": reason, "instruction": seq}
            vouched = known.suspicion != Suspicion.OPERATOR
            operations = doubting.believed_again(known.identity_id, seq + 1, vouched=vouched)
            return [Note("reinstatement", body)], operations

        return Effect([unchanged], at=entered)

    async def invalidate(self, order: Invalidation, reason: str) -> Effect:
        """Has results counted no more."""
        jury = await self._records.jury()
        if await self._records.identity(order.identity_id) is None:
            raise NotFoundError(f"no identity {order.identity_id} in this swarm")
        if order.result_sha256 or order.sequence:
            await self._check_result(order)
        elif order.since_ms < 0:
            raise InvalidRequestError("results are invalidated since an instant of Unix time in milliseconds")

        def entered(seq: int) -> Consequence:
            return [], doubting.voided(
                Void(seq, order.identity_id, order.result_sha256, order.since_ms, reason)
            )  # fmt: skip

        return Effect([jury.unchanged], at=entered)

    async def _check_result(self, order: Invalidation) -> None:
        if not is_sha256(order.result_sha256) or order.since_ms:
            raise InvalidRequestError("one result is named by its sha256 and ledger entry, and by nothing else")
        lines = await self._store.items("ledger", order.sequence, order.sequence)
        body = ledger.parse(lines[0]).body if lines else {}
        if (body.get("result_sha256"), body.get("identity_id")) != (order.result_sha256, order.identity_id):
            raise NotFoundError(f"ledger entry {order.sequence} is no such result of that identity")

    async def restore(self, order: Restoration) -> Effect:
        """Takes an invalidation, or the order of a roll-back, back."""
        void = await self._records.void(order.sequence)
        if void is None:
            return await self._restore_promotion(order)
        if void.identity_id != order.subject:
            raise InvalidRequestError(f"entry {order.sequence} is about results of {void.identity_id}")
        if void.restored:
            raise NotNowError(f"what entry {order.sequence} invalidated counts again, since entry {void.restored}")
        guard = Holds("voids", str(void.entry), void.to_bytes())
        return Effect([guard], at=lambda seq: ([], doubting.restored(void, seq)))

    async def _restore_promotion(self, order: Restoration) -> Effect:
        lineage = await self._records.lineage()
        rollback = next((best for best in lineage if best.ordered and best.ordered == order.sequence), None)
        if rollback is None:
            raise NotFoundError(f"ledger entry {order.sequence} neither invalidates results nor rolls a promotion back")
        undone = {best.patch_id for best in lineage if best.generation in rollback.undone}
        patch = await self._records.patch(order.subject)
        if patch is None or order.subject not in undone:
            raise InvalidRequestError(f"entry {order.sequence} is about another patch")
        if patch.rolled_back_generation != rollback.generation:
            raise NotNowError(f"patch {patch.patch_id} is not rolled back by it any more: it is {patch.verdict}")
        guards = [Holds("fallen", str(order.sequence), None), Holds("patches", patch.patch_id, patch.to_bytes())]
        return Effect(guards, at=lambda seq: ([], [Put("fallen", str(order.sequence), b"%d" % seq)]))

    async def roll_back(self, order: RollBack) -> Effect:
        """Has a promotion taken back out of the best."""
        patch = await self._records.patch(order.patch_id)
        if patch is None or not order.generation or patch.promoted_generation != order.generation:
            raise NotFoundError(f"generation {order.generation} is no promotion of patch {order.patch_id[:16]!r}")
        if patch.rolled_back_generation:
            raise NotNowError(
                f"generation {order.generation} was rolled back as {patch.rolled_back_generation} already"
            )
        return Effect([Holds("patches", patch.patch_id, patch.to_bytes())])
