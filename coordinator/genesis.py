"""Makes a new swarm: challenge, lineage and the first ledger entry; or finds the one that is there.

What the challenge pins about data and trial code is asked of the trainer, in a process of its own: the coordinator
imports nothing of it.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import sysconfig
from asyncio.subprocess import PIPE
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from autoresearch import limits
from autoresearch.digest import sha256_hex
from autoresearch.judging.model import Best
from autoresearch.unified_diff import PATCHED_FILE
from autoresearch.v1.challenge_pb2 import GRADER_KIND_BITS_PER_BYTE, Challenge
from coordinator import branch, commits, settling, upgrading
from coordinator.admission import AdmissionError, check_source, normalised_fingerprint
from coordinator.errors import OperatorError
from coordinator.filling import MARK
from coordinator.journal import Journal, Note
from coordinator.lineage import Lineage, companion_files
from coordinator.records import SCHEMA, Records, Swarm
from coordinator.settings import Terms
from coordinator.store import Holds, Operation, Put

_PROGRESS = "progress: "
_LINE_BYTES = 1 << 20  # of what the trainer says


@dataclass(frozen=True, slots=True)
class Trainer:
    """What the trainer says of itself and a data set."""

    dataset: str
    manifest_sha256: str
    trial_code_sha256: str
    source: str
    prepare: str


async def ask_trainer(dataset: str, data_dir: Path, tell: Callable[[str], None] = lambda _line: None) -> Trainer:
    """Prepares the data set and asks for its digests. `tell` hears how far a long preparation is.

    No deadline: a large data set takes its time, and the trainer gives up on a silent network by itself. Cancelled, it
    ends the trainer, which goes on where it was the next time.

    Raises:
        OperatorError: the trainer failed; its own words are in the message.
    """
    command = [sys.executable, "-E", "-s", "-m", "trainer.describe", dataset, str(data_dir)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=PIPE, limit=_LINE_BYTES, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    words = "no output"
    try:
        async for data in process.stderr:
            line = data.decode(errors="replace")
            if line.startswith(_PROGRESS):
                tell(f"preparing {dataset}: {line.removeprefix(_PROGRESS).strip()}")
            else:
                words = line.strip().removeprefix("error: ") or words
        answer = await process.stdout.read()  # one line, which fits into the pipe until it is read here
        status = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            await process.wait()
    if status:
        raise OperatorError(f"the data set {dataset!r} cannot be prepared: {words}")
    return Trainer(**json.loads(answer))


async def find_or_make(
    terms: Terms,
    records: Records,
    journal: Journal,
    *,
    lineage_path: Path,
    datasets_dir: Path,
    coordinator_key: str,
    now_ms: int,
    token: Callable[[], str],
    tell: Callable[[str], None] = lambda _line: None,
) -> tuple[Swarm, Lineage]:
    """The swarm of this store and its lineage, made now if there is none.

    Raises:
        OperatorError: the store is of a newer version or another key, the source is no source, git is missing.
    """
    swarm = await find(records, coordinator_key)
    if swarm is not None:
        return swarm, await branch.found(records, swarm, lineage_path)
    trainer = await ask_trainer(terms.dataset, datasets_dir / terms.dataset.partition("@")[0], tell)
    source = _read_source(terms.source or Path(trainer.source))
    challenge = _challenge(terms, trainer, source)
    data = challenge.SerializeToString(deterministic=True)
    files = _files(source, Path(trainer.prepare), challenge)
    await asyncio.to_thread(shutil.rmtree, lineage_path, ignore_errors=True)  # of a start that ended half-way
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    message = commits.first_message(terms.name)
    lineage = await asyncio.to_thread(lambda: Lineage.create(lineage_path, files, message=message, at=at))
    swarm = Swarm(
        swarm_id=token(),
        schema=SCHEMA,
        challenge=b64encode(data).decode(),
        rule=terms.parsed_rule().to_json(),
        noise_prior_bpb=terms.noise_prior_bpb,
        first_baselines=terms.first_baselines,
        coordinator_key=coordinator_key,
        created_at_ms=now_ms,
    )
    await begin(swarm, lineage, files, journal)
    return swarm, lineage


async def find(records: Records, coordinator_key: str) -> Swarm | None:
    """The swarm of this store, if there is one.

    Raises:
        OperatorError: it is of a newer version or another key.
    """
    swarm = await records.swarm()
    if swarm is not None:
        _check_known(swarm, coordinator_key)
    return swarm


def _check_known(swarm: Swarm, coordinator_key: str) -> None:
    if swarm.schema > SCHEMA:
        raise OperatorError(f"the swarm was begun by a newer version (schema {swarm.schema}): upgrade this coordinator")
    if swarm.coordinator_key != coordinator_key:
        raise OperatorError(
            "the store's swarm has another coordinator key: put its signing.key into the data folder, from a backup or "
            "from the coordinator that made the swarm"
        )


async def begin(swarm: Swarm, lineage: Lineage, files: Mapping[str, bytes], journal: Journal) -> None:
    """Writes the ledger's first entry, and what it records. `files`: of the lineage's first commit.

    Raises:
        OperatorError: the store has a swarm.
    """
    others = {name: content.decode() for name, content in files.items() if name != PATCHED_FILE}
    source = files[PATCHED_FILE].decode()
    digest = sha256_hex(source.encode())
    tip = await asyncio.to_thread(lineage.tip)
    best = Best(0, tip, digest, "", settling.FIRST_TITLE, "", swarm.created_at_ms, 0)
    body = {**asdict(swarm), "commit": tip, "source_sha256": digest, "source": source, "files": others}
    operations: list[Operation] = [
        Put("meta", "swarm", swarm.to_bytes()),
        upgrading.numbered(),
        Put("sources", digest, source.encode()),
        Put("fingerprints", normalised_fingerprint(source), settling.FIRST_PATCH),
        *settling.crowning(best),
    ]
    outcome = await journal.commit(
        [Note("genesis", body)],
        [Holds("meta", "swarm", None), Holds(*MARK, None)],
        operations,
        swarm.created_at_ms,
    )
    if not isinstance(outcome, int):
        raise OperatorError("somebody else made or restores a swarm in this store just now: start again")


def _challenge(terms: Terms, trainer: Trainer, source: str) -> Challenge:
    budget_ms = round(terms.budget_s * 1000)
    return Challenge(
        format=1,
        name=terms.name,
        grader=GRADER_KIND_BITS_PER_BYTE,
        dataset=trainer.dataset,
        manifest_sha256=trainer.manifest_sha256,
        base_source_sha256=sha256_hex(source.encode()),
        trial_code_sha256=trainer.trial_code_sha256,
        budget_ms=budget_ms,
        startup_ms=max(60_000, budget_ms // 2),
        grace_ms=max(10_000, budget_ms // 20),
        exam_ms=max(60_000, budget_ms // 2),
        source_bytes=limits.SOURCE_BYTES // 2,
        weights_bytes=4 << 30,
        memory_bytes=terms.memory_bytes,
    )


def _read_source(path: Path) -> str:
    try:
        if path.stat().st_size > limits.SOURCE_BYTES // 2:
            raise OperatorError(f"{path} is larger than {limits.SOURCE_BYTES // 2} bytes")
        source = path.read_text(encoding="utf-8")
        check_source(source)
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"cannot read the source {path}: {error}") from error
    except AdmissionError as error:
        raise OperatorError(f"{path} is no source: {error}") from error
    return source


def _files(source: str, prepare: Path, challenge: Challenge) -> dict[str, bytes]:
    terms = {
        "name": challenge.name,
        "dataset": challenge.dataset,
        "manifest_sha256": challenge.manifest_sha256,
        "budget_s": challenge.budget_ms / 1000,
    }
    return {
        **companion_files(),
        PATCHED_FILE: source.encode(),
        "prepare.py": prepare.read_bytes(),
        "program.md": _program().read_bytes(),
        "challenge.json": (json.dumps(terms, indent=2) + "\n").encode(),
    }


def _program() -> Path:
    """program.md: at the top of a checkout, under the environment's share folder when installed."""
    beside = Path(__file__).resolve().parent.parent / "program.md"
    return beside if beside.exists() else Path(sysconfig.get_path("data")) / "share/autoresearch-swarm/program.md"
