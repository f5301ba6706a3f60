"""Preparing `climbmix` from a hub on this machine: the same bytes whatever happens on the way, or a line that helps."""

import asyncio
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autoresearch.v1.challenge_pb2 import Challenge
from coordinator.errors import OperatorError
from coordinator.genesis import ask_trainer
from tests.integration.hub_server import (
    COMMIT,
    LocalHub,
    breaks_off,
    flipped,
    local_hub,
    parquet,
    silent,
    status,
)
from trainer import climbmix
from trainer.cli import main as trainer_cli
from trainer.climbmix import ClimbMix, Recipe
from trainer.corpus import chapters, read_books
from trainer.dataset import parse
from trainer.errors import (
    DownloadError,
    NoSpaceError,
    SettingError,
    SourceDamagedError,
    TrainerError,
)
from trainer.hub import Hub
from trainer.manifest import Manifest, load_manifest, manifest_bytes
from trainer.packages import REQUIREMENTS
from trainer.prepare import prepare
from trainer.progress import PrepareProgress
from volunteer.trials import LocalTrials

VAL = "shard_06542.parquet"
RECIPE = Recipe(
    vocab_size=512, sequence_len=64, exam_rows=8, val_rows=40, reserve_rows=20, tokenizer_chars=50_000, shards=3
)


def documents(count: int, first: int) -> list[str]:
    """Pieces of real text with lengths that vary as those of web pages do."""
    text = "".join(chapters(read_books()["emma"]))
    lengths = [200 + (first + number) * 7919 % 1500 for number in range(count)]
    starts = np.cumsum([first * 900, *lengths])
    return [text[start : start + length] for start, length in zip(starts.tolist(), lengths, strict=False)]


SHARDS = {
    "shard_00000.parquet": documents(90, 0),
    "shard_00001.parquet": documents(70, 90),
    "shard_00002.parquet": documents(50, 160),
    "shard_00003.parquet": documents(50, 210),
    VAL: documents(200, 300),
}
FILES = {name: parquet(texts) for name, texts in SHARDS.items()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.setattr(climbmix, "Recipe", lambda: RECIPE)
    with local_hub(dict(FILES)) as running:
        yield running


def hub_of(server: LocalHub) -> Hub:
    return Hub(server.endpoint, clock=time.monotonic, first_pause_s=0.01, timeout_s=(5, 5))


def prepared(
    server: LocalHub, folder: Path, name: str = "climbmix", seen: list[PrepareProgress] | None = None
) -> Manifest:
    report = (lambda _progress: None) if seen is None else seen.append
    return prepare(name, folder, hub=hub_of(server), on_progress=report)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One undisturbed preparation, to compare with."""
    folder = tmp_path_factory.mktemp("whole")
    with local_hub(dict(FILES)) as server:
        (folder / "data").mkdir()
        ClimbMix(parse("climbmix"), folder / "data", hub_of(server), lambda _progress: None, recipe=RECIPE).build()
    return folder / "data"


def digest(folder: Path) -> str:
    return load_manifest(folder).sha256


def test_it_is_prepared_and_nothing_else_is_left(server: LocalHub, tmp_path: Path, whole: Path):
    manifest = prepared(server, tmp_path)
    assert manifest.sha256 == digest(whole)
    assert manifest.dataset == f"climbmix-3@{COMMIT}"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*manifest.files, "manifest.json", ".lock", ".receipts"}
    assert manifest.vocab_size == 512


def test_the_tokens_are_the_text(whole: Path):
    manifest = load_manifest(whole)
    encoding = manifest.tokenizer().encoding()
    for shard, name in zip(manifest.shards(), list(SHARDS)[:3], strict=True):
        bounds = shard.offsets.tolist()
        texts = [encoding.decode(shard.tokens[first:end].tolist()) for first, end in pairwise(bounds)]
        assert texts == SHARDS[name]


def test_validation_and_reserve_show_other_documents_of_the_last_shard_from_their_beginnings(whole: Path):
    manifest = load_manifest(whole)
    encoding = manifest.tokenizer().encoding()

    def pieces(rows: np.ndarray) -> list[str]:
        assert (rows[:, 0] == manifest.bos_id).all()
        flat = rows.ravel()
        cuts = np.flatnonzero(flat == manifest.bos_id)
        parts = [flat[first + 1 : end].tolist() for first, end in zip(cuts, [*cuts[1:], len(flat)], strict=True)]
        return [encoding.decode(part) for part in parts if part]

    border = len(SHARDS[VAL]) * 3 // 4
    rows = {"val": manifest._rows("val.bin"), "reserve": manifest.reserve_rows()}
    assert {name: len(each) for name, each in rows.items()} == {"val": 40, "reserve": 20}
    assert manifest.val_rows().shape == (8, 65)
    for name, texts in (("val", SHARDS[VAL][:border]), ("reserve", SHARDS[VAL][border:])):
        beginnings = pieces(rows[name])
        assert all(any(text.startswith(piece) for text in texts) for piece in beginnings)


def test_the_tokenizer_does_not_depend_on_how_many_shards_there_are(server: LocalHub, tmp_path: Path, whole: Path):
    manifest = prepared(server, tmp_path, "climbmix-1")
    assert manifest.files["tokenizer.json"] == load_manifest(whole).files["tokenizer.json"]
    assert manifest.train_shards == ("train_00000",)


@pytest.mark.parametrize("cores", [1, 3])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    server: LocalHub, tmp_path: Path, whole: Path, cores: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(climbmix, "_cores", lambda: cores)
    assert prepared(server, tmp_path).sha256 == digest(whole)


def test_the_hub_is_not_asked_when_all_is_there(server: LocalHub, tmp_path: Path, whole: Path):
    shutil.copytree(whole, tmp_path / "data")
    for name in ("climbmix", "climbmix-3", f"climbmix-3@{COMMIT}"):
        prepared(server, tmp_path / "data", name)
    assert server.asked == []


def test_more_shards_keep_the_ones_that_are_there(server: LocalHub, tmp_path: Path, whole: Path):
    shutil.copytree(whole, tmp_path / "data")
    manifest = prepared(server, tmp_path / "data", "climbmix-4")
    assert server.fetched() == ["shard_00003.parquet"]
    assert len(manifest.shards()) == 4


def test_fewer_shards_are_there_already(server: LocalHub, tmp_path: Path, whole: Path):
    shutil.copytree(whole, tmp_path / "data")
    assert prepared(server, tmp_path / "data", "climbmix-2").train_shards == ("train_00000", "train_00001")
    assert prepared(server, tmp_path / "data", "climbmix-3").sha256 == digest(whole)
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("train_00001.bin", "shard_00001.parquet"),
        ("train_00002.idx", "shard_00002.parquet"),
        ("reserve.bin", VAL),
        ("tokenizer.json", "shard_00000.parquet"),
    ],
)
def test_a_damaged_file_is_made_again_from_its_own_source(
    server: LocalHub, tmp_path: Path, whole: Path, name: str, source: str
):
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    content = bytearray((folder / name).read_bytes())
    content[7] ^= 1
    (folder / name).write_bytes(content)
    assert prepared(server, folder).sha256 == digest(whole)
    assert server.fetched() == [source]


def test_another_data_set_in_the_folder_is_replaced(server: LocalHub, tmp_path: Path, whole: Path):
    names = ("tokenizer.json", "val.bin", "reserve.bin", "train_000.bin", "train_000.idx")
    fields = {"vocab_size": 1024, "bos_id": 1023, "sequence_len": 128, "exam_rows": 256, "train_shards": ["train_000"]}
    (tmp_path / "manifest.json").write_bytes(
        manifest_bytes({"dataset": "tiny", **fields, "files": dict.fromkeys(names, "0" * 64)})
    )
    (tmp_path / "train_000.bin").write_bytes(b"novels")
    (tmp_path / "mine.txt").write_text("not the swarm's")
    assert prepared(server, tmp_path).sha256 == digest(whole)
    assert not (tmp_path / "train_000.bin").exists()
    assert (tmp_path / "mine.txt").exists()


def test_a_commit_is_kept_through_an_interruption_though_the_branch_moves(
    server: LocalHub, tmp_path: Path, whole: Path
):
    server.fault("content", "GET", "shard_00002.parquet", *[status(404)])
    with pytest.raises(DownloadError):
        prepared(server, tmp_path)
    asked = len(server.asked)
    assert prepared(server, tmp_path).sha256 == digest(whole)
    assert not [path for role, method, path, _ in server.asked[asked:] if role == "hub" and "/main/" in path]


def test_all_files_are_asked_for_at_the_commit_that_was_found_first(server: LocalHub, tmp_path: Path):
    prepared(server, tmp_path)
    at = [path.split("/")[-2] for role, _, path, _ in server.asked if role == "hub"]
    assert at[0] == "main"
    assert set(at[1:]) == {COMMIT}


def test_a_name_with_a_commit_asks_for_that(server: LocalHub, tmp_path: Path):
    server.commit = "f" * 40
    assert prepared(server, tmp_path, f"climbmix-1@{'f' * 40}").dataset == f"climbmix-1@{'f' * 40}"
    with pytest.raises(DownloadError, match=r"no such revision.*--revision"):
        prepared(server, tmp_path, f"climbmix-1@{COMMIT}")


def test_faults_on_the_way_change_nothing(server: LocalHub, tmp_path: Path, whole: Path):
    server.fault("content", "GET", "shard_00000.parquet", breaks_off(100), flipped)
    server.fault("content", "GET", "shard_00001.parquet", status(503), breaks_off(5000))
    server.fault("hub", "HEAD", VAL, status(500))
    assert prepared(server, tmp_path).sha256 == digest(whole)


def test_progress_rises_to_the_end_and_names_the_stages(server: LocalHub, tmp_path: Path):
    seen: list[PrepareProgress] = []
    prepared(server, tmp_path, seen=seen)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    stages = " ".join(dict.fromkeys(progress.stage for progress in seen))
    assert all(word in stages for word in ("asking 127.0.0.1", "downloading", "tokenizer", "tokenising", "ready"))
    assert any("MB are here" in progress.detail for progress in seen)


def failure(server: LocalHub, folder: Path, kind: type[TrainerError], name: str = "climbmix") -> str:
    with pytest.raises(kind) as caught:
        prepared(server, folder, name)
    assert "\n" not in str(caught.value)
    assert not (folder / "manifest.json").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("shard", "content", "words"),
    [
        (VAL, b"PAR1 but nothing more of a parquet file", "cannot be read as parquet"),
        ("shard_00001.parquet", parquet(["text"], column="body"), "no column 'text'"),
        ("shard_00001.parquet", parquet([None, "", None]), "holds no text"),
        (VAL, parquet(["too short"]), "too little text"),
        (
            "shard_00001.parquet",
            FILES["shard_00001.parquet"][:2000] + bytes(500) + FILES["shard_00001.parquet"][2500:],
            "",
        ),
    ],
)
def test_a_source_of_another_kind_is_one_line(server: LocalHub, tmp_path: Path, shard: str, content: bytes, words: str):
    server.files[shard] = content
    said = failure(server, tmp_path, SourceDamagedError)
    assert shard in said
    assert words in said
    assert "--revision" in said


def test_a_shard_that_is_not_there_is_one_line(server: LocalHub, tmp_path: Path):
    assert "shard_00004.parquet is not at" in failure(server, tmp_path, DownloadError, "climbmix-5")


def test_a_full_disk_is_noticed_before(server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    assert "MB are needed" in failure(server, tmp_path, NoSpaceError)
    assert "shard_00001.parquet" not in server.fetched()


@pytest.mark.parametrize("place", ["trainer.transfer.os.fsync", "trainer.files.os.fsync"])
def test_a_disk_that_fills_up_on_the_way_is_one_line_and_it_goes_on_later(
    server: LocalHub, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    """One place writes downloads, the other what is made of them."""
    flushes = []

    def full_in_the_middle(_handle: int) -> None:
        flushes.append(1)
        if len(flushes) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(place, full_in_the_middle)
        assert "is full" in failure(server, tmp_path, NoSpaceError)
    assert prepared(server, tmp_path).sha256 == digest(whole)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("climbmix-0", "1 to 6542"),
        ("climbmix-6543", "1 to 6542"),
        ("climbmix-3@main", "no data set"),
        ("Climbmix", "choose"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(server: LocalHub, tmp_path: Path, name: str, words: str):
    assert words in failure(server, tmp_path, TrainerError, name)
    assert server.asked == []


def test_names_and_flags_must_agree():
    assert str(parse("climbmix").narrowed(20, COMMIT)) == f"climbmix-20@{COMMIT}"
    assert str(parse("climbmix-20").narrowed(20, None)) == "climbmix-20"
    for name, shards, commit in (
        ("tiny", 3, None),
        ("climbmix-20", 10, None),
        ("climbmix", 0, None),
        ("climbmix", 1, "main"),
    ):
        with pytest.raises(SettingError):
            parse(name).narrowed(shards, commit)


# ---------------------------------------------------------------------------------------------------------------------
# as a person uses it: the real recipe, a real process


def trainer(*arguments: object, endpoint: str, home: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": endpoint, "HOME": str(home)}
    command = [sys.executable, "-m", "trainer", "prepare", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def big() -> dict[str, bytes]:
    """Enough text for rows of 2048 tokens."""
    text = "".join(chapters(read_books()["mansfieldpark"]))
    pages = [text[at : at + 2500] for at in range(0, len(text), 2500)]
    return {"shard_00000.parquet": parquet(pages[:150]), VAL: parquet(pages[150:])}


def test_the_command_prepares_is_killed_anywhere_and_goes_on(big: dict[str, bytes], tmp_path: Path, until):
    with local_hub(big) as server:
        options = ("--dataset", "climbmix", "--shards", 1, "--data-dir", tmp_path / "data")
        server.fault("content", "GET", "shard_00000.parquet", silent)
        first = trainer(*options, endpoint=server.endpoint, home=tmp_path)
        until(lambda: any(path.stat().st_size for path in tmp_path.glob("data/.downloads/.partial-*")), timeout_s=60)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        server.fault("content", "GET", VAL, silent)
        second = trainer(*options, endpoint=server.endpoint, home=tmp_path)
        until(
            lambda: (tmp_path / "data/tokenizer.json").exists() and VAL in server.fetched(),
            timeout_s=120,
        )
        second.send_signal(signal.SIGINT)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 130
        assert said.splitlines()[-1] == "error: interrupted: run the same command to go on"
        assert not (tmp_path / "data/manifest.json").exists()
        third = trainer(*options, endpoint=server.endpoint, home=tmp_path)
        out, err = third.communicate(timeout=120)
    assert third.returncode == 0, err
    assert "data: " in err
    manifest = load_manifest(tmp_path / "data")
    assert out.splitlines()[1:] == [f"dataset climbmix-1@{COMMIT}", f"manifest sha256 {manifest.sha256}"]
    assert (manifest.vocab_size, manifest.row_tokens) == (8192, 2049)
    assert len(manifest.val_rows()) > 10
    assert not (tmp_path / "data/.downloads").exists()
    assert any(headers.get("range") for _, _, _, headers in server.asked)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "climbmix"), "HF_ENDPOINT is 'nowhere'"),
        (("--dataset", "huge"), "choose one of tiny, climbmix"),
        (("--shards", "5"), "has no shards"),
        (("--dataset", "climbmix", "--shards", "6543"), "1 to 6542"),
        (("--dataset", "climbmix", "--revision", "main"), "40 hexadecimal digits"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str):
    command = ["prepare", *arguments, "--data-dir", str(tmp_path / "data")]
    done = CliRunner().invoke(trainer_cli, command, env={"HF_ENDPOINT": "nowhere"})
    assert done.exit_code == 2
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    assert words in done.stderr


def test_a_missing_package_is_named_with_the_command_that_brings_it(tmp_path: Path):
    script = (
        "import sys; sys.modules['pyarrow'] = None; from trainer.cli import main;"
        f"main(['prepare', '--dataset', 'climbmix', '--data-dir', {str(tmp_path / 'data')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pyarrow: run `python -m pip install 'pyarrow" in done.stderr


def test_the_extra_of_the_package_is_what_the_error_names():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert tuple(project["optional-dependencies"]["climbmix"]) == REQUIREMENTS


def test_a_swarm_pins_what_its_operator_prepared_and_a_volunteer_prepares_the_same(
    big: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    with local_hub(big) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        asked = asyncio.run(ask_trainer("climbmix-1", tmp_path / "operator", said.append))
        assert asked.dataset == f"climbmix-1@{COMMIT}"
        trials = LocalTrials(
            data_dir=tmp_path / "volunteer",
            scratch=tmp_path / "scratch",
            device="cpu",
            threads=1,
            sandboxed=False,
            clock=time.monotonic,
            wall_ms=lambda: 0,
        )
        challenge = Challenge(
            dataset=asked.dataset, manifest_sha256=asked.manifest_sha256, trial_code_sha256=asked.trial_code_sha256
        )
        stages: list[str] = []
        trials.ready(challenge, lambda stage, _share: stages.append(stage))
    assert said
    assert all(line.startswith("preparing climbmix-1: ") for line in said)
    assert "ready" in stages
    assert load_manifest(tmp_path / "volunteer").sha256 == asked.manifest_sha256


def test_a_coordinator_that_prepares_its_data_ends_when_it_is_told_to(tmp_path: Path):
    """And its trainer with it, which would go on for hours."""
    with socket.create_server(("127.0.0.1", 0)) as hub:  # it takes calls and never answers
        hub.settimeout(120)
        environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "no_proxy": "127.0.0.1"}
        command = ["serve", "--data", str(tmp_path / "swarm"), "--listen", "127.0.0.1:0", "--dataset", "climbmix-1"]
        with subprocess.Popen([sys.executable, "-m", "coordinator", *command], env=environment) as coordinator:
            asked, _ = hub.accept()
            coordinator.send_signal(signal.SIGTERM)
            assert coordinator.wait(60) == 0
        with asked:
            asked.settimeout(60)
            while asked.recv(4096):  # until nobody is there any more
                pass


def test_an_operator_reads_why_a_data_set_cannot_be_prepared(tmp_path: Path):
    with pytest.raises(OperatorError, match=r"climbmix-9999.*1 to 6542"):
        asyncio.run(ask_trainer("climbmix-9999", tmp_path / "data"))
    assert not (tmp_path / "data").exists()
