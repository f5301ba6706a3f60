"""Prepares a data set and prints what a challenge needs to know of it and of this trainer, as one JSON line.

`python -m trainer.describe DATASET DATA_DIR`: how a coordinator, which imports nothing of the trainer, learns the
digests that its challenge pins and where the seed source lies. Each step of a long preparation is a line of standard
error that begins with `progress: `; the last line says what went wrong.
"""

import json
import sys
from pathlib import Path

from trainer.errors import TrainerError
from trainer.prepare import prepare
from trainer.progress import PrepareProgress
from trainer.trial import code_digest


def describe(dataset: str, data_dir: Path) -> dict[str, str]:
    """Name and manifest digest of the data set, digest of the trial code, paths of the seed source and of prepare.py.

    Raises:
        TrainerError: the data cannot be prepared.
    """
    manifest = prepare(dataset, data_dir, on_progress=_Told())
    package = Path(__file__).parent
    return {
        "dataset": manifest.dataset,
        "manifest_sha256": manifest.sha256,
        "trial_code_sha256": code_digest(),
        "source": str(package / "train.py"),
        "prepare": str(package / "prepare.py"),
    }


class _Told:
    """Writes a line at every tenth of a download."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: PrepareProgress) -> None:
        mark = f"{progress.stage} {int(progress.share * 10)}"
        if progress.detail and mark != self._last:
            self._last = mark
            sys.stderr.write(f"progress: {progress.share:.0%} {progress.stage}, {progress.detail}\n")
            sys.stderr.flush()


if __name__ == "__main__":
    try:
        found = describe(sys.argv[1], Path(sys.argv[2]))
    except IndexError:
        sys.exit("usage: python -m trainer.describe DATASET DATA_DIR")
    except TrainerError as problem:
        sys.exit(f"error: {problem}")
    sys.stdout.write(json.dumps(found) + "\n")
