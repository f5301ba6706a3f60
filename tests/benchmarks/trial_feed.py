"""How fast one core packs training rows, and how much memory the trusted parent takes with shards of ClimbMix's size.

    python tests/benchmarks/trial_feed.py [--quick] [--json]

The feed is the real one: `Feed` over `Packer` over stored shards. Beside it, on the same shards and the same
core: upstream's way of packing (best fit by looking at all of 1000 waiting documents), written here for the comparison,
and the fastest loader there can be, which cuts consecutive tokens and packs nothing. Medians of several rounds, in
processor time, so that neighbours on the machine count little.

Lengths of documents are drawn, log-normal with a median of 400 and a mean near 650 tokens, as web text has them. For
memory, ten shards of 60 million tokens: their token files are sparse, which costs no disk and reads like any other.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import click
import numpy as np

from trainer.agreement import bits_per_byte
from trainer.batches import BatchLog
from trainer.feed import Feed
from trainer.manifest import Manifest, load_manifest, manifest_bytes
from trainer.pace import LivePace
from trainer.packing import Packer
from trainer.prepare import prepare
from trainer.shard import MemoryShard, Shard, StoredShard
from trainer.tokenizer import SPLIT_PATTERN, Tokenizer
from trainer.wire import Frame

ROW = 2049
VOCAB = 8192
SHARDS = 10
SHARD_TOKENS = 60_000_000
EXAM_ROWS = 2048
WAITING_UPSTREAM = 1000


def measure(quick: bool) -> dict[str, float]:
    """Tokens per second of the feed at two shapes, as ratios too, and, but for quick, the parent's memory in MB."""
    rounds, round_s, shard_tokens = (3, 0.25, 3_000_000) if quick else (7, 1.5, 20_000_000)
    with tempfile.TemporaryDirectory(prefix="feed-") as name:
        folder = Path(name)
        climbmix = make_data(folder / "climbmix", shards=2, shard_tokens=shard_tokens, sparse=False)
        tiny = prepare("tiny", folder / "tiny")
        sources = {
            "feed": feed(climbmix, 64),
            "upstream": upstream(climbmix, 64),
            "plain": plain(climbmix, 64),
            "feed_tiny": feed(tiny, 16),
        }
        speeds = alternate(sources, rounds, round_s)
        memory = {} if quick else parent_memory(folder, batches=2000)
    return {
        "feed_tokens_per_s": speeds["feed"],
        "feed_tiny_tokens_per_s": speeds["feed_tiny"],
        "upstream_packing_tokens_per_s": speeds["upstream"],
        "plain_cutting_tokens_per_s": speeds["plain"],
        "feed_ratio": speeds["feed"] / speeds["upstream"],
        "feed_to_plain_ratio": speeds["feed"] / speeds["plain"],
        **memory,
    }


def alternate(sources: dict[str, Iterator[int]], rounds: int, round_s: float) -> dict[str, float]:
    """Tokens per processor second of each source, the median of rounds taken in turns."""
    speeds: dict[str, list[float]] = {name: [] for name in sources}
    for source in sources.values():
        next(source)
    for _ in range(rounds):
        for name, source in sources.items():
            began_at, tokens = time.process_time(), 0
            while (spent_s := time.process_time() - began_at) < round_s:
                tokens += next(source)
            speeds[name].append(tokens / spent_s)
    return {name: statistics.median(found) for name, found in speeds.items()}


# ---------------------------------------------------------------------------------------------------------------------
# what is compared; each yields the number of tokens that a batch brought


def feed(manifest: Manifest, rows: int) -> Iterator[int]:
    served = the_feed(manifest, rows)
    while True:
        served()
        yield rows * manifest.sequence_len


def the_feed(manifest: Manifest, rows: int, shards: Sequence[Shard] = ()) -> Callable[[], bytes]:
    """What a trial does for every batch, without the pipe."""
    packer = Packer(shards or manifest.shards(), row_tokens=manifest.row_tokens, bos_id=manifest.bos_id, seed=1)
    feed = Feed(packer, row_tokens=manifest.row_tokens, max_rows=rows, pace=LivePace(1e9, lambda: 0.0))
    request = Frame({"kind": "want", "rows": rows, "step": 1, "loss": 1.0})

    def serve() -> bytes:
        feed.pack_ahead()
        batch = feed.answer(request).payload
        feed.log = BatchLog()  # kept for a replay; a trial has thousands, this loop millions
        return batch

    return serve


def plain(manifest: Manifest, rows: int) -> Iterator[int]:
    """Consecutive tokens, cut into rows."""
    tokens, at = manifest.shards()[0].tokens, 0
    while True:
        if at + rows * ROW > len(tokens):
            at = 0
        np.array(tokens[at : at + rows * ROW]).reshape(rows, ROW).tobytes()
        at += rows * ROW
        yield rows * (ROW - 1)


def upstream(manifest: Manifest, rows: int) -> Iterator[int]:
    """Best fit as upstream packs: all of the waiting documents are looked at for every place that is to be filled."""
    documents = all_documents(manifest.shards())
    waiting: list[np.ndarray] = []
    while True:
        batch = np.full((rows, ROW), manifest.bos_id, dtype="<u2")
        for row in batch:
            at = 0
            while (room := ROW - at - 1) > 0:
                while len(waiting) < WAITING_UPSTREAM:
                    waiting.append(next(documents))
                best, length = -1, 0
                for index, document in enumerate(waiting):
                    if length < len(document) <= room:
                        best, length = index, len(document)
                if best < 0:
                    best = min(range(len(waiting)), key=lambda index: len(waiting[index]))
                text = waiting.pop(best)[:room]
                row[at + 1 : at + 1 + len(text)] = text
                at += 1 + len(text)
        batch.tobytes()
        yield rows * (ROW - 1)


def all_documents(shards: Sequence[Shard]) -> Iterator[np.ndarray]:
    while True:
        for shard in shards:
            tokens = shard.tokens
            for first, end in pairwise(shard.offsets.tolist()):
                yield tokens[first:end]


# ---------------------------------------------------------------------------------------------------------------------
# memory


def parent_memory(folder: Path, batches: int) -> dict[str, float]:
    """Memory of a process that does what the trusted parent does in a trial; and if it read through mappings."""
    make_data(folder / "large", shards=SHARDS, shard_tokens=SHARD_TOKENS, sparse=True)
    stored, mapped = (in_own_process(folder / "large", batches, kind) for kind in ("stored", "mapped"))
    return {
        "parent_peak_rss_mb": stored["peak_rss_mb"],
        "parent_anonymous_mb": stored["anonymous_mb"],
        "parent_imports_rss_mb": stored["imports_rss_mb"],
        "parent_peak_rss_if_mapped_mb": mapped["peak_rss_mb"],
        "parent_tokens_served": stored["tokens"],
    }


def in_own_process(data_dir: Path, batches: int, kind: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--parent", str(data_dir), str(batches), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def be_parent(data_dir: Path, batches: int, kind: str) -> dict[str, float]:
    """Verify the data, serve batches from all shards, score an exam: all in this process. The kernel keeps the peak."""
    import trainer.trial  # noqa: F401, PLC0415 - what a parent has loaded

    imports_rss_mb = of_this_process("VmRSS")
    manifest = load_manifest(data_dir)
    shards = manifest.shards() if kind == "stored" else tuple(map(mapped, manifest.shards()))
    serve, anonymous_mb, rows = the_feed(manifest, 64, shards), 0.0, 64
    for _ in range(batches):
        serve()
        anonymous_mb = max(anonymous_mb, of_this_process("RssAnon"))
    score(manifest)
    return {
        "peak_rss_mb": of_this_process("VmHWM"),
        "anonymous_mb": anonymous_mb,
        "imports_rss_mb": imports_rss_mb,
        "tokens": batches * rows * manifest.sequence_len,
    }


def mapped(shard: StoredShard) -> MemoryShard:
    """The same shard, read through its mapping."""
    return MemoryShard(np.asarray(shard.tokens), shard.offsets)


def score(manifest: Manifest) -> None:
    """The exam's largest moment: every loss of every row."""
    rows = np.concatenate([manifest.val_rows(), manifest.reserve_rows()[:64]])
    claims = np.ones((len(rows), manifest.sequence_len), dtype="<f4")
    bits_per_byte(claims, rows, manifest.tokenizer().byte_lengths())


def of_this_process(field: str) -> float:
    """A field of /proc/self/status, in MB. VmHWM and VmRSS hold mapped file pages, RssAnon does not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1000


# ---------------------------------------------------------------------------------------------------------------------
# data


def make_data(folder: Path, *, shards: int, shard_tokens: int, sparse: bool) -> Manifest:
    """A data set of that size whose documents are as long as those of web text."""
    folder.mkdir()
    chance = np.random.default_rng(1)
    names = []
    for number in range(shards):
        lengths = np.maximum(8, np.exp(chance.normal(np.log(400), 1.0, size=shard_tokens // 400))).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        offsets = offsets[offsets <= shard_tokens]
        (folder / f"train_{number}.idx").write_bytes(offsets.astype("<u8").tobytes())
        write_tokens(folder / f"train_{number}.bin", int(offsets[-1]), chance, sparse=sparse)
        names.append(f"train_{number}")
    for name, rows in (("val.bin", 10_240), ("reserve.bin", 4096)):
        write_tokens(folder / name, rows * ROW, chance, sparse=sparse)
    (folder / "tokenizer.json").write_bytes(tokenizer().to_json())
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    content = manifest_bytes(
        {
            "dataset": "made-up",
            "vocab_size": VOCAB,
            "bos_id": VOCAB - 1,
            "sequence_len": ROW - 1,
            "exam_rows": EXAM_ROWS,
            "train_shards": names,
            "files": files,
        }
    )
    (folder / "manifest.json").write_bytes(content)
    return load_manifest(folder)


def write_tokens(path: Path, count: int, chance: np.random.Generator, *, sparse: bool) -> None:
    with path.open("wb") as stream:
        if sparse:
            stream.truncate(2 * count)
        else:
            stream.write(chance.integers(0, VOCAB - 1, count, dtype=np.uint16).astype("<u2").tobytes())


def tokenizer() -> Tokenizer:
    singles = [bytes([value]) for value in range(256)]
    pairs = [bytes(divmod(value, 256)) for value in range(VOCAB - 1 - len(singles))]
    return Tokenizer(SPLIT_PATTERN, (*singles, *pairs))


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--parent", nargs=3, metavar=("FOLDER", "BATCHES", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.parent:
        folder, batches, kind = arguments.parent
        sys.stdout.write(json.dumps(be_parent(Path(folder), int(batches), kind)) + "\n")
        return
    found = measure(arguments.quick)
    for name, value in found.items():
        click.echo(f"{name:34} {value:,.2f}" if value < 1000 else f"{name:34} {value:,.0f}")
    if arguments.json:
        click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
