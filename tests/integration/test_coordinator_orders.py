"""What operators order about whose results count, and about promotions: on real store, ledger, git and signatures.

After each story the whole ledger is recomputed, its signatures are checked, and the store is made again from it alone.
"""

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from autoresearch import envelope
from autoresearch.attest import Attestations
from autoresearch.digest import key_id
from autoresearch.judging import ledger
from autoresearch.judging.model import Order, Patch
from autoresearch.judging.replay import Replay
from autoresearch.judging.texts import Texts
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1.operator_pb2 import ROLE_OPERATOR, Ban, Belief, Invalidation, Restoration, RoleChange, RollBack
from coordinator.dispatch import REFUSED
from coordinator.leasing import Offer
from coordinator.rebuilding.rebuilder import Rebuilder
from coordinator.redis_store import RedisStore, connect
from coordinator.refusals import InvalidRequestError, NotFoundError, NotNowError
from tests.integration.desk import Desk, Juror, edit, opened
from tests.integration.swarm_on_wire import Starter
from tests.integration.swarm_that_lived import settled
from tests.integration.test_coordinator_access import run
from tests.integration.test_coordinator_trust import cry_wolf, git, of_kind, replayed
from volunteer import address, auditing, merging
from volunteer.client import Client
from volunteer.git import Git


@pytest.fixture
async def desk(store_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    """Whatever was ordered at it follows from its ledger, and comes out of it again."""
    async with opened(store_url, tmp_path / "desk") as made:
        yield made
        await replayed(made)
        await made_again(made, store_url, tmp_path / "lineage.git")


async def made_again(desk: Desk, url: str, lineage: Path) -> None:
    signed, store = Attestations(), RedisStore(connect(url), f"{desk.name}-again")
    rebuilder, texts = Rebuilder(store, lineage), Texts(merging.merger(Git(dict(os.environ))))
    for line in await desk.store.items("ledger"):
        entry = ledger.parse(line)
        signed.take(entry.kind, entry.body)
        texts.take(entry)
        await rebuilder.take(line, entry)
    await rebuilder.finish()
    assert texts.unmade == 0
    for table in ("quarantine", "vouched", "voids", "fallen", "bans", "roles", "instructions", "proposals", "meta"):
        before, after = dict(await desk.store.entries(table)), dict(await store.entries(table))
        before.pop("followed", None), after.pop("followed", None)
        assert after == before, table
    for name in ("lineage", "beliefs"):
        assert await store.items(name) == await desk.store.items(name)
    for patch_id, record in (await desk.store.entries("patches")).items():
        own, again = Patch.from_bytes(record), Patch.from_bytes((await store.get("patches", patch_id)) or b"")
        assert (again.verdict, again.promoted_generation) == (own.verdict, own.promoted_generation)
        assert again.rolled_back_generation == own.rolled_back_generation
    for ranking in ("open", "decided", "promotions", "gain"):
        assert await store.ranked(ranking) == await desk.store.ranked(ranking)
    await store.close()


async def rejected(desk: Desk, author: Juror, jurors: list[Juror], place: int = 1) -> Patch:
    """A patch that two report as a great loss."""
    patch = await desk.submit(author, edit(**{f"A{place}": 1}))
    for juror in jurors:
        await desk.baseline(juror, patch.base_sha256, 1.0)
        await desk.trial(juror, patch, 1.1)
    await desk.follow()
    assert (await desk.patch(patch)).verdict == "rejected"
    return patch


# --- invalid results ---


async def test_a_verdict_is_given_anew_without_invalid_results_and_comes_back_with_them(desk: Desk) -> None:
    author, ada, bea = await desk.jurors("author", "ada", "bea")
    patch = await rejected(desk, author, [ada, bea])
    order = await desk.order("fan broken", invalidate=Invalidation(identity_id=ada.identity_id))
    again = await desk.patch(patch)
    assert again.verdict == "parked"
    assert await desk.records.quarantined() == frozenset()
    shown = await desk.queries.patch(patch.patch_id)
    assert [trial.invalidated for trial in shown.trials] == ["fan broken", ""]
    assert [vote.name for vote in shown.evidence.votes] == ["bea"]
    await desk.order(restore=Restoration(sequence=order, subject=ada.identity_id))
    assert (await desk.patch(patch)).verdict == "rejected"
    assert [trial.invalidated for trial in (await desk.queries.patch(patch.patch_id)).trials] == ["", ""]
    with pytest.raises(NotNowError, match="counts again, since entry"):
        await desk.order(restore=Restoration(sequence=order, subject=ada.identity_id))


async def test_one_result_is_invalidated_and_the_others_stay(desk: Desk) -> None:
    author, ada, bea = await desk.jurors("author", "ada", "bea")
    patch = await rejected(desk, author, [ada, bea])
    other = await rejected(desk, author, [ada, bea], place=2)
    entry = next(own for own in await of_kind(desk, "result") if own.body["patch_id"] == patch.patch_id)
    named = Invalidation(
        identity_id=ada.identity_id, result_sha256=entry.body["result_sha256"], sequence=entry.seq
    )  # fmt: skip
    await desk.order(invalidate=named)
    assert (await desk.patch(patch)).verdict == "parked"
    assert (await desk.patch(other)).verdict == "rejected"
    for wrong in (
        Invalidation(identity_id=bea.identity_id, result_sha256=named.result_sha256, sequence=entry.seq),
        Invalidation(identity_id=ada.identity_id, result_sha256="0" * 64, sequence=entry.seq),
        Invalidation(identity_id=ada.identity_id, result_sha256=named.result_sha256, sequence=10**6),
    ):
        with pytest.raises(NotFoundError):
            await desk.order(invalidate=wrong)
    with pytest.raises(InvalidRequestError):
        await desk.order(invalidate=Invalidation(identity_id=ada.identity_id, sequence=entry.seq))


async def test_what_comes_before_the_instant_or_after_the_order_counts(desk: Desk) -> None:
    author, ada, bea, cyd = await desk.jurors("author", "ada", "bea", "cyd")
    early = await rejected(desk, author, [ada, bea])
    since = desk.now + 1
    late = await rejected(desk, author, [ada, bea], place=2)
    await desk.order(invalidate=Invalidation(identity_id=ada.identity_id, since_ms=since))
    assert ((await desk.patch(early)).verdict, (await desk.patch(late)).verdict) == ("rejected", "parked")
    await desk.trial(ada, late, 1.1)  # the fan was mended
    await desk.baseline(ada, late.base_sha256, 1.0)
    await desk.follow()
    assert (await desk.patch(late)).verdict == "rejected"
    promoted = await desk.promote(await desk.submit(author, edit(A3=1)), [ada, bea, cyd])
    assert promoted.verdict == "promoted"


async def test_a_promotion_on_invalid_results_is_proposed_to_go_and_stands_when_they_are_restored(desk: Desk) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    patch = await desk.promote(await desk.submit(author, edit(A0=1)), jurors)
    order = await desk.order(invalidate=Invalidation(identity_id=jurors[0].identity_id))
    (proposal,) = await desk.records.proposals()
    assert (proposal.generation, proposal.patch_id) == (1, patch.patch_id)
    await desk.order(restore=Restoration(sequence=order, subject=jurors[0].identity_id))
    assert await desk.records.proposals() == []


async def test_noise_is_measured_without_invalid_baselines(desk: Desk) -> None:
    author, ada = await desk.jurors("author", "ada")
    start = (await desk.records.best()).source_sha256
    for number in range(40):
        await desk.baseline(ada, start, 1.0 + 0.05 * (number % 2))
    loud = await desk.decider.noise(await desk.store.length("ledger"))
    await desk.order(invalidate=Invalidation(identity_id=ada.identity_id))
    for _ in range(24):
        await desk.baseline(ada, start, 1.0)
    quiet = await desk.decider.noise(await desk.store.length("ledger"))
    assert quiet["H100 24 GB"] < loud["H100 24 GB"] / 5
    patch = await desk.submit(author, edit(A1=1))
    await desk.trial(ada, patch, 0.9)
    await desk.follow()


async def test_evidence_about_somebody_goes_with_the_results_that_gave_it(desk: Desk) -> None:
    """Whose machine was broken comes out of quarantine when what the broken machine said is taken out."""
    author, eve, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    await cry_wolf(desk, author, eve, others)
    assert await desk.records.quarantined() == {eve.identity_id}
    order = await desk.order(invalidate=Invalidation(identity_id=eve.identity_id))
    assert await desk.records.quarantined() == frozenset()
    await desk.order(restore=Restoration(sequence=order, subject=eve.identity_id))
    assert await desk.records.quarantined() == {eve.identity_id}


# --- quarantine by hand ---


async def test_a_quarantine_by_hand_lasts_until_it_is_lifted_by_hand(desk: Desk) -> None:
    author, ada, bea, *others = await desk.jurors("author", "ada", "bea", "cyd", "dan", "eli")
    patch = await rejected(desk, author, [ada, bea])
    await desk.order("borrowed key", quarantine=Belief(identity_id=ada.identity_id))
    (held,) = (await desk.queries.status()).quarantined
    assert (held.suspicion, held.reason) == ("operator", "was put in quarantine by the operator: borrowed key")
    assert (await desk.patch(patch)).verdict == "parked"
    with pytest.raises(NotNowError, match="already"):
        await desk.order(quarantine=Belief(identity_id=ada.identity_id))
    await cry_wolf(desk, author, bea, others)  # a review by the evidence does not lift it
    assert await desk.records.quarantined() == {ada.identity_id, bea.identity_id}
    await desk.order("it is back", reinstate=Belief(identity_id=ada.identity_id))
    assert await desk.records.quarantined() == {bea.identity_id}
    assert not (await desk.records.jury()).vouched
    with pytest.raises(NotFoundError, match="not in quarantine"):
        await desk.order(reinstate=Belief(identity_id=ada.identity_id))
    with pytest.raises(NotFoundError, match="no identity"):
        await desk.order(quarantine=Belief(identity_id="a" * 32))


async def test_who_is_vouched_for_stays_until_an_operator_says_otherwise(desk: Desk) -> None:
    author, eve, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    await cry_wolf(desk, author, eve, others, places="567")
    assert await desk.records.quarantined() == {eve.identity_id}
    await desk.order("her card is special", reinstate=Belief(identity_id=eve.identity_id))
    await cry_wolf(desk, author, eve, others, places="89")  # it would be put in again
    assert await desk.records.quarantined() == frozenset()
    register = await desk.queries.register(desk.register)
    assert [(own.name, own.vouched) for own in register.doubts] == [("eve", True)]
    await desk.order(quarantine=Belief(identity_id=eve.identity_id))
    await desk.order(reinstate=Belief(identity_id=eve.identity_id))  # no more than before: the evidence decides again
    await cry_wolf(desk, author, eve, others, places="4")
    assert await desk.records.quarantined() == {eve.identity_id}


# --- bans ---


async def test_a_ban_leaves_results_alone_unless_told_otherwise(desk: Desk) -> None:
    author, ada, bea = await desk.jurors("author", "ada", "bea")
    patch = await rejected(desk, author, [ada, bea])
    await desk.order("spam", ban=Ban(identity_id=ada.identity_id))
    assert (await desk.patch(patch)).verdict == "rejected"
    await desk.order("lies", ban=Ban(identity_id=ada.identity_id, exclude_results=True))
    assert (await desk.patch(patch)).verdict == "parked"
    assert await desk.records.quarantined() == {ada.identity_id}
    await desk.order(lift_ban=Ban(identity_id=ada.identity_id))
    assert (await desk.patch(patch)).verdict == "rejected"
    assert await desk.records.quarantined() == frozenset()


async def test_a_result_that_comes_in_just_after_the_ban_is_refused(desk: Desk) -> None:
    """Whoever looked before the ban must not write after it."""
    eve = await desk.juror("eve")
    (machine,) = eve.machines.values()
    best = (await desk.records.best()).source_sha256
    order = Order(f"@{machine.machine_id}-0", "", best, best, machine.machine_id)
    granted = await desk.dispatch.grant(Offer(order, None, new=True), machine)
    assert granted is not None
    await desk.order(ban=Ban(identity_id=eve.identity_id))
    receipt = await desk.dispatch.accept(desk.result(eve, machine, *granted, 1.0), eve.identity_id)
    assert (receipt.status, receipt.reason) == (REFUSED, "its identity was shut out by the operator")
    assert [entry.kind for entry in await desk.entries()][-1] == "instruction"


async def test_the_last_operator_who_is_not_banned_stays(desk: Desk) -> None:
    eve = await desk.juror("eve")
    await desk.order(ban=Ban(identity_id=eve.identity_id))
    await desk.order(grant=RoleChange(identity_id=eve.identity_id, role=ROLE_OPERATOR))
    own = key_id(envelope.public_bytes(desk.operator))
    with pytest.raises(NotNowError, match="this is the last operator"):
        await desk.order(revoke=RoleChange(identity_id=own, role=ROLE_OPERATOR))
    await desk.order(lift_ban=Ban(identity_id=eve.identity_id))
    await desk.order(revoke=RoleChange(identity_id=own, role=ROLE_OPERATOR))


async def test_a_withdrawn_patch_speaks_of_nobody_any_more(desk: Desk) -> None:
    author, jurors = await desk.juror("author"), await desk.jurors("ada", "bea", "cyd")
    patch = await desk.submit(author, edit(A1=1))
    for juror, value in zip(jurors, (0.998, 0.998, 1.02), strict=True):  # the third parks it
        await desk.baseline(juror, patch.base_sha256, 1.0)
        await desk.trial(juror, patch, value)
    await desk.follow()
    assert (await desk.patch(patch)).verdict == "parked"
    assert await desk.store.score("decided", patch.patch_id) is not None
    await desk.withdraw(author, patch)
    await desk.follow()
    assert await desk.store.score("decided", patch.patch_id) is None  # as in an audit: `replayed`


async def test_unbanning_leaves_a_quarantine_that_was_there_before(desk: Desk) -> None:
    author, ada, bea = await desk.jurors("author", "ada", "bea")
    await rejected(desk, author, [ada, bea])
    await desk.order(quarantine=Belief(identity_id=ada.identity_id))
    await desk.order(ban=Ban(identity_id=ada.identity_id, exclude_results=True))
    await desk.order(lift_ban=Ban(identity_id=ada.identity_id))
    assert await desk.records.quarantined() == {ada.identity_id}


# --- roll-back ---


async def test_a_promotion_is_rolled_back_by_hand_and_its_patch_let_go_on(desk: Desk) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    first = await desk.promote(await desk.submit(author, edit(A0=1), title="First"), jurors)
    await desk.promote(await desk.submit(author, edit(A5=1), title="Second"), jurors)
    order = await desk.order("breaks the licence", roll_back=RollBack(patch_id=first.patch_id, generation=1))
    rolled = await desk.patch(first)
    assert (rolled.verdict, rolled.rolled_back_generation) == ("regressed", 3)
    assert rolled.reason.endswith("rolled back: ordered by an operator: breaks the licence")
    source = git(desk, "show", "best:train.py")
    assert "A0 = 0" in source
    assert "A5 = 1" in source
    with pytest.raises(NotNowError, match="was rolled back as 3"):
        await desk.order(roll_back=RollBack(patch_id=first.patch_id, generation=1))
    await cry_wolf(desk, author, jurors[0], [*jurors[1:], await desk.juror("dan")])  # a recheck leaves it alone
    assert (await desk.patch(first)).verdict == "regressed"
    await desk.order("the licence is fine", restore=Restoration(sequence=order, subject=first.patch_id))
    again = await desk.patch(first)
    assert again.verdict in ("promoted", "open", "parked")
    with pytest.raises(NotNowError, match="not rolled back by it any more"):
        await desk.order(restore=Restoration(sequence=order, subject=first.patch_id))


@pytest.mark.parametrize(("patch", "generation"), [("own", 2), ("other", 1), ("own", 0)])
async def test_only_a_promotion_is_rolled_back(desk: Desk, patch: str, generation: int) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    own = await desk.promote(await desk.submit(author, edit(A0=1)), jurors)
    named = own.patch_id if patch == "own" else "0" * 16
    with pytest.raises(NotFoundError, match="no promotion"):
        await desk.order(roll_back=RollBack(patch_id=named, generation=generation))
    with pytest.raises(NotFoundError, match="neither invalidates"):
        await desk.order(restore=Restoration(sequence=0, subject=own.patch_id))


# --- a coordinator that lies about it ---


async def lied(desk: Desk, change: Callable[[dict[str, object], str], bool]) -> list[str]:
    """What a recomputation says when the first entry that `change` agrees to change is another."""
    replay, done = Replay(), False
    for entry in await desk.entries():
        body = dict(entry.body)
        done = done or change(body, entry.kind)
        replay.follow([ledger.Entry(entry.seq, entry.prev, entry.at_ms, entry.kind, body)])
    assert done
    return [difference.text for difference in replay.differences]


async def test_what_nobody_ordered_is_found_out(desk: Desk) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    patch = await desk.promote(await desk.submit(author, edit(A0=1)), jurors)
    await desk.order(quarantine=Belief(identity_id=jurors[0].identity_id))
    await desk.order(reinstate=Belief(identity_id=jurors[0].identity_id))
    await desk.order(roll_back=RollBack(patch_id=patch.patch_id, generation=1))

    def renamed(kind: str, **facts: object) -> Callable[[dict[str, object], str], bool]:
        def change(body: dict[str, object], found: str) -> bool:
            if found == kind:
                body.update(facts)
            return found == kind

        return change

    assert await lied(desk, renamed("genesis")) == []
    for kind, facts, says in (
        ("quarantine", {"identity_id": jurors[1].identity_id}, "orders is missing"),
        ("quarantine", {"suspicion": "flatters"}, "whether it is by hand"),
        ("reinstatement", {"instruction": 3}, "orders is missing"),
        ("rollback", {"instruction": 3}, "no instruction orders this roll-back"),
    ):
        assert any(says in text for text in await lied(desk, renamed(kind, **facts))), kind


# --- the operator's commands, and an audit from elsewhere, over the wire ---


async def test_orders_by_command_are_audited_from_elsewhere_and_survive_a_restart(lived: Path, tmp_path: Path) -> None:
    shutil.copytree(lived, tmp_path / "swarm")
    starter = Starter(tmp_path)
    async with starter() as swarm:
        lines = [ledger.parse(line) for line in swarm.running.ledger.read_bytes().splitlines()]
        result = next(entry for entry in lines if entry.kind == "result" and entry.body["patch_id"])
        ada, bea = sorted({entry.body["identity_id"] for entry in lines if entry.kind == "result"})[:2]
        said = await run(swarm, "invalidate", "--result", str(result.seq), "--why", "fan broken")
        assert said[0] == 0
        order = said[1].split("`undo ")[1].split("`")[0]
        for words in (
            ("quarantine", ada, "--why", "borrowed key"),
            ("invalidate", "--identity", bea, "--since", "2026-01-01T00:00"),
            ("ban", bea, "--exclude-results"),
            ("rollback", "1", "--why", "licence"),
        ):
            done = await run(swarm, *words)
            assert done[0] == 0, (words, done)
        await settled(swarm)
        best = (await swarm.patches.GetBest(patches_pb2.GetBestRequest())).best
        assert (best.generation, list(best.undone)) == (3, [1])
        facts = json.loads((await run(swarm, "register", "--json"))[1])
        assert {own["identity_id"]: own["reason"] for own in facts["doubts"]} == {
            ada: "was put in quarantine by the operator: borrowed key",
            bea: "was put in quarantine by the operator",
        }
        assert next(own["sequence"] for own in facts["invalid"]) == int(order)
        shown = (await run(swarm, "register"))[1]
        assert f"result {result.body['result_sha256'][:12]} invalid: fan broken" in shown
        for words in (("undo", order), ("reinstate", ada), ("unban", bea)):
            done = await run(swarm, *words)
            assert done[0] == 0, (words, done)
        assert await run(swarm, "undo", "0") == (
            1, "error: ledger entry 0 neither invalidates results nor rolls a promotion back\n"
        )  # fmt: skip
        assert "is no result but a genesis" in (await run(swarm, "invalidate", "--result", "0"))[1]
        assert (await run(swarm, "invalidate"))[0] == 2
        assert "is no promotion" in (await run(swarm, "rollback", "99"))[1]
        await settled(swarm)
        async with await Client.open(address.parse(swarm.running.address)) as client:
            found = await auditing.audit_swarm(client, tmp_path / "home", lambda entries: None)
        assert found.answers
    async with starter() as swarm:
        await settled(swarm)
        assert (await swarm.board.GetStatus(board_pb2.GetStatusRequest())).quarantined == []
