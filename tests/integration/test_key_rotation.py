"""An identity moves to a new key: over real gRPC and real files, in the ledger, in an audit and in a rebuild."""

import asyncio
import json
import shutil
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, succession
from autoresearch.attest import Attestations, AttestError
from autoresearch.digest import key_id
from autoresearch.judging import ledger
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import operator_pb2, volunteer_service_pb2
from autoresearch.v1.identity_pb2 import Rotation
from autoresearch.v1.patch_pb2 import VERDICT_PROMOTED
from autoresearch.v1.trial_pb2 import Order, Result
from coordinator import keys, upkeep
from coordinator.access import Role
from coordinator.operator_client import NEXT_OPERATOR_KEY
from tests.integration.swarm_on_wire import Peer, Starter, Swarm, change
from tests.integration.test_coordinator_access import instruct, operator, role_change, run, token
from tests.integration.test_coordinator_bad_input import refuses
from tests.integration.test_coordinator_main_job import scores, three
from volunteer import address, auditing, durable, identity, pin
from volunteer.cli import cli
from volunteer.client import Client
from volunteer.errors import DiskError, HomeError, InputError, RpcError
from volunteer.home import spool_folder
from volunteer.spool import Spool

Status = grpc.StatusCode
REPLACED = "this key was replaced by another one"
WIDER = change("WIDTH = 128", "WIDTH = 256")


def named(peer: Peer) -> str:
    return key_id(envelope.public_bytes(peer.key))


async def rotate(peer: Peer, new: Ed25519PrivateKey, **terms: Any) -> access_pb2.RotateKeyResponse:
    """Asks for a new key; the peer goes on with the old one."""
    given = {"swarm_id": peer.swarm.swarm_id, "identity_id": named(peer), "old": peer.key} | terms
    signed = succession.sign(given["swarm_id"], given["identity_id"], given["old"], new)
    return await peer.swarm.access.RotateKey(access_pb2.RotateKeyRequest(rotation=signed))


async def moved(peer: Peer) -> str:
    """Moves a peer to a new key; its identity."""
    new = Ed25519PrivateKey.generate()
    answer = await rotate(peer, new)
    peer.key = new
    return answer.identity_id


async def standing(swarm: Swarm, who: str) -> access_pb2.GetStandingResponse:
    return await swarm.access.GetStanding(access_pb2.GetStandingRequest(identity_id=who))


async def test_everything_stays_with_the_identity(starter: Starter, tmp_path: Path) -> None:
    """Machines, results, roles and standing; in the audit, and in a store that is made again."""
    async with starter() as swarm:
        patch = await swarm.peer("author").submit(WIDER, "Wider")
        ada, bea, cyd = await three(swarm)
        who = named(ada)
        await instruct(operator(swarm), grant=role_change(ada, Role.APPROVER))
        await ada.work(scores(patch, 0.98))
        assert await moved(ada) == who != named(ada)
        await ada.enroll()  # its machine is its own as before
        await ada.open()
        assert operator_pb2.ROLE_APPROVER in (await standing(swarm, who)).roles
        assert await token(ada)
        while (await swarm.patch(patch.patch_id)).verdict != VERDICT_PROMOTED:
            for peer in (ada, bea, cyd):
                if isinstance(order := await peer.ask(), Order):
                    await peer.deliver(peer.result(order, scores(patch, 0.98)(order)))
        board = await swarm.board.GetLeaderboard(board_pb2.GetLeaderboardRequest())
        assert {own.identity_id: own.trials for own in board.volunteers}[who] >= 2
        async with await Client.open(address.parse(swarm.running.address)) as client:
            assert (await auditing.audit_swarm(client, tmp_path / "home", lambda entries: None)).answers
    for gone in ("store", "lineage.git"):
        shutil.rmtree(tmp_path / "swarm" / gone)
    await asyncio.to_thread(upkeep.rebuild, tmp_path / "swarm", "", lambda line: None, "t")
    async with starter() as swarm:
        again = swarm.peer("ada")
        again.key, again.machine_id = ada.key, ada.machine_id
        assert (await again.enroll()).identity_id == who


async def test_the_old_key_is_refused_everywhere(swarm: Swarm) -> None:
    ada = await swarm.peer("ada").start()
    patch = await swarm.peer("author").submit(WIDER)
    order = await ada.order()
    old, who = ada.key, await moved(ada)
    ack = await ada.deliver(ada.result(order, 1.0), old)  # in a session that was open before
    assert (ack.status, REPLACED in ack.reason) == (volunteer_service_pb2.RESULT_STATUS_REFUSED, True)
    assert (await ada.deliver(ada.result(order, 1.0))).status == volunteer_service_pb2.RESULT_STATUS_ACCEPTED
    ada.key = old
    calls: tuple[Callable[[], Awaitable[Any]], ...] = (
        ada.enroll, ada.open, lambda: token(ada), lambda: ada.withdraw(patch.patch_id),
        lambda: instruct(ada, pause=operator_pb2.Pause()), lambda: rotate(ada, Ed25519PrivateKey.generate()),
    )  # fmt: skip
    for call in calls:
        async with refuses(swarm, Status.UNAUTHENTICATED, REPLACED):
            await call()
    assert not (await standing(swarm, who)).HasField("ban")


async def test_a_ban_follows_the_identity_to_its_new_key(swarm: Swarm) -> None:
    eve = await swarm.peer("eve").start()
    who = await moved(eve)
    await instruct(operator(swarm), ban=operator_pb2.Ban(identity_id=who), reason="lies")
    for call in (eve.enroll, lambda: rotate(eve, Ed25519PrivateKey.generate(), identity_id=who)):
        async with refuses(swarm, Status.PERMISSION_DENIED, "shut out"):
            await call()


async def test_the_same_succession_again_is_a_success(swarm: Swarm) -> None:
    ada, new = await swarm.peer("ada").start(), Ed25519PrivateKey.generate()
    assert not (await rotate(ada, new)).repeated_before
    assert (await rotate(ada, new)).repeated_before
    entries = [ledger.parse(line) for line in swarm.running.ledger.read_bytes().splitlines()]
    assert [entry.kind for entry in entries].count("rotation") == 1


async def test_rotations_that_cannot_be(swarm: Swarm) -> None:
    ada, bea = [await swarm.peer(name).start() for name in ("ada", "bea")]
    new = Ed25519PrivateKey.generate()
    wrong: tuple[tuple[dict[str, Any], Ed25519PrivateKey, grpc.StatusCode, str], ...] = (
        ({"swarm_id": "another"}, new, Status.INVALID_ARGUMENT, "another swarm"),
        ({"identity_id": named(bea)}, new, Status.PERMISSION_DENIED, "does not speak for"),
        ({"old": Ed25519PrivateKey.generate()}, new, Status.PERMISSION_DENIED, "does not speak for"),
        ({}, bea.key, Status.ALREADY_EXISTS, "known to the swarm already"),
        ({}, operator(swarm).key, Status.ALREADY_EXISTS, "known to the swarm already"),
        ({}, ada.key, Status.INVALID_ARGUMENT, "after itself"),
    )
    for terms, key, status, says in wrong:
        async with refuses(swarm, status, says):
            await rotate(ada, key, **terms)
    async with refuses(swarm, Status.PERMISSION_DENIED, "not enrolled"):
        await rotate(swarm.peer("nobody"), new)
    stolen = succession.sign(swarm.swarm_id, named(ada), ada.key, new)
    resigned = envelope.sign(  # by somebody who saw the statement and does not hold the new key
        Rotation.FromString(stolen.payload), envelope.ROTATION, bea.key
    )
    async with refuses(swarm, Status.UNAUTHENTICATED, "names another successor"):
        await swarm.access.RotateKey(access_pb2.RotateKeyRequest(rotation=resigned))


async def test_an_audit_finds_what_the_old_key_signed_afterwards(swarm: Swarm) -> None:
    ada = await swarm.peer("ada").start()
    await swarm.peer("author").submit(WIDER)
    await ada.work(lambda order: 1.0)
    await moved(ada)
    entries = [ledger.parse(line) for line in swarm.running.ledger.read_bytes().splitlines()]
    at = [entry.kind for entry in entries].index("rotation")
    result = next(number for number, entry in enumerate(entries) if entry.kind == "result")
    assert result < at

    def taken(order: list[int]) -> None:
        signed = Attestations()
        for number in order:
            signed.take(entries[number].kind, entries[number].body)

    taken([*range(len(entries))])
    with pytest.raises(AttestError, match="its key was replaced by another one before"):
        taken([*range(result), at, result])
    body = entries[at].body
    for forged in ({"identity_id": "a" * 32}, {"new_key_id": "a" * 32}):
        signed = Attestations()
        for entry in entries[:at]:
            signed.take(entry.kind, entry.body)
        with pytest.raises(AttestError, match="was signed for"):
            signed.take("rotation", {**body, **forged})


# --- at home ---


async def enrolled_home(swarm: Swarm, home: Path) -> identity.Identity:
    """A home whose identity the swarm knows."""
    who = identity.load_or_make(home, lambda count: Ed25519PrivateKey.generate().private_bytes_raw()[:count])
    peer = swarm.peer("ada")
    peer.key, peer.machine_id = who.key, who.machine_id
    await peer.enroll()
    pin.save(home, pin.Pin(address.parse(swarm.running.address), swarm.swarm_id, "ada"))
    return who


async def command(*words: str) -> tuple[int, str, BaseException | None]:
    done = await asyncio.to_thread(CliRunner().invoke, cli, list(words))
    return done.exit_code, done.output, done.exception


async def test_the_command_changes_key_and_file_and_nothing_else(swarm: Swarm, tmp_path: Path) -> None:
    home = tmp_path / "home"
    who = await enrolled_home(swarm, home)
    for _ in range(2):  # and once more, from the second key to a third
        code, said, error = await command("rotate", "--home", str(home))
        assert code == 0, error
        after = identity.load_or_make(home, bytes)
        assert (after.identity_id, after.machine_id) == (who.identity_id, who.machine_id)
        assert after.key_id != who.key_id
        assert said.endswith(f"identity {who.identity_id} signs with the key {after.key_id} now\n")
    assert stat.S_IMODE((home / "identity.pem").stat().st_mode) == 0o600
    assert not (home / "identity.next.pem").exists()
    facts = json.loads((await command("whoami", "--json", "--home", str(home)))[1])
    assert (facts["identity_id"], facts["key_id"]) == (who.identity_id, after.key_id)
    peer = swarm.peer("ada")
    peer.key, peer.machine_id = after.key, after.machine_id
    await peer.start()


@pytest.mark.parametrize("when", ["before the swarm heard of it", "after the swarm heard of it"])
async def test_interrupted_it_is_run_again(
    swarm: Swarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    home = tmp_path / "home"
    who = await enrolled_home(swarm, home)
    with monkeypatch.context() as patching:
        if when.startswith("before"):

            def lost(*given: object) -> Any:
                raise RpcError("the line broke", retry=True)

            patching.setattr(Client, "rotate_key", lost)
        else:

            def full(path: Path, *given: object) -> None:
                raise DiskError(path, "No space left on device")

            patching.setattr(identity, "replace", full)
        assert (await command("rotate", "--home", str(home)))[0] != 0
    begun = (home / "identity.next.pem").read_bytes()
    assert stat.S_IMODE((home / "identity.next.pem").stat().st_mode) == 0o600
    kept = identity.load_or_make(home, bytes)
    assert (kept.identity_id, kept.key_id) == (who.identity_id, who.key_id)  # usable, or told what to do
    code, _, error = await command("rotate", "--home", str(home))
    assert code == 0, error
    after = identity.load_or_make(home, bytes)
    assert after.identity_id == who.identity_id
    assert begun in (home / "identity.pem").read_bytes()


async def test_dead_before_the_last_file_was_removed_it_can_be_run_again(swarm: Swarm, tmp_path: Path) -> None:
    home = tmp_path / "home"
    await enrolled_home(swarm, home)
    assert (await command("rotate", "--home", str(home)))[0] == 0
    adopted = identity.load_or_make(home, bytes)
    name, _, key = (home / "identity.pem").read_bytes().partition(b"\n")
    assert name.startswith(b"Identity: ")
    (home / "identity.next.pem").write_bytes(key)
    (home / "identity.next.pem").chmod(0o600)
    code, _, error = await command("rotate", "--home", str(home))
    assert code == 0, error
    after = identity.load_or_make(home, bytes)
    assert after.identity_id == adopted.identity_id
    assert after.key_id != adopted.key_id
    assert not (home / "identity.next.pem").exists()


async def test_results_of_the_old_key_are_delivered_first(swarm: Swarm, tmp_path: Path) -> None:
    home = tmp_path / "home"
    who = await enrolled_home(swarm, home)
    folder = spool_folder(home, swarm.swarm_id)
    kept = envelope.sign(Result(swarm_id=swarm.swarm_id, lease_id="x"), envelope.RESULT, who.key)
    Spool(folder, who.key_id, swarm.swarm_id).keep(kept)
    _, _, error = await command("rotate", "--home", str(home))
    assert isinstance(error, InputError)
    assert "1 result(s) signed by the old key wait for delivery" in str(error)
    assert identity.load_or_make(home, bytes).key_id == who.key_id


def test_a_damaged_name_is_told(tmp_path: Path) -> None:
    identity.load_or_make(tmp_path, lambda count: bytes([3]) * count)
    path = tmp_path / "identity.pem"
    durable.replace(path, b"Identity: nonsense\n" + path.read_bytes())
    with pytest.raises(HomeError, match="is damaged"):
        identity.load_or_make(tmp_path, bytes)


# --- the operator's key ---


async def test_the_operators_key_is_changed_by_one_command(swarm: Swarm) -> None:
    path = swarm.running.operator_key
    before, first = keys.load_or_make_signing_key(path), named(operator(swarm))
    assert (await run(swarm, "rotate"))[0] == 0
    assert named(operator(swarm)) != first
    assert (await run(swarm, "pause"))[0] == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (path.parent / NEXT_OPERATOR_KEY).exists()
    thief = swarm.peer("thief")
    thief.key = before
    async with refuses(swarm, Status.UNAUTHENTICATED, REPLACED):
        await instruct(thief, resume=operator_pb2.Pause())
    second = keys.load_or_make_signing_key(path)  # interrupted between the coordinator's answer and the file
    next_key = keys.load_or_make_signing_key(path.parent / NEXT_OPERATOR_KEY)
    boss = operator(swarm)
    await rotate(boss, next_key, identity_id=first)
    assert "replaced by another one" in (await run(swarm, "resume"))[1]
    assert (await run(swarm, "rotate"))[1].startswith(f"operator {first} has a new key")
    assert (await run(swarm, "resume"))[0] == 0
    assert second.private_bytes_raw() != keys.load_or_make_signing_key(path).private_bytes_raw()
