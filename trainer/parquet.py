"""Text of a parquet file, a few documents at a time however large it is. The only module that knows the format."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from trainer.errors import SourceDamagedError
from trainer.packages import needed

COLUMN: Final = "text"
BATCH_DOCUMENTS: Final = 1024  # upstream's row groups have as many: 3 MB of text


class ParquetText:
    """The documents of one file, in order."""

    def __init__(self, path: Path) -> None:
        """Raises SourceDamagedError: not a parquet file with a column of texts."""
        self._path = path
        self._arrow = needed("pyarrow")
        parquet = needed("pyarrow.parquet")
        try:
            self._file: Any = parquet.ParquetFile(path)
        except (self._arrow.ArrowException, OSError) as error:
            raise self._damaged("cannot be read as parquet") from error
        schema = self._file.schema_arrow
        if COLUMN not in schema.names or not _is_text(self._arrow, schema.field(COLUMN).type):
            self.close()
            raise self._damaged(f"has no column {COLUMN!r} of texts")

    @property
    def documents(self) -> int:
        return int(self._file.metadata.num_rows)

    def texts(self, first: int = 0, end: int | None = None) -> Iterator[list[str]]:
        """The documents from `first` to before `end`, in lists; empty ones are left out.

        Raises:
            SourceDamagedError: a part of the file cannot be read.
        """
        end = self.documents if end is None else end
        group, at = self._group_of(first)
        batches = self._batches(group)
        while at < end:
            texts = next(batches, None)
            if texts is None:
                return
            yield [text for text in islice(texts, max(0, first - at), end - at) if text]
            at += len(texts)

    def close(self) -> None:
        self._file.close()

    def _group_of(self, document: int) -> tuple[int, int]:
        """The row group that holds a document, and the first document of it."""
        at = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if document < at + rows:
                return group, at
            at += rows
        return self._file.num_row_groups, at

    def _batches(self, group: int) -> Iterator[list[str | None]]:
        groups = list(range(group, self._file.num_row_groups))
        if not groups:
            return
        try:
            for batch in self._file.iter_batches(
                BATCH_DOCUMENTS, row_groups=groups, columns=[COLUMN], use_threads=False
            ):
                yield batch.column(0).to_pylist()
        except (self._arrow.ArrowException, OSError, UnicodeError) as error:
            raise self._damaged("cannot be read to its end") from error

    def _damaged(self, problem: str) -> SourceDamagedError:
        return SourceDamagedError(
            f"{self._path.name} {problem}, though it is the file that the hub names: "
            "the data set has changed; choose another --revision"
        )


def _is_text(arrow: ModuleType, kind: Any) -> bool:
    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))
