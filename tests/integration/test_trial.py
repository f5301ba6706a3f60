"""Whole trials in the real sandbox: honest ones, and every way in which one can end."""

import math
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from tests.integration.trial_bench import BIGRAM, SEED_SOURCE, Bench, changed, processes_mentioning
from trainer.errors import DataMissingError, WrongDataError
from trainer.prepare import prepare
from trainer.result import Outcome, TrialEnded
from trainer.stages import Stages
from trainer.trial import Trial

BYTES_OF_EXAM_ROWS = 88_748


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("tiny", tmp_path_factory.mktemp("tiny")).data_dir


@pytest.fixture
def bench(tiny, tmp_path):
    (tmp_path / "work").mkdir()
    return Bench(tiny, tmp_path / "work")


def test_an_honest_trial_completes_with_a_true_score(bench):
    result = bench.run(BIGRAM, budget_s=2.0)
    assert result.outcome is Outcome.COMPLETED, result.log_tail
    assert 2.2 < result.val_bpb < 3.4  # a uniform guess is 3.69, the best of bigrams about 2.6
    assert result.train_s == pytest.approx(2.0, abs=0.2)
    assert result.tokens_served % (32 * 128) == 0
    assert result.steps == result.tokens_served // (32 * 128)
    assert len(result.weights_sha256) == 64
    assert 0 < result.cpu_share < 1.5
    assert result.exam_margin < 0.1
    assert result.wall_s > result.train_s
    assert result.peak_memory_bytes > 50e6
    shares = [share for share, _ in result.loss_curve]
    assert 1 < len(shares) <= 64
    assert result.loss_curve[0][1] > result.loss_curve[-1][1]
    stages = [progress.stage for progress in bench.progress]
    assert list(dict.fromkeys(stages)) == ["starting", "training", "weights", "exam"]
    training = [progress.share for progress in bench.progress if progress.stage == "training"]
    assert training == sorted(training)


def test_the_seed_source_trains_usefully_in_seconds(bench):
    result = bench.run(SEED_SOURCE.read_bytes(), budget_s=3.0, fresh_rows=64, fresh_seed=3)
    assert result.outcome is Outcome.COMPLETED, result.log_tail
    assert result.val_bpb < 3.0
    assert result.fresh_bpb == pytest.approx(result.val_bpb, abs=0.4)
    assert result.fresh_bpb != result.val_bpb


def test_the_exam_scores_what_the_weights_are_worth(bench):
    """Weights that say nothing score the uniform guess, to the last digit, whatever training claimed."""
    result = bench.run(changed(BIGRAM, ("    return model\n", "    return build_model(session.config)\n")))
    assert result.outcome is Outcome.COMPLETED
    assert result.val_bpb == pytest.approx(256 * 128 * math.log2(1024) / BYTES_OF_EXAM_ROWS, rel=1e-6)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "train.py is empty"),
        (b"\xff\xfe\x00", "train.py is not UTF-8 (byte 0)"),
        (b"#" * 300_000, "train.py is 300000 bytes long, the limit is 262144"),
    ],
)
def test_what_can_be_no_source_never_runs(bench, source, reason):
    result = bench.run(source)
    assert (result.outcome, result.reason) == (Outcome.CRASHED, reason)
    assert bench.progress == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def main(session:", "SyntaxError"),
        pytest.param(
            *("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
            marks=pytest.mark.full,
        ),
        ("def main(session): pass", "no function build_model"),
        pytest.param(*("def build_model(config): pass", "no function main"), marks=pytest.mark.full),
        ("def build_model(config): pass\ndef main(session): pass", "must return the trained model"),
        pytest.param(*("raise SystemExit(0)", "SystemExit"), marks=pytest.mark.full),
        ("import os; os._exit(0)", "ended without handing over"),
        pytest.param(*("import os; os.kill(os.getpid(), 11)", "ended without handing over"), marks=pytest.mark.full),
        (
            changed(BIGRAM, ("loss.backward()", "raise ValueError('at \\x1b[31mstep\\n one')")),
            "ValueError: at step one",
        ),
        (changed(BIGRAM, ("rows=32", "rows=10**9")), "between 1 and"),
        (
            changed(BIGRAM, ("for batch in session.batches(rows=32)", "for batch in []")),
            "handed over weights without training",
        ),
    ],
    ids=[
        "syntax",
        "import",
        "no-model",
        "no-main",
        "no-result",
        "exit",
        "os-exit",
        "signal",
        "raise",
        "rows",
        "unused",
    ],
)
def test_a_crash_says_what_happened(bench, source, reason):
    result = bench.run(source)
    assert result.outcome is Outcome.CRASHED, result
    assert reason in result.reason
    assert result.val_bpb is None


def test_a_model_that_cannot_be_rebuilt_crashes_in_the_exam(bench):
    grown = "    model.more = nn.Parameter(torch.zeros(3))\n    return model\n"
    result = bench.run(changed(BIGRAM, ("    return model\n", grown)))
    assert result.outcome is Outcome.CRASHED
    assert "in the exam: the weights do not fit build_model" in result.reason


@pytest.mark.full
def test_diverged_weights_are_a_crash_not_a_score(bench):
    result = bench.run(
        changed(BIGRAM, ("    return model\n", "    model.table.data.fill_(float('nan'))\n    return model\n"))
    )
    assert result.outcome is Outcome.CRASHED
    assert "not finite" in result.reason


def test_memory_beyond_the_limit_is_out_of_memory(bench):
    greedy = changed(BIGRAM, ("loss.backward()", "hoard = [torch.ones(2**28) for _ in range(64)]"))
    result = bench.run(greedy, limits={"memory_bytes": 2 << 30})
    assert result.outcome is Outcome.OUT_OF_MEMORY, result


def test_a_start_that_never_ends_times_out(bench):
    result = bench.run(
        changed(BIGRAM, ("    model = build", "    while True: pass\n    model = build")), limits={"startup_s": 3}
    )
    assert result.outcome is Outcome.TIMED_OUT
    assert "first batch within 3 s" in result.reason


def test_weights_that_never_come_time_out(bench):
    result = bench.run(changed(BIGRAM, ("    return model\n", "    while True: pass\n")), limits={"grace_s": 1})
    assert result.outcome is Outcome.TIMED_OUT
    assert "did not hand over its weights within 1 s" in result.reason


def test_training_on_after_the_budget_times_out(bench):
    late = """
    import time
    until = time.process_time() + 1.0
    while time.process_time() < until:
        loss = functional.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())
        loss.backward()
    return model
"""
    result = bench.run(changed(BIGRAM, ("    return model\n", late)))
    assert result.outcome is Outcome.TIMED_OUT
    assert "after its budget was spent" in result.reason


EARLY = """
    import time
    until = time.process_time() + {seconds}
    while time.process_time() < until:
        pass
    model = build"""


def test_a_budget_spent_before_the_clock_is_spent(bench):
    """Else a candidate could use the start-up to train on whatever text it finds on the machine."""
    result = bench.run(changed(BIGRAM, ("\n    model = build", EARLY.format(seconds=4))))
    assert (result.outcome, result.reason) == (Outcome.CRASHED, "spent its whole budget before its first batch")


@pytest.mark.full
def test_a_long_warm_up_is_charged_to_the_budget(bench):
    result = bench.run(changed(BIGRAM, ("\n    model = build", EARLY.format(seconds=1.0))), budget_s=2.0)
    assert result.outcome is Outcome.COMPLETED, result
    # Half of the budget was gone before the first batch, but for what ran until the parent had read its clock.
    assert result.batches[0][1] > 0.4
    assert result.train_s == pytest.approx(2.0, abs=0.2)


@contextmanager
def started_early(bench, source, **limits):
    """A trial that was told to start before its turn."""
    spec = replace(bench.spec, source=source, limits=replace(bench.limits, **limits))
    with Trial(spec, clock=time.monotonic, stop=bench.stop) as trial:
        trial.start_early()
        yield trial
    assert list(bench.spec.work_dir.iterdir()) == []
    assert processes_mentioning(str(bench.spec.work_dir)) == []


def test_starting_before_its_turn_gains_a_candidate_nothing(bench):
    """What it computes meanwhile is charged to its budget, though nobody waits for it yet."""
    with started_early(bench, changed(BIGRAM, ("\n    model = build", EARLY.format(seconds=4)))) as trial:
        result = trial.run()
    assert (result.outcome, result.reason) == (Outcome.CRASHED, "spent its whole budget before its first batch")


@pytest.mark.full
def test_a_trial_that_started_before_its_turn_is_like_any_other(bench):
    stages = []
    with started_early(bench, BIGRAM.encode()) as trial:
        result = trial.run(lambda progress: stages.append(progress.stage))
    assert result.outcome is Outcome.COMPLETED, result.log_tail
    assert result.train_s == pytest.approx(1.0, abs=0.2)
    assert list(dict.fromkeys(stages)) == ["training", "weights", "exam"]


def test_what_fails_before_its_turn_is_judged_in_its_turn(bench, monkeypatch):
    """A start-up beside an exam may fail for want of memory: that says nothing of the candidate."""
    begun = []
    warm_up = Stages.warm_up

    def failing_first(self):
        begun.append(self)
        if len(begun) == 1:
            raise TrialEnded(Outcome.OUT_OF_MEMORY, "beside an exam")
        warm_up(self)

    monkeypatch.setattr(Stages, "warm_up", failing_first)
    with started_early(bench, BIGRAM.encode()) as trial:
        result = trial.run()
    assert result.outcome is Outcome.COMPLETED, result.log_tail
    assert len(begun) == 2


def test_what_was_started_and_is_not_wanted_ends(bench, until):
    with started_early(bench, BIGRAM.encode()) as trial:
        until(lambda: processes_mentioning(str(bench.spec.work_dir)), timeout_s=60)
        trial.close()
        assert processes_mentioning(str(bench.spec.work_dir)) == []


CHATTER = """
    from trainer.wire import Frame, write_frame, read_frame
    while True:
        write_frame(session._write_fd, Frame({"kind": "want", "rows": 1}))
        read_frame(session._read_fd, 1 << 20)
"""
FLOOD = CHATTER.replace("        read_frame(session._read_fd, 1 << 20)\n", "")


@pytest.mark.parametrize("chatter", [CHATTER, pytest.param(FLOOD, marks=pytest.mark.full)], ids=["chatter", "flood"])
def test_talking_does_not_hide_the_clock(bench, chatter):
    """A child that never falls silent is ended on time all the same."""
    result = bench.run(changed(BIGRAM, ("    return model\n", chatter)), limits={"grace_s": 1})
    assert result.outcome in {Outcome.TIMED_OUT, Outcome.CRASHED}


def test_sleeping_spends_no_budget_but_not_for_ever(bench):
    sleepy = changed(
        BIGRAM, ("        loss.backward()", "        import time; time.sleep(60)\n        loss.backward()")
    )
    result = bench.run(sleepy, limits={"stretch": 2, "grace_s": 1})
    assert result.outcome is Outcome.TIMED_OUT
    assert "over its budget of 1 s" in result.reason


@pytest.mark.full
def test_more_threads_gain_no_time(bench):
    """The budget is processor time: two busy threads spend it twice as fast."""
    busy = changed(
        BIGRAM,
        (
            "    model = build",
            "    import threading\n    threading.Thread(target=spin, daemon=True).start()\n    model = build",
        ),
        ("def main", "def spin():\n    a = torch.ones(500, 500)\n    while True: a @ a\n\ndef main"),
    )
    result = bench.run(busy, budget_s=2.0)
    assert result.outcome in {Outcome.COMPLETED, Outcome.TIMED_OUT}, result.log_tail
    assert result.train_s < 2.8


def test_late_for_want_of_a_processor_is_a_disturbance(bench):
    """Five busy neighbours on one core: being late then says nothing of the candidate."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes cannot be held on one core here")
    allowed = os.sched_getaffinity(0)
    neighbours: list[subprocess.Popen[bytes]] = []
    os.sched_setaffinity(0, {min(allowed)})  # what is started from here on stays there
    try:
        neighbours = [  # each in a session of its own: the kernel may share a processor out by session
            subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(5)
        ]
        result = bench.run(BIGRAM, limits={"startup_s": 3})
    finally:
        os.sched_setaffinity(0, allowed)
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert result.outcome is Outcome.TIMED_OUT
    assert "other programs used the processor" in result.disturbed


@pytest.mark.parametrize("stage", ["starting", "training", "exam"])
def test_a_stop_ends_everything_at_once(bench, stage):
    asked_at: list[float] = []

    def stop_there(progress):
        if progress.stage == stage and not asked_at:
            asked_at.append(time.monotonic())
            bench.stop.set()

    result = bench.run(BIGRAM, budget_s=30.0 if stage == "training" else 1.0, on_progress=stop_there)
    assert result.outcome is Outcome.ABORTED
    assert time.monotonic() - asked_at[0] < 25  # its training alone takes 30 s, on a busy machine many more
    assert processes_mentioning(str(bench.spec.work_dir)) == []


@pytest.mark.full
def test_two_trials_at_once_in_threads_keep_apart(bench, tiny, tmp_path):
    (tmp_path / "other").mkdir()
    other = Bench(tiny, tmp_path / "other")
    results = {}

    def run(name, which):
        results[name] = which.run(BIGRAM, seed=7)

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", bench), ("b", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result.outcome for result in results.values()} == {Outcome.COMPLETED}


def test_a_log_is_bounded_and_harmless_and_a_printed_score_only_print(bench):
    loud = changed(
        BIGRAM,
        ("    session.report(loss.item())", "    print('\\x1b[2J' + 'x' * 100_000)"),
        ("    return model\n", "    print('---\\nval_bpb:          0.000001')\n    return model\n"),
    )
    result = bench.run(loud, limits={"log_tail_bytes": 1000})
    assert result.outcome is Outcome.COMPLETED
    assert len(result.log_tail) <= 1000
    assert "\x1b" not in result.log_tail
    assert "val_bpb:          0.000001" in result.log_tail
    assert result.val_bpb > 2


def test_faults_of_the_machine_are_errors_not_outcomes(bench, tmp_path):
    with pytest.raises(DataMissingError):
        bench.run(BIGRAM, data_dir=tmp_path / "nothing")
    with pytest.raises(WrongDataError):
        bench.run(BIGRAM, manifest_sha256="0" * 64)
