"""Breaks a real swarm at random and looks whether everything that must hold still does.

    python tests/chaos/run.py --faults 20 --seed 7 --json

Two coordinators, a store and volunteers run as processes on this machine; nothing leaves 127.0.0.1. The seed says
which kinds of faults come in which order, after which waits. The last line is one JSON object; the exit code is 1 when
something did not hold or a recovery took too long.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.chaos import checks, faults
from tests.chaos.faults import Fault
from tests.chaos.processes import AGAIN_S
from tests.chaos.swarm import Swarm, TroubleError

RECOVERED_S = 10.0  # without an operator's hand
ALONE_MOST_S = 15.0
CALM_S, CALM_MOST_S = 5.0, 20.0  # a coordinator that was started again stands by within them


class Breaker:
    """Carries the faults out."""

    def __init__(self, swarm: Swarm, say: Callable[[str], None]) -> None:
        self.swarm = swarm
        self.kills: list[tuple[str, float, bool]] = []  # what, when, and whether all was well then
        self.broken_at: list[float] = []
        self.events: list[tuple[float, str]] = []  # when what was broken or mended
        self._say = say
        self._mending: set[asyncio.Task[None]] = set()

    async def carry_out(self, fault: Fault) -> None:
        """Breaks one thing; what lasts is mended in the background."""
        await asyncio.sleep(fault.wait_s)
        calm = fault.alone and await self._calm()
        mend = await self._break(fault, calm=calm)
        if fault.lasts_s:
            task = asyncio.create_task(self._later(fault.lasts_s, mend, fault.kind))
            self._mending.add(task)
            task.add_done_callback(self._mending.discard)
        if fault.alone:
            await self._recovered(self.broken_at[-1])

    async def all_mended(self) -> None:
        """Waits for what lasts."""
        await asyncio.gather(*self._mending)

    async def _calm(self) -> bool:
        """Waits until nothing is broken and a while has passed; False when that does not come."""
        swarm, deadline, well_since = self.swarm, time.monotonic() + CALM_MOST_S, time.monotonic()
        while time.monotonic() < deadline:
            programs = (swarm.store, *swarm.coordinators.values(), *swarm.volunteers)
            if self._mending or not all(program.alive for program in programs):
                well_since = time.monotonic()
            since = self.broken_at[-1] if self.broken_at else 0.0
            served = any(at > since for _, status, at in swarm.acknowledged() if status in checks.TAKEN)
            if served and time.monotonic() - well_since > CALM_S:
                return True
            await asyncio.sleep(0.2)
        return False

    async def _break(self, fault: Fault, *, calm: bool) -> Callable[[], None]:
        swarm, verb, what = self.swarm, *fault.kind.split(" ", 1)
        leader = await swarm.leader()
        name = {"leader": leader, "standby": "b" if leader == "a" else "a", "leader from store": leader}.get(
            what, leader
        )
        volunteer = swarm.volunteers[int(fault.which * len(swarm.volunteers))]
        program = {"store": swarm.store, "volunteer": volunteer}.get(what, swarm.coordinators[name])
        link = swarm.front if what == "volunteers" else swarm.links[name]
        disk = {"store's disk": swarm.store_disk, "volunteers' disk": swarm.volunteers_disk}.get(
            what, swarm.disks[name]
        )
        self._say(f"{fault.number + 1}: {fault.kind} ({program.name}), {fault.lasts_s:.1f} s")
        self.broken_at.append(time.time_ns() / 1e9)
        self.events.append((self.broken_at[-1], f"{fault.kind} ({program.name}) for {fault.lasts_s:.1f} s"))
        if fault.kind in faults.MEASURED and program.alive:
            self.kills.append((faults.MEASURED[fault.kind], self.broken_at[-1], calm))
        match verb:
            case "kill":
                program.kill()
            case "restart":
                program.end()
            case "freeze":
                program.freeze()
                return program.thaw
            case "cut":
                link.cut()
            case "silence":
                link.silence()
                return link.resume
            case "delay":
                link.delay_s = fault.delay_s
                return link.resume
            case "fill":
                disk.fill()
                return disk.free
        return lambda: None

    async def _later(self, seconds: float, mend: Callable[[], None], what: str) -> None:
        await asyncio.sleep(seconds)
        mend()
        self.events.append((time.time_ns() / 1e9, f"over: {what}"))

    async def _recovered(self, since: float) -> None:
        deadline = time.monotonic() + ALONE_MOST_S
        while time.monotonic() < deadline:
            if any(at > since + AGAIN_S and status in checks.TAKEN for _, status, at in self.swarm.acknowledged()):
                return
            await asyncio.sleep(0.2)


async def run(
    count: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None],
    *,
    volunteers: int,
    recovered_s: float,
    keep: bool,
) -> dict[str, Any]:
    """The report on one swarm and `count` faults. `recovered_s`: what an undisturbed recovery may take.

    Raises:
        TroubleError: it could not be brought up, or did not settle.
    """
    began = time.monotonic()
    swarm, report = Swarm(folder, seed, volunteers, count), {"holds": False}
    try:
        await swarm.start()
        say(f"the swarm works after {time.monotonic() - began:.0f} s")
        without = [] if swarm.store_disk.mounted else [kind for kind in faults.KINDS if kind.startswith("fill")]
        breaker, kinds = Breaker(swarm, say), Counter[str]()
        for fault in faults.schedule(seed, count, without):
            kinds[fault.kind] += 1
            await breaker.carry_out(fault)
        await breaker.all_mended()
        ended_at = time.time_ns() / 1e9
        say("all faults are over: the swarm settles")
        await swarm.settle()
        found, taken_at = await checks.check(swarm)
        report = {"faults": count, "seed": seed} | vars(found)
        acknowledged = swarm.acknowledged()
        silences = checks.silences(acknowledged, sorted([*breaker.events, *swarm.turns()]), ended_at)
        report |= {
            "recovery": checks.recovery(breaker.kills, breaker.broken_at, acknowledged, taken_at, ended_at),
            "longest_silence_s": silences[0]["seconds"],
            "silences": silences,
            "ended_by_themselves": swarm.surprises(),
            "kinds": dict(sorted(kinds.items())),
            "left_out": dict.fromkeys(without, "no small disk can be mounted here"),
            "seconds": round(time.monotonic() - began, 1),
        }
        report["holds"] = holds(report, recovered_s)
    finally:
        await swarm.stop(keep=keep or not report["holds"])
    return report


def holds(report: dict[str, Any], recovered_s: float) -> bool:
    """Whether everything is as it must be."""
    nothing = not any(report[name] for name in ("lost", "doubled", "double_leases", "wrong"))
    slow = [own["max_s"] for own in report["recovery"].values() if own["max_s"] and own["max_s"] >= recovered_s]
    return nothing and not slow and report["audit"] == "clean" and report["lineage"] == "equal"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20, help="how many [20]")
    parser.add_argument("--seed", type=int, default=None, help="what they are drawn from [the time]")
    parser.add_argument("--volunteers", type=int, default=10, help="how many [10]")
    parser.add_argument(
        "--recovery", type=float, default=RECOVERED_S, metavar="SECONDS", help=f"what one may take [{RECOVERED_S:g}]"
    )
    parser.add_argument("--json", action="store_true", help="nothing but the report on standard output")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs, ledgers and store")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else time.time_ns() % 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} {line}", file=sys.stderr if given.json else sys.stdout, flush=True)

    say(f"seed {seed}, in {folder}")
    failed = True
    try:
        terms = {"volunteers": given.volunteers, "recovered_s": given.recovery, "keep": given.keep}
        report = asyncio.run(run(given.faults, seed, folder, say, **terms))
        failed = not report["holds"]
        print(json.dumps(report, indent=None if given.json else 2))
    except TroubleError as error:
        say(f"error: {error}")
    finally:
        if failed or given.keep:
            say(f"everything is left in {folder}")
        else:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
    sys.exit(failed)


if __name__ == "__main__":
    main()
