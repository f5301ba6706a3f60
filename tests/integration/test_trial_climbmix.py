"""A trial on `climbmix` from end to end: downloaded from a hub on this machine, prepared, trained on, examined.

The text is a novel's in parquet shards; the rows have ClimbMix's 2,048 tokens, which is what its trials differ in.
"""

import math
import time
from itertools import accumulate

import pytest

from tests.integration.hub_server import COMMIT, local_hub, parquet
from tests.integration.trial_bench import SEED_SOURCE, Bench
from trainer import climbmix
from trainer.climbmix import Recipe
from trainer.corpus import chapters, read_books
from trainer.dataset import MOST_SHARDS
from trainer.hub import Hub
from trainer.prepare import prepare
from trainer.result import Outcome

RECIPE = Recipe(
    vocab_size=1024, sequence_len=2048, exam_rows=4, val_rows=8, reserve_rows=4, tokenizer_chars=200_000, shards=2
)
SHARD_CHARS = 250_000


def shards() -> dict[str, bytes]:
    """Documents as long as those of web text, 200 to 8,000 characters."""
    text = "".join(chapters(read_books()["emma"]))
    lengths = [200 + number * 7919 % 7800 for number in range(2000)]
    ends = [end for end in accumulate(lengths) if end <= 3 * SHARD_CHARS]
    documents = [text[end - length : end] for end, length in zip(ends, lengths, strict=False)]
    third = len(documents) // 3
    names = [f"shard_{number:05d}.parquet" for number in (0, 1, MOST_SHARDS)]
    return {name: parquet(documents[third * at : third * (at + 1)]) for at, name in enumerate(names)}


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(climbmix, "Recipe", lambda: RECIPE)
    with local_hub(shards()) as server:
        hub = Hub(server.endpoint, clock=time.monotonic, first_pause_s=0.01, timeout_s=(5, 5))
        manifest = prepare("climbmix-2", tmp_path / "climbmix", hub=hub)
    assert manifest.dataset == f"climbmix-2@{COMMIT}"
    return manifest.data_dir


def test_a_trial_on_climbmix_completes(data_dir, tmp_path):
    """A short budget trains on few of such long rows, so that the interview's one row is a large part of them."""
    (tmp_path / "work").mkdir()
    bench = Bench(data_dir, tmp_path / "work")
    limits = {"exam_probes": 16}
    result = bench.run(SEED_SOURCE.read_bytes(), budget_s=2.0, limits=limits, fresh_rows=2, fresh_seed=1)
    assert result.outcome is Outcome.COMPLETED, result
    assert result.tokens_served % 2048 == 0
    assert math.isfinite(result.val_bpb)
    assert result.val_bpb < 4.0  # a uniform guess among 1,024 tokens of two and a half bytes
    assert result.fresh_bpb == pytest.approx(result.val_bpb, abs=0.5)
    assert result.exam_margin < 0.5
