"""The seed source: its model looks back only, its optimiser steps do not depend on how a batch is cut, it fails fast.

Runs in this process with a session that serves rows from memory; whole trials are in `tests/integration/`.
"""

import importlib.util
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from trainer.session import Batch, Config

torch.set_num_threads(1)  # more would spin at barriers while other tests want the processor

SOURCE = Path(__file__).parents[2] / "trainer" / "train.py"
TOKENS = 24
VOCABULARY = 61
CONFIG = Config(VOCABULARY, TOKENS, VOCABULARY - 1, torch.device("cpu"))
CLASSES = {"gpu80", "gpu24", "gpu8", "mps", "cpu"}


def load(**constants):
    """The source as a fresh module, small, with some constants replaced; a table's value is that of the CPU."""
    spec = importlib.util.spec_from_file_location("seed_source", SOURCE)
    module = sys.modules["seed_source"] = importlib.util.module_from_spec(spec)  # the tracer looks for it there
    spec.loader.exec_module(module)
    for name, value in {"WIDTH": 64, "HEAD_DIM": 32, "PAIRS": 97, **constants}.items():
        was = getattr(module, name)
        setattr(module, name, {**was, "cpu": value} if isinstance(was, dict) else value)
    return module


@pytest.fixture(scope="module")
def windowed():
    """Four blocks, three of which see eight tokens only. No weight is zero, so that everything has an effect."""
    torch.manual_seed(5)
    model = load(DEPTH=4, LEAST_WINDOW=8, WINDOWS="SSSL").build_model(
        Config(VOCABULARY, 16, VOCABULARY - 1, CONFIG.device)
    )
    assert [block.window for block in model.blocks] == [8, 8, 8, None]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def rows():
    return torch.randint(VOCABULARY, (3, 16), generator=torch.Generator().manual_seed(1))


class Served:
    """A session that serves the rows of one fixed stream and keeps what is reported."""

    def __init__(self, steps_of_rows, *, seed=0, config=CONFIG):
        self.config, self.device, self.seed, self.max_rows = config, config.device, seed, 4096
        shape = (steps_of_rows, config.sequence_len + 1)
        self.stream = torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(2))
        self.losses = []
        self.asked = []

    def random_batch(self, rows):
        return self.batch(torch.zeros((rows, self.config.sequence_len + 1), dtype=torch.int64), 0.0)

    def batches(self, rows):
        for first in range(0, len(self.stream), rows):
            self.asked.append(rows)
            yield self.batch(self.stream[first : first + rows], first / len(self.stream))

    def batch(self, rows, share):
        return Batch(rows[:, :-1], rows[:, 1:], share)

    def report(self, loss):
        self.losses.append(loss)


def trained(session, **constants):
    torch.manual_seed(session.seed)
    model = load(DEPTH=2, **constants).main(session)
    return {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def test_no_token_changes_what_was_said_before_it(windowed, rows):
    logits = windowed(rows)
    for place in range(1, rows.size(1)):
        other = rows.clone()
        other[:, place:] = (other[:, place:] + 7) % VOCABULARY
        changed = windowed(other)
        torch.testing.assert_close(changed[:, :place], logits[:, :place], rtol=0, atol=1e-5)
        assert not torch.allclose(changed[:, place], logits[:, place], atol=1e-3)


@torch.no_grad()
def test_a_prefix_of_any_length_says_what_the_whole_row_says(windowed, rows):
    logits = windowed(rows)
    for length in range(1, rows.size(1) + 1):
        torch.testing.assert_close(windowed(rows[:, :length]), logits[:, :length], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_window_is_what_its_block_sees(windowed, rows):
    mask = windowed.masks(rows)[8]
    assert mask.sum(1).tolist() == [*range(1, 9), *[8] * 8]
    assert windowed.masks(rows[:, :8]) == {}  # the window is not shorter than this: plain causal attention


@pytest.mark.full  # traces, which takes ten seconds
@torch.no_grad()
def test_flex_attention_sees_the_same_window(windowed, rows):
    """As in training on a GPU, though not compiled: the exam's masks and training's must not differ."""
    expected = windowed(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it is slow when it is not compiled
        windowed.train().use_flex_attention(16)
        found = windowed(rows)
    assert set(windowed.block_masks) == {8}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    windowed.eval()
    torch.testing.assert_close(windowed(rows[:, :11]), expected[:, :11], rtol=0, atol=1e-5)


@torch.no_grad()
def test_bfloat16_reaches_attention_whole_and_changes_little(windowed, rows, monkeypatch):
    """As on a GPU: all that attention is given has the one precision, and the logits are float32 again."""
    expected, seen = windowed(rows), set()
    names = type(windowed).forward.__globals__
    attend = names["attend"]
    monkeypatch.setattr(windowed, "precision", torch.bfloat16)
    monkeypatch.setitem(
        names, "attend", lambda q, k, v, mask: seen.update((q.dtype, k.dtype, v.dtype)) or attend(q, k, v, mask)
    )
    logits = windowed(rows)
    assert seen == {torch.bfloat16}
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.5)


def test_the_same_seed_gives_the_same_weights_to_the_last_bit():
    one, two, other = (trained(Served(12, seed=seed), STEP_TOKENS=4 * TOKENS) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_many_small_passes_add_up_to_the_gradients_of_a_large_one():
    gradients = []
    for pass_rows in (8, 2):
        torch.manual_seed(0)
        source = load(DEPTH=2, STEP_TOKENS=8 * TOKENS, PASS_TOKENS=pass_rows * TOKENS)
        session = Served(8)
        passes = source.Passes(source.build_model(CONFIG), session)
        with torch.no_grad():  # no weight is zero, so that every gradient says something
            for p in passes.model.parameters():
                p.add_(torch.randn_like(p) * 0.1)
        for batch in session.batches(passes.rows):
            passes.backward(batch)
        assert len(session.asked) == passes.accumulate == 8 // pass_rows
        gradients.append([p.grad for p in passes.model.parameters()])
    for one, parts in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(parts, one, rtol=1e-4, atol=1e-6)


def test_an_optimiser_step_waits_for_all_its_passes():
    session = Served(24)
    trained(session, STEP_TOKENS=8 * TOKENS, PASS_TOKENS=2 * TOKENS)
    assert session.asked == [2] * 12
    assert len(session.losses) == 3


def test_what_a_step_learns_from_is_never_more_than_the_session_can_serve():
    session = Served(8)
    session.max_rows = 3
    trained(session, STEP_TOKENS=8 * TOKENS, PASS_TOKENS=8 * TOKENS)
    assert session.asked == [2] * 4
    assert len(session.losses) == 1


SHORT_OF_MEMORY = """
import resource, sys, torch
sys.path[:0] = [{root!r}, {here!r}]
from test_trainer_train import Served, load
from trainer.session import Config

source = load(WIDTH=128, STEP_TOKENS=2**15, PASS_TOKENS=2**15)
session = Served(0, config=Config(1024, 128, 1023, torch.device("cpu")))
passes = source.Passes(source.build_model(session.config), session)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20), -1))
passes.warm_up()
assert passes.rows < 256 and passes.rows * passes.accumulate == 256, (passes.rows, passes.accumulate)
assert all(p.grad is None for p in passes.model.parameters())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_short_memory_means_smaller_passes_and_as_many_tokens_a_step():
    here = Path(__file__).parent
    code = SHORT_OF_MEMORY.format(root=str(here.parents[1]), here=str(here))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "short of memory: 128 rows a pass, 2 passes a step" in done.stdout


def test_an_error_that_is_not_about_memory_is_not_taken_for_it():
    session = Served(8, config=Config(VOCABULARY, TOKENS, 0, CONFIG.device))
    session.random_batch = lambda rows: session.batch(torch.full((rows, TOKENS + 1), VOCABULARY), 0.0)
    source = load()
    with pytest.raises(IndexError):
        source.Passes(source.build_model(session.config), session).warm_up()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run(value):
    watch = load().LossWatch(CONFIG.device)
    assert watch.see(torch.tensor(2.5), 1) == 2.5
    with pytest.raises(RuntimeError, match=f"training diverged: the loss is {value} at step 2; try lower"):
        watch.see(torch.tensor(value), 2)


@pytest.mark.parametrize(
    ("gigabytes", "name"), [(85.0, "gpu80"), (47.8, "gpu80"), (25.3, "gpu24"), (16.9, "gpu24"), (11.5, "gpu8")]
)
def test_a_gpu_is_classed_by_its_whole_memory(gigabytes, name, monkeypatch):
    sized = type("Properties", (), {"total_memory": int(gigabytes * 1e9)})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: sized)
    assert load().machine_class(torch.device("cuda:0")) == name


def test_every_class_of_machine_has_a_model_that_fits_together():
    source = load(WIDTH=128, HEAD_DIM=64)
    tables = {name: table for name, table in vars(source).items() if name.isupper() and isinstance(table, dict)}
    assert len(tables) >= 8
    assert all(set(table) == CLASSES for table in tables.values())
    for name in CLASSES:
        assert source.WIDTH[name] % source.HEAD_DIM[name] == 0
        assert source.STEP_TOKENS[name] % source.PASS_TOKENS[name] == 0
        assert source.POLISH[name] <= len(source.POLYNOMIALS)


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 128, 32), (3, 32, 128)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    source = load()
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(source.orthogonalise(matrices, 5))
    assert values.max() < 1.2
    assert values.median() > 0.8
    assert values.min() > 0.8 or shape[1] == shape[2]  # a square one has directions that are nearly lost
    x = matrices if shape[1] <= shape[2] else matrices.mT
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True))
    torch.testing.assert_close(source.polish(x, 5), source.polish_bf16(x, 5), rtol=0, atol=0.05)


def test_learning_rates_rise_hold_and_fall_with_the_share_of_the_budget():
    source = load()
    heights = [source.learning_rate(share) for share in (0.0, 0.01, 0.02, 0.5, 0.75, 1.0)]
    assert heights[0] < heights[1] < heights[2] == heights[3] == 1.0
    assert heights[4] == pytest.approx((1 + source.FINAL_LR) / 2)
    assert heights[5] == pytest.approx(source.FINAL_LR)


def test_training_learns_what_repeats():
    """Rows that all say the same: a model that learns anything knows them by heart after a few steps."""
    session = Served(160)
    session.stream = session.stream[:1].repeat(160, 1)
    trained(session, STEP_TOKENS=4 * TOKENS, PASS_TOKENS=4 * TOKENS)
    assert session.losses[-1] < 0.2 * session.losses[0]
