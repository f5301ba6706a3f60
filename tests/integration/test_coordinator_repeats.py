"""What is told again is answered as the first time, and not before that is durable."""

import asyncio
import difflib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.patch_pb2 import PatchSubmission, Withdrawal
from tests.integration.desk import Desk, Juror, opened


async def test_a_repeated_message_is_answered_only_when_the_first_is_durable(store_url: str, tmp_path: Path) -> None:
    """Its first caller may have gone before the ledger's file had it."""
    async with opened(store_url, tmp_path / "desk") as desk:
        ada = await desk.juror("ada")
        submission = await patch_of(desk, ada)
        patch = await told_again(desk, lambda: desk.intake.submit(submission))
        message = Withdrawal(protocol=1, swarm_id=desk.swarm.swarm_id, patch_id=patch.patch_id)
        withdrawal = envelope.sign(message, envelope.WITHDRAWAL, ada.key)
        assert (await told_again(desk, lambda: desk.intake.withdraw(withdrawal))).verdict == "withdrawn"
        named = Enrolment(protocol=1, swarm_id=desk.swarm.swarm_id, name="bea")
        enrolment = envelope.sign(named, envelope.ENROLMENT, Ed25519PrivateKey.generate())
        assert (await told_again(desk, lambda: desk.intake.enroll(enrolment)))[0].name == "bea"


async def told_again(desk: Desk, tell: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Tells it twice while the ledger's file takes nothing, then lets it."""
    before = await desk.store.length("ledger")
    async with desk.file_stuck():
        first = asyncio.create_task(tell())
        async with asyncio.timeout(20):
            while await desk.store.length("ledger") == before:
                await asyncio.sleep(0.01)
        first.cancel()
        again = asyncio.create_task(tell())
        done, _ = await asyncio.wait({again}, timeout=0.5)
        assert not done
    return await again


async def patch_of(desk: Desk, author: Juror) -> Envelope:
    best = await desk.records.best()
    before = desk.lineage.source_at(best.commit)
    after = before.replace("A1 = 0", "A1 = 5")
    diff = difflib.unified_diff(before.splitlines(True), after.splitlines(True), "a/train.py", "b/train.py")
    message = PatchSubmission(
        protocol=1, swarm_id=desk.swarm.swarm_id, base_commit=best.commit, diff="".join(diff).encode(), title="again"
    )
    return envelope.sign(message, envelope.PATCH, author.key)
