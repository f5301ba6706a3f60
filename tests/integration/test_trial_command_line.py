"""`python -m trainer` as a person or an agent uses it: real processes, exact exit statuses, one-line errors."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.trial_bench import BIGRAM, PATCHES, SEED_SOURCE, changed, processes_mentioning
from trainer.prepare import prepare


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
    assert "training" in done.stderr
    assert list(temporary.iterdir()) == []


def test_weights_can_be_kept_and_examined_again_to_the_same_score(source, tiny, temporary, tmp_path):
    kept = tmp_path / "weights.safetensors"
    options = ("--budget", 1, "--data-dir", tiny, "--json", "--keep-weights", kept)
    first = json.loads(trainer("run", source, *options, temporary=temporary).stdout)["runs"][0]
    again = trainer("exam", source, kept, "--data-dir", tiny, "--json", temporary=temporary)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["runs"][0]["val_bpb"] == first["val_bpb"]


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


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file"), (b"", "empty"), (b"\xff", "not UTF-8"), (b"#" * 300_000, "limit is 262144")],
)
def test_what_can_be_no_source_is_one_line(tmp_path, tiny, temporary, content, problem):
    path = tmp_path / "train.py"
    if content is not None:
        path.write_bytes(content)
    done = trainer("run", path, "--data-dir", tiny, temporary=temporary)
    assert done.returncode == 2
    assert problem in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(temporary.iterdir()) == []


def test_a_folder_that_cannot_hold_data_is_one_line(source, temporary, tmp_path):
    done = trainer("run", source, "--data-dir", source, temporary=temporary)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write")
    assert len(done.stderr.splitlines()) == 1


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
