"""Whether everything that must hold of a swarm held, by what it left behind: acknowledgements, ledgers, store, git."""

import json
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from autoresearch.judging import ledger
from autoresearch.judging.ledger import Entry
from coordinator.archive import Archive
from coordinator.errors import OperatorError
from tests.chaos import history
from tests.chaos.swarm import Swarm
from volunteer import address, auditing
from volunteer.client import Client
from volunteer.errors import VolunteerError

TAKEN = ("accepted", "duplicate")
BEFORE_S = 3.0


@dataclass
class Found:
    """What was found; `wrong` says what does not hold."""

    acknowledged: int = 0
    results: int = 0
    lost: int = 0
    doubled: int = 0
    double_leases: int = 0
    requeued: int = 0
    takeovers: int = 0
    promotions: int = 0
    audit: str = "clean"
    lineage: str = "equal"
    wrong: list[str] = field(default_factory=list)


async def check(swarm: Swarm) -> tuple[Found, dict[str, int]]:
    """Looks at a swarm that has settled; also when each result was taken, by digest."""
    found = Found()
    lines = await swarm.redis.lrange("{autoresearch}:list:ledger", 0, -1)
    entries = [ledger.parse(line) for line in lines]
    taken_at = _results(swarm, entries, found)
    await _counted(swarm, found)
    _orders(swarm, found)
    for name in swarm.coordinators:
        _copy(swarm.data(name), lines, found)
        _git(swarm.data(name) / "lineage.git", entries, found)
    await _lineage(swarm, entries, found)
    await _audit(swarm, found)
    return found, taken_at


def _results(swarm: Swarm, entries: Sequence[Entry], found: Found) -> dict[str, int]:
    results = [entry for entry in entries if entry.kind == "result"]
    by_digest = Counter(entry.body["result_sha256"] for entry in results)
    by_lease = Counter(entry.body["lease_id"] for entry in results)
    by_order = Counter(entry.body["order_id"] for entry in results)
    acknowledged = {digest for digest, status, _ in swarm.acknowledged() if status in TAKEN}
    found.results, found.acknowledged = len(results), len(acknowledged)
    found.lost = len(acknowledged - by_digest.keys())
    found.doubled = sum(count - 1 for counts in (by_digest, by_lease, by_order) for count in counts.values())
    return {entry.body["result_sha256"]: entry.at_ms for entry in results}


async def _counted(swarm: Swarm, found: Found) -> None:
    """Every result is counted once on the leaderboard."""
    trials = await swarm.redis.zrange("{autoresearch}:rank:trials", 0, -1, withscores=True)
    counted = int(sum(score for _, score in trials))
    if counted != found.results:
        found.doubled += max(0, counted - found.results)
        found.wrong.append(f"the leaderboard counts {counted} results, the ledger {found.results}")


def _orders(swarm: Swarm, found: Found) -> None:
    lived = history.read(swarm.store_disk.path)
    found.double_leases, found.requeued, found.takeovers = len(lived.double_leases), lived.requeued, lived.takeovers
    found.wrong += lived.wrong[:10]


def _copy(folder: Path, lines: Sequence[bytes], found: Found) -> None:
    """A coordinator's own ledger is the store's, and holds."""
    try:
        own = list(Archive(folder).lines())
        Archive(folder).verified()
    except OperatorError as error:
        found.wrong.append(str(error))
        return
    if own != list(lines):
        found.wrong.append(f"{folder} holds {len(own)} entries that differ from the store's {len(lines)}")


def _moves(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.kind in ("genesis", "promotion", "rollback")]


def _git(path: Path, entries: Sequence[Entry], found: Found) -> None:
    command = ["git", "-C", str(path), "log", "--format=%H %P", "--reverse", "best"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    commits = [line.split() for line in done.stdout.splitlines()]
    expected = [entry.body["commit"] for entry in _moves(entries)]
    linear = all(parents == [before[0]] for before, (_, *parents) in pairwise(commits))
    if [commit for commit, *_ in commits] != expected or not linear:
        found.lineage = f"{path} has {len(commits)} commits, the ledger {len(expected)} moves, and they differ"


async def _lineage(swarm: Swarm, entries: Sequence[Entry], found: Found) -> None:
    stored = [json.loads(item) for item in await swarm.redis.lrange("{autoresearch}:list:lineage", 0, -1)]
    expected = [entry.body["commit"] for entry in _moves(entries)]
    found.promotions = sum(entry.kind == "promotion" for entry in entries)
    if [best["commit"] for best in stored] != expected or [best["generation"] for best in stored] != list(
        range(len(expected))
    ):
        found.lineage = f"the store has {len(stored)} generations, the ledger {len(expected)}, and they differ"


async def _audit(swarm: Swarm, found: Found) -> None:
    """The volunteer's audit: of what the coordinator shows, and of each copy of the ledger."""
    home = swarm.folder / "auditor"
    try:
        async with await Client.open(address.parse(swarm.swarm_address)) as client:
            audits = [await auditing.audit_swarm(client, home, lambda entries: None)]
            coordinator_id = client.swarm.fingerprint
        audits += [
            auditing.audit_files(swarm.data(name), home, coordinator_id, lambda entries: None)
            for name in swarm.coordinators
        ]
    except VolunteerError as error:
        found.audit = str(error)
        return
    found.wrong += [f"patch {patch} is not decided" for audit in audits for patch in audit.unsettled]


def recovery(
    kills: Sequence[tuple[str, float, bool]],
    faults_at: Sequence[float],
    acknowledged: Sequence[tuple[str, str, float]],
    taken_at: dict[str, int],
    ended_at: float,
) -> dict[str, Any]:
    """Seconds from a kill to the next acknowledgement of a result that was taken after it (or to the end, if none
    came), by what was killed.

    Where something else was broken just before or before that came, the time is told apart.
    """
    acks = sorted(
        (at, taken_at[digest] / 1000) for digest, status, at in acknowledged if status in TAKEN and digest in taken_at
    )
    alone: dict[str, list[float]] = {"coordinator": [], "store": []}
    overlapped: dict[str, list[float]] = {"coordinator": [], "store": []}
    for what, killed_at, calm in kills:
        next_ack = next((at for at, taken in acks if at > killed_at and taken > killed_at), ended_at)
        others = [at for at in faults_at if killed_at < at < next_ack]
        (alone if calm and not others else overlapped)[what].append(next_ack - killed_at)
    return {
        what: {
            "kills": len(alone[what]) + len(overlapped[what]),
            "median_s": _rounded(statistics.median(alone[what])) if alone[what] else None,
            "max_s": _rounded(max(alone[what], default=None)),
            "overlapped_max_s": _rounded(max(overlapped[what], default=None)),
        }
        for what in alone
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def silences(
    acknowledged: Sequence[tuple[str, str, float]],
    events: Sequence[tuple[float, str]],
    ended_at: float,
    most: int = 3,
) -> list[dict[str, Any]]:
    """The longest times between two acknowledgements, or the last one and the end, and what happened in and shortly
    before them, by seconds from their beginnings."""
    times = sorted(at for _, _, at in acknowledged if at < ended_at)
    gaps = sorted(((after - before, before) for before, after in pairwise([*times, ended_at])), reverse=True)
    return [
        {
            "seconds": round(gap, 2),
            "meanwhile": [f"{at - begin:+.1f} {what}" for at, what in events if begin - BEFORE_S < at < begin + gap],
        }
        for gap, begin in gaps[:most]
    ]
