"""The data set `climbmix`: web text in parquet shards from the Hugging Face hub, the ones upstream trains on.

The last shard is for validation; the first ones are trained on, as many as are asked for. Decides what is made from
which file and in which order; `hub.py` fetches, `parquet.py` reads, `shards.py` writes. Everything finished leaves a
receipt that says what it was made from, so that an interrupted preparation goes on where it was, a damaged file is made
again alone, and more shards keep the ones there are. Sources are removed once they are used up.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from trainer.answers import RemoteFile
from trainer.dataset import CLIMBMIX, MOST_SHARDS, Dataset
from trainer.downloads import AHEAD, Downloads
from trainer.errors import SourceDamagedError
from trainer.files import write_file
from trainer.folder import check_space
from trainer.hub import Hub
from trainer.manifest import MANIFEST_NAME, RESERVE_NAME, TOKENIZER_NAME, VAL_NAME, manifest_bytes
from trainer.meter import Meter
from trainer.packages import needed
from trainer.packing import pack_documents
from trainer.parquet import ParquetText
from trainer.progress import Report
from trainer.receipts import Receipts
from trainer.shards import Encoder, write_rows, write_shard
from trainer.tokenizer import Tokenizer, tokenizer_from_json, train_tokenizer

DOWNLOADS: Final = ".downloads"
BRANCH: Final = "main"  # whose commit is taken when none is asked for
_WRITTEN_PER_SOURCE_BYTE: Final = 1.5  # a shard of 100 MB holds 62M tokens of two bytes; and some air
_AIR_BYTES: Final = 32_000_000
_REPORT_DOCUMENTS: Final = 256

Documents = Iterator[np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """What is made of which text. Part of the data set's definition: another recipe makes other bytes.

    Repository, names of the shards, the last one for validation, 2048 tokens, 8192 ids, 10,240 rows (40 x 524,288
    tokens) to validate and 10 shards are upstream's. Upstream trains its tokenizer on whatever shards it finds.
    """

    repository: str = "karpathy/climbmix-400b-shuffle"
    val_shard: int = MOST_SHARDS
    shards: int = 10  # 600M tokens: a little more than an H100 reads in five minutes
    vocab_size: int = 8192
    sequence_len: int = 2048
    exam_rows: int = 2048  # 4.2M tokens of the val_rows: a second on an H100, a quarter of a minute on a small card
    val_rows: int = 10_240
    reserve_rows: int = 4096
    tokenizer_chars: int = 100_000_000  # of shard 0 alone, so that no other shard has a say; half a minute on one core
    tokenizer_document_chars: int = 10_000  # more of one document teaches little


@dataclass(frozen=True)
class _Job:
    """Files that are made from one source."""

    name: str
    source: RemoteFile
    made_from: Mapping[str, object]
    files: tuple[str, ...]
    make: Callable[[ParquetText, Encoder], None]


class ClimbMix:
    """One preparation of the data set in a folder that nobody else writes meanwhile."""

    def __init__(
        self, wanted: Dataset, data_dir: Path, hub: Hub, report: Report, *, recipe: Recipe | None = None
    ) -> None:
        self._recipe = recipe or Recipe()
        self._shards = wanted.shards or self._recipe.shards
        self._wanted_commit = wanted.commit
        self._data_dir = data_dir
        self._downloads_dir = data_dir / DOWNLOADS
        self._receipts = Receipts(data_dir)
        self._hub = hub
        self._meter = Meter(report)

    def build(self) -> None:
        """Make every file that is missing, the manifest last.

        Raises:
            TrainerError: as `prepare` says.
            OSError: the folder cannot be written.
        """
        for package in ("pyarrow", "requests", "urllib3"):
            needed(package)
        self._downloads_dir.mkdir(exist_ok=True)
        val, *train = self._sources()
        tokenizer, files = self._tokenizer(train[0])
        jobs = [self._held_out_job(val, tokenizer, files[TOKENIZER_NAME])]
        jobs += [self._shard_job(remote, files[TOKENIZER_NAME]) for remote in train]
        files |= self._do(jobs, tokenizer)
        write_file(self._data_dir / MANIFEST_NAME, self._manifest(tokenizer, [*train, val], files))
        shutil.rmtree(self._downloads_dir)

    # -----------------------------------------------------------------------------------------------------------------
    # what there is to fetch

    def _sources(self) -> list[RemoteFile]:
        """The validation shard and the training shards as the hub describes them, all of one commit."""
        self._meter.enter(f"asking {self._hub.name}")
        noted, known = self._receipts.sources(self._recipe.repository)
        commit = self._wanted_commit or noted
        if commit != noted:
            known = {}
        names = [_shard_name(number) for number in (self._recipe.val_shard, *range(self._shards))]
        try:
            for name in names:
                if name not in known:
                    known[name] = self._describe(commit or BRANCH, name)
                    commit = known[name].commit
        finally:
            if commit is not None:
                self._receipts.note_sources(self._recipe.repository, commit, known.values())
        sources = [known[name] for name in names]
        self._meter.expect(sources)
        return sources

    def _describe(self, revision: str, name: str) -> RemoteFile:
        return self._hub.describe(self._recipe.repository, revision, name, stop=threading.Event())

    def _downloads(self, files: Sequence[RemoteFile]) -> Downloads:
        return Downloads(self._hub, self._recipe.repository, files, self._downloads_dir, self._meter.fetched)

    def _check_space(self, jobs: Sequence[_Job]) -> None:
        sizes = sorted((job.source.size_bytes for job in jobs), reverse=True)
        here = sum(path.stat().st_size for path in self._downloads_dir.iterdir())
        fetched = max(0, sum(sizes[:AHEAD]) - here)
        check_space(self._data_dir, int(_WRITTEN_PER_SOURCE_BYTE * sum(sizes)) + fetched + _AIR_BYTES)

    # -----------------------------------------------------------------------------------------------------------------
    # what is made of it

    def _tokenizer(self, source: RemoteFile) -> tuple[Tokenizer, dict[str, str]]:
        """The tokenizer, and the digest of its file."""
        recipe, path = self._recipe, self._data_dir / TOKENIZER_NAME
        made_from = {
            "source": source.sha256,
            "vocab_size": recipe.vocab_size,
            "chars": [recipe.tokenizer_chars, recipe.tokenizer_document_chars],
        }
        files = self._receipts.find("tokenizer", made_from)
        if files is not None:
            return tokenizer_from_json(path.read_bytes()), files
        self._meter.enter("downloading the first shard")
        with self._downloads([source]) as downloads, closing(ParquetText(downloads.get(source))) as text:
            self._meter.enter("training the tokenizer")
            tokenizer = train_tokenizer(self._tokenizer_texts(text), recipe.vocab_size)
        write_file(path, tokenizer.to_json())
        return tokenizer, self._receipts.write("tokenizer", made_from, [TOKENIZER_NAME])

    def _tokenizer_texts(self, source: ParquetText) -> Iterator[str]:
        left = self._recipe.tokenizer_chars
        for texts in source.texts():
            for text in texts:
                part = text[: min(left, self._recipe.tokenizer_document_chars)]
                yield part
                left -= len(part)
                if left <= 0:
                    return

    def _do(self, jobs: Sequence[_Job], tokenizer: Tokenizer) -> dict[str, str]:
        """Make the files of all jobs, those that are sound excepted; the sha256 of each."""
        self._meter.enter("checking what is there")
        done = {job.name: self._receipts.find(job.name, job.made_from) for job in jobs}
        for job in jobs:
            if done[job.name] is not None:
                self._meter.worked(job.source, 1.0)
        pending = [job for job in jobs if done[job.name] is None]
        self._check_space(pending)
        with self._downloads([job.source for job in pending]) as downloads, Encoder(tokenizer, _cores()) as encoder:
            for number, job in enumerate(pending, start=1):
                self._meter.enter(f"downloading and tokenising, {number} of {len(pending)}")
                with closing(ParquetText(downloads.get(job.source))) as text:
                    job.make(text, encoder)
                done[job.name] = self._receipts.write(job.name, job.made_from, job.files)
                self._meter.worked(job.source, 1.0)
                downloads.drop(job.source)
        return {name: sha256 for files in done.values() if files is not None for name, sha256 in files.items()}

    def _shard_job(self, source: RemoteFile, tokenizer_sha256: str) -> _Job:
        stem = _stem(source)
        names = (f"{stem}.bin", f"{stem}.idx")

        def make(text: ParquetText, encoder: Encoder) -> None:
            documents = self._watched(encoder.documents(text.texts()), source, text.documents)
            if not write_shard(documents, *(self._data_dir / name for name in names)):
                raise SourceDamagedError(f"{source.path} holds no text: choose another --revision")

        return _Job(stem, source, {"source": source.sha256, "tokenizer": tokenizer_sha256}, names, make)

    def _held_out_job(self, source: RemoteFile, tokenizer: Tokenizer, tokenizer_sha256: str) -> _Job:
        """Rows to validate from the first three quarters of the last shard, the reserve from its last quarter."""
        recipe = self._recipe
        rows = {VAL_NAME: recipe.val_rows, RESERVE_NAME: recipe.reserve_rows}
        made_from = {"source": source.sha256, "tokenizer": tokenizer_sha256, "rows": rows, "of": recipe.sequence_len}

        def make(text: ParquetText, encoder: Encoder) -> None:
            border = text.documents * 3 // 4
            for name, first, end in ((VAL_NAME, 0, border), (RESERVE_NAME, border, text.documents)):
                documents = self._watched(encoder.documents(text.texts(first, end)), source, text.documents, first)
                packed = pack_documents(documents, recipe.sequence_len + 1, tokenizer.bos_id)
                if not write_rows(islice(packed, rows[name]), self._data_dir / name):
                    raise SourceDamagedError(f"{source.path} holds too little text: choose another --revision")

        return _Job("held_out", source, made_from, tuple(rows), make)

    def _watched(self, documents: Documents, source: RemoteFile, count: int, first: int = 0) -> Documents:
        """The documents, with a report now and then."""
        for number, document in enumerate(documents, start=first):
            if number % _REPORT_DOCUMENTS == 0:
                self._meter.worked(source, min(1.0, number / count))
            yield document

    def _manifest(self, tokenizer: Tokenizer, sources: Sequence[RemoteFile], files: Mapping[str, str]) -> bytes:
        recipe, commit = self._recipe, sources[0].commit
        val_rows = (self._data_dir / VAL_NAME).stat().st_size // (2 * (recipe.sequence_len + 1))
        return manifest_bytes(
            {
                "dataset": str(Dataset(CLIMBMIX, self._shards, commit)),
                "vocab_size": tokenizer.vocab_size,
                "bos_id": tokenizer.bos_id,
                "sequence_len": recipe.sequence_len,
                "exam_rows": min(recipe.exam_rows, val_rows),
                "train_shards": [_stem(source) for source in sources[:-1]],
                "files": files,
                "repository": recipe.repository,
                "commit": commit,
                "sources": {source.path: source.sha256 for source in sources},
            }
        )


def _shard_name(number: int) -> str:
    return f"shard_{number:05d}.parquet"


def _stem(source: RemoteFile) -> str:
    return source.path.removesuffix(".parquet").replace("shard_", "train_")


def _cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
