"""What other programs rely on: the parent is free of torch, and the digest of the trial code is stable."""

import shutil
import subprocess
import sys
from pathlib import Path

from trainer.installation import PACKAGE, around
from trainer.trial import code_digest


def digest_of(folder: Path) -> str:
    """The digest as computed by the copy of the package in `folder`."""
    command = "from trainer.trial import code_digest; print(code_digest())"
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def copy_to(folder: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, folder / "trainer", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_parent_never_imports_torch():
    command = "import sys, trainer.trial, trainer.cli, trainer.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_a_copy_elsewhere_has_the_same_digest(tmp_path):
    copy_to(tmp_path)
    assert digest_of(tmp_path) == code_digest() == digest_of(tmp_path)  # the second time with __pycache__


def test_the_seed_source_and_its_data_are_not_part_of_the_digest(tmp_path):
    package = copy_to(tmp_path)
    (package / "train.py").write_text("changed")
    (package / "data" / "README.md").unlink()
    assert digest_of(tmp_path) == code_digest()


def test_any_other_module_is_part_of_the_digest(tmp_path):
    package = copy_to(tmp_path)
    for name in ("examiner.py", "sandbox/policy.py"):
        (package / name).write_text((package / name).read_text() + "\n# changed\n")
    assert digest_of(tmp_path) != code_digest()


def test_what_surrounds_a_hidden_folder_is_granted_without_it(tmp_path):
    hidden = tmp_path / "site" / "trainer"
    for folder in (hidden, tmp_path / "site" / "torch" / "lib", tmp_path / "other"):
        folder.mkdir(parents=True)
    granted = set(around(tmp_path, hidden))
    assert granted == {tmp_path / "site" / "torch", tmp_path / "other"}
    assert around(tmp_path / "other", hidden) == [tmp_path / "other", tmp_path / "other"]
    assert around(tmp_path / "missing", hidden) == around(hidden, hidden) == []
