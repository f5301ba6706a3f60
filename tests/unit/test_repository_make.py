"""`make` on machines that are not ready: which Python it takes, and what it says when there is none to take."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOO_OLD = """#!/bin/sh
case "$2" in *exit*) exit 1 ;; *) echo 3.9 ;; esac
"""
WITHOUT_VENV = """#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; *exit*) exit 0 ;; *) echo 3.12 ;; esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the Makefile and a PATH of its own, `bin`, that has no Python."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("make", "sh", "awk", "rm", "touch"):
        found = shutil.which(tool)
        assert found, f"{tool} is needed to test the Makefile"
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def put(machine: Path, name: str, script: str) -> None:
    (machine / "bin" / name).write_text(script)
    (machine / "bin" / name).chmod(0o755)


def make(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    clean |= {"PATH": str(machine / "bin"), "PYTHON": ""}
    command = [str(machine / "bin" / "make"), "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=machine, env=clean, capture_output=True, text=True, check=False)


def test_no_python_at_all(machine: Path) -> None:
    done = make(machine, "demo")
    assert done.returncode != 0
    assert "No usable Python 3.11 or newer: none found; install one" in done.stderr


def test_one_that_is_too_old_and_one_that_is_incomplete(machine: Path) -> None:
    put(machine, "python3", TOO_OLD)
    put(machine, "python3.12", WITHOUT_VENV)
    done = make(machine, "test")
    assert done.returncode != 0
    assert "python3 is 3.9; python3.12 cannot make environments" in done.stderr
    assert "apt install python3.12-venv" in done.stderr
    assert not (machine / ".venv").exists()


def test_a_later_one_is_taken_and_an_environment_whose_python_is_gone_is_made_again(machine: Path) -> None:
    put(machine, "python3", TOO_OLD)
    put(machine, "python3.12", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (machine / ".venv" / "bin").mkdir(parents=True)
    (machine / ".venv" / "bin" / "python").symlink_to("/gone/python3")
    done = make(machine, ".venv/.made")
    assert done.returncode == 0, done.stderr
    assert subprocess.run([machine / ".venv" / "bin" / "python", "-c", ""], check=False).returncode == 0
    assert "up to date" in make(machine, ".venv/.made").stdout


def test_help_names_every_target(machine: Path) -> None:
    done = make(machine)
    assert done.returncode == 0
    for target in ("demo", "test", "test-full", "lint", "bench", "proto", "clean", "help"):
        assert f"make {target} " in done.stdout
