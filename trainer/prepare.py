"""Prepares a data set once: tokenizer, tokenised shards, validation rows, and the manifest that pins them all.

    python prepare.py [--dataset NAME] [--data-dir DIR]          the same as `python -m trainer prepare`

Fixed: a patch cannot change it, and a machine whose prepared data differs from the challenge's manifest gets no work.
The same input gives the same bytes on every machine. How each data set is made is told in `tiny.py` and `climbmix.py`;
verifying and reading is `manifest.py`'s business.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer import settings
from trainer.climbmix import ClimbMix
from trainer.dataset import FORMS, TINY, Dataset, parse
from trainer.errors import DataDamagedError, DataMissingError, MachineError, NoSpaceError, TrainerError
from trainer.files import write_file
from trainer.folder import check_space
from trainer.hub import Hub
from trainer.manifest import Manifest, load_manifest, read_manifest
from trainer.progress import PrepareProgress, Report
from trainer.tiny import NEEDED_BYTES, tiny_files

_CHECKING = "checking what is there"
_LONG_CHECK_BYTES = 100_000_000

__all__ = ["FORMS", "Manifest", "PrepareProgress", "load_manifest", "prepare"]


def prepare(
    dataset: str | Dataset,
    data_dir: Path,
    *,
    on_progress: Report = lambda _progress: None,
    hub: Hub | None = None,
) -> Manifest:
    """Make `data_dir` hold the prepared data set, and return its verified manifest.

    Does nothing when it is there and sound; builds what is missing or damaged otherwise. Every file appears whole or
    not at all and the manifest comes last, so that an interrupted run is simply run again, and goes on where it was.
    Two runs at once take turns. `on_progress` may be called from several threads, one at a time. `hub` is where
    downloads come from; without one, the environment decides.

    Raises:
        UnknownDatasetError: no such data set.
        SettingError: nor so much of it, or the environment names no usable hub.
        DownloadError: the hub does not give what is asked for.
        SourceDamagedError: it gives something else than this data set.
        MissingPackageError: this data set needs a package that is not installed.
        NoSpaceError: the disk is too full.
        MachineError: the folder cannot be written.
        DataDamagedError: the shipped text is not what it should be.
    """
    wanted = parse(dataset) if isinstance(dataset, str) else dataset
    try:
        with _locked(data_dir, on_progress):
            return _prepare_locked(wanted, data_dir, on_progress, hub)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(data_dir, None, shutil.disk_usage(data_dir).free) from error
        raise MachineError(
            f"cannot write {data_dir} ({error.strerror or error}): choose another folder with --data-dir"
        ) from error


def _prepare_locked(wanted: Dataset, data_dir: Path, report: Report, hub: Hub | None) -> Manifest:
    report(PrepareProgress(_CHECKING, 0.0))
    with contextlib.suppress(DataMissingError, DataDamagedError):  # built below; files that are still right are kept
        manifest = load_manifest(data_dir, on_check=_told(report, _CHECKING, 0.0))
        if _meets(manifest, wanted):
            report(PrepareProgress("ready", 1.0))
            return manifest
    before = _other_files(data_dir, wanted)
    if wanted.family == TINY:
        check_space(data_dir, NEEDED_BYTES)
        for name, content in tiny_files(report):
            write_file(data_dir / name, content)
    else:
        ClimbMix(wanted, data_dir, hub or settings.hub(), report).build()
    manifest = load_manifest(data_dir, on_check=_told(report, "checking what was made", 0.99))
    for name in before - manifest.files.keys():
        (data_dir / name).unlink(missing_ok=True)
    report(PrepareProgress("ready", 1.0))
    return manifest


def _told(report: Report, stage: str, begins_at: float) -> Callable[[int, int], None]:
    """Says how far a check is, the last part of a whole from `begins_at` on; in figures where it takes a while."""

    def on_check(done_bytes: int, all_bytes: int) -> None:
        said = f"{done_bytes / 1e6:.0f} of {all_bytes / 1e6:.0f} MB" if all_bytes > _LONG_CHECK_BYTES else ""
        share = min(1.0, done_bytes / max(1, all_bytes))
        report(PrepareProgress(stage, begins_at + (1 - begins_at) * share, said))

    return on_check


def _meets(manifest: Manifest, wanted: Dataset) -> bool:
    try:
        return wanted.is_met_by(parse(manifest.dataset))
    except TrainerError:  # of another version, with other data sets
        return False


def _other_files(data_dir: Path, wanted: Dataset) -> set[str]:
    """The files of another data set that was here before, sound or not. Further shards of this one are kept."""
    with contextlib.suppress(TrainerError):
        manifest = read_manifest(data_dir)
        if parse(manifest.dataset).family != wanted.family:
            return set(manifest.files)
    return set()


@contextlib.contextmanager
def _locked(data_dir: Path, report: Report) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(PrepareProgress("waiting for another preparation of this folder", 0.0))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    os.execv(sys.executable, [sys.executable, "-m", "trainer", "prepare", *sys.argv[1:]])  # noqa: S606  (ourselves)
