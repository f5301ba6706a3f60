"""The steps from a verified coordinator to a machine at work: data, trial code, sandbox, enrolment, kept results.

Left out: clock, chance and signals, which come from `main.py`, and the work itself (`workday.py`).
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata

from autoresearch import limits
from autoresearch.text import clean_line, is_line
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.trial_pb2 import Software
from volunteer import consent, enrolling, hardware, home, pin, witness
from volunteer.background import in_thread
from volunteer.client import Client, open_client
from volunteer.connect import Swarm
from volunteer.display import Display
from volunteer.errors import InputError, UpgradeError, VolunteerError
from volunteer.identity import Identity
from volunteer.orders import Terms
from volunteer.pin import Pin
from volunteer.results import Worker
from volunteer.session import Session
from volunteer.session_state import Parcel, State
from volunteer.settings import Settings
from volunteer.slots import Slots
from volunteer.spool import Spool
from volunteer.trials import LocalTrials, Trials, torch_version
from volunteer.workday import Workday


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks of a machine."""

    # Seconds that never jump, for intervals.
    steady_s: Callable[[], float]
    # Unix time in milliseconds, for people.
    wall_ms: Callable[[], int]


@contextlib.asynccontextmanager
async def joined(
    settings: Settings,
    who: Identity,
    show: Display,
    *,
    clock: Clock,
    chance: Callable[[], float],
    trials: Trials | None = None,
    ask: consent.Ask | None = None,
) -> AsyncIterator[Workday]:
    """A workday that is ready to run; says afterwards what it came to. `ask`: puts a question to the person, None when
    nobody is there to answer.

    Raises:
        VolunteerError, TrainerError: this machine or that coordinator is not fit.
    """
    name = display_name(settings, who)
    show.say(f"identity {who.identity_id}, kept in {settings.home}")
    async with await open_client(settings, joining=True) as client:
        await in_thread(lambda: _agree(settings, client.swarm, ask))
        _introduce(settings, client.swarm, show)
        head = await witness.watch(client, settings.home)
        show.say(f"ledger of {head.size} entries, which continues what was seen before")
        machine = _machine(settings, show)
        trials = trials or _local_trials(settings, machine, clock)
        await _get_ready(trials, client.swarm, show)
        worker = Worker(who.key, who.machine_id, machine.hardware, _software(), settings.join.canary)
        enrolment = await _enrol(client, who, settings, name=name, worker=worker, show=show, at_ms=clock.wall_ms())
        spool = _spool(settings, client.swarm, who, show)
        session = Session(_first_state(settings, client.swarm, who, spool))
        yield Workday(
            session,
            connect=_connector(client, enrolment),
            worker=worker,
            spool=spool,
            slots=_slots(settings, machine),
            trials=trials,
            display=show,
            clock=clock.steady_s,
            chance=chance,
        )
        if left := len(session.state.outbox):
            show.say(f"{left} result(s) could not be delivered yet; they are kept, and delivered when you join again")


def version() -> str:
    """This program's version."""
    try:
        return metadata.version("autoresearch-swarm")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def display_name(settings: Settings, who: Identity) -> str:
    """What the leaderboard shows: the name given now, else the one given before, else a part of the identity.

    Raises:
        InputError: the name given is not one line of printable characters.
    """
    given = settings.join.name
    if given is not None and not is_line(given, limits.NAME_CHARACTERS):
        raise InputError(f"the name must be 1 to {limits.NAME_CHARACTERS} printable characters: choose another --name")
    pinned = pin.load(settings.home)
    return given or (pinned.name if pinned else f"anonymous-{who.identity_id[:6]}")


def _introduce(settings: Settings, swarm: Swarm, show: Display) -> None:
    if settings.swarm and "#" not in settings.swarm:
        show.say(f"the address has no fingerprint: keeping to the key {swarm.fingerprint} from now on")
    show.say(
        f"swarm {clean_line(swarm.swarm_id, 80)} at {swarm.address}, challenge {clean_line(swarm.challenge.name, 80)}"
    )


def _machine(settings: Settings, show: Display) -> hardware.Machine:
    machine = hardware.choose(hardware.read_host(), settings.join.device, settings.join.threads)
    show.say(f"machine: {machine.hardware.device_name}, {machine.hardware.threads} of {machine.cores} thread(s)")
    return machine


async def _enrol(
    client: Client, who: Identity, settings: Settings, *, name: str, worker: Worker, show: Display, at_ms: int
) -> Envelope:
    """Enrolls, and remembers the swarm from then on; returns what it was done with."""
    enrolment = await enrolling.enrolment(
        client, who, name, worker=worker, invitation=settings.join.invitation, tell=show.say, at_ms=at_ms
    )
    enrolled, swarm = await client.enroll(enrolment), client.swarm
    pin.save(settings.home, Pin(swarm.address, swarm.swarm_id, name, swarm.challenge_bytes))
    show.say(f"enrolled as {name}; results compare within {clean_line(enrolled.hardware_class, 200)}")
    return enrolment


def _agree(settings: Settings, swarm: Swarm, ask: consent.Ask | None) -> None:
    consent.check(pin.load(settings.home), swarm, settings.join.accept_challenge, ask)


async def _get_ready(trials: Trials, swarm: Swarm, show: Display) -> None:
    loop = asyncio.get_running_loop()

    def report(stage: str, share: float) -> None:
        loop.call_soon_threadsafe(show.preparing, stage, share)

    await in_thread(lambda: trials.ready(swarm.challenge, report))


def _local_trials(settings: Settings, machine: hardware.Machine, clock: Clock) -> LocalTrials:
    return LocalTrials(
        data_dir=settings.join.data_dir or home.data_dir(settings.home),
        scratch=home.scratch(settings.home),
        device=machine.device,
        threads=machine.hardware.threads,
        sandboxed=not settings.join.unsafe_no_sandbox,
        clock=clock.steady_s,
        wall_ms=clock.wall_ms,
    )


def _slots(settings: Settings, machine: hardware.Machine) -> Slots:
    """Places are processor threads, of which a trial needs `threads`; with --slots they are trials; a GPU has one."""
    name, chosen = machine.device.replace(":", "-"), settings.join.slots_dir
    folder = (chosen or settings.runtime_dir / "slots") / name
    spare = None if chosen else settings.spare_runtime_dir / "slots" / name
    if settings.join.slots is not None:
        return Slots(folder, settings.join.slots, spare=spare)
    if machine.device != "cpu":
        return Slots(folder, 1, spare=spare)
    return Slots(folder, machine.cores, machine.hardware.threads, spare=spare)


def _software() -> Software:
    most = limits.VERSION_CHARACTERS
    python = sys.version.split()[0]
    return Software(python=clean_line(python, most), torch=clean_line(torch_version(), most), client=version())


def _first_state(settings: Settings, swarm: Swarm, who: Identity, spool: Spool) -> State:
    terms = Terms(
        swarm_id=swarm.swarm_id,
        fingerprint=swarm.fingerprint,
        identity_id=who.identity_id,
        machine_id=who.machine_id,
        challenge_sha256=swarm.challenge_sha256,
        trial_code_sha256=swarm.challenge.trial_code_sha256,
    )
    outbox = tuple(Parcel(kept.sha256, kept.lease_id) for kept in spool.kept)
    return State(terms, outbox=outbox, trials_left=settings.join.max_trials)


def _connector(first: Client, enrolment: Envelope) -> Callable[[bool], Awaitable[Client]]:
    """Connects again and again to the swarm of `first`, whose own connection serves the first time."""
    swarm, unused = first.swarm, [first]

    async def connect(enrol: bool) -> Client:
        client = unused.pop() if unused else await Client.open(swarm.address)
        try:
            if (client.swarm.swarm_id, client.swarm.challenge_sha256) != (swarm.swarm_id, swarm.challenge_sha256):
                raise UpgradeError(f"the swarm at {swarm.address.target} has another challenge now: join again")
            if enrol:
                await client.enroll(enrolment)
        except VolunteerError:
            await client.close()
            raise
        return client

    return connect


def _spool(settings: Settings, swarm: Swarm, who: Identity, show: Display) -> Spool:
    spool = Spool(home.spool_folder(settings.home, swarm.swarm_id), who.key_id, swarm.swarm_id)
    for complaint in spool.complaints:
        show.say(complaint)
    return spool
