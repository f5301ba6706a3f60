"""Preparing data: the same bytes everywhere, whole or not at all, damage noticed."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer import corpus
from trainer.errors import (
    DataDamagedError,
    DataMissingError,
    MachineError,
    TrainerError,
    UnknownDatasetError,
    WrongDataError,
)
from trainer.manifest import load_manifest
from trainer.prepare import PrepareProgress, prepare
from trainer.tokenizer import tokenizer_from_json, train_tokenizer

# Changes only together with the data set: then every challenge that pins it is another challenge.
TINY_MANIFEST_SHA256 = "15aba7998ed492b39e05d34c7307bf0f6d271de7485884b71ff8094396887ed7"

OUTSIDE = b"""{"format": 1, "dataset": "x", "vocab_size": 1, "bos_id": 0, "sequence_len": 1, "exam_rows": 1,
    "train_shards": [], "files": {"../outside": "0"}}"""

BOOKS_SHA256 = {
    "emma": "7c67b5985c6d0de1efaeb5d342d52cb82c38083c40e2295129e30e87ee690ebe",
    "mansfieldpark": "98bc90519cdf4ef663ad7de2734bb529435ef24f7abbde6bb1a50898871dafe9",
    "northangerabbey": "51f91bbe0517db8e65cff009b097ce0a1836124c4e0532ac19e6c0cad982abed",
    "persuasion": "8061549557aebd2fd6e353d18d9197cb707029112bd52d4d8b174583a925848a",
    "prideprejudice": "dfc684d4f857fa938268f9ab9c5567b64bd0691251eca959644adeabe6287a4d",
    "sensesensibility": "105e1651fe93bed7130078578efd31e0c557d68667ba672ddc876f735b30fe09",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    prepare("tiny", folder)
    return folder


@pytest.fixture
def own_tiny(tiny: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def test_the_books_are_the_ones_whose_digests_are_published():
    books = corpus.read_books()
    assert {name: hashlib.sha256(book.encode()).hexdigest() for name, book in books.items()} == BOOKS_SHA256


def test_a_damaged_archive_is_refused(tmp_path: Path):
    damaged = tmp_path / "austen.txt.xz"
    content = bytearray(corpus.ARCHIVE.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataDamagedError, match="reinstall"):
        corpus.read_books(damaged)


def test_chapters_keep_the_whole_text_but_the_title_page():
    book = corpus.read_books()["persuasion"]
    parts = corpus.chapters(book)
    assert len(parts) == 24
    assert book.endswith("".join(parts))


def test_tiny_has_the_pinned_manifest(tiny: Path):
    assert load_manifest(tiny).sha256 == TINY_MANIFEST_SHA256


def test_preparing_again_changes_nothing(own_tiny: Path):
    before = {path.name: path.stat().st_mtime_ns for path in own_tiny.iterdir()}
    prepare("tiny", own_tiny)
    assert {path.name: path.stat().st_mtime_ns for path in own_tiny.iterdir()} == before


def test_progress_rises_to_the_end(tmp_path: Path):
    seen: list[PrepareProgress] = []
    prepare("tiny", tmp_path, on_progress=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("name", ["train_000.bin", "val.bin", "tokenizer.json"])
def test_a_damaged_file_is_noticed_and_rebuilt(own_tiny: Path, name: str):
    content = bytearray((own_tiny / name).read_bytes())
    content[100] ^= 1
    (own_tiny / name).write_bytes(content)
    with pytest.raises(DataDamagedError, match=name):
        load_manifest(own_tiny)
    prepare("tiny", own_tiny)
    assert load_manifest(own_tiny).sha256 == TINY_MANIFEST_SHA256


def test_a_truncated_or_missing_file_is_rebuilt(own_tiny: Path):
    (own_tiny / "val.bin").write_bytes(b"")
    (own_tiny / "reserve.bin").unlink()
    prepare("tiny", own_tiny)
    assert load_manifest(own_tiny).val_rows().shape == (256, 129)


def test_a_missing_file_says_how_to_get_it(own_tiny: Path):
    (own_tiny / "val.bin").unlink()
    with pytest.raises(DataMissingError, match=r"val\.bin.*trainer prepare"):
        load_manifest(own_tiny)


def test_no_data_at_all_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(DataMissingError, match="trainer prepare"):
        load_manifest(tmp_path)


def test_other_data_than_pinned_is_refused(tiny: Path):
    with pytest.raises(WrongDataError):
        load_manifest(tiny, "0" * 64)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"format": 2}',
        b"[" * 100_000,
        OUTSIDE,
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DataDamagedError):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 65_536),
        ("vocab_size", 1),
        ("bos_id", 1024),
        ("sequence_len", 0),
        ("exam_rows", 0),
        ("train_shards", []),
    ],
)
def test_a_manifest_with_impossible_numbers_is_refused(own_tiny: Path, name: str, value: object):
    fields = json.loads((own_tiny / "manifest.json").read_bytes())
    (own_tiny / "manifest.json").write_text(json.dumps(fields | {name: value}))
    with pytest.raises(DataDamagedError, match="numbers"):
        load_manifest(own_tiny)


@pytest.mark.parametrize("vocab_size", [256, 65_536, 100_000])
def test_a_vocabulary_that_cannot_be_stored_is_refused(vocab_size: int):
    with pytest.raises(ValueError, match="uint16"):
        train_tokenizer(["text"], vocab_size)


def test_an_unknown_data_set_is_named_with_the_known_ones(tmp_path: Path):
    with pytest.raises(UnknownDatasetError, match="tiny"):
        prepare("huge", tmp_path)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MachineError, match="--data-dir"):
        prepare("tiny", tmp_path / "file" / "data")


def test_every_error_is_one_line_with_one_base(tmp_path: Path):
    with pytest.raises(TrainerError) as caught:
        load_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_begin_with_bos_and_hold_consecutive_text(tiny: Path):
    manifest = load_manifest(tiny)
    rows = manifest.val_rows()
    assert (rows[:, 0] == manifest.bos_id).all()
    assert (rows[:, 1:] != manifest.bos_id).all()
    text = corpus.read_books()["persuasion"]
    encoding = manifest.tokenizer().encoding()
    assert all(encoding.decode(row[1:].tolist()) in text for row in rows[::50])


def test_validation_reserve_and_training_share_no_book(tiny: Path):
    manifest = load_manifest(tiny)
    encoding = manifest.tokenizer().encoding()
    reserve = encoding.decode(manifest.reserve_rows()[10][1:].tolist())
    assert reserve in corpus.read_books()["northangerabbey"]
    train = encoding.decode(np.asarray(manifest.shards()[0].tokens).tolist())
    assert "Sir Walter Elliot" not in train
    assert reserve not in train


def test_a_token_is_as_long_as_its_bytes(tiny: Path):
    """Decoding first would count three bytes for a lone byte of cut-off UTF-8."""
    tokenizer = load_manifest(tiny).tokenizer()
    lengths = tokenizer.byte_lengths()
    assert lengths[tokenizer.tokens.index(b"\xc2")] == 1
    assert lengths[tokenizer.bos_id] == 0
    text = "It is a truth universally acknowledged, £20,000."
    assert lengths[tokenizer.encoding().encode_ordinary(text)].sum() == len(text.encode())


def test_a_tokenizer_survives_its_file_and_training_repeats_itself():
    text = ["the cat sat on the mat and the dog sat on the log " * 50]
    tokenizer = train_tokenizer(text, 300)
    assert tokenizer_from_json(tokenizer.to_json()) == tokenizer == train_tokenizer(text, 300)
    assert tokenizer.vocab_size <= 300


@pytest.mark.parametrize("content", [b"", b"{}", b'{"pattern": "", "tokens": ["!"]}', b'{"pattern": "", "tokens": []}'])
def test_a_tokenizer_file_that_is_none_is_refused(content: bytes):
    with pytest.raises(ValueError):
        tokenizer_from_json(content)
