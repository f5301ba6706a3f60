"""How much memory the trusted parent takes, measured by the kernel in a process of its own."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks import trial_feed


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_parent_stays_under_300_mb_with_shards_of_climbmix_size(tmp_path: Path):
    found = trial_feed.parent_memory(tmp_path, batches=600)
    assert found["parent_tokens_served"] > trial_feed.SHARD_TOKENS  # it has been through more than one shard
    assert found["parent_peak_rss_mb"] < 300
    assert found["parent_peak_rss_mb"] < found["parent_peak_rss_if_mapped_mb"]
