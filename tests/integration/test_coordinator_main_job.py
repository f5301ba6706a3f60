"""The main job on a real coordinator: patches in, orders out, signed results back, verdicts and promotions."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from autoresearch.digest import sha256_hex
from autoresearch.judging import ledger
from autoresearch.judging.replay import Replay
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1.patch_pb2 import Patch, Verdict
from tests.integration.swarm_on_wire import SOURCE, Peer, Starter, Swarm, change
from tests.integration.swarm_that_lived import settled

CARDS = ("H100", "A100", "RTX 4090")


async def three(swarm: Swarm) -> list[Peer]:
    return [await swarm.peer(name, device).start() for name, device in zip(("ada", "bea", "cyd"), CARDS, strict=True)]


def git(swarm: Swarm, *arguments: str) -> str:
    command = ["git", "-C", str(swarm.running.lineage), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def clone(folder: Path) -> None:
    subprocess.run(["git", "clone", "-q", "-b", "best", "best.bundle", "checkout"], cwd=folder, check=True)


async def promoted(swarm: Swarm, commit: str) -> str:
    """The promotion as git shows it, once branch `best` has reached it (it follows the ledger)."""
    return git(swarm, "log", "-1", "-p", "best") if git(swarm, "rev-parse", "best").strip() == commit else ""


def scores(patch: Patch, value: "float | str", best: float = 1.0) -> "Callable[[trial_pb2.Order], float | str]":
    return lambda order: value if order.source_sha256 == patch.candidate_sha256 else best


async def test_a_real_improvement_is_promoted_into_git(swarm: Swarm) -> None:
    author = swarm.peer("author")
    patch = await author.submit(change("WIDTH = 128", "WIDTH = 256"), "Wider")
    for peer in await three(swarm):
        await peer.work(scores(patch, 0.98))  # the machine's baseline comes first
        await peer.work(scores(patch, 0.98))
    won = await swarm.verdict(patch.patch_id, "promoted")
    assert won.promoted_generation == 1
    assert {vote.name for vote in won.evidence.votes} == {"ada", "bea", "cyd"}
    best = (await swarm.patches.GetBest(patches_pb2.GetBestRequest())).best
    assert (best.generation, best.title, best.patch_id) == (1, "Wider", patch.patch_id)
    assert {score.hardware_class for score in best.scores} == {f"{card} 24 GB" for card in CARDS}
    log = await swarm.until(lambda: promoted(swarm, best.commit))
    assert "+WIDTH = 256" in log
    assert f"Patch: {patch.patch_id}" in log
    entry = int(log.split("Ledger-Entry: ")[1].split()[0])
    lines = swarm.running.ledger.read_bytes().splitlines()
    assert ledger.parse(lines[entry]).kind == "promotion"
    assert ledger.parse(lines[entry]).body["commit"] == best.commit
    ledger.verify(lines)


async def test_a_useless_patch_is_parked_after_one_trial(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(change("RATE = 0.003", "RATE = 0.0030001"))
    (peer, *_) = await three(swarm)
    await peer.work(scores(patch, 1.001))
    await peer.work(scores(patch, 1.001))
    parked = await swarm.verdict(patch.patch_id, "parked")
    assert parked.evidence.trials == 1
    assert (await peer.ask()).reason.startswith("no open patches")


@pytest.mark.parametrize(("outcome", "verdict"), [("crashed", "crashed"), ("disqualified", "disqualified")])
async def test_a_failure_is_a_fact_when_two_identities_report_it(swarm: Swarm, outcome: str, verdict: str) -> None:
    patch = await swarm.peer("author").submit(change("    return (WIDTH, config)", "    raise ValueError"))
    first, second, _ = await three(swarm)
    await first.work(scores(patch, outcome))
    await first.work(scores(patch, outcome))
    doubted = await swarm.verdict(patch.patch_id, "parked")
    assert doubted.evidence.trials == 1
    await second.work(scores(patch, outcome))
    await second.work(scores(patch, outcome))
    await swarm.verdict(patch.patch_id, verdict)


async def test_the_author_can_read_why_a_patch_failed(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(change("    return (WIDTH, config)", "    raise ValueError"))
    peer = (await three(swarm))[0]
    await peer.work(scores(patch, 1.0))
    order = await peer.order()
    log = "Traceback\nValueError\x1b[31m"
    await peer.deliver(peer.result(order, "crashed", reason="raised ValueError", log_tail=log))
    (trial,) = (await swarm.patch(patch.patch_id)).trials
    assert (trial.volunteer_name, trial.outcome) == ("ada", trial_pb2.OUTCOME_CRASHED)
    assert trial.reason == "raised ValueError"
    assert trial.log_tail == "Traceback\nValueError[31m"  # without what would colour a terminal


async def test_a_disturbed_trial_is_told_not_counted_and_repeated(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(change("RATE = 0.003", "RATE = 0.004"))
    first, second, _ = await three(swarm)
    await first.work(scores(patch, 1.0))
    order = await first.order()
    said = "this machine slept for 2100 s during the trial: keep it awake while it works"
    await first.deliver(first.result(order, 0.5, disturbed=said))
    shown = await swarm.patch(patch.patch_id)
    (trial,) = shown.trials
    assert trial.disturbed
    assert shown.evidence.trials == 0
    assert shown.evidence.log_odds == 0
    await second.work(scores(patch, 1.0))
    assert (await second.order()).source_sha256 == order.source_sha256


async def test_an_author_never_tests_the_own_patch(swarm: Swarm) -> None:
    author = await swarm.peer("author").start()
    await author.submit(change("WIDTH = 128", "WIDTH = 64"))
    await author.work(lambda order: 1.0)  # its machine may measure the best
    answer = await author.ask()
    assert isinstance(answer, volunteer_pb2.NoOrder)
    assert "your own patches" in answer.reason


async def test_no_identity_runs_a_patch_again_before_others_had_a_chance(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    first, second, third = await three(swarm)
    for peer in (first, second, third):
        await peer.work(lambda order: 1.0)
    await first.work(scores(patch, 0.9985))
    answer = await first.ask()
    assert isinstance(answer, volunteer_pb2.NoOrder)
    assert (await second.work(scores(patch, 0.9985))).source_sha256 == patch.candidate_sha256


async def test_orders_do_not_tell_candidate_from_best(swarm: Swarm) -> None:
    await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    peer = (await three(swarm))[0]
    baseline = await peer.work(lambda order: 1.0)
    candidate = await peer.work(lambda order: 1.0)
    assert baseline.source_sha256 != candidate.source_sha256
    assert {field.name for field, _ in baseline.ListFields()} == {field.name for field, _ in candidate.ListFields()}
    assert baseline.seed != candidate.seed


async def test_a_second_winner_is_merged_onto_the_new_best(swarm: Swarm) -> None:
    author = swarm.peer("author")
    wide = await author.submit(change("WIDTH = 128", "WIDTH = 256"), "Wider")
    fast = await author.submit(change("        print(RATE, batch)", "        print(RATE * 2, batch)"), "Faster")
    clash = await author.submit(change("WIDTH = 128", "WIDTH = 512"), "Wider still")
    start = sha256_hex(SOURCE.encode())  # everything else is better, merged or not
    peers = await three(swarm)
    for _ in range(6):  # a base each, three candidates each, and after a promotion its audit
        for peer in peers:
            answer = await peer.ask()
            if isinstance(answer, trial_pb2.Order):
                await peer.deliver(peer.result(answer, 1.0 if answer.source_sha256 == start else 0.99))
    won = [await swarm.verdict(p.patch_id, "promoted", "conflict") for p in (wide, fast, clash)]
    assert sorted(p.promoted_generation for p in won) == [0, 1, 2]
    best = (await swarm.patches.GetBest(patches_pb2.GetBestRequest())).best
    await swarm.until(lambda: promoted(swarm, best.commit))
    await settled(swarm)  # of the conflict too the ledger's file says so
    source = git(swarm, "show", "best:train.py")
    assert "RATE * 2" in source
    assert ("WIDTH = 256" in source) != ("WIDTH = 512" in source)
    replay = Replay()  # everything that was decided follows from the exported ledger
    replay.follow(map(ledger.parse, swarm.running.ledger.read_bytes().splitlines()))
    assert (replay.differences, replay.unsettled()) == ([], [])
    assert (replay.best.generation, replay.best.commit) == (best.generation, best.commit)
    verdicts = {name: f"VERDICT_{own.verdict.upper()}" for name, own in replay.patches.items()}
    assert verdicts == {p.patch_id: Verdict.Name(p.verdict) for p in won}
    board = await swarm.board.GetLeaderboard(board_pb2.GetLeaderboardRequest())
    for standing in board.volunteers:
        own = replay.standings[standing.identity_id]
        assert (standing.trials, standing.train_ms) == (own.trials, own.train_ms)


async def test_the_leaderboard_and_events_tell_what_happened(swarm: Swarm) -> None:
    author = swarm.peer("author")
    patch = await author.submit(change("WIDTH = 128", "WIDTH = 256"), "Wider")
    for peer in await three(swarm):
        await peer.work(scores(patch, 0.98))
        await peer.work(scores(patch, 0.98))
    await swarm.verdict(patch.patch_id, "promoted")
    board = await swarm.board.GetLeaderboard(board_pb2.GetLeaderboardRequest())
    assert {(s.name, s.trials, s.train_ms) for s in board.volunteers} == {(n, 2, 20_000) for n in ("ada", "bea", "cyd")}
    assert [(s.name, s.promotions) for s in board.authors] == [("author", 1)]
    assert board.authors[0].gain_bpb == pytest.approx(0.02, abs=1e-6)
    events = [r.event async for r in swarm.board.WatchEvents(board_pb2.WatchEventsRequest())]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert events[-1].text == "generation 1 is the new best: Wider"


async def test_a_patch_against_an_older_best_is_merged_when_it_is_submitted(swarm: Swarm) -> None:
    author = swarm.peer("author")
    first = (await swarm.patches.GetBest(patches_pb2.GetBestRequest())).best.commit
    patch = await author.submit(change("WIDTH = 128", "WIDTH = 256"), "Wider")
    for peer in await three(swarm):
        await peer.work(scores(patch, 0.98))
        await peer.work(scores(patch, 0.98))
    await swarm.verdict(patch.patch_id, "promoted")
    late = await author.submit(change("print(RATE, batch)", "print(RATE, RATE, batch)"), "Faster", base=first)
    source = await swarm.volunteers.FetchSource(volunteer_pb2.FetchSourceRequest(source_sha256=late.candidate_sha256))
    assert b"WIDTH = 256" in source.source
    assert b"RATE, RATE" in source.source
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await author.submit(change("WIDTH = 128", "WIDTH = 100"), "Narrower", base=first)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "does not merge" in (refused.value.details() or "")


async def test_everything_continues_after_a_restart(starter: Starter) -> None:
    starter.lease_s = 600.0  # longer than any restart takes
    async with starter() as swarm:
        author = swarm.peer("author")
        patch = await author.submit(change("WIDTH = 128", "WIDTH = 256"), "Wider")
        peers = await three(swarm)
        for peer in peers:
            await peer.work(scores(patch, 0.98))
        order = await peers[0].order()
        result = peers[0].result(order, 0.98)
    async with starter() as again:
        assert again.swarm_id == swarm.swarm_id
        for peer in peers:
            peer.swarm = again
            again.peers.append(peer)
        welcome = await peers[0].open()
        assert list(welcome.live_lease_ids) == [order.lease_id]
        assert (await peers[0].deliver(result)).status == volunteer_pb2.RESULT_STATUS_ACCEPTED
        for peer in peers[1:]:
            await peer.open()
            await peer.work(scores(patch, 0.98))
        await again.verdict(patch.patch_id, "promoted")
        ledger.verify(again.running.ledger.read_bytes().splitlines())


async def test_a_data_folder_may_be_given_relative_to_where_one_stands(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(starter.folder)
    starter.folder = Path()
    async with starter() as swarm:
        assert swarm.running.ledger.is_absolute()
        patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
        assert patch.base_commit == git(swarm, "rev-parse", "best").strip()


async def test_the_lineage_can_be_fetched_and_cloned(swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("clone")
    chunks = [r.chunk async for r in swarm.patches.FetchLineage(patches_pb2.FetchLineageRequest())]
    (folder / "best.bundle").write_bytes(b"".join(chunks))
    clone(folder)
    assert (folder / "checkout" / "train.py").read_text() == SOURCE
    assert {path.name for path in (folder / "checkout").iterdir()} >= {"prepare.py", "program.md", "challenge.json"}


async def test_a_lease_that_a_machine_does_not_know_of_goes_to_somebody_else(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    first, second, _ = await three(swarm)
    await first.work(scores(patch, 0.98))
    lost = await first.order()
    await first.close()
    first.held = []  # the grant never arrived
    assert list((await first.open()).live_lease_ids) == []
    again = await first.order()
    assert again.lease_id != lost.lease_id
    assert again.source_sha256 == patch.candidate_sha256
    assert (await second.order()).lease_id not in (lost.lease_id, again.lease_id)


async def test_a_machine_that_fails_on_the_best_rests_until_it_joins_again(swarm: Swarm) -> None:
    await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    peer = (await three(swarm))[0]
    await peer.work(lambda order: "crashed")
    await peer.work(lambda order: "crashed")

    async def rests() -> bool:
        answer = await peer.ask()
        return isinstance(answer, volunteer_pb2.NoOrder) and "fails on the current best" in answer.reason

    await swarm.until(rests)
    await peer.enroll()
    await peer.work(lambda order: 1.0)
