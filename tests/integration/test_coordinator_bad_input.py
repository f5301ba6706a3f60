"""Bad input to a real coordinator over real gRPC: each gets one clear line and a status, and changes nothing.

Nothing half-done is checked on what everything else follows from: the ledger's bytes and the listed patches.
"""

import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import trial_pb2
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.patch_pb2 import PatchSubmission
from coordinator import main as program
from coordinator.errors import OperatorError
from coordinator.settings import Settings, Terms
from tests.integration.swarm_on_wire import SOURCE, Peer, Starter, Swarm, change

Status = grpc.StatusCode
REFUSED = volunteer_pb2.RESULT_STATUS_REFUSED


async def an_author(swarm: Swarm, name: str = "author") -> Peer:
    """Somebody whom the swarm knows."""
    peer = swarm.peer(name)
    await peer.enroll_author()
    return peer


async def snapshot(swarm: Swarm) -> tuple[bytes, bytes]:
    """Everything that a bad request must leave as it was."""
    listed = await swarm.patches.ListPatches(patches_pb2.ListPatchesRequest(page_size=200))
    return swarm.running.ledger.read_bytes(), listed.SerializeToString(deterministic=True)


@asynccontextmanager
async def refuses(swarm: Swarm, status: grpc.StatusCode, says: str) -> AsyncIterator[None]:
    """The block's call fails with this status and one line that says this, and nothing changes."""
    before = await snapshot(swarm)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        yield
    text = refused.value.details() or ""
    assert refused.value.code() is status, text
    assert says in text
    assert "\n" not in text
    assert text.isprintable()
    assert await snapshot(swarm) == before


# --- patches ---


def renamed(name: str) -> bytes:
    return change("WIDTH = 128", "WIDTH = 256").replace(b"train.py", name.encode())


LONG = change("WIDTH = 128", "WIDTH = 256") + b"+x = 1\n" * (limits.DIFF_BYTES // 7)

BAD_DIFFS = {
    "another file": (renamed("prepare.py"), "train.py"),
    "a path that climbs": (renamed("../train.py"), "train.py"),
    "an absolute path": (renamed("/etc/passwd"), "train.py"),
    "does not apply": (change("WIDTH = 128", "WIDTH = 256").replace(b"-WIDTH = 128", b"-WIDTH = 127"), "does not"),
    "not UTF-8": (change("WIDTH = 128", "WIDTH = 256").replace(b"256", b"\xff\xfe"), "UTF-8"),
    "empty": (b"", "empty"),
    "only white space": (b" \n\t\n", "empty"),
    "too large": (LONG, str(limits.DIFF_BYTES)),
    "no change": (change("WIDTH = 128", "WIDTH  =  128"), "only comments, docstrings or layout"),
    "does not parse": (change("WIDTH = 128", "WIDTH = = 128"), "line 3 of train.py does not parse"),
    "no build_model": (change("def build_model(config):", "def built_model(config):"), "build_model"),
    "no diff at all": (b"make it better, please\n", "diff"),
    "control characters": (change("WIDTH = 128", "WIDTH = 256  # \x1b[2J"), "character"),
}


@pytest.mark.parametrize("name", BAD_DIFFS)
async def test_a_patch_that_cannot_be_taken(swarm: Swarm, name: str) -> None:
    diff, says = BAD_DIFFS[name]
    author = await an_author(swarm)
    async with refuses(swarm, Status.INVALID_ARGUMENT, says):
        await author.submit(diff)


async def test_a_message_over_the_limit_of_grpc(swarm: Swarm) -> None:
    author = await an_author(swarm)
    async with refuses(swarm, Status.RESOURCE_EXHAUSTED, "larger than max"):
        await author.submit(b"x" * (limits.MESSAGE_BYTES + 1))


@pytest.mark.parametrize("respelt", ["WIDTH = 256", "WIDTH = 0x100", "WIDTH = 256  # twice as wide"])
async def test_the_same_code_again_points_at_the_first(swarm: Swarm, respelt: str) -> None:
    first = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    other = await an_author(swarm, "other")
    async with refuses(swarm, Status.ALREADY_EXISTS, first.patch_id):
        await other.submit(change("WIDTH = 128", respelt), "mine")


async def test_the_same_submission_again_is_the_same_patch(swarm: Swarm) -> None:
    author = await an_author(swarm)
    first = await author.submit(change("WIDTH = 128", "WIDTH = 256"))
    before = await snapshot(swarm)
    assert (await author.submit(change("WIDTH = 128", "WIDTH = 256"))).patch_id == first.patch_id
    assert await snapshot(swarm) == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"title": ""}, "title"),
        ({"title": "two\nlines"}, "title"),
        ({"title": "x" * (limits.TITLE_CHARACTERS + 1)}, str(limits.TITLE_CHARACTERS)),
        ({"title": "\x1b[31mred"}, "title"),
        ({"rationale": "x" * (limits.RATIONALE_CHARACTERS + 1)}, str(limits.RATIONALE_CHARACTERS)),
        ({"protocol": 99}, "upgrade"),
        ({"swarm_id": "another"}, "another swarm"),
        ({"base_commit": "HEAD"}, "commit"),
        ({"base_commit": "--upload-pack=touch x"}, "commit"),
    ],
)
async def test_a_submission_with_a_bad_field(swarm: Swarm, fields: dict[str, Any], says: str) -> None:
    author = await an_author(swarm)
    async with refuses(swarm, Status.INVALID_ARGUMENT, says):
        await author.submit(change("WIDTH = 128", "WIDTH = 256"), **fields)


async def test_a_base_that_is_not_in_the_lineage(swarm: Swarm) -> None:
    author = await an_author(swarm)
    async with refuses(swarm, Status.NOT_FOUND, "lineage"):
        await author.submit(change("WIDTH = 128", "WIDTH = 256"), base="0" * 40)


async def test_an_envelope_that_does_not_hold(swarm: Swarm) -> None:
    author = await an_author(swarm)
    submission = PatchSubmission(protocol=1, swarm_id=swarm.swarm_id, title="t", diff=change("WIDTH = 128", "WIDTH=1"))
    changed = envelope.sign(submission, envelope.PATCH, author.key)
    changed.payload += b"\x00"
    another_kind = envelope.sign(submission, envelope.WITHDRAWAL, author.key)
    huge = envelope.sign(submission, envelope.PATCH, author.key)
    huge.payload = b"\x00" * (limits.ENVELOPE_BYTES + 1)
    unsigned = envelope.sign(submission, envelope.PATCH, author.key)
    unsigned.ClearField("signatures")
    said = {
        "does not match": changed,
        "is not a": another_kind,
        str(limits.ENVELOPE_BYTES): huge,
        "0 signatures": unsigned,
    }
    for says, bad in said.items():
        async with refuses(swarm, Status.UNAUTHENTICATED, says):
            await swarm.patches.SubmitPatch(patches_pb2.SubmitPatchRequest(submission=bad))


async def test_somebody_elses_patch_cannot_be_withdrawn(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    thief = await an_author(swarm, "thief")
    async with refuses(swarm, Status.PERMISSION_DENIED, "author"):
        await thief.withdraw(patch.patch_id)


# --- unknown ids ---

UNKNOWN: dict[str, Callable[[Swarm], Awaitable[Any]]] = {
    "patch": lambda swarm: swarm.patch("0" * 16),
    "source": lambda swarm: swarm.volunteers.FetchSource(volunteer_pb2.FetchSourceRequest(source_sha256="0" * 64)),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_an_unknown_id(swarm: Swarm, name: str) -> None:
    async with refuses(swarm, Status.NOT_FOUND, "no "):
        await UNKNOWN[name](swarm)


async def test_withdrawing_an_unknown_patch(swarm: Swarm) -> None:
    author = await an_author(swarm)
    async with refuses(swarm, Status.NOT_FOUND, "no patch"):
        await author.withdraw("0" * 16)


MALFORMED: dict[str, Callable[[Swarm], Awaitable[Any]]] = {
    "hex digits": lambda swarm: swarm.volunteers.FetchSource(volunteer_pb2.FetchSourceRequest(source_sha256="../../x")),
    "verdicts are among": lambda swarm: swarm.patches.ListPatches(patches_pb2.ListPatchesRequest(verdicts=[99])),
    "no ledger has an entry": lambda swarm: swarm.board.WatchEvents(
        board_pb2.WatchEventsRequest(start=2**63 - 100)
    ).read(),
    "page": lambda swarm: swarm.patches.ListPatches(patches_pb2.ListPatchesRequest(page_token="\x00")),
}


@pytest.mark.parametrize("says", MALFORMED)
async def test_a_malformed_query(swarm: Swarm, says: str) -> None:
    async with refuses(swarm, Status.INVALID_ARGUMENT, says):
        await MALFORMED[says](swarm)


async def test_a_listing_is_never_longer_than_a_page(swarm: Swarm) -> None:
    board = await swarm.board.GetLeaderboard(board_pb2.GetLeaderboardRequest(limit=2**31 - 1))
    assert len(board.volunteers) <= limits.PAGE_ITEMS


# --- enrolment and sessions ---


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "n" * (limits.NAME_CHARACTERS + 1)}, "name"),
        ({"protocol": 99}, "upgrade"),
        ({"swarm_id": "another"}, "another swarm"),
        ({"machine_id": "../x"}, "machine"),
    ],
)
async def test_an_enrolment_with_a_bad_field(swarm: Swarm, fields: dict[str, Any], says: str) -> None:
    peer = swarm.peer("ada")
    message = Enrolment(
        protocol=1, swarm_id=swarm.swarm_id, name="ada", machine_id=peer.machine_id, hardware=peer.hardware
    )
    for name, value in fields.items():
        setattr(message, name, value)
    async with refuses(swarm, Status.INVALID_ARGUMENT, says):
        signed = envelope.sign(message, envelope.ENROLMENT, peer.key)
        await swarm.volunteers.Enroll(volunteer_pb2.EnrollRequest(enrolment=signed))


async def test_somebody_elses_machine_cannot_be_enrolled(swarm: Swarm) -> None:
    ada, eve = swarm.peer("ada"), swarm.peer("eve")
    await ada.enroll()
    eve.machine_id = ada.machine_id
    async with refuses(swarm, Status.PERMISSION_DENIED, "another identity"):
        await eve.enroll()


async def first_answer(swarm: Swarm, request: volunteer_pb2.SessionRequest) -> Any:
    stream = swarm.volunteers.Session()
    await stream.read()
    await stream.write(request)
    response = await stream.read()
    stream.cancel()
    return response


async def test_a_session_begins_with_a_proof(swarm: Swarm) -> None:
    async with refuses(swarm, Status.INVALID_ARGUMENT, "open the session first"):
        await first_answer(swarm, volunteer_pb2.SessionRequest(lease=volunteer_pb2.LeaseRequest(request_id=1)))


async def test_a_session_of_a_machine_that_is_not_enrolled(swarm: Swarm) -> None:
    peer = swarm.peer("ada")
    async with refuses(swarm, Status.PERMISSION_DENIED, "enroll first"):
        await peer.open()


async def test_a_session_proved_with_another_key(swarm: Swarm) -> None:
    peer = swarm.peer("ada")
    await peer.enroll()
    peer.key = Ed25519PrivateKey.generate()
    async with refuses(swarm, Status.PERMISSION_DENIED, "enroll first"):
        await peer.open()


# --- results ---


async def a_trial(swarm: Swarm) -> tuple[Peer, trial_pb2.Order]:
    peer = await swarm.peer("ada").start()
    return peer, await peer.order()


async def refused(swarm: Swarm, peer: Peer, order: trial_pb2.Order, ack: Awaitable[Any], says: str) -> None:
    """The result is refused with one line, nothing changes, and the right one is still taken afterwards."""
    before = await snapshot(swarm)
    answer = await ack
    assert answer.status == REFUSED
    assert says in answer.reason
    assert "\n" not in answer.reason
    assert await snapshot(swarm) == before
    right = await peer.deliver(peer.result(order, 1.0))
    assert right.status == volunteer_pb2.RESULT_STATUS_ACCEPTED, right.reason


async def test_a_result_signed_by_another_key(swarm: Swarm) -> None:
    peer, order = await a_trial(swarm)
    wrong = peer.deliver(peer.result(order, 1.0), key=Ed25519PrivateKey.generate())
    await refused(swarm, peer, order, wrong, "another key")


async def test_a_result_whose_bytes_were_changed(swarm: Swarm) -> None:
    peer, order = await a_trial(swarm)
    signed = envelope.sign(peer.result(order, 1.0), envelope.RESULT, peer.key)
    signed.payload = envelope.sign(peer.result(order, 0.5), envelope.RESULT, peer.key).payload
    await refused(swarm, peer, order, peer.deliver_envelope(signed), "signature")


async def test_a_result_for_another_machines_lease(swarm: Swarm) -> None:
    peer, order = await a_trial(swarm)
    eve = await swarm.peer("eve").start()
    eve._payload = peer._payload
    await refused(swarm, peer, order, eve.deliver(eve.result(order, 0.5)), "another key")


async def test_a_result_for_a_lease_that_never_was(swarm: Swarm) -> None:
    peer, order = await a_trial(swarm)
    wrong = peer.deliver(peer.result(order, 1.0, lease_id="0" * 32))
    await refused(swarm, peer, order, wrong, "no such lease")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"val_bpb": math.nan}, "val_bpb"),
        ({"val_bpb": math.inf}, "val_bpb"),
        ({"val_bpb": -1.0}, "val_bpb"),
        ({"val_bpb": 0.0}, "val_bpb"),
        ({"val_bpb": limits.VAL_BPB_MAX * 2}, "val_bpb"),
        ({"outcome": 99}, "outcome"),
        ({"outcome": trial_pb2.OUTCOME_CRASHED}, "val_bpb"),
        ({"cpu_share": math.nan}, "not finite"),
        ({"train_ms": 10**9}, "budget"),
        ({"source_sha256": "0" * 64}, "differ"),
        ({"challenge_sha256": "0" * 64}, "differ"),
        ({"seed": 1}, "differ"),
        ({"order_sha256": "0" * 64}, "another order"),
        ({"swarm_id": "another"}, "another swarm"),
        ({"log_tail": "x" * (limits.LOG_TAIL_CHARACTERS + 1)}, "limit"),
        ({"reason": "x" * (limits.REASON_CHARACTERS + 1)}, "limit"),
        ({"weights_sha256": "nonsense"}, "hex"),
        ({"protocol": 99}, "upgrade"),
    ],
)
async def test_a_result_with_a_bad_value(swarm: Swarm, fields: dict[str, Any], says: str) -> None:
    peer, order = await a_trial(swarm)
    await refused(swarm, peer, order, peer.deliver(peer.result(order, 1.0, **fields)), says)


async def test_a_result_twice_is_one_result(swarm: Swarm) -> None:
    peer, order = await a_trial(swarm)
    signed = envelope.sign(peer.result(order, 1.0), envelope.RESULT, peer.key)
    assert (await peer.deliver_envelope(signed)).status == volunteer_pb2.RESULT_STATUS_ACCEPTED
    before = await snapshot(swarm)
    assert (await peer.deliver_envelope(signed)).status == volunteer_pb2.RESULT_STATUS_DUPLICATE
    other = await peer.deliver(peer.result(order, 0.5))
    assert (other.status, "already has a result" in other.reason) == (REFUSED, True)
    assert await snapshot(swarm) == before


async def test_a_late_result_whose_order_somebody_else_has(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = await swarm.peer("author").submit(change("WIDTH = 128", "WIDTH = 256"))
    ada, bea = [await swarm.peer(name).start() for name in ("ada", "bea")]
    for peer in (ada, bea):
        await peer.work(lambda order: 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(swarm.running.app.dispatch, "lease_ms", 1)  # hers alone ends before its result comes
        late = await ada.order()
    assert late.source_sha256 == patch.candidate_sha256
    taken = await bea.order()  # given out again once the lease has ended
    assert taken.source_sha256 == patch.candidate_sha256
    before = await snapshot(swarm)
    answer = await ada.deliver(ada.result(late, 0.98))
    assert (answer.status, "too late" in answer.reason) == (REFUSED, True), answer.reason
    assert await snapshot(swarm) == before
    assert (await bea.deliver(bea.result(taken, 0.98))).status == volunteer_pb2.RESULT_STATUS_ACCEPTED


# --- the operator's side ---


async def test_a_port_that_is_taken(starter: Starter) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        settings = Settings(starter.folder / "swarm", listen=f"127.0.0.1:{holder.getsockname()[1]}")
        with pytest.raises(OperatorError, match=r"cannot listen on 127.*--listen"):
            async with program.running(settings, Terms(name="test", source=starter.source), lambda line: None):
                pass


async def test_a_machine_without_git(starter: Starter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OperatorError, match="git"):
        async with starter():
            pass


async def test_a_source_that_is_no_source(starter: Starter) -> None:
    (starter.folder / "fresh").mkdir()
    fresh = Starter(starter.folder / "fresh")
    fresh.source.write_text(SOURCE.replace("def main", "def main_"))
    with pytest.raises(OperatorError, match="main"):
        async with fresh():
            pass
    assert not (fresh.folder / "swarm" / "autoresearch.jsonl").read_bytes()
