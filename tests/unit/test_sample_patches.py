"""The demo's patches: each applies to the seed source as it is, and does to it what the demo says it does."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from coordinator.admission import admit
from coordinator.demo_settings import PATCHES
from tests.unit.test_trainer_train import CONFIG, SOURCE, TOKENS, Served

FOLDER = Path(__file__).parents[2] / "examples" / "patches"


def patched(name: str | None) -> ModuleType:
    """The seed source with the sample patch, small, as a module."""
    source = SOURCE.read_text()
    if name is not None:
        source = admit((FOLDER / PATCHES[name][0]).read_bytes(), source).candidate_source
    module = sys.modules["sample"] = ModuleType("sample")
    exec(compile(source, "train.py", "exec"), vars(module))
    module.WIDTH["cpu"] = 64
    return module


def trained(source: ModuleType) -> dict[str, torch.Tensor]:
    """Weights after steps of four rows, enough of them to pass every part of the schedule."""
    source.STEP_TOKENS["cpu"] = 4 * TOKENS
    torch.manual_seed(1)
    return source.main(Served(160)).state_dict()


def test_every_sample_is_expected_by_the_demo():
    assert {path.name for path in FOLDER.iterdir()} == {file for file, _ in PATCHES.values()}


def test_no_effect_changes_no_bit():
    before, after = trained(patched(None)), trained(patched("no-effect"))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_crash_trains_for_some_steps_and_then_raises():
    source, session = patched("crash"), Served(160)
    source.STEP_TOKENS["cpu"] = 4 * TOKENS
    with pytest.raises(KeyError, match="momentum"):
        source.main(session)
    assert session.losses


def test_peek_sees_the_next_token():
    model = patched("peek").build_model(CONFIG)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)
        row = torch.arange(TOKENS)[None]
        other = row.clone()
        other[:, -1] += 1
        assert not torch.allclose(model(row)[:, :-1], model(other)[:, :-1], atol=1e-3)


def test_improvement_takes_smaller_batches_and_more_pairs_on_a_cpu_and_half_the_mlp():
    before, after = patched(None), patched("improvement")
    assert {**before.STEP_TOKENS, "cpu": before.STEP_TOKENS["cpu"] // 4} == after.STEP_TOKENS
    assert {**before.PAIRS, "cpu": 16 * before.PAIRS["cpu"]} == after.PAIRS
    assert after.MLP_RATIO == before.MLP_RATIO / 2
    assert pytest.approx(3 * before.EMBEDDING_LR) == after.EMBEDDING_LR
