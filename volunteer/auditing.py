"""Audits a swarm: its ledger against itself and against what the coordinator stated before, its answers against that.

Nothing that the coordinator says is believed: chain, checkpoints and every signature are checked, every verdict,
change of the quarantine, promotion and roll-back is recomputed from the signed results, and leaderboard and best must
be those that follow. Left out: the rules (`autoresearch.judging`), and how it is told (`cli_audit.py`).
"""

import gzip
import itertools
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from autoresearch import limits
from autoresearch.checkpoint import TreeHead
from autoresearch.digest import key_id
from autoresearch.judging import ledger
from autoresearch.judging.auditing import Audited, Auditor
from autoresearch.judging.ledger import LedgerError
from autoresearch.judging.replay import Replay
from autoresearch.judging.texts import Merge, Texts
from autoresearch.v1.leaderboard_service_pb2 import GetLeaderboardResponse, Standing
from autoresearch.v1.patch_pb2 import Best
from volunteer import witness
from volunteer.client import Client
from volunteer.errors import AuditError, InputError

_LIVE: Final = "autoresearch.jsonl"
_CLOSED: Final = "autoresearch-*.jsonl.gz"
TELL_EVERY: Final = 50_000  # entries

Tell = Callable[[int], None]  # how many entries were gone through


@dataclass(frozen=True, slots=True)
class Audit:
    """A ledger in which nothing differs."""

    ledger: Audited
    replay: Replay
    unsettled: Sequence[str]  # patches whose evidence says more than their last verdict: not come to, or kept back
    answers: bool  # leaderboard and best were compared too


@dataclass(slots=True)
class _Answers:
    """What the coordinator answered at some moment, which must be what follows from some beginning of the ledger."""

    low: int  # the moment was when the ledger had so many entries ...
    high: int  # ... to so many
    board: GetLeaderboardResponse
    best: Best
    differences: dict[str, str] = field(default_factory=lambda: {"leaderboard": "", "best": ""})

    def compare(self, replay: Replay) -> None:
        """As of the entries gone through until now."""
        if not self.low <= replay.length <= self.high:
            return
        if "leaderboard" in self.differences:
            self._keep("leaderboard", _board_difference(self.board, replay))
        if "best" in self.differences:
            self._keep("best", _best_difference(self.best, replay))

    def _keep(self, what: str, difference: str) -> None:
        if difference:
            self.differences[what] = difference
        else:
            del self.differences[what]


async def audit_swarm(client: Client, home: Path, tell: Tell, merge: Merge | None = None) -> Audit:
    """Downloads and audits everything. `merge`: without it texts that take one are believed by their digests, counted.

    Raises:
        AuditError: the first difference.
        WrongCoordinatorError: its statements contradict each other.
        RpcError, HomeError, DiskError: no answer; the home folder is damaged or full.
    """
    seen = witness.remembered(home, client.swarm.swarm_id, client.swarm.fingerprint)
    answers = await _ask(client)
    now = await witness.watch(client, home)
    heads = [head for head in (seen, now) if head]
    auditor = Auditor(heads, client.swarm.fingerprint, decisions=True, texts=Texts(merge))
    async for line in client.ledger(0):
        _take(auditor, line, tell)
        assert auditor.replay is not None
        answers.compare(auditor.replay)
        if auditor.replay.length == now.size:
            break
    audit = _finished(auditor, answers=True)
    for what, difference in answers.differences.items():
        raise AuditError(now.size - 1, f"the {what} that the coordinator shows does not follow: {difference}")
    return audit


async def _ask(client: Client) -> _Answers:
    before = (await client.status()).ledger_entries
    board, best = await client.leaderboard(limits.PAGE_ITEMS), (await client.best()).best
    return _Answers(before, (await client.status()).ledger_entries, board, best)


def audit_files(
    path: Path, home: Path, coordinator_id: str, tell: Tell, merge: Merge | None = None
) -> Audit:  # fmt: skip
    """Audits a ledger that lies here: one file, or a folder with its segments. Statements seen before are compared too.
    `merge` as above.

    Raises:
        AuditError: the first difference.
        InputError: no ledger, or one that cannot be read.
        HomeError: what is remembered of the swarm is damaged.
    """
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path} holds no ledger entries")
    auditor = Auditor(_known(first, home), coordinator_id, decisions=True, texts=Texts(merge))
    for line in itertools.chain([first], lines):
        _take(auditor, line, tell)
    return _finished(auditor, answers=False)


def _known(first: bytes, home: Path) -> Iterable[TreeHead]:
    """The statement of that swarm's coordinator that was seen last, if any."""
    try:
        body = ledger.parse(first).body
        swarm_id, key = str(body["swarm_id"]), bytes.fromhex(body["coordinator_key"])
    except (ValueError, KeyError, TypeError):
        return []  # whatever is wrong with it, the audit names it
    seen = witness.remembered(home, swarm_id, key_id(key))
    return [seen] if seen else []


def _take(auditor: Auditor, line: bytes, tell: Tell) -> None:
    try:
        entry = auditor.take(line)
    except LedgerError as error:
        raise AuditError(error.seq, str(error)) from error
    if (entry.seq + 1) % TELL_EVERY == 0:
        tell(entry.seq + 1)


def _finished(auditor: Auditor, *, answers: bool) -> Audit:
    try:
        found = auditor.finish()
    except LedgerError as error:
        raise AuditError(error.seq, str(error)) from error
    assert auditor.replay is not None
    return Audit(found, auditor.replay, auditor.replay.unsettled(), answers)


def verdicts(replay: Replay) -> dict[str, int]:
    """How many patches have which verdict."""
    return dict(sorted(Counter(patch.verdict for patch in replay.patches.values()).items()))


# --- the coordinator's answers ---


def _board_difference(board: GetLeaderboardResponse, replay: Replay) -> str:
    trials = {who: own.trials for who, own in replay.standings.items() if own.trials}
    authors = {replay.patches[best.patch_id].author_id for best in replay.lineage if best.patch_id}
    gains = {who: replay.standings[who].gain_bpb for who in authors}
    return _ranking_difference(board.volunteers, trials, replay) or _ranking_difference(board.authors, gains, replay)


def _ranking_difference(shown: Sequence[Standing], scores: Mapping[str, float], replay: Replay) -> str:
    expected = sorted(scores, key=lambda who: (scores[who], who), reverse=True)[: limits.PAGE_ITEMS]
    if len(shown) != len(expected):
        return f"{len(expected)} standings are expected, {len(shown)} are shown"
    for standing, least in zip(shown, expected, strict=True):
        own = replay.standings.get(standing.identity_id)
        if own is None or not _near(scores.get(standing.identity_id, math.nan), scores[least]):
            return f"{standing.identity_id} is shown where {least} is expected"
        found = (standing.trials, standing.train_ms, standing.promotions)
        if found != (own.trials, own.train_ms, own.promotions) or not _near(standing.gain_bpb, own.gain_bpb):
            return (
                f"{standing.identity_id} has {own.trials} trials, {own.train_ms} ms, {own.promotions} promotions, gain "
                f"{own.gain_bpb:.6f}, and {found[0]}, {found[1]}, {found[2]}, {standing.gain_bpb:.6f} are shown"
            )
    return ""


def _best_difference(best: Best, replay: Replay) -> str:
    own = replay.best
    expected, found = (
        (own.generation, own.commit, own.source_sha256),
        (best.generation, best.commit, best.source_sha256),
    )
    if expected == found:
        return ""
    return (
        f"generation {own.generation}, commit {own.commit[:12]}, source {own.source_sha256[:12]} are expected, "
        f"{best.generation}, {best.commit[:12]}, {best.source_sha256[:12]} are shown"
    )


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


# --- files ---


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a ledger's files. A folder's live file may repeat its last segment: a death can leave that."""
    files = [*sorted(path.glob(_CLOSED)), path / _LIVE] if path.is_dir() else [path]
    count = 0
    for file in files:
        skip = -1
        for line in _read(file):
            if skip < 0:
                skip = _repeated(line, count) if file.name == _LIVE and count else 0
            if skip:
                skip -= 1
                continue
            count += 1
            yield line


def _repeated(first: bytes, count: int) -> int:
    try:
        return max(0, count - ledger.parse(first).seq)
    except ValueError:
        return 0


def _read(path: Path) -> Iterator[bytes]:
    try:
        with _opened(path) as file:
            while line := file.readline(limits.LEDGER_LINE_BYTES + 1):
                if not line.endswith(b"\n") and len(line) > limits.LEDGER_LINE_BYTES:
                    raise InputError(f"{path} holds a line of more than {limits.LEDGER_LINE_BYTES} bytes")
                yield line.removesuffix(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"cannot read {path} ({reason}): give a ledger's file, or the folder with all of them"
        ) from error


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
