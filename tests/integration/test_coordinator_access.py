"""Access over real gRPC: every call for each role and for nobody, quotas, tokens, enrolment, approval, bans, pauses."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits, succession, work
from autoresearch.digest import sha256_hex
from autoresearch.judging import ledger
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import operator_pb2
from autoresearch.v1 import operator_service_pb2 as operators_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1.identity_pb2 import IdentityProof
from autoresearch.v1.operator_pb2 import Instruction
from coordinator import keys
from coordinator import main as program
from coordinator.access import BY_ENROLMENT, CALLS, INSTRUCTIONS, By, Role
from coordinator.cli import main as coordinator_command
from coordinator.quotas import BULK, PROOF, SESSION_MESSAGES
from coordinator.rpc_errors import PUSHBACK
from tests.integration.swarm_on_wire import Peer, Starter, Swarm, change
from tests.integration.test_coordinator_bad_input import refuses

Status = grpc.StatusCode
WIDER = change("WIDTH = 128", "WIDTH = 256")


def operator(swarm: Swarm) -> Peer:
    """The operator whose key the first start made."""
    peer = swarm.peer("operator")
    peer.key = keys.load_or_make_signing_key(swarm.running.operator_key)
    return peer


def instruction(swarm: Swarm, **fields: Any) -> Instruction:
    given = {"instruction_id": program._token(), "signed_at_ms": program.now_ms(), "reason": "because", **fields}
    return Instruction(protocol=1, swarm_id=swarm.swarm_id, **given)


async def instruct(peer: Peer, **fields: Any) -> operators_pb2.InstructResponse:
    signed = envelope.sign(instruction(peer.swarm, **fields), envelope.INSTRUCTION, peer.key)
    return await peer.swarm.operators.Instruct(operators_pb2.InstructRequest(instruction=signed))


def role_change(peer: Peer, role: Role) -> operator_pb2.RoleChange:
    number = operator_pb2.Role.Value(f"ROLE_{role.value.upper()}")
    return operator_pb2.RoleChange(identity_id=peer.identity_id, role=number)


async def token(peer: Peer) -> str:
    nonce = (await peer.swarm.access.GetNonce(access_pb2.GetNonceRequest())).nonce
    return (await authenticate(peer, nonce)).token


async def authenticate(peer: Peer, nonce: bytes, **fields: Any) -> access_pb2.AuthenticateResponse:
    proof = IdentityProof(protocol=1, swarm_id=peer.swarm.swarm_id, nonce=nonce)
    for name, value in fields.items():
        setattr(proof, name, value)
    signed = envelope.sign(proof, envelope.IDENTITY_PROOF, peer.key)
    return await peer.swarm.access.Authenticate(access_pb2.AuthenticateRequest(proof=signed))


async def read_register(swarm: Swarm, bearer: str | None) -> operators_pb2.GetRegisterResponse:
    metadata = (("authorization", f"Bearer {bearer}"),) if bearer is not None else ()
    return await swarm.operators.GetRegister(operators_pb2.GetRegisterRequest(), metadata=metadata)


async def drained(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def session(peer: Peer) -> None:
    await peer.open()
    await peer.close()


async def rotate_key(peer: Peer) -> None:
    """From a key to itself, which cannot be: whoever gets past the guard learns that."""
    signed = succession.sign(peer.swarm.swarm_id, peer.identity_id, peer.key, peer.key)
    await peer.swarm.access.RotateKey(access_pb2.RotateKeyRequest(rotation=signed))


async def instruct_resume(peer: Peer) -> None:
    await instruct(peer, resume=operator_pb2.Pause())


async def register_of(peer: Peer) -> None:
    await read_register(peer.swarm, await token(peer))


async def withdraw_nothing(peer: Peer) -> None:
    await peer.withdraw("0" * 16)


async def submit_something(peer: Peer) -> None:
    best = (await peer.swarm.patches.GetBest(patches_pb2.GetBestRequest())).best.commit
    message = await peer.submission(WIDER, base=best)
    await peer.swarm.patches.SubmitPatch(patches_pb2.SubmitPatchRequest(submission=message))


# Each call as somebody makes it. One that gets past the guard may still be refused for another reason.
MADE: dict[str, Callable[[Peer], Awaitable[Any]]] = {
    "Volunteer/GetSwarm": lambda p: p.swarm.volunteers.GetSwarm(volunteer_pb2.GetSwarmRequest()),
    "Volunteer/FetchSource": lambda p: p.swarm.volunteers.FetchSource(
        volunteer_pb2.FetchSourceRequest(source_sha256="0" * 64)
    ),
    "Volunteer/Session": session,
    "Patch/SubmitPatch": submit_something,
    "Patch/WithdrawPatch": withdraw_nothing,
    "Patch/GetPatch": lambda p: p.swarm.patch("0" * 16),
    "Patch/ListPatches": lambda p: p.swarm.patches.ListPatches(patches_pb2.ListPatchesRequest()),
    "Patch/GetBest": lambda p: p.swarm.patches.GetBest(patches_pb2.GetBestRequest()),
    "Patch/FetchLineage": lambda p: drained(p.swarm.patches.FetchLineage(patches_pb2.FetchLineageRequest())),
    "Leaderboard/GetLeaderboard": lambda p: p.swarm.board.GetLeaderboard(board_pb2.GetLeaderboardRequest()),
    "Leaderboard/GetStatus": lambda p: p.swarm.board.GetStatus(board_pb2.GetStatusRequest()),
    "Leaderboard/WatchEvents": lambda p: drained(p.swarm.board.WatchEvents(board_pb2.WatchEventsRequest())),
    "Leaderboard/ReadLedger": lambda p: drained(p.swarm.board.ReadLedger(board_pb2.ReadLedgerRequest())),
    "Leaderboard/GetCheckpoint": lambda p: p.swarm.board.GetCheckpoint(board_pb2.GetCheckpointRequest()),
    "Leaderboard/GetInclusionProof": lambda p: p.swarm.board.GetInclusionProof(
        board_pb2.GetInclusionProofRequest(sequence=0, tree_size=1)
    ),
    "Leaderboard/GetConsistencyProof": lambda p: p.swarm.board.GetConsistencyProof(
        board_pb2.GetConsistencyProofRequest(old_size=1, new_size=1)
    ),
    "Access/GetNonce": lambda p: p.swarm.access.GetNonce(access_pb2.GetNonceRequest()),
    "Access/Authenticate": token,
    "Access/GetStanding": lambda p: p.swarm.access.GetStanding(
        access_pb2.GetStandingRequest(identity_id=p.identity_id)
    ),
    "Access/RotateKey": rotate_key,
    "Operator/Instruct": instruct_resume,
    "Operator/GetRegister": register_of,
    "Volunteer/Enroll": lambda p: p.enroll_author(),  # last: afterwards nobody is somebody
}
REFUSED_BY_GUARD = (Status.PERMISSION_DENIED, Status.UNAUTHENTICATED)


async def admitted(call: Callable[[Peer], Awaitable[Any]], peer: Peer) -> bool:
    code = Status.OK
    try:
        await call(peer)
    except grpc.aio.AioRpcError as error:
        code = error.code()
    assert code not in (Status.INTERNAL, Status.UNKNOWN, Status.UNIMPLEMENTED)
    return code not in REFUSED_BY_GUARD


async def somebody(swarm: Swarm, role: Role | None) -> Peer:
    """Holds this role and no other; None: nobody in particular, with a key that the swarm does not know."""
    peer = swarm.peer(role or "nobody")
    if role is None:
        return peer
    await peer.enroll()
    boss = operator(swarm)
    for other in BY_ENROLMENT - {role}:
        await instruct(boss, revoke=role_change(peer, other))
    if role not in BY_ENROLMENT:
        await instruct(boss, grant=role_change(peer, role))
    return peer


@pytest.mark.parametrize("role", [None, *Role])
async def test_every_call_is_open_to_those_in_the_table_alone(swarm: Swarm, role: Role | None) -> None:
    assert {f"/autoresearch.v1.{name.replace('/', 'Service/')}" for name in MADE} == set(CALLS)
    peer = await somebody(swarm, role)
    wrong = {}
    for name, call in MADE.items():
        terms = CALLS[f"/autoresearch.v1.{name.replace('/', 'Service/')}"]
        allowed = not terms.roles or role in terms.roles
        if name == "Operator/Instruct":  # the table of instructions decides further
            allowed = role in INSTRUCTIONS["resume"]
        if await admitted(call, peer) is not allowed:
            wrong[name] = allowed
    assert not wrong


async def test_a_banned_identity_may_only_read(swarm: Swarm) -> None:
    peer = swarm.peer("eve")
    await peer.enroll()
    await instruct(operator(swarm), ban=operator_pb2.Ban(identity_id=peer.identity_id), reason="invents numbers")
    for name, call in MADE.items():
        terms = CALLS[f"/autoresearch.v1.{name.replace('/', 'Service/')}"]
        assert await admitted(call, peer) is (terms.by is By.NOTHING), name
    async with refuses(swarm, Status.PERMISSION_DENIED, "shut out by the operator: invents numbers"):
        await peer.enroll()
    await instruct(operator(swarm), lift_ban=operator_pb2.Ban(identity_id=peer.identity_id))
    await peer.start()


async def test_nobody_delivers_a_banned_volunteers_result_for_it(swarm: Swarm) -> None:
    eve, friend = await swarm.peer("eve").start(), await swarm.peer("friend").start()
    order = await eve.order()
    signed = envelope.sign(eve.result(order, 1.0), envelope.RESULT, eve.key)
    assert (await run(swarm, "ban", eve.identity_id))[0] == 0
    ack = await friend.deliver_envelope(signed)
    assert (ack.status, ack.reason) == (
        volunteer_pb2.RESULT_STATUS_REFUSED, "it is another identity's: deliver it in a session of that one"
    )  # fmt: skip


async def test_a_banned_volunteers_trials_go_to_others(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(WIDER)
    eve, ada = [await swarm.peer(name).start() for name in ("eve", "ada")]
    for peer in (eve, ada):
        await peer.work(lambda order: 1.0)
    taken = await eve.order()
    assert taken.source_sha256 == patch.candidate_sha256
    await instruct(operator(swarm), ban=operator_pb2.Ban(identity_id=eve.identity_id))
    stop = await eve.stream.read()
    assert stop.stop.lease_id == taken.lease_id
    assert (await ada.order()).source_sha256 == patch.candidate_sha256
    with pytest.raises(grpc.aio.AioRpcError, match="shut out"):
        await eve.deliver(eve.result(taken, 0.9))


# --- instructions ---


async def test_an_instruction_is_carried_out_once(swarm: Swarm) -> None:
    boss = operator(swarm)
    order = instruction(swarm, pause=operator_pb2.Pause())
    signed = envelope.sign(order, envelope.INSTRUCTION, boss.key)
    request = operators_pb2.InstructRequest(instruction=signed)
    first = await swarm.operators.Instruct(request)
    await instruct(boss, resume=operator_pb2.Pause())
    again = await swarm.operators.Instruct(request)
    assert (first.repeated_before, again.repeated_before, again.sequence) == (False, True, first.sequence)
    assert not (await read_register(swarm, await token(boss))).paused
    lines = swarm.running.ledger.read_bytes().splitlines()
    entry = ledger.parse(lines[first.sequence])
    assert (entry.kind, entry.body["action"], entry.body["by"]) == ("instruction", "pause", boss.identity_id)


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"signed_at_ms": 0}, Status.INVALID_ARGUMENT, "set your clock"),
        ({"signed_at_ms": 2**62}, Status.INVALID_ARGUMENT, "set your clock"),
        ({"instruction_id": "x"}, Status.INVALID_ARGUMENT, "hex digits"),
        ({"swarm_id": "another"}, Status.INVALID_ARGUMENT, "another swarm"),
        ({"protocol": 9}, Status.INVALID_ARGUMENT, "upgrade"),
        ({"reason": "two\nlines"}, Status.INVALID_ARGUMENT, "one line"),
        ({"ban": operator_pb2.Ban(identity_id="x")}, Status.INVALID_ARGUMENT, "an identity is"),
        ({"lift_ban": operator_pb2.Ban(identity_id="a" * 32)}, Status.NOT_FOUND, "not banned"),
        ({"grant": operator_pb2.RoleChange(identity_id="a" * 32)}, Status.INVALID_ARGUMENT, "unknown role"),
        ({"grant": operator_pb2.RoleChange(identity_id="a" * 32, role=99)}, Status.INVALID_ARGUMENT, "unknown role"),  # type: ignore[arg-type]
        ({"approve": operator_pb2.PatchChoice(patch_id="0" * 16)}, Status.NOT_FOUND, "no patch"),
        ({"invite": operator_pb2.Invitation(code_sha256="x", uses=1)}, Status.INVALID_ARGUMENT, "sha256"),
        ({"invite": operator_pb2.Invitation(code_sha256="0" * 64)}, Status.INVALID_ARGUMENT, "1 to"),
        ({"invite": operator_pb2.Invitation(code_sha256="0" * 64, uses=1)}, Status.INVALID_ARGUMENT, "expired"),
    ],
)
async def test_an_instruction_that_cannot_be_carried_out(
    swarm: Swarm, fields: dict[str, Any], status: grpc.StatusCode, says: str
) -> None:
    order = instruction(swarm, pause=operator_pb2.Pause())
    for name, value in fields.items():
        if isinstance(value, str | int):
            setattr(order, name, value)
        else:
            getattr(order, name).CopyFrom(value)
    signed = envelope.sign(order, envelope.INSTRUCTION, operator(swarm).key)
    async with refuses(swarm, status, says):
        await swarm.operators.Instruct(operators_pb2.InstructRequest(instruction=signed))


async def test_an_instruction_without_an_action(swarm: Swarm) -> None:
    async with refuses(swarm, Status.INVALID_ARGUMENT, "without a known action"):
        await instruct(operator(swarm))


async def test_the_last_operator_stays(swarm: Swarm) -> None:
    boss, second = operator(swarm), swarm.peer("second")
    async with refuses(swarm, Status.FAILED_PRECONDITION, "last operator"):
        await instruct(boss, revoke=role_change(boss, Role.OPERATOR))
    async with refuses(swarm, Status.FAILED_PRECONDITION, "an operator cannot be banned"):
        await instruct(boss, ban=operator_pb2.Ban(identity_id=boss.identity_id))
    await instruct(boss, grant=role_change(second, Role.OPERATOR))
    await instruct(second, revoke=role_change(boss, Role.OPERATOR))  # how an operator's key is changed
    async with refuses(swarm, Status.PERMISSION_DENIED, "needs the role"):
        await instruct(boss, pause=operator_pb2.Pause())


# --- tokens ---


async def test_a_token_opens_what_its_identity_may_see(swarm: Swarm) -> None:
    boss = operator(swarm)
    bearer = await token(boss)
    assert [own.role for own in (await read_register(swarm, bearer)).roles] == [operator_pb2.ROLE_OPERATOR]
    for bad in (None, "", "nonsense", bearer[:-4] + "AAAA", "x" * 4000):
        async with refuses(swarm, Status.UNAUTHENTICATED, "authenticate"):
            await read_register(swarm, bad)


async def test_a_nonce_is_good_once(swarm: Swarm) -> None:
    boss = operator(swarm)
    nonce = (await swarm.access.GetNonce(access_pb2.GetNonceRequest())).nonce
    await authenticate(boss, nonce)
    async with refuses(swarm, Status.UNAUTHENTICATED, "used before"):
        await authenticate(boss, nonce)


async def test_a_proof_for_something_else_is_refused(swarm: Swarm) -> None:
    boss = operator(swarm)
    nonce = (await swarm.access.GetNonce(access_pb2.GetNonceRequest())).nonce
    async with refuses(swarm, Status.UNAUTHENTICATED, "another swarm"):
        await authenticate(boss, nonce, swarm_id="x")
    async with refuses(swarm, Status.UNAUTHENTICATED, "another greeting"):
        await authenticate(boss, b"n" * limits.ACCESS_NONCE_BYTES)


# --- quotas ---


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator's clock stands: no place comes back, however long the calls take."""
    now_ms = program.now_ms()
    monkeypatch.setattr(program, "now_ms", lambda: now_ms)


@pytest.mark.usefixtures("still")
async def test_whoever_calls_too_often_is_told_when_to_call_again(swarm: Swarm) -> None:
    async def often() -> None:
        for _ in range(2 * BULK.address_burst):
            await drained(swarm.board.ReadLedger(board_pb2.ReadLedgerRequest(start=10**6)))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await often()
    assert refused.value.code() is Status.RESOURCE_EXHAUSTED
    assert "too many calls from your address; next in 1 s" in (refused.value.details() or "")
    (wait_ms,) = (value for key, value in refused.value.trailing_metadata() or () if key == PUSHBACK)
    assert 0 < int(wait_ms) <= BULK.address_every_ms
    await swarm.board.GetStatus(board_pb2.GetStatusRequest())  # other kinds of calls are counted apart


@pytest.mark.usefixtures("still")
async def test_statements_of_the_ledger_have_a_quota_of_their_own(swarm: Swarm) -> None:
    async def often() -> None:
        for _ in range(2 * PROOF.address_burst):
            await swarm.board.GetCheckpoint(board_pb2.GetCheckpointRequest())

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await often()
    assert refused.value.code() is Status.RESOURCE_EXHAUSTED
    await swarm.board.GetStatus(board_pb2.GetStatusRequest())


@pytest.mark.usefixtures("still")
async def test_a_machine_that_says_too_much_in_its_sessions_is_told_when_to_come_back(swarm: Swarm) -> None:
    eve, ada = [await swarm.peer(name).start() for name in ("eve", "ada")]
    await eve.close()

    async def chatter(messages: int) -> None:
        await eve.open()
        for _ in range(messages):
            await eve.say(heartbeat=volunteer_pb2.Heartbeat(lease_id="0" * 32))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await chatter(2 * SESSION_MESSAGES.burst)
    assert refused.value.code() is Status.RESOURCE_EXHAUSTED
    assert "too many messages from this machine; next in 1 s" in (refused.value.details() or "")
    (wait_ms,) = (value for key, value in refused.value.trailing_metadata() or () if key == PUSHBACK)
    assert 0 < int(wait_ms) <= SESSION_MESSAGES.every_ms
    await ada.work(lambda order: 1.0)
    with pytest.raises(grpc.aio.AioRpcError, match="too many messages"):  # another stream does not help
        await chatter(50)


# --- enrolment ---


async def test_a_new_identity_works_for_its_enrolment(starter: Starter) -> None:
    starter.settings["enrolment"] = "work:2"
    async with starter() as swarm:
        info = (await swarm.volunteers.GetSwarm(volunteer_pb2.GetSwarmRequest())).info
        assert envelope.open_as(info, envelope.SWARM_INFO, volunteer_pb2.SwarmInfo)[0].work_bits == 2
        peer, other = swarm.peer("ada"), swarm.peer("bea")
        asked = work.question(swarm.swarm_id, envelope.public_bytes(peer.key))
        answer = work.solve(asked, 2, lambda _: True)
        assert answer is not None
        wrong = next(n.to_bytes(8, "big") for n in range(100) if not work.holds(asked, n.to_bytes(8, "big"), 2))
        for bad in (b"", wrong, b"x" * 1000):
            async with refuses(swarm, Status.PERMISSION_DENIED, "puzzle"):
                await peer.enroll_author(work=bad)
        await peer.enroll_author(work=answer)
        await peer.enroll()  # known now: its machines cost nothing more
        if not work.holds(work.question(swarm.swarm_id, envelope.public_bytes(other.key)), answer, 2):
            async with refuses(swarm, Status.PERMISSION_DENIED, "puzzle"):
                await other.enroll_author(work=answer)


async def test_a_swarm_by_invitation(starter: Starter) -> None:
    starter.settings["enrolment"] = "invitation"
    async with starter() as swarm:
        boss, code = operator(swarm), "let me in"
        ada, bea, cyd = (swarm.peer(name) for name in ("ada", "bea", "cyd"))
        async with refuses(swarm, Status.PERMISSION_DENIED, "by invitation"):
            await ada.enroll()
        invitation = operator_pb2.Invitation(
            code_sha256=sha256_hex(code.encode()), uses=2, expires_at_ms=program.now_ms() + 60_000
        )
        await instruct(boss, invite=invitation)
        async with refuses(swarm, Status.PERMISSION_DENIED, "unknown, used up or too old"):
            await ada.enroll_author(invitation="guessed")
        await ada.enroll_author(invitation=code)
        await ada.enroll()
        await bea.enroll_author(invitation=code)
        async with refuses(swarm, Status.PERMISSION_DENIED, "unknown, used up or too old"):
            await cyd.enroll_author(invitation=code)


# --- approval ---


async def test_with_manual_approval_nothing_runs_unapproved(starter: Starter) -> None:
    starter.settings["approval"] = "manual"
    async with starter() as swarm:
        author, ada = swarm.peer("author"), await swarm.peer("ada").start()
        patch = await author.submit(change("    return (WIDTH, config)", "    return eval('WIDTH', config)"))
        assert (patch.verdict, patch.reason) == (11, "waits for an approver")
        assert list(patch.findings) == ["line 8: calls eval (text as code)"]
        await ada.work(lambda order: 1.0)
        assert isinstance(await ada.ask(), volunteer_pb2.NoOrder)
        approver, boss = swarm.peer("approver"), operator(swarm)
        choice = operator_pb2.PatchChoice(patch_id=patch.patch_id)
        async with refuses(swarm, Status.PERMISSION_DENIED, "needs the role"):
            await instruct(approver, approve=choice)
        await instruct(boss, grant=role_change(approver, Role.APPROVER))
        await instruct(boss, grant=role_change(author, Role.APPROVER))
        async with refuses(swarm, Status.PERMISSION_DENIED, "their own patch"):
            await instruct(author, approve=choice)
        waiting = (await read_register(swarm, await token(approver))).waiting
        assert [one.patch_id for one in waiting] == [patch.patch_id]
        await instruct(approver, approve=choice)
        assert (await ada.order()).source_sha256 == patch.candidate_sha256
        async with refuses(swarm, Status.FAILED_PRECONDITION, "it is open"):
            await instruct(approver, refuse=choice)


async def test_a_refused_patch_is_over_and_a_waiting_one_may_be_withdrawn(starter: Starter) -> None:
    starter.settings["approval"] = "known-authors"
    async with starter() as swarm:
        author, boss = swarm.peer("author"), operator(swarm)
        first = await author.submit(WIDER)
        await instruct(boss, refuse=operator_pb2.PatchChoice(patch_id=first.patch_id), reason="reads files")
        refused = await swarm.verdict(first.patch_id, "refused")
        assert refused.reason == "refused by an approver: reads files"
        second = await author.submit(change("WIDTH = 128", "WIDTH = 512"))
        assert (await author.withdraw(second.patch_id)).verdict == 10
        await instruct(boss, grant=role_change(author, Role.AUTHOR))  # known from now on
        assert (await author.submit(change("WIDTH = 128", "WIDTH = 1024"))).verdict == 1
        suspicious = await author.submit(change("        print(RATE, batch)", "        open('/etc/passwd')"))
        assert suspicious.verdict == 11


async def test_an_edit_of_an_approved_patch_is_another_patch_and_waits_again(starter: Starter) -> None:
    starter.settings["approval"] = "manual"
    async with starter() as swarm:
        author, boss = swarm.peer("author"), operator(swarm)
        first = await author.submit(WIDER, rationale="because")
        await instruct(boss, approve=operator_pb2.PatchChoice(patch_id=first.patch_id))
        edited = await author.submit(change("WIDTH = 128", "WIDTH = 257"), rationale="because")
        assert (edited.verdict, edited.patch_id != first.patch_id) == (11, True)
        assert (await swarm.patch(first.patch_id)).verdict == 1
        async with refuses(swarm, Status.ALREADY_EXISTS, "the same code"):
            await author.submit(WIDER, rationale="another text")  # the approval was of this code


# --- pause ---


async def test_a_paused_swarm_hands_out_nothing_and_takes_results(swarm: Swarm) -> None:
    patch = await swarm.peer("author").submit(WIDER)
    ada = await swarm.peer("ada").start()
    order = await ada.order()
    await instruct(operator(swarm), pause=operator_pb2.Pause(), reason="new disk")
    answer = await ada.ask()
    assert isinstance(answer, volunteer_pb2.NoOrder)
    assert answer.reason == "the operator paused the swarm: new disk"
    ada.held = [order.lease_id]
    assert (await ada.deliver(ada.result(order, 1.0))).status == volunteer_pb2.RESULT_STATUS_ACCEPTED
    await instruct(operator(swarm), resume=operator_pb2.Pause())
    assert (await ada.order()).source_sha256 == patch.candidate_sha256


# --- the operator's commands ---


async def run(swarm: Swarm, *arguments: str) -> tuple[int, str]:
    words = [*arguments, "--data", str(swarm.running.operator_key.parent)]
    result = await asyncio.to_thread(CliRunner().invoke, coordinator_command, words)
    return result.exit_code, result.output


async def test_the_operators_commands(swarm: Swarm) -> None:
    peer = swarm.peer("eve")
    await peer.enroll()
    who = peer.identity_id
    assert (await run(swarm, "grant", "approver", who))[1].startswith(f"{who} is approver now (ledger entry ")
    assert (await run(swarm, "ban", who, "--why", "invents numbers"))[0] == 0
    assert (await run(swarm, "pause", "--why", "new disk"))[0] == 0
    facts = json.loads((await run(swarm, "register", "--json"))[1])
    assert facts["paused"] == "new disk"
    assert facts["banned"] == [{"identity_id": who, "name": "eve", "reason": "invents numbers"}]
    assert {(role["role"], role["holds"]) for role in facts["roles"]} == {("operator", True), ("approver", True)}
    shown = (await run(swarm, "register"))[1]
    assert f"{who}  banned: invents numbers  eve" in shown
    for words in (("unban", who), ("revoke", "approver", who), ("resume",)):
        assert (await run(swarm, *words))[0] == 0
    code = (await run(swarm, "invite", "--uses", "3"))[1].strip()
    assert len(code) == 16
    assert await run(swarm, "unban", who) == (1, f"error: identity {who} is not banned\n")
    assert await run(swarm, "approve", "0" * 16) == (1, "error: no patch 0000000000000000: give the whole id\n")


async def test_without_the_swarms_folder_there_is_no_operator(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("elsewhere")
    result = CliRunner().invoke(coordinator_command, ["pause", "--data", str(folder)])
    assert result.exit_code == 1
    assert "has no operator.key: name the folder of a swarm" in result.output


async def test_a_key_that_the_swarm_does_not_know_orders_nothing(swarm: Swarm) -> None:
    stranger = swarm.peer("stranger")
    stranger.key = Ed25519PrivateKey.generate()
    for action in INSTRUCTIONS:
        async with refuses(swarm, Status.PERMISSION_DENIED, "needs the role"):
            await instruct(stranger, **{action: {}})


def test_limits_of_access_are_sane() -> None:
    assert limits.TOKEN_MS > 60_000
    assert limits.INSTRUCTION_AGE_MS < 3_600_000
