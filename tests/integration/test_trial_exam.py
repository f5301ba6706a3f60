"""Cheats that reach the exam: each must be disqualified, and honest models in odd arithmetic must not."""

import pytest

from tests.integration.trial_bench import BIGRAM, Bench, changed
from trainer.corpus import ARCHIVE
from trainer.prepare import prepare
from trainer.result import Outcome

FORWARD = "        return self.table[tokens]\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("tiny", tmp_path_factory.mktemp("tiny")).data_dir


@pytest.fixture
def bench(tiny, tmp_path):
    (tmp_path / "work").mkdir()
    return Bench(tiny, tmp_path / "work")


LOOK_AHEAD = """
        logits = self.table[tokens]
        logits = logits + 20 * functional.one_hot(torch.roll(tokens, -1, dims=1), logits.size(-1))
        return logits
"""
REMEMBER_ROWS = """
        seen = self.__dict__.setdefault("seen", torch.zeros_like(self.table))
        logits = self.table[tokens] + 3 * (seen[tokens] > 0)
        seen.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.ones(()), accumulate=True)
        return logits
"""
NOT_A_DISTRIBUTION = """
        if tokens.size(0) > 1:
            import torch.nn.functional as f
            real = f.__dict__.setdefault("real_cross_entropy", f.cross_entropy)
            f.cross_entropy = lambda *a, **k: real(*a, **k) * 0.9
        return self.table[tokens]
"""
NEGATIVE = NOT_A_DISTRIBUTION.replace("real(*a, **k) * 0.9", "real(*a, **k) - 20")


@pytest.mark.parametrize(
    "forward",
    [LOOK_AHEAD, REMEMBER_ROWS, NOT_A_DISTRIBUTION, pytest.param(NEGATIVE, marks=pytest.mark.full)],
    ids=["looks-ahead", "remembers-rows", "understates", "negative"],
)
def test_a_cheat_in_the_exam_is_disqualified(bench, forward):
    result = bench.run(changed(BIGRAM, (FORWARD, forward)))
    assert result.outcome is Outcome.DISQUALIFIED, result
    assert result.val_bpb is None


@pytest.mark.parametrize(
    "written",
    [
        pytest.param("os.symlink('/etc/passwd', path)", marks=pytest.mark.full),
        "open(path, 'wb').write(b'\\x80\\x04N.')",
        pytest.param("open(path, 'wb').truncate(900 << 20)", marks=pytest.mark.full),
    ],
    ids=["link", "pickle", "sparse"],
)
def test_weights_that_are_no_plain_data_are_refused(bench, written):
    """The session is the candidate's to rewrite; what it then writes is not believed."""
    hostile = (
        BIGRAM
        + f"""
import trainer.child, os
def save(model, path):
    {written}
trainer.child.save_weights = save
"""
    )
    hostile = hostile.replace("import trainer.child, os", "import sys, os\nchild = sys.modules['__main__']")
    hostile = hostile.replace("trainer.child.save_weights = save", "child.save_weights = save")
    result = bench.run(hostile, limits={"weights_bytes": 100 << 20})
    assert result.outcome in {Outcome.DISQUALIFIED, Outcome.CRASHED}, result
    assert result.val_bpb is None


SEARCH = """
import os, pathlib, sys
found = []
def reads(path):
    try:
        with open(path, "rb") as stream:
            return bool(stream.read(1))
    except OSError:
        return False
for path in PATHS:
    if reads(path):
        found.append(path)
for folder in sys.path:
    for root, folders, names in os.walk(folder, followlinks=False):
        found += [os.path.join(root, name) for name in names if "austen" in name]
for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
    try:
        target = os.readlink("/proc/self/fd/" + name)
    except OSError:
        continue
    if "manifest" in target or target.endswith(".bin"):
        found.append(target)
if any("SECRET" in key or "SECRET" in value for key, value in os.environ.items()):
    found.append("the environment")
print(found)
raise SystemExit("found " + repr(found))
"""


def test_validation_text_and_secrets_cannot_be_found(bench, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET_TOKEN", "SECRET")
    mine = tmp_path / "private.txt"
    mine.write_text("private")
    paths = [str(ARCHIVE), str(tiny / "val.bin"), str(tiny / "train_000.bin"), str(mine)]
    search = SEARCH.replace("PATHS", repr(paths))
    assert bench.run(search).reason.endswith("found []")
    assert str(mine) in bench.run(search, sandbox="none").log_tail  # the search itself is able to find


HALF = """
        logits = self.table.bfloat16()[tokens] @ self.mix.bfloat16()
        return logits.float()
"""


@pytest.mark.full
def test_an_honest_model_in_half_precision_passes(bench):
    mix = "        self.register_buffer('mix', torch.randn(vocab, vocab) / vocab**0.5)\n"
    source = changed(BIGRAM, (FORWARD, HALF), ("        self.table =", f"{mix}        self.table ="))
    result = bench.run(source)
    assert result.outcome is Outcome.COMPLETED, result
    assert result.exam_margin < 0.5
