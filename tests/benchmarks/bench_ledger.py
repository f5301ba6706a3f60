"""How long it takes to go through a ledger and to make a swarm again from it. `make bench` runs it.

    python tests/benchmarks/bench_ledger.py [--quick] [--entries N] [--json]

The ledger is made here: really signed enrolments, patches and results (a loss curve each), verdicts with real
decisions, promotions with their commits; of fourteen entries one is a patch, one its verdict, twelve are results.
In full it has a million entries, quick 20,000. Beside each rate stands that of the least that anybody could do with the
same files in the same run: unpack, `json.loads` and sha256 of every line. Processor time is what one core needs, also
when neighbours use the machine; wall time is shown too.
"""

import gzip
import hashlib
import json
import resource
import shutil
import statistics
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import checkpoint, envelope
from autoresearch.digest import key_id, sha256_hex
from autoresearch.hardware import hardware_class, setting
from autoresearch.judging import ledger
from autoresearch.judging.evidence import Row
from autoresearch.judging.model import Patch
from autoresearch.judging.rule import DEFAULT
from autoresearch.judging.verdict import decide
from autoresearch.merkle import Frontier, leaf_hash
from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.patch_pb2 import PatchSubmission
from autoresearch.v1.trial_pb2 import OUTCOME_COMPLETED, Hardware, LossPoint, Order, Result, Software
from coordinator import checkpoints, commits, segments, upkeep
from coordinator.forms import packed
from coordinator.lineage import Lineage
from coordinator.records import SCHEMA, Swarm
from coordinator.segments import SEGMENT_ENTRIES
from coordinator.settings import LEDGER, LINEAGE

IDENTITIES = 200
TRIALS = 12  # of a patch, its baselines among them
PROMOTED_EVERY = 500  # patches
TOP = "B = 1\nC = 2\nD = 3\n"
TAIL = f"{TOP}\n\ndef build_model(config):\n    return config\n\n\ndef main(session):\n    return session\n"
HARDWARE = Hardware(
    device_kind="cuda", device_name="NVIDIA GeForce RTX 3090", device_memory_bytes=24 << 30, threads=8,
    operating_system="Linux 6.8.0", driver="550.90.07",
)  # fmt: skip
SOFTWARE = Software(python="3.11.7", torch="2.13.0", client="0.1.0")
SWARM_ID = "0" * 32


@dataclass
class Maker:
    """Makes a ledger, entry by entry."""

    lineage: Lineage
    key: Ed25519PrivateKey
    challenge: Challenge
    head: ledger.Head = ledger.EMPTY
    now_ms: int = 1_790_000_000_000
    value: int = 0  # of the best's first line
    generation: int = 0
    commit: str = ""

    def entry(self, kind: str, body: dict[str, Any]) -> bytes:
        self.now_ms += 1_000
        line, self.head = ledger.append(self.head, kind, body, self.now_ms)
        return line

    def lines(self) -> Iterator[bytes]:
        """Without end."""
        people = [Ed25519PrivateKey.generate() for _ in range(IDENTITIES)]
        yield self.genesis()
        for number, person in enumerate(people):
            yield self.enrolment(number, person)
        number = 0
        while True:
            number += 1
            yield from self.patch(number, people)

    def genesis(self) -> bytes:
        data = self.challenge.SerializeToString(deterministic=True)
        swarm = Swarm(
            swarm_id=SWARM_ID, schema=SCHEMA, challenge=b64encode(data).decode(), rule=DEFAULT.to_json(),
            noise_prior_bpb=0.003, first_baselines=1, coordinator_key=envelope.public_bytes(self.key).hex(),
            created_at_ms=self.now_ms + 1_000,
        )  # fmt: skip
        self.commit, text = self.lineage.tip(), source(0)
        more = {"commit": self.commit, "source_sha256": sha256_hex(text.encode()), "source": text, "files": {}}
        return self.entry("genesis", asdict(swarm) | more)

    def enrolment(self, number: int, person: Ed25519PrivateKey) -> bytes:
        message = Enrolment(
            protocol=1, swarm_id=SWARM_ID, name=f"volunteer {number}", machine_id=f"{number:032x}",
            hardware=HARDWARE, software=SOFTWARE,
        )  # fmt: skip
        signed = envelope.sign(message, envelope.ENROLMENT, person)
        return self.entry("identity", {
            "identity_id": key_id(envelope.public_bytes(person)), "name": message.name,
            "machine_id": message.machine_id, "hardware_class": hardware_class(HARDWARE), "envelope": packed(signed),
        })  # fmt: skip

    def patch(self, number: int, people: list[Ed25519PrivateKey]) -> Iterator[bytes]:
        """A patch with its trials, baselines, verdict, and now and then its promotion."""
        author = people[number % len(people)]
        value = self.value + number
        diff = f"--- a/train.py\n+++ b/train.py\n@@ -1,4 +1,4 @@\n-A = {self.value}\n+A = {value}\n"
        diff += "".join(f" {line}\n" for line in TOP.splitlines())
        message = PatchSubmission(
            protocol=1, swarm_id=SWARM_ID, base_commit=self.commit, diff=diff.encode(), title=f"Try {value}",
            rationale="Because a larger one may be better. " * 8,
        )  # fmt: skip
        signed = envelope.sign(message, envelope.PATCH, author)
        patch_id, candidate = sha256_hex(signed.payload)[:16], sha256_hex(source(value).encode())
        body = {
            "patch_id": patch_id, "author_id": key_id(envelope.public_bytes(author)), "author_name": "somebody",
            "title": message.title, "base_generation": self.generation, "candidate_sha256": candidate,
            "fingerprint": candidate, "change": candidate, "verdict": "open", "findings": [],
            "envelope": packed(signed),
        }  # fmt: skip
        yield self.entry("patch", body)
        base = sha256_hex(source(self.value).encode())
        rows = []
        for trial in range(TRIALS):
            who = (number + 1 + trial // 2) % len(people)  # never the author
            what = (patch_id, candidate) if trial % 2 else ("", base)
            yield self.result(who, people[who], what, f"{what[0] or 'baseline'}-{number * TRIALS + trial}")
            rows += [Row(f"{who}", f"{who}", "3090", (0.99,), (1.0,))] if trial % 2 else []
        decision, noise = decide(rows, {"3090": 0.003}, DEFAULT).to_json(), {hardware_class(HARDWARE): 0.003}
        won = number % PROMOTED_EVERY == 0
        yield self.entry("verdict", {
            "patch_id": patch_id, "verdict": "promoted" if won else "parked", "reason": decision["sentence"],
            "decision": decision, "noise_bpb": noise, "evidence_before": self.head.length, "excluded": [],
        })  # fmt: skip
        if won:
            yield self.promotion(body, value, decision)

    def result(self, who: int, person: Ed25519PrivateKey, what: tuple[str, str], order_id: str) -> bytes:
        patch_id, source_sha256 = what
        identity_id, lease_id = key_id(envelope.public_bytes(person)), sha256_hex(order_id.encode())[32:]
        same = {
            "protocol": 1, "swarm_id": SWARM_ID, "lease_id": lease_id, "machine_id": f"{who:032x}",
            "source_sha256": source_sha256, "challenge_sha256": sha256_hex(self.challenge.SerializeToString()),
            "trial_code_sha256": self.challenge.trial_code_sha256, "seed": self.head.length,
        }  # fmt: skip
        order = Order(
            **same, order_id=sha256_hex(order_id.encode())[:32], identity_id=identity_id,
            hardware_class=hardware_class(HARDWARE), issued_at_ms=self.now_ms,
        )  # fmt: skip
        payload = order.SerializeToString()
        curve = [LossPoint(share=point / 64, loss=4.0 - point / 50) for point in range(64)]
        result = Result(
            **same, order_sha256=sha256_hex(payload), hardware=HARDWARE, software=SOFTWARE, outcome=OUTCOME_COMPLETED,
            val_bpb=1.0 + who / 1e5, tokens_served=49_152_000, steps=1_500, startup_ms=41_000, train_ms=300_000,
            exam_ms=25_000, started_at_ms=self.now_ms, finished_at_ms=self.now_ms + 366_000,
            peak_memory_bytes=11 << 30, weights_sha256="ab" * 32, loss_curve=curve, cpu_share=0.97,
        )  # fmt: skip
        signed = envelope.sign(result, envelope.RESULT, person)
        return self.entry("result", {
            "result_sha256": sha256_hex(signed.payload), "lease_id": lease_id, "order_id": order_id,
            "order_payload": b64encode(payload).decode(), "identity_id": identity_id, "machine_id": result.machine_id,
            "hardware_class": order.hardware_class, "patch_id": patch_id, "source_sha256": source_sha256,
            "outcome": "completed", "val_bpb": result.val_bpb, "train_ms": result.train_ms, "disturbed": False,
            "tokens": result.tokens_served, "setting": setting(HARDWARE, SOFTWARE), "envelope": packed(signed),
        })  # fmt: skip

    def promotion(self, patch: dict[str, Any], value: int, decision: dict[str, object]) -> bytes:
        self.generation += 1
        known = Patch(
            patch_id=patch["patch_id"], author_id=patch["author_id"], author_name=patch["author_name"],
            title=patch["title"], rationale="", tags=(), base_commit="", base_generation=0, base_sha256="",
            candidate_sha256="", fingerprint="", submitted_at_ms=0,
        )  # fmt: skip
        trailers = commits.promotion_trailers(known, decision, generation=self.generation, entry=self.head.length)
        parent, text = self.commit, source(value)
        self.commit = self.lineage.build_promotion(
            parent, text, title=known.title, trailers=trailers, author_name=known.author_name,
            at=commits.committed_at(self.now_ms + 1_000),
        )  # fmt: skip
        self.lineage.advance(self.commit, parent)
        self.value = value
        return self.entry("promotion", {
            "generation": self.generation, "commit": self.commit, "parent": parent,
            "source_sha256": sha256_hex(text.encode()), "patch_id": known.patch_id, "title": known.title,
        })  # fmt: skip


def source(value: int) -> str:
    return f"A = {value}\n{TAIL}"


def make_folder(folder: Path, entries: int) -> None:
    """A data folder as a coordinator leaves it: closed segments, manifest, live file, checkpoints."""
    key = Ed25519PrivateKey.generate()
    challenge = Challenge(
        format=1, name="bench", dataset="tiny", base_source_sha256=sha256_hex(source(0).encode()),
        trial_code_sha256="cd" * 32, budget_ms=300_000,
    )  # fmt: skip
    at = commits.committed_at(1_790_000_001_000)
    lineage = Lineage.create(
        folder / "made.git", {"train.py": source(0).encode()}, message=commits.first_message("bench"), at=at
    )
    maker, closed, tree = Maker(lineage, key, challenge), [], Frontier()
    lines = maker.lines()
    while entries:
        own = [next(lines) for _ in range(min(entries, SEGMENT_ENTRIES))]
        entries -= len(own)
        leaves = [leaf_hash(line) for line in own]
        tree = tree.grown(leaves)
        content = b"".join(line + b"\n" for line in own)
        if len(own) == SEGMENT_ENTRIES:
            root = Frontier().grown(leaves).root
            closed.append(segments.compress(folder, len(closed), iter([content]), leaves, root))
            content = b""
        head = checkpoint.sign(SWARM_ID, tree.size, tree.root, maker.now_ms, key)
        checkpoints._append(folder / checkpoints.CHECKPOINTS, head)
    (folder / LEDGER).write_bytes(content)
    segments.save(folder, closed)
    shutil.rmtree(folder / "made.git")


def plain(folder: Path) -> None:
    """The least that reading it takes."""
    for path in [*sorted(folder.glob("*.jsonl.gz")), folder / LEDGER]:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                json.loads(line)
                hashlib.sha256(line).digest()


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds, those of children too, and wall seconds."""
    begun, processor = time.perf_counter(), _processor_s()
    work()
    return _processor_s() - processor, time.perf_counter() - begun


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(own.ru_utime + own.ru_stime for own in used)


@click.command()
@click.option("--quick", is_flag=True, help="20,000 entries.")
@click.option("--entries", default=0, help="So many.")
@click.option("--json", "as_json", is_flag=True, help="The last line is one JSON object.")
def main(quick: bool, entries: int, as_json: bool) -> None:
    """Measure."""
    entries = entries or (20_000 if quick else 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = seconds(lambda: make_folder(folder, entries))
        closed = segments.load(folder, SEGMENT_ENTRIES)
        stored = sum((folder / segment.name).stat().st_size for segment in closed)
        content = sum(segment.content_bytes for segment in closed)
        sizes = f"segments of {content / 2**20:.0f} MiB in {stored / 2**20:.0f} MiB"
        click.echo(f"made {entries} entries in {made[0]:.1f} processor seconds; {sizes}")
        measured = {}
        for what, rounds, work in (
            ("plain", 3, lambda: plain(folder)),
            ("verify", 1, lambda: upkeep.verify(folder)),
            ("rebuild", 1, lambda: rebuild(folder)),
        ):
            runs = [seconds(work) for _ in range(rounds)]
            processor, wall = (statistics.median(run[at] for run in runs) for at in (0, 1))
            measured[what] = {
                "processor_s": processor,
                "wall_s": wall,
                "entries_per_processor_s": entries / processor,
                "million_processor_s": processor / entries * 1e6,
                "times_plain": processor / measured.get("plain", {"processor_s": processor})["processor_s"],
            }
            own = measured[what]
            rate = f"{own['entries_per_processor_s']:9,.0f} entries a processor second"
            click.echo(f"{what:8} {rate}, {own['times_plain']:5.1f} times plain; a million:")
            measured[what]["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # so far
            click.echo(
                f"         {own['million_processor_s']:6.0f} processor seconds; wall here {own['wall_s']:.1f} s; "
                f"memory up to {own['peak_mib']:.0f} MiB"
            )
    if as_json:
        packed_share = stored / content if content else None
        click.echo(json.dumps({"entries": entries, "packed_share": packed_share, **measured}))


def rebuild(folder: Path) -> None:
    upkeep.rebuild(folder, "", lambda line: None, "t")
    shutil.rmtree(folder / "store")
    shutil.rmtree(folder / LINEAGE)


if __name__ == "__main__":
    main()
