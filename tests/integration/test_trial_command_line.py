"""`python -m trainer` as a person or an agent uses it: real processes, exact exit statuses, one-line errors."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.integration.trial_bench import BIGRAM, PATCHES, SEED_SOURCE, changed, processes_mentioning
from tests.unit.test_trainer_record import RECORD
from trainer.cli import main
from trainer.main import stopped_by_signals
from trainer.prepare import prepare
from trainer.record import read_record, write_record

A_RECORD = replace(RECORD, manifest_sha256="a" * 64)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return prepare("tiny", tmp_path_factory.mktemp("tiny")).data_dir


@pytest.fixture
def temporary(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def trainer(*arguments: object, temporary: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(temporary / "home")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)


@contextmanager
def neighbours(count):
    """Programs that keep a processor busy each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(BIGRAM)
    return path


def test_run_prints_the_familiar_block_and_leaves_nothing(source, tiny, temporary):
    done = trainer("run", source, "--budget", 1, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "---"
    values = dict(re.split(r":\s+", line, maxsplit=1) for line in lines[1:])
    assert 2 < float(values["val_bpb"]) < 4
    assert float(values["training_seconds"]) == pytest.approx(1, abs=0.2)
    assert int(values["num_steps"]) > 0
    assert values["num_params_M"] == "1.049"
    assert values["peak_vram_mb"] == "0.0"
    assert "depth" not in values  # it has no blocks
    assert "training" in done.stderr
    assert list(temporary.iterdir()) == []


def test_weights_can_be_kept_and_examined_again_to_the_same_score(source, tiny, temporary, tmp_path):
    kept = tmp_path / "weights.safetensors"
    options = ("--budget", 1, "--data-dir", tiny, "--json", "--keep-weights", kept)
    first = json.loads(trainer("run", source, *options, temporary=temporary).stdout)["runs"][0]
    again = trainer("exam", source, kept, "--data-dir", tiny, "--json", temporary=temporary)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["runs"][0]["val_bpb"] == first["val_bpb"]


def test_a_recorded_run_is_replayed_to_the_same_weights(source, tiny, temporary, tmp_path):
    """On a machine that is busier than before: the record, not the clock, says what is served."""
    record = tmp_path / "record"
    done = trainer(
        "run", source, "--budget", 1, "--seed", 3, "--data-dir", tiny, "--record", record, temporary=temporary
    )
    assert done.returncode == 0, done.stderr
    with neighbours(2):
        again = trainer("replay", record, "--data-dir", tiny, "--json", temporary=temporary)
    assert again.returncode == 0, again.stderr
    content = json.loads(again.stdout)
    assert content["replay"]["val_bpb_difference"] == 0
    assert content["replay"]["same_weights"] is True
    assert content["replay"]["batches_served"] == content["replay"]["batches_recorded"] > 0
    assert content["runs"][0]["batches_sha256"] == hashlib.sha256(read_record(record).batches.to_bytes()).hexdigest()
    assert list(temporary.iterdir()) == []


@pytest.mark.full
def test_another_source_is_replayed_on_the_same_batches(source, tiny, temporary, tmp_path):
    record, other = tmp_path / "record", tmp_path / "other.py"
    other.write_bytes(changed(BIGRAM, ("lr = 300.0", "lr = 1.0")))
    trainer("run", source, "--budget", 1, "--data-dir", tiny, "--record", record, temporary=temporary)
    done = trainer("replay", record, other, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == 0, done.stderr
    assert "other weights" in done.stdout
    assert done.stdout.splitlines()[-1] == "may differ for: another source"
    other.write_bytes(changed(BIGRAM, ("rows=32", "rows=31")))
    done = trainer("replay", record, other, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == 1
    assert "asked for 31 rows as batch 1 where 32 were recorded" in done.stderr.splitlines()[-1]


@pytest.mark.full
def test_a_replay_that_stalls_is_ended(source, tiny, temporary, tmp_path):
    record, other = tmp_path / "record", tmp_path / "other.py"
    other.write_bytes(changed(BIGRAM, ("        loss.backward()", "        import time; time.sleep(60)\n        pass")))
    trainer("run", source, "--budget", 1, "--data-dir", tiny, "--record", record, temporary=temporary)
    done = trainer("replay", record, other, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == 1
    assert "TIMED_OUT: took more than 16 s over its budget of 1 s" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("repeat", [1, pytest.param(2, marks=pytest.mark.full)])
def test_runs_are_compared_in_pairs(repeat, source, tiny, temporary, tmp_path):
    other = tmp_path / "other.py"
    other.write_bytes(changed(BIGRAM, ("lr = 300.0", "lr = 1.0")))
    options = ("--budget", 1, "--data-dir", tiny, "--repeat", repeat, "--compare", other, "--json")
    done = trainer("run", source, *options, temporary=temporary)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [run["source"] for run in content["runs"]] == [str(source), str(other)] * repeat
    assert content["gain"]["mean"] > 0.1
    assert content["gain"]["pairs"] == repeat
    assert len(content["spread"]) == (2 if repeat > 1 else 0)


def test_a_crash_shows_the_log_and_fails(source, tiny, temporary):
    source.write_bytes(changed(BIGRAM, ("loss.backward()", "raise ValueError('wrong shape')")))
    done = trainer("run", source, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == 1
    assert "outcome:          CRASHED" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "error: CRASHED: ValueError: wrong shape"
    assert "Traceback" in done.stderr


def refused(capsys, *arguments):
    """The one line that a command with something wrong ends in; run in this process, for it comes to no trial."""
    with pytest.raises(SystemExit) as ended:
        main(args=[*map(str, arguments)], prog_name="python -m trainer")
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("error: ")
    return printed.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read {}: No such file"),
        (b"", "train.py is empty"),
        (b"\xff", "not UTF-8"),
        (b"#" * 300_000, "limit is 262144"),
        (b"#" * 5_000_000, "limit is 262144"),
        (b"x = 1", "{}: train.py has no function build_model: define build_model(config)"),
        ("folder", "is a directory"),
        ("forbidden", "cannot read {}: Permission denied"),
    ],
)
@pytest.mark.parametrize("command", ["run", "exam", "replay"])
def test_what_can_be_no_source_is_one_line(tmp_path, tiny, capsys, content, problem, command, monkeypatch):
    path = tmp_path / "train.py"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else b"x = 1")
    if content == "forbidden":
        if os.getuid() == 0:
            pytest.skip("nothing is forbidden to root")
        path.chmod(0)
    record = tmp_path / "record"
    if command == "replay":
        write_record(record, A_RECORD)
    arguments = {"run": [path], "exam": [path, path], "replay": [record, path]}[command]
    assert problem.format(path) in refused(capsys, command, *arguments, "--data-dir", tiny)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--budget", 0], "'0' is not a number of seconds from 0.5 to 86400: see `python -m trainer run --help`"),
        (["--budget", -3], "'-3' is not a number of seconds"),
        (["--budget", "nan"], "'nan' is not a number of seconds"),
        (["--budget", "inf"], "'inf' is not a number of seconds"),
        (["--budget", "1e9"], "'1e9' is not a number of seconds"),
        (["--budget", "ten"], "'ten' is not a number of seconds"),
        (["--seed", -1], "-1 is not in the range 0<=x<=9223372036854775807"),
        (["--seed", 2**63], "is not in the range"),
        (["--repeat", 0], "0 is not in the range 1<=x<=1000"),
        (["--threads", 0], "0 is not in the range"),
        (["--device", "tpu"], "'tpu' is no device: choose auto, cpu, mps, cuda or cuda:N"),
        (["--record", "r", "--repeat", 2], "--record keeps one run: leave out --repeat and --compare"),
        (["--record", "/nowhere/at/all/r"], "there is no folder /nowhere/at/all to write r in"),
        (["--keep-weights", "/nowhere/at/all/w"], "there is no folder /nowhere/at/all to write w in"),
        (["--keep-weights", "/"], "is a directory"),
        (["--compare", "/nowhere.py"], "cannot read /nowhere.py: No such file"),
        (["--dataset", "enwik8"], "'enwik8'"),
        (["--nonsense"], "No such option"),
    ],
)
def test_what_cannot_be_asked_is_one_line(source, tiny, capsys, arguments, problem):
    assert problem in refused(capsys, "run", source, "--data-dir", tiny, *arguments)


def test_without_a_command_or_a_source_the_help_is_named(capsys):
    assert "see `python -m trainer" in refused(capsys, "run")
    assert "see `python -m trainer" in refused(capsys, "fly")
    assert "Missing command: see `python -m trainer --help`" in refused(capsys)


def test_weights_that_are_not_there_are_one_line(source, tiny, capsys, tmp_path):
    said = refused(capsys, "exam", source, tmp_path / "none", "--data-dir", tiny)
    assert f"there is no file {tmp_path / 'none'}: keep one with `run --keep-weights`" in said


def test_what_is_no_record_is_one_line(source, tiny, capsys):
    said = refused(capsys, "replay", source, "--data-dir", tiny)
    assert said == (
        f"error: {source} is not the record of a trial (it does not begin like one): make one with "
        f"`python -m trainer run train.py --record {source}`\n"
    )


def test_a_record_of_other_data_is_not_replayed(tiny, tmp_path, capsys):
    write_record(tmp_path / "record", A_RECORD)
    assert "but aaaaaaaaaaaa is asked for" in refused(capsys, "replay", tmp_path / "record", "--data-dir", tiny)


def test_a_gpu_that_is_not_there_is_one_line(source, tiny, temporary):
    done = trainer("run", source, "--data-dir", tiny, "--device", "cuda:7", "--json", temporary=temporary)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: torch cannot use the device \(.*\): mend its driver, or choose .*\n", done.stderr)
    assert list(temporary.iterdir()) == []


def test_without_a_sandbox_nothing_runs_unless_waived(source, tiny, capsys, monkeypatch):
    monkeypatch.setattr("trainer.sandbox.linux.unavailable", lambda: "this kernel has no Landlock")
    monkeypatch.setattr("trainer.sandbox.macos.unavailable", lambda: "this kernel has no Landlock")
    said = refused(capsys, "run", source, "--data-dir", tiny, "--json")
    assert "this kernel has no Landlock" in said
    assert "--unsafe-no-sandbox" in said


def test_a_full_disk_is_one_line(source, tiny, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=10**9, used=10**9, free=1000))
    assert "0 MB free and 134 MB are needed: free some space" in refused(
        capsys, "run", source, "--data-dir", tiny, "--json"
    )


def test_no_place_for_temporary_files_is_one_line(source, tiny, capsys, monkeypatch):
    def full(**_options: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    assert "set TMPDIR to another place" in refused(capsys, "run", source, "--data-dir", tiny)


def test_a_folder_that_cannot_hold_data_is_one_line(source, capsys):
    assert refused(capsys, "run", source, "--data-dir", source).startswith("error: cannot write")


def test_prepare_alone_in_a_checkout_uses_the_home_folder(temporary, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(SEED_SOURCE.with_name("prepare.py"), checkout)
    environment = {**os.environ, "HOME": str(temporary)}
    done = subprocess.run(
        [sys.executable, "prepare.py"], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (temporary / ".cache" / "autoresearch-swarm" / "tiny" / "manifest.json").exists()
    assert re.search(r"manifest sha256 [0-9a-f]{64}", done.stdout)


@pytest.mark.parametrize(("handler", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_ends_the_trial_unless_it_was_told_to_outlive_that(handler, ends):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with stopped_by_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.is_set() is ends
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_ends_the_trial_and_leaves_nothing(source, tiny, temporary):
    command = [sys.executable, "-m", "trainer", "run", str(source), "--budget", "60", "--data-dir", str(tiny)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "training" in line:
                break
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert list(temporary.iterdir()) == []
    assert processes_mentioning(str(temporary)) == []


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("crash", 1, "CRASHED: KeyError"),
        ("peek", 1, "DISQUALIFIED"),
        pytest.param("no-effect", 0, "", marks=pytest.mark.full),
        pytest.param("improvement", 0, "", marks=pytest.mark.full),
    ],
)
def test_the_sample_patches_do_what_they_say(tiny, temporary, tmp_path, name, status, said):
    shutil.copy(SEED_SOURCE, tmp_path / "train.py")
    subprocess.run(["git", "apply", PATCHES / f"{name}.patch"], cwd=tmp_path, check=True)
    done = trainer("run", tmp_path / "train.py", "--budget", 6, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
