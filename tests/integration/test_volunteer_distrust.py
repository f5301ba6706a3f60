"""A volunteer before a coordinator that lies, or is in other hands: nothing runs that was not ordered as it should be,
no terms change unasked, and the key stays at home. Over real TLS and gRPC.
"""

import asyncio
import base64
import contextlib
import os
import pty
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from autoresearch.digest import sha256_hex
from tests.integration.test_volunteer_fake import SOURCE, SWARM_ID, TIMEOUT_S, FakeCoordinator, make_challenge
from tests.integration.test_volunteer_join import SHA, Chance, Lines, ScriptedTrials, at_work, ended, make_settings
from volunteer import connect, consent, identity, joining, pin
from volunteer.cli import cli
from volunteer.errors import InputError, VolunteerError
from volunteer.joining import Clock
from volunteer.settings import Settings

LONGER = make_challenge(budget_ms=86_400_000, memory_bytes=64 << 30)
NEW = sha256_hex(LONGER.SerializeToString())


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator() as fake:
        yield fake


@pytest.fixture
def trials() -> ScriptedTrials:
    scripted = ScriptedTrials()
    scripted.gate.set()
    return scripted


@pytest.fixture
def show() -> Lines:
    return Lines()


# --- orders and sources ---


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"swarm_id": "another"}, "another swarm"),
        ({"identity_id": "a" * 32}, "another identity"),
        ({"machine_id": "f" * 32}, "another machine"),
        ({"challenge_sha256": "c" * 64}, "challenge changed"),
        ({"trial_code_sha256": "c" * 64}, "other trial code"),
        ({"protocol": 9}, "protocol 9"),
        ({"source_sha256": "../../etc/passwd"}, "no source"),
    ],
)
async def test_no_order_runs_with_a_term_that_does_not_hold(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path, lie: dict[str, Any], says: str
) -> None:
    coordinator.orders, coordinator.order_changes = [SHA], lie
    with pytest.raises(VolunteerError, match=says):
        async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
            await ended(task)
    assert trials.sources == []
    assert coordinator.results == {}


async def test_no_order_of_another_key_runs_even_from_the_right_address(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders, coordinator.order_key = [SHA], Ed25519PrivateKey.generate()
    with pytest.raises(VolunteerError, match="another key than this swarm's coordinator"):
        async with at_work(make_settings(tmp_path, coordinator.address), trials, show) as (_, task):
            await ended(task)
    assert trials.sources == []


async def test_another_text_than_the_one_ordered_never_reaches_the_trial(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    coordinator.orders, coordinator.sources[SHA] = [SHA], SOURCE + b"import os; os.system('x')\n"
    async with at_work(make_settings(tmp_path, coordinator.address), trials, show):
        await coordinator.until(lambda: "lease_return" in coordinator.kinds())
    assert trials.sources == []
    assert "sent another text than source" in show.text()


async def test_whoever_holds_the_address_but_not_the_key_is_left_at_once(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path
) -> None:
    """The remembered address answers with a new key: also when none is asked for on the command line."""
    await work_once(coordinator, trials, show, make_settings(tmp_path, coordinator.address, max_trials=1))
    coordinator.key, coordinator.orders = Ed25519PrivateKey.generate(), [SHA]
    with pytest.raises(VolunteerError, match="has another key: the address says"):
        await work_once(coordinator, trials, show, make_settings(tmp_path, None, max_trials=1))
    assert len(trials.sources) == 1


@pytest.mark.parametrize("protocol", [0, 2])
async def test_another_protocol_is_not_spoken_older_or_newer(
    coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path, protocol: int
) -> None:
    coordinator.protocol = protocol
    with pytest.raises(VolunteerError, match=f"speaks protocol {protocol} and this program 1"):
        await work_once(coordinator, trials, show, make_settings(tmp_path, coordinator.address))
    assert coordinator.enrolments == []


# --- a changed challenge ---


async def work_once(
    coordinator: FakeCoordinator,
    trials: ScriptedTrials,
    show: Lines,
    settings: Settings,
    ask: Callable[[str], bool] | None = None,
) -> None:
    """Joins, runs one order, leaves."""
    coordinator.orders = [SHA]
    who = identity.load_or_make(settings.home, lambda count: bytes([7]) * count)
    clock = Clock(asyncio.get_running_loop().time, lambda: 1)
    async with joining.joined(settings, who, show, clock=clock, chance=Chance(), trials=trials, ask=ask) as workday:
        await workday.run()


@pytest.fixture
async def changed(coordinator: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path) -> FakeCoordinator:
    """A coordinator whose challenge is another than when this home joined it."""
    await work_once(coordinator, trials, show, make_settings(tmp_path, coordinator.address, max_trials=1))
    coordinator.challenge = LONGER
    coordinator.enrolments.clear()
    return coordinator


@pytest.mark.parametrize("named", [True, False])
async def test_nobody_there_means_no_and_the_flag_is_named(
    changed: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path, named: bool
) -> None:
    settings = make_settings(tmp_path, changed.address if named else None, max_trials=1)
    with pytest.raises(InputError) as refused:
        await work_once(changed, trials, show, settings)
    assert str(refused.value) == (
        f"the coordinator at 127.0.0.1:{changed.port} is known to this home, but its challenge has changed: "
        "budget_ms 1000 -> 86400000, memory_bytes 4294967296 -> 68719476736: "
        f"to accept that, join with --accept-challenge {NEW[:12]}"
    )
    assert (len(trials.sources), changed.enrolments) == (1, [])


@pytest.mark.parametrize("yes", [True, False])
async def test_a_person_is_asked(
    changed: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path, yes: bool
) -> None:
    asked: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        return yes

    settings = make_settings(tmp_path, None, max_trials=1)
    for _ in range(2):
        with contextlib.nullcontext() if yes else pytest.raises(InputError, match="not accepted: "):
            await work_once(changed, trials, show, settings, answer)
    assert len(asked) == (1 if yes else 2)  # what was accepted is remembered
    assert asked[0].endswith(f"-> 68719476736. Work under these terms (challenge {NEW[:12]})?")
    assert len(trials.sources) == (3 if yes else 1)


@pytest.mark.parametrize(("given", "works"), [(NEW[:12], True), (NEW, True), (NEW[:11], False), ("0" * 12, False)])
async def test_the_flag_accepts_the_challenge_that_it_names(
    changed: FakeCoordinator, trials: ScriptedTrials, show: Lines, tmp_path: Path, given: str, works: bool
) -> None:
    settings = make_settings(tmp_path, None, max_trials=1, accept_challenge=given)
    if works:
        await work_once(changed, trials, show, settings)
        await work_once(changed, trials, show, make_settings(tmp_path, None, max_trials=1))
    else:
        with pytest.raises(InputError, match="--accept-challenge"):
            await work_once(changed, trials, show, settings)
    assert len(trials.sources) == (3 if works else 1)


async def test_the_command_refuses_without_a_terminal(changed: FakeCoordinator, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    done = await asyncio.to_thread(CliRunner().invoke, cli, ["join", "--home", home, "--device", "cpu"])
    assert isinstance(done.exception, InputError)
    assert f"--accept-challenge {NEW[:12]}" in str(done.exception)


# The terminal becomes the program's own, so that Ctrl-C on it is one.
AT_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from volunteer.cli import main
main(sys.argv[1:])
"""


async def typed(home: Path, answer: bytes) -> tuple[int, str]:
    """`join` on a terminal where a question is answered so: exit code and what was on the screen."""
    ours, its = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", AT_A_TERMINAL, "join", "--home", str(home), "--device", "cpu"],
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(its)
    overdue = asyncio.get_running_loop().call_later(5 * TIMEOUT_S, process.kill)
    shown, asked = b"", False
    with contextlib.suppress(OSError):  # the other side is closed: the program has ended
        while chunk := await asyncio.to_thread(os.read, ours, 4096):
            shown += chunk
            if not asked and b"[y/N]" in shown:
                asked = True
                os.write(ours, answer)
    os.close(ours)
    overdue.cancel()
    return await process.wait(), shown.decode()


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (b"y\n", 1, "the swarm runs trial code"),  # the next step's refusal
        (b"n\n", 1, "not accepted: "),
        (b"\n", 1, "not accepted: "),
        (b"\x04", 130, "interrupted"),
        (b"\x03", 130, "interrupted"),
    ],
    ids=["yes", "no", "nothing", "end of input", "Ctrl-C"],
)
async def test_the_command_asks_the_person_at_a_terminal(
    changed: FakeCoordinator, tmp_path: Path, answer: bytes, code: int, says: str
) -> None:
    ended_with, shown = await typed(tmp_path / "home", answer)
    assert f"Work under these terms (challenge {NEW[:12]})? [y/N]: " in shown
    assert f"error: {says}" in shown, shown
    assert ended_with == code
    assert "Fatal" not in shown
    assert changed.enrolments == []


def test_another_swarm_under_a_known_key_is_a_change_too(tmp_path: Path) -> None:
    challenge = make_challenge()
    data = challenge.SerializeToString()
    where = pin.address.parse("swarm.example.org:7070#" + "a" * 32)
    swarm = connect.Swarm(where, SWARM_ID, challenge, sha256_hex(data), data)
    assert consent.change(None, swarm) == ""
    assert consent.change(pin.Pin(where, SWARM_ID, "bob", data), swarm) == ""
    assert consent.change(pin.Pin(where, SWARM_ID, "bob"), swarm) == ""  # an earlier version did not remember it
    elsewhere = pin.Pin(pin.address.parse("swarm.example.org:7070#" + "b" * 32), "other", "bob", b"x")
    assert consent.change(elsewhere, swarm) == ""  # a swarm that is joined anew
    said = consent.change(pin.Pin(where, "other", "bob", data), swarm)
    assert said.endswith("is known to this home, but it serves another swarm now: the terms are the same")
    pin.save(tmp_path, pin.Pin(where, SWARM_ID, "bob", data))
    assert pin.load(tmp_path) == pin.Pin(where, SWARM_ID, "bob", data)


# --- the key ---


class Recorder(grpc.aio.UnaryUnaryClientInterceptor):
    """Keeps what is sent in calls."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.sent.append(client_call_details.method + request.SerializeToString())
        return await continuation(client_call_details, request)


async def test_the_key_is_in_nothing_that_leaves_the_machine(
    coordinator: FakeCoordinator,
    trials: ScriptedTrials,
    show: Lines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, channel = Recorder(), grpc.aio.secure_channel
    monkeypatch.setattr(
        grpc.aio, "secure_channel", lambda *given: channel(*given, interceptors=[recorder])
    )  # fmt: skip
    await work_once(coordinator, trials, show, make_settings(tmp_path, coordinator.address, max_trials=1))
    assert len(coordinator.results) == 1
    assert any(b"Enroll" in sent for sent in recorder.sent)
    key = identity.load_or_make(tmp_path / "home", bytes).key
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    forms = [raw, raw.hex().encode(), base64.b64encode(raw), (tmp_path / "home" / "identity.pem").read_bytes()[28:60]]
    everything = b"".join([*recorder.sent, *(message.SerializeToString() for message in coordinator.heard)])
    assert not [form for form in forms if form in everything]
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.name != "identity.pem"]
    assert kept
    assert not [path for path in kept for form in forms if form in path.read_bytes()]
