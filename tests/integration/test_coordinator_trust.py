"""Quarantine, roll-back and what follows from them, on real store, ledger, git and signatures."""

import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Patch
from autoresearch.judging.replay import Replay
from autoresearch.v1 import patch_pb2
from coordinator.redis_store import RedisStore
from tests.integration.desk import Desk, Juror, edit, opened


@pytest.fixture
async def desk(store_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(store_url, tmp_path) as made:
        yield made


def git(desk: Desk, *arguments: str) -> str:
    command = ["git", "-C", str(desk.folder / "lineage.git"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def of_kind(desk: Desk, kind: str) -> list[Entry]:
    return [entry for entry in await desk.entries() if entry.kind == kind]


async def cry_wolf(desk: Desk, author: Juror, liar: Juror, others: list[Juror], places: str = "789") -> list[Patch]:
    """The liar reports crashes of patches that all others finish with nothing special, one for each place."""
    patches = []
    for place in places:
        patch = await desk.submit(author, edit(**{f"A{place}": 1}))
        for juror in (liar, *others):
            await desk.baseline(juror, patch.base_sha256, 1.0)
        await desk.trial(liar, patch, "crashed")
        for juror in others:
            await desk.trial(juror, patch, 1.0005)
        await desk.follow()
        patches.append(patch)
    return patches


async def replayed(desk: Desk) -> Replay:
    """The exported ledger recomputed; fails if anything in it does not follow, and if the store says otherwise."""
    replay = Replay()
    replay.follow(await desk.entries())
    assert replay.differences == []
    assert replay.unsettled() == []
    best = await desk.records.best()
    assert (replay.best.commit, replay.best.source_sha256) == (best.commit, best.source_sha256)
    for own in replay.patches.values():
        kept = await desk.records.patch(own.patch_id)
        assert kept is not None
        assert (kept.verdict, kept.promoted_generation) == (own.verdict, own.promoted_generation)
        assert kept.rolled_back_generation == own.rolled_back_generation
    assert set(replay.held) == await desk.records.quarantined()
    assert replay.proposals == {proposal.generation for proposal in await desk.records.proposals()}
    board = await desk.queries.leaderboard(100)
    for standing in board.volunteers:
        own_standing = replay.standings[standing.identity_id]
        assert (standing.trials, standing.train_ms) == (own_standing.trials, own_standing.train_ms)
    for standing in board.authors:
        own_standing = replay.standings[standing.identity_id]
        assert standing.promotions == own_standing.promotions
        assert standing.gain_bpb == pytest.approx(own_standing.gain_bpb, abs=1e-9)
    return replay


async def test_a_leaderboard_is_of_one_moment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that comes in while it is read counts everywhere or nowhere: else an audit would name a difference."""
    ada, best = await desk.juror("ada"), await desk.records.best()
    await desk.baseline(ada, best.source_sha256, 1.0)
    real, late = RedisStore.scores, [best.source_sha256]

    async def scores(self: RedisStore, ranking: str, members: Sequence[str]) -> list[float | None]:
        found = await real(self, ranking, members)
        if ranking == "trials" and late:
            await desk.baseline(ada, late.pop(), 1.0)
        return found

    monkeypatch.setattr(RedisStore, "scores", scores)
    (standing,) = (await desk.queries.leaderboard(10)).volunteers
    assert (late, standing.trials, standing.train_ms) == ([], 2, 20_000)


async def test_who_cries_wolf_is_put_in_quarantine_with_the_numbers(desk: Desk) -> None:
    author, liar, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    await cry_wolf(desk, author, liar, others)
    assert await desk.records.quarantined() == {liar.identity_id}
    (entry,) = await of_kind(desk, "quarantine")
    assert entry.body["identity_id"] == liar.identity_id
    assert entry.body["suspicion"] == "cries wolf"
    assert entry.body["evidence"]["alarms"] == 3
    assert entry.body["log_odds"] == pytest.approx(3 * 2.302585, abs=1e-6)
    assert "reports crashes" in entry.body["reason"]
    await replayed(desk)


async def test_verdicts_are_recomputed_without_whoever_is_in_quarantine(desk: Desk) -> None:
    """A good patch that the liar ran down comes back to life; a promotion that hangs on it is proposed to go."""
    author, liar, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    pushed = await desk.promote(await desk.submit(author, edit(A0=1), title="Pushed"), [liar, *others[:2]])
    assert pushed.verdict == "promoted"
    down = await desk.submit(author, edit(A1=1))
    for juror in (liar, others[0]):
        await desk.baseline(juror, down.base_sha256, 1.0)
    await desk.trial(others[0], down, 0.996)
    await desk.trial(liar, down, 1.5)
    await desk.follow()
    assert (await desk.patch(down)).verdict == "parked"
    await cry_wolf(desk, author, liar, others)
    assert await desk.records.quarantined() == {liar.identity_id}
    assert (await desk.patch(down)).verdict == "open"
    assert (await desk.patch(pushed)).verdict == "promoted"  # proposed, not carried out: nobody measured harm
    (proposal,) = await desk.records.proposals()
    assert (proposal.generation, proposal.patch_id) == (1, pushed.patch_id)
    assert liar.identity_id in proposal.reason
    (entry,) = await of_kind(desk, "proposal")
    assert not entry.body["stands"]
    await replayed(desk)


async def test_a_rejected_patch_comes_back_when_the_liars_who_rejected_it_are_found_out(desk: Desk) -> None:
    author, eve, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    patch = await desk.submit(author, edit(A1=1))
    for juror in (eve, others[0]):
        await desk.baseline(juror, patch.base_sha256, 1.0)
        await desk.trial(juror, patch, 1.1)
    await desk.follow()
    assert (await desk.patch(patch)).verdict == "rejected"
    await cry_wolf(desk, author, eve, others)
    assert (await desk.patch(patch)).verdict == "parked"
    back = [entry for entry in await of_kind(desk, "verdict") if entry.body["patch_id"] == patch.patch_id][-1]
    assert f"rejected becomes parked without {eve.identity_id}" in back.body["reason"]
    assert back.body["excluded"] == [eve.identity_id]
    await replayed(desk)


async def harmful(desk: Desk, jurors: list[Juror], *, value: float = 1.02) -> None:
    """Everybody measures the best, which is worse than the one before it."""
    best = await desk.records.best()
    for juror in jurors:
        await desk.baseline(juror, best.source_sha256, value)
    await desk.follow()


async def test_a_promotion_that_baselines_show_to_harm_is_rolled_back(desk: Desk) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    before = await desk.records.best()
    patch = await desk.promote(await desk.submit(author, edit(A0=1), title="Wider"), jurors)
    assert patch.promoted_generation == 1
    await harmful(desk, jurors)
    rolled = await desk.patch(patch)
    assert (rolled.verdict, rolled.promoted_generation, rolled.rolled_back_generation) == ("regressed", 1, 2)
    assert rolled.reason.startswith("promoted as generation 1 and rolled back: audited, the odds that it is worse are")
    best = await desk.records.best()
    assert (best.generation, best.source_sha256, best.undone) == (2, before.source_sha256, (1,))
    assert git(desk, "rev-parse", "best") == best.commit
    log = git(desk, "log", "-1", "best")
    assert "Roll back generation 1: Wider" in log
    assert "Undone-Generations: 1" in log
    assert git(desk, "show", "best:train.py") == git(desk, "show", f"{before.commit}:train.py")
    (entry,) = await of_kind(desk, "rollback")
    assert entry.body["audit"]["identities"] == 3
    board = await desk.queries.leaderboard(10)
    assert [(own.promotions, own.gain_bpb) for own in board.authors] == [(0, 0.0)]
    await harmful(desk, jurors, value=1.0)  # measuring goes on, and nothing more follows from it
    assert (await desk.records.best()).generation == 2
    await replayed(desk)


async def test_what_was_promoted_on_top_stays_where_it_merges_without(desk: Desk) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    first = await desk.submit(author, edit(A0=1), title="First")
    second = await desk.submit(author, edit(A5=1), title="Second")
    await desk.promote(first, jurors)
    middle = await desk.records.best()
    await desk.promote(second, jurors)
    for juror in jurors:
        await desk.baseline(juror, middle.source_sha256, 1.05)
    await desk.follow()
    assert (await desk.patch(first)).verdict == "regressed"
    assert (await desk.patch(second)).promoted_generation == 2
    source = git(desk, "show", "best:train.py")
    assert "A0 = 0" in source
    assert "A5 = 1" in source
    assert (await desk.records.best()).undone == (1,)
    await replayed(desk)


async def test_what_does_not_merge_without_goes_on_with_its_evidence(desk: Desk) -> None:
    """Promoted on top of the same line: without the first there is no such line, so its author has to look at it."""
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    late = await desk.jurors("dan", "eli", "fay")  # who cannot audit the first: they never measured what was before it
    first = await desk.promote(await desk.submit(author, edit(A0=1), title="First"), jurors)
    middle = await desk.records.best()
    second = await desk.submit(author, {"A0 = 1": "A0 = 2"}, title="Second")
    other = await desk.submit(author, edit(A7=1), title="Other")
    await desk.promote(second, late)
    await desk.promote(other, late)
    assert (await desk.records.best()).generation == 3
    for juror in jurors:
        await desk.baseline(juror, middle.source_sha256, 1.05)
    await desk.follow()
    assert (await desk.patch(first)).verdict == "regressed"
    assert (await desk.patch(second)).verdict == "conflict"
    again = await desk.patch(other)  # its evidence still wins, and it merges
    assert (again.verdict, again.promoted_generation) == ("promoted", 5)
    source = git(desk, "show", "best:train.py")
    assert "A0 = 0" in source
    assert "A7 = 1" in source
    await replayed(desk)


async def test_what_was_rolled_back_does_not_come_back_with_an_older_best(desk: Desk) -> None:
    """The second promotion was made on the first, which is out by then, and cannot be merged out: not even the best
    before it can be used."""
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    others = await desk.jurors("dan", "eli", "fay")  # they and the late audit nothing: each measures one best alone
    late = await desk.jurors("gus", "hal", "ivy")
    first = await desk.promote(await desk.submit(author, edit(A0=1), title="First"), jurors)
    one = await desk.records.best()
    second = await desk.promote(await desk.submit(author, edit(A5=1), title="Second"), others)
    two = await desk.records.best()
    third = await desk.promote(await desk.submit(author, {"A5 = 1": "A5 = 2"}, title="Third"), late)
    for juror in jurors:
        await desk.baseline(juror, one.source_sha256, 1.05)
    await desk.follow()
    assert (await desk.records.best()).undone == (1,)
    for juror in jurors:
        await desk.baseline(juror, two.source_sha256, 1.10)
    await desk.follow()
    assert (await desk.records.best()).undone == (2, 3)
    source = git(desk, "show", "best:train.py")
    assert "A0 = 0" in source
    assert "A5 = 0" in source
    assert [(await desk.patch(patch)).verdict for patch in (first, second, third)] == [
        "regressed",
        "regressed",
        "conflict",
    ]
    await replayed(desk)


async def test_a_roll_back_by_liars_falls_when_they_are_found_out(desk: Desk) -> None:
    author, eve, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    patch = await desk.promote(await desk.submit(author, edit(A0=1)), others)
    old = (await desk.records.lineage())[0]
    await desk.baseline(eve, old.source_sha256, 1.0)
    for juror in (eve, *others[:2]):  # two honest machines had a bad day
        await desk.baseline(juror, (await desk.records.lineage())[1].source_sha256, 1.02)
    await desk.follow()
    assert (await desk.patch(patch)).verdict == "regressed"
    await cry_wolf(desk, author, eve, others)
    again = await desk.patch(patch)
    assert (again.verdict, again.promoted_generation) == ("promoted", 3)
    assert "A0 = 1" in git(desk, "show", "best:train.py")
    await replayed(desk)


async def test_what_helps_one_class_and_harms_another_is_that_class_s_own_improvement(desk: Desk) -> None:
    author = await desk.juror("author")
    fans = [await desk.juror(f"fan {n}", "H100") for n in range(3)]
    harmed = [await desk.juror(f"harmed {n}", "RTX 3060") for n in range(2)]
    patch = await desk.submit(author, edit(A0=1), title="Wider")
    for juror in (*fans, *harmed):
        await desk.baseline(juror, patch.base_sha256, 1.0)
    for juror in fans[:2]:
        await desk.trial(juror, patch, 0.98)
    for juror in harmed:
        await desk.trial(juror, patch, 1.02)
        await desk.trial(fans[2], patch, 0.98)
    await desk.follow()
    shown = await desk.queries.patch(patch.patch_id)
    assert shown.verdict == patch_pb2.VERDICT_REGRESSED
    assert shown.reason.endswith("; an own improvement of H100 24 GB (+0.0200 bpb)")
    classes = {own.hardware_class: own for own in shown.evidence.classes}
    assert (classes["H100 24 GB"].own_improvement, classes["H100 24 GB"].worse) == (True, False)
    assert (classes["RTX 3060 24 GB"].own_improvement, classes["RTX 3060 24 GB"].worse) == (False, True)
    scores = {score.hardware_class: score for score in (await desk.queries.best()).scores}
    (own,) = scores["H100 24 GB"].own_improvements
    assert (own.patch_id, own.title) == (patch.patch_id, "Wider")
    assert not scores["RTX 3060 24 GB"].own_improvements
    await replayed(desk)


async def test_readers_see_the_whole_decision_and_the_confirmed_gain_beside_it(desk: Desk) -> None:
    author, *jurors = await desk.jurors("author", "ada", "bea", "cyd")
    patch = await desk.submit(author, edit(A0=1))
    for juror in jurors[:2]:
        await desk.baseline(juror, patch.base_sha256, 1.0)
        await desk.trial(juror, patch, 0.98)
    await desk.follow()
    evidence = (await desk.queries.patch(patch.patch_id)).evidence
    assert evidence.sentence == "needs 1 more machine; now +3.6 of +4.6"
    assert (evidence.promote_above, evidence.reject_below) == pytest.approx((4.60517, -4.60517), abs=1e-5)
    assert evidence.classes[0].identities == 2
    assert evidence.gain_bpb == pytest.approx(0.02)
    assert evidence.gain_low_bpb < evidence.gain_bpb < evidence.gain_high_bpb
    assert 0.0 < evidence.expected_gain_bpb < evidence.gain_bpb
    won = await desk.promote(patch, jurors[2:])
    shown = await desk.queries.patch(won.patch_id)
    assert {own.name for own in shown.evidence.hangs_on} == {"ada", "bea", "cyd"}
    assert not shown.HasField("confirmation")
    best = await desk.records.best()
    for juror in jurors[:2]:
        await desk.baseline(juror, best.source_sha256, 0.99)
    await desk.follow()
    confirmed = (await desk.queries.patch(won.patch_id)).confirmation
    assert (list(confirmed.generations), confirmed.identities, confirmed.over) == ([1], 2, False)
    assert confirmed.gain_bpb == pytest.approx(0.01)  # not the 0.02 that it was selected with
    assert confirmed.log_odds_worse < 0.0 < confirmed.roll_back_above
    assert (await desk.queries.best()).confirmation == confirmed


async def test_everybody_sees_who_is_in_quarantine_and_what_should_be_rolled_back(desk: Desk) -> None:
    author, eve, *others = await desk.jurors("author", "eve", "ada", "bea", "cyd")
    pushed = await desk.promote(await desk.submit(author, edit(A0=1), title="Pushed"), [eve, *others[:2]])
    await cry_wolf(desk, author, eve, others)
    status = await desk.queries.status()
    (held,) = status.quarantined
    assert (held.identity_id, held.name, held.suspicion) == (eve.identity_id, "eve", "cries wolf")
    assert held.reason.startswith(
        "reports crashes or failed exams of patches that the others finish; the odds of that are"
    )
    (proposal,) = status.proposals
    assert (proposal.generation, proposal.title) == (1, "Pushed")
    assert proposal.reason.startswith("its promotion does not stand without eve: ")
    assert list((await desk.queries.best()).proposals) == [proposal]
    assert [own.name for own in (await desk.queries.patch(pushed.patch_id)).evidence.excluded] == ["eve"]
    texts = [event.text async for event in desk.queries.events(0, follow=False)]
    assert any(text.startswith("eve is in quarantine: it reports crashes") for text in texts)
    assert any(text.startswith("generation 1 should be rolled back: its promotion does not") for text in texts)
    board = await desk.queries.leaderboard(10)
    assert {own.name: own.agreement for own in board.volunteers if own.HasField("agreement")}["ada"] == 1.0
