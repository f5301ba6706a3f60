"""A swarm's life at the desk in which every kind of ledger entry comes about, and every instruction. Holds no test."""

from autoresearch.digest import sha256_hex
from autoresearch.judging.model import Order, Patch
from autoresearch.v1.operator_pb2 import (
    ROLE_APPROVER,
    Ban,
    Belief,
    Invalidation,
    Invitation,
    PatchChoice,
    Pause,
    Restoration,
    RoleChange,
    RollBack,
)
from coordinator.intake import Intake
from coordinator.settings import Approval, Enrolment
from tests.integration.desk import Desk, Juror, edit

CODE = "come in"


async def live(desk: Desk) -> None:
    """All of it."""
    author, liar, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    await govern(desk, author, others[0])
    await desk.rotate(others[1])
    await turn_back(desk, author, others)
    pushed = await desk.promote(await desk.submit(author, edit(A0=1), title="Pushed"), [liar, *others[:2]])
    assert pushed.verdict == "promoted"
    down = await run_down(desk, author, liar, others[0])
    await alarm(desk, author, liar, others)
    assert (await desk.patch(down)).verdict == "open"
    assert await desk.records.quarantined() == {liar.identity_id}
    assert [own.patch_id for own in await desk.records.proposals()] == [pushed.patch_id]
    await known_answer(desk, author, others)
    await behave(desk, author, liar, others)
    assert not await desk.records.quarantined()
    assert not await desk.records.proposals()
    await overrule(desk, pushed, liar, others[0])
    await desk.submit(author, edit(A4=9))
    await desk.withdraw(author, await desk.submit(author, edit(A5=9)))
    await desk.follow()


async def govern(desk: Desk, author: Juror, somebody: Juror) -> None:
    """Instructions about people, patches and pauses, and what follows from some."""
    stranger = Juror("stranger").identity_id
    approver = RoleChange(identity_id=stranger, role=ROLE_APPROVER)
    await desk.order(grant=approver)
    await desk.order(revoke=approver)
    await desk.order(grant=approver)
    await desk.order(ban=Ban(identity_id=somebody.identity_id))
    await desk.order(lift_ban=Ban(identity_id=somebody.identity_id))
    await desk.order(ban=Ban(identity_id=stranger))
    await desk.order(pause=Pause())
    await desk.order(resume=Pause())
    await desk.order(pause=Pause())
    expires_at_ms = desk.now + 3_600_000
    for code, uses in ((CODE, 2), ("nobody came", 1)):
        digest = sha256_hex(code.encode())
        await desk.order(invite=Invitation(code_sha256=digest, uses=uses, expires_at_ms=expires_at_ms))
    door, desk.intake = desk.intake, intake(desk, Enrolment(by_invitation=True), Approval.MANUAL)
    await desk.enroll(Juror("guest"), "H100", invitation=CODE)
    waiting = [await desk.submit(author, edit(**{f"A{place}": 7})) for place in "123"]
    desk.intake = door
    assert {patch.verdict for patch in waiting} == {"waiting"}
    await desk.order(approve=PatchChoice(patch_id=waiting[0].patch_id))
    await desk.order(refuse=PatchChoice(patch_id=waiting[1].patch_id))
    await desk.withdraw(author, waiting[0])


def intake(desk: Desk, enrolment: Enrolment, approval: Approval) -> Intake:
    """Another front door, with other terms."""
    return Intake(
        desk.swarm, desk.records, desk.journal, lambda: desk.now, enrolment=enrolment, approval=approval
    )  # fmt: skip


async def overrule(desk: Desk, pushed: Patch, liar: Juror, honest: Juror) -> None:
    """Instructions about whose results count, and about a promotion."""
    await desk.order(quarantine=Belief(identity_id=honest.identity_id))
    await desk.order(reinstate=Belief(identity_id=honest.identity_id))
    order = await desk.order(invalidate=Invalidation(identity_id=honest.identity_id))
    await desk.order(restore=Restoration(sequence=order, subject=honest.identity_id))
    await desk.order(invalidate=Invalidation(identity_id=liar.identity_id, since_ms=desk.now - 5_000))
    await desk.order(ban=Ban(identity_id=liar.identity_id, exclude_results=True))
    generation = (await desk.patch(pushed)).promoted_generation
    await desk.order(roll_back=RollBack(patch_id=pushed.patch_id, generation=generation))
    assert (await desk.patch(pushed)).rolled_back_generation


async def turn_back(desk: Desk, author: Juror, jurors: list[Juror]) -> None:
    """A promotion that baselines show to harm is rolled back."""
    harmful = await desk.promote(await desk.submit(author, edit(A0=5), title="Harmful"), jurors)
    best = await desk.records.best()
    for juror in jurors:
        await desk.baseline(juror, best.source_sha256, 1.02)
    await desk.follow()
    assert (await desk.patch(harmful)).verdict == "regressed"


async def run_down(desk: Desk, author: Juror, liar: Juror, honest: Juror) -> Patch:
    """A good patch that the liar's vote parks."""
    patch = await desk.submit(author, edit(A6=1))
    await round_of(desk, patch, [liar, honest], [honest], 0.996)
    await round_of(desk, patch, [], [liar], 1.5)
    assert (await desk.patch(patch)).verdict == "parked"
    return patch


async def alarm(desk: Desk, author: Juror, liar: Juror, others: list[Juror]) -> None:
    """The liar reports crashes of patches that all others finish."""
    for place in "789":
        patch = await desk.submit(author, edit(**{f"A{place}": 1}))
        await desk.trial(liar, patch, "crashed")
        await round_of(desk, patch, [liar, *others], others)


async def behave(desk: Desk, author: Juror, liar: Juror, others: list[Juror]) -> None:
    """And then finishes what all others finish, until everybody believes it again."""
    for number in range(1, 9):
        if liar.identity_id not in await desk.records.quarantined():
            return
        patch = await desk.submit(author, edit(A11=number))
        await round_of(desk, patch, [liar, *others], [liar, *others])


async def known_answer(desk: Desk, author: Juror, others: list[Juror]) -> None:
    """A trial of a patch that is known to lose, in the guise of another."""
    patch = await desk.submit(author, edit(A10=1))
    await round_of(desk, patch, others, others, 1.1)
    assert (await desk.patch(patch)).verdict == "rejected"
    terms = Order("", "", patch.candidate_sha256, patch.base_sha256, known_answer=patch.patch_id, known_effect_bpb=0.05)
    await desk.run(others[0], terms, 1.1)
    await desk.follow()


async def round_of(
    desk: Desk, patch: Patch, measuring: list[Juror], trying: list[Juror], value: float = 1.0005
) -> None:
    for juror in measuring:
        await desk.baseline(juror, patch.base_sha256, 1.0)
    for juror in trying:
        await desk.trial(juror, patch, value)
    await desk.follow()
