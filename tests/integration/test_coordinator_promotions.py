"""Promotion as a queue: several winners, in which order, merged onto what, and what a crash in between leaves."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoresearch.judging.model import Patch
from coordinator.gathering import patch_facts
from coordinator.lineage import Lineage
from coordinator.refusals import AlreadyExistsError
from coordinator.sealed_git import LineageUnusableError
from tests.integration.desk import RULE, Desk, Juror, edit, opened
from tests.integration.test_coordinator_trust import git, of_kind, replayed


@pytest.fixture
async def desk(store_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(store_url, tmp_path) as made:
        yield made


async def measured(desk: Desk, *names: str) -> list[Juror]:
    """Jurors that have measured the best."""
    jurors = await desk.jurors(*names)
    for juror in jurors:
        await desk.baseline(juror, (await desk.records.best()).source_sha256, 1.0)
    return jurors


async def test_winners_are_promoted_in_the_order_in_which_the_ledger_made_them_win(desk: Desk) -> None:
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    patches = [await desk.submit(author, edit(**{f"A{place}": 1})) for place in (0, 3, 6)]
    for juror, patch in itertools.product(jurors[:2], patches):
        await desk.trial(juror, patch, 0.98)
    for patch in (patches[1], patches[2], patches[0]):  # none is followed before all have won
        await desk.trial(jurors[2], patch, 0.98)
    await desk.follow()
    promotions = [entry.body["patch_id"] for entry in await of_kind(desk, "promotion")]
    assert promotions == [patches[1].patch_id, patches[2].patch_id, patches[0].patch_id]
    assert git(desk, "show", "best:train.py").count(" = 1\n") == 3
    await replayed(desk)


async def test_winners_by_one_baseline_are_promoted_in_the_order_of_their_submission(desk: Desk) -> None:
    author, *jurors = await measured(desk, "author", "ada", "bea")
    late = await desk.juror("cyd")
    patches = [await desk.submit(author, edit(**{f"A{place}": 1})) for place in (9, 3)]
    for juror, patch in itertools.product([*jurors, late], patches[::-1]):
        await desk.trial(juror, patch, 0.98)
    await desk.follow()
    assert {(await desk.patch(patch)).verdict for patch in patches} == {"open"}
    await desk.baseline(late, patches[0].base_sha256, 1.0)
    await desk.follow()
    assert [(await desk.patch(patch)).promoted_generation for patch in patches] == [1, 2]
    await replayed(desk)


async def win(desk: Desk, patch: Patch, jurors: list[Juror]) -> Patch:
    for juror in jurors:
        await desk.trial(juror, patch, 0.98)
    await desk.follow()
    return await desk.patch(patch)


async def test_a_winner_that_may_harm_the_mean_over_classes_waits_for_them(desk: Desk) -> None:
    """Two classes gain, and two were unlucky."""
    author = await desk.juror("author")
    patch = await desk.submit(author, edit(A0=1))
    base = (await desk.records.best()).source_sha256

    async def ran(value: float, *devices: str) -> None:
        for device in devices:
            juror = await desk.juror(f"owner of a {device}", device)
            await desk.baseline(juror, base, 1.0)
            await desk.trial(juror, patch, value)
        await desk.follow()

    await ran(1.002, "RTX 4090", "RTX 3060")
    await ran(0.98, "H100", "A100", "H100", "A100")
    waiting = await desk.patch(patch)
    assert waiting.verdict == "open"
    assert waiting.decision is not None
    assert waiting.decision["log_odds"] > waiting.decision["upper"]
    assert waiting.decision["harm"] > RULE.harm_alpha
    assert "likely to lose on the mean over kinds of hardware: needs another" in waiting.decision["sentence"]
    facts = patch_facts(waiting, await desk.records.candidate_trials(patch.patch_id), ())
    assert {name for name in facts.classes if "RTX" in name} < facts.doubtful
    await ran(0.994, "RTX 4090", "RTX 3060")
    assert (await desk.patch(patch)).promoted_generation == 1
    await replayed(desk)


async def test_a_conflict_goes_back_to_its_author_who_continues_on_the_new_best(desk: Desk) -> None:
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    first = await desk.submit(author, edit(A0=1))
    second = await desk.submit(author, edit(A0=2))
    assert (await win(desk, first, jurors)).promoted_generation == 1
    lost = await win(desk, second, jurors)
    assert lost.verdict == "conflict"
    assert lost.reason.startswith("won, but does not merge onto generation 1: the best has changed the same lines")
    again = await desk.submit(author, {"A0 = 1": "A0 = 2"})
    assert (again.base_generation, again.verdict) == (1, "open")
    for juror in jurors:
        await desk.baseline(juror, again.base_sha256, 1.0)
    assert (await win(desk, again, jurors)).promoted_generation == 2
    await replayed(desk)


async def test_texts_that_merge_into_no_program_are_a_conflict_with_the_reason(desk: Desk) -> None:
    """One opens a string that ends where nothing was before, the other adds a quotation mark below it."""
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    first = await desk.submit(author, {"A1 = 0": "A1 = '''"} | {"A5 = 0": "A5 = 0'''"})
    second = await desk.submit(author, {"A3 = 0": "A3 = '''x'''"})
    assert (await win(desk, first, jurors)).verdict == "promoted"
    broken = await win(desk, second, jurors)
    assert broken.verdict == "conflict"
    assert "merged with the best it cannot be tried: " in broken.reason
    await replayed(desk)


async def test_what_the_best_has_already_is_not_promoted_again(desk: Desk) -> None:
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    both = await desk.submit(author, edit(A0=1, A4=1))
    one = await desk.submit(author, edit(A0=1))
    assert (await win(desk, both, jurors)).verdict == "promoted"
    lost = await win(desk, one, jurors)
    assert (lost.verdict, lost.reason.partition(": ")[2]) == ("conflict", "the best has the change already")
    await replayed(desk)


async def test_the_same_change_is_not_tested_again_on_a_newer_best(desk: Desk) -> None:
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    useless = await desk.submit(author, edit(A0=1))
    await desk.trial(jurors[0], useless, 1.01)
    await desk.follow()
    assert (await desk.patch(useless)).verdict == "parked"
    assert (await win(desk, await desk.submit(author, edit(A5=1)), jurors)).promoted_generation == 1
    with pytest.raises(
        AlreadyExistsError, match=f"the same change of an earlier best is already patch {useless.patch_id}"
    ):
        await desk.submit(await desk.juror("other"), edit(A0=1))


async def test_evidence_against_an_older_base_promotes_onto_the_newest(desk: Desk) -> None:
    """Tests in flight finish against the base that they began on; nothing of them is thrown away."""
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    slow = await desk.submit(author, edit(A9=1))
    for juror in jurors[:2]:
        await desk.trial(juror, slow, 0.98)
    await desk.follow()
    assert (await win(desk, await desk.submit(author, edit(A0=1)), jurors)).promoted_generation == 1
    assert (await desk.patch(slow)).base_generation == 0
    won = await win(desk, slow, jurors[2:])
    assert (won.promoted_generation, (won.decision or {})["trials"]) == (2, 3)
    assert git(desk, "show", "best:train.py").count(" = 1\n") == 2
    await replayed(desk)


def die(*_: object) -> None:
    raise LineageUnusableError("the power is gone")


async def test_a_crash_between_ledger_and_branch_is_mended_by_the_next_start(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store_url, tmp_path) as desk:
        author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
        patch = await desk.submit(author, edit(A0=1))
        before = git(desk, "rev-parse", "best")
        with monkeypatch.context() as patched:
            patched.setattr(Lineage, "advance", die)
            with pytest.raises(LineageUnusableError):
                await win(desk, patch, jurors)
        assert (await desk.patch(patch)).promoted_generation == 1
        assert git(desk, "rev-parse", "best") == before
    async with opened(store_url, tmp_path, name=desk.name) as again:
        await again.follow()
        best = await again.records.best()
        assert git(again, "rev-parse", "best") == best.commit != before
        assert [entry.body["generation"] for entry in await of_kind(again, "promotion")] == [1]
        for juror in jurors:
            await again.baseline(juror, best.source_sha256, 1.02)
        with monkeypatch.context() as patched:
            patched.setattr(Lineage, "advance", die)
            with pytest.raises(LineageUnusableError):
                await again.follow()
        await again.follow()  # the same process tries again
        best = await again.records.best()
        assert (best.generation, best.undone) == (2, (1,))
        assert git(again, "rev-parse", "best") == best.commit
        assert len(await of_kind(again, "rollback")) == 1
        await replayed(again)


async def test_two_coordinators_that_follow_the_same_ledger_write_everything_once(desk: Desk, store_url: str) -> None:
    """More than this version promises, and what keeps a restart during a slow death harmless."""
    author, *jurors = await measured(desk, "author", "ada", "bea", "cyd")
    patches = [await desk.submit(author, edit(**{f"A{place}": 1})) for place in (0, 4)]
    other = await Desk(store_url, desk.name, desk.folder / "other", lineage=desk.lineage).start()
    for juror, patch in itertools.product(jurors, patches):
        await desk.trial(juror, patch, 0.98)
    await other.follow()
    await desk.follow()
    assert len(await of_kind(desk, "promotion")) == 2
    assert (await desk.records.best()).generation == 2
    await replayed(desk)
    await other.stop()
