"""Prepares a data set and prints what a challenge needs to know of it and of this trainer, as one JSON line.

`python -m trainer.describe DATASET DATA_DIR`: how a coordinator, which imports nothing of the trainer, learns the
digests that its challenge pins and where the seed source lies. Progress goes to standard error.
"""

import json
import sys
from pathlib import Path

from trainer.errors import TrainerError
from trainer.prepare import prepare
from trainer.trial import code_digest


def describe(dataset: str, data_dir: Path) -> dict[str, str]:
    """Digest of the prepared data's manifest, digest of the trial code, and paths of the seed source and prepare.py.

    Raises:
        TrainerError: the data cannot be prepared.
    """
    manifest = prepare(dataset, data_dir)
    package = Path(__file__).parent
    return {
        "dataset": dataset,
        "manifest_sha256": manifest.sha256,
        "trial_code_sha256": code_digest(),
        "source": str(package / "train.py"),
        "prepare": str(package / "prepare.py"),
    }


if __name__ == "__main__":
    try:
        found = describe(sys.argv[1], Path(sys.argv[2]))
    except IndexError:
        sys.exit("usage: python -m trainer.describe DATASET DATA_DIR")
    except TrainerError as problem:
        sys.exit(f"error: {problem}")
    sys.stdout.write(json.dumps(found) + "\n")
