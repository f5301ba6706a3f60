"""Honest models of unusual habits: none may be disqualified. The cheats are in `tests/adversarial/`."""

import pytest

from tests.integration.trial_bench import BIGRAM, Bench, changed
from trainer.prepare import prepare
from trainer.result import Outcome

FORWARD = "        return self.table[tokens]\n"
END = "    return model\n"
TABLE = "        self.table = nn.Parameter(torch.zeros(vocab, vocab))\n"
STEP = "        session.report(loss.item())\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("tiny", tmp_path_factory.mktemp("tiny")).data_dir


@pytest.fixture
def bench(tiny, tmp_path):
    (tmp_path / "work").mkdir()
    return Bench(tiny, tmp_path / "work")


HALF = """
        logits = self.table.bfloat16()[tokens]
        return (logits + logits[..., :64] @ self.mix.bfloat16()).float()
"""
MIX = TABLE + "        self.register_buffer('mix', torch.randn(64, vocab) / 64)\n"
DROPOUT = "        return functional.dropout(self.table[tokens], 0.1, self.training)\n"
START = "    lr = 300.0\n"
BEFORE = "    mean = None\n"
AVERAGED = """
        mean = model.table.detach().clone() if mean is None else mean.lerp(model.table.detach(), 0.1)
"""
STOPPING = ("in session.batches(rows=32)", "in served")
BREAK = """
        if batch.share > 0.5:
            break
"""
# Whatever a session leaves behind: threads that still run, global settings, gradients, training mode.
UNTIDY = """
    import threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    torch.set_float32_matmul_precision("high")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    return model.train()
"""
TIED = (
    TABLE
    + "        self.again = self.table\n        self.register_buffer('unused', torch.arange(3), persistent=False)\n"
    + "        self.register_buffer('rotations', torch.polar(torch.ones(3), torch.arange(3.0)))\n"
)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(changed(BIGRAM, (FORWARD, HALF), (TABLE, MIX)), marks=pytest.mark.full),
        pytest.param(changed(BIGRAM, (FORWARD, DROPOUT), (END, UNTIDY)), marks=pytest.mark.full),
        changed(BIGRAM, (START, START + BEFORE), (STEP, STEP + AVERAGED), (END, "    model.table.data = mean\n" + END)),
        pytest.param(changed(BIGRAM, (TABLE, TIED)), marks=pytest.mark.full),
        changed(BIGRAM, ("session.batches(rows=32)", "session.batches(rows=32, ahead=3)")),
        pytest.param(
            changed(BIGRAM, (START, START + "    served = session.batches(rows=32)\n"), STOPPING, (STEP, STEP + BREAK)),
            marks=pytest.mark.full,
        ),
    ],
    ids=["half-precision", "dropout-and-untidy", "averaged", "tied", "far-ahead", "stops-early"],
)
def test_an_honest_model_passes_whatever_its_habits(bench, source):
    result = bench.run(source)
    assert result.outcome is Outcome.COMPLETED, result
    assert result.exam_margin < 0.5
