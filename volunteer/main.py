"""Makes what only a program can have (clock, chance, signals, the event loop) and hands it to the parts of a volunteer.

Left out: command-line options (`cli.py`), the steps of joining (`joining.py`), and everything that decides.
"""

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from volunteer import display, home, identity, joining, rotating
from volunteer.client import Client, open_client, swarm_address
from volunteer.consent import Ask
from volunteer.identity import Identity
from volunteer.joining import Clock
from volunteer.settings import Settings
from volunteer.trials import Trials
from volunteer.workday import Workday

T = TypeVar("T")


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _chance() -> float:
    return secrets.randbelow(1 << 53) / (1 << 53)


def new_id() -> str:
    """32 lower-case hex digits that nobody made before."""
    return secrets.token_hex(16)


CLOCK: Final = Clock(steady_s=time.monotonic, wall_ms=_wall_ms)


def run(work: Callable[[Client], Awaitable[T]], settings: Settings) -> T:
    """What `work` returns for a verified connection to the swarm.

    Raises:
        VolunteerError: no connection, or whatever `work` raises.
    """

    async def body() -> T:
        async with await open_client(settings) as client:
            return await work(client)

    return asyncio.run(body())


def load_identity(settings: Settings) -> Identity:
    """The identity of this home, made at first use."""
    return identity.load_or_make(settings.home, secrets.token_bytes)


def rotate(settings: Settings, others: Sequence[str], tell: Callable[[str], None]) -> Identity:
    """Moves this home's identity to a new key, in its swarm and in `others`, by their addresses.

    Raises:
        VolunteerError: as `rotating.rotate`, or a volunteer works from this home.
    """

    async def connect(address: str | None) -> Client:
        return await open_client(settings if address is None else replace(settings, swarm=address))

    with home.only_volunteer(settings.home):
        who = load_identity(settings)
        work = rotating.rotate(
            settings.home, who, [None, *others], connect=connect, random_bytes=secrets.token_bytes, tell=tell
        )
        return asyncio.run(work)


def join(settings: Settings, show: display.Display, trials: Trials | None = None, ask: Ask | None = None) -> None:
    """Works for the swarm until stopped. `trials` stands in for this host's own where another runs them; `ask` puts a
    question to the person, None when nobody is there.

    Raises:
        VolunteerError, TrainerError: it cannot, or can no longer.
    """
    swarm_address(settings)  # nothing is made or said before it is known where to work

    async def body() -> None:
        who = load_identity(settings)
        made = joining.joined(settings, who, show, clock=CLOCK, chance=_chance, trials=trials, ask=ask)
        async with made as workday:
            with _signals(workday):
                await workday.run()

    with home.only_volunteer(settings.home):
        try:
            asyncio.run(body())
        finally:
            show.close()


@contextlib.contextmanager
def _signals(workday: Workday) -> Iterator[None]:
    """Ctrl-C stops politely, a second one at once; so do a service manager's signal and a closed terminal's, unless
    that one is ignored: then somebody wanted the work to go on (nohup)."""
    loop = asyncio.get_running_loop()
    hang_up = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
    loop.add_signal_handler(signal.SIGINT, workday.stop)
    for number in (signal.SIGTERM, *hang_up):
        loop.add_signal_handler(number, lambda: workday.stop(at_once=True))
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
            loop.remove_signal_handler(number)
