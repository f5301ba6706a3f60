"""The parts of the sandbox that look at the system: the root's plan, a folder's size, paths, the list of processes."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.errors import MachineError
from trainer.main import default_data_dir
from trainer.sandbox import disk, python_read_paths
from trainer.sandbox.disk import folder_bytes
from trainer.sandbox.linux import _MANY, shown
from trainer.sandbox.paths import home
from trainer.sandbox.process_table import parse, processes
from trainer.sandbox.root import plan
from trainer.sandbox.supervisor import pause_s


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "file").touch()
    return tmp_path.resolve()


def test_the_root_shows_real_paths_once_and_none_within_another(tree):
    links, binds = plan([str(tree / "real" / "inner"), str(tree / "real"), str(tree / "real")])
    assert (links, binds) == ({}, [str(tree / "real")])


def test_the_root_keeps_links_as_links(tree):
    (tree / "link").symlink_to("real")
    (tree / "chain").symlink_to(tree / "link" / "inner")
    links, binds = plan([str(tree / "chain")])
    assert links == {str(tree / "chain"): f"{tree}/link/inner", str(tree / "link"): "real"}
    assert binds == [str(tree / "real" / "inner")]


def test_of_many_in_a_folder_the_folder_is_shown_and_what_its_links_lead_to(tree):
    """Debian's Python has `sitecustomize.py` in its library as a link into /etc."""
    library, elsewhere = tree / "library", tree / "elsewhere.py"
    library.mkdir()
    elsewhere.touch()
    for number in range(_MANY):
        (library / f"{number}.py").touch()
    (library / "link.py").symlink_to(elsewhere)
    found = shown([str(path) for path in sorted(library.iterdir())])
    assert sorted(found) == [str(library), str(library / "link.py")]
    assert plan(found) == ({}, [str(elsewhere), str(library)])


def test_the_root_does_not_make_links_that_a_shown_folder_holds(tree):
    (tree / "real" / "link").symlink_to("file")
    assert plan([str(tree / "real"), str(tree / "real" / "link")]) == ({}, [str(tree / "real")])


def test_the_root_refuses_links_that_go_round(tree):
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    with pytest.raises(OSError, match="too many links"):
        plan([str(tree / "a")])


def test_the_root_follows_steps_up(tree):
    (tree / "up").symlink_to("real/inner/../../real")
    assert plan([str(tree / "up")])[1] == [str(tree / "real")]


def test_a_folder_is_as_large_as_the_space_it_takes(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    empty, _ = folder_bytes(str(tmp_path))
    (tmp_path / "deep" / "er" / "full").write_bytes(b"x" * 1_000_000)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 << 30)
    size, entries = folder_bytes(str(tmp_path))
    assert 1_000_000 <= size - empty < 1_200_000
    assert entries == 4


def test_a_folder_is_not_left_through_a_link(tmp_path):
    (tmp_path / "away").symlink_to("/usr")
    assert folder_bytes(str(tmp_path))[1] == 1


def test_looking_at_a_flooded_folder_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "ENTRIES_MAX", 10)
    for folder in range(5):
        (tmp_path / str(folder)).mkdir()
        for name in range(8):
            (tmp_path / str(folder) / str(name)).touch()
    assert folder_bytes(str(tmp_path))[1] == 11  # one too many is known, and is enough


def test_an_interpreter_finds_itself_its_library_and_torch():
    paths = python_read_paths()
    assert all(path.exists() for path in paths)
    wanted = [Path(sys.executable), Path(os.path.realpath(sys.executable)), Path(sysconfig.get_path("stdlib"))]
    spec = importlib.util.find_spec("torch")
    wanted += [Path(spec.origin)] if spec and spec.origin else []
    for needed in wanted:
        assert any(needed.is_relative_to(path) for path in paths), needed


def test_neither_home_nor_anything_that_holds_it_is_readable():
    whose = Path.home().resolve()
    for path in python_read_paths():
        assert not whose.is_relative_to(path.resolve()), path
        assert not (whose / ".ssh").is_relative_to(path), path


def test_a_folder_that_is_slow_to_look_at_is_looked_at_again_soon():
    """A candidate that makes thousands of files while they are counted makes the count slow."""
    assert pause_s(0.001) == 0.5
    assert pause_s(0.02) == pytest.approx(1.0)
    assert pause_s(0.5) == 2.0
    assert pause_s(5.0) == 10.0


def test_an_account_without_a_home_has_one_that_is_not_there(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # as in a container that runs under a bare number
    assert not home().exists()
    assert python_read_paths()
    with pytest.raises(MachineError, match="no home folder: name a folder for the data with --data-dir"):
        default_data_dir("tiny")


def test_a_process_listing_is_read_in_every_form_of_time():
    listing = (
        "    1     0     1   2048   0:01.50 Ss   Sat Nov 23 12:00:00 2024\n"
        "  500     1   500  10240   1:02:03 R    Sat Nov 23 12:00:01 2024\n"
        "  501   500   500      0 2-00:00:01 S   Sat Nov 23 12:00:02 2024\n"
        "  502   500   500      0   0:00.00 Z    Sat Nov 23 12:00:03 2024\n"
    )
    rows = parse(listing)
    assert sorted(rows) == [1, 500, 501]  # one that ended and waits is not alive
    assert (rows[500].parent, rows[500].group, rows[500].memory_bytes) == (1, 500, 10 << 20)
    assert [rows[pid].cpu_s for pid in sorted(rows)] == [1.5, 3723.0, 172801.0]
    assert rows[501].start == "Sat Nov 23 12:00:02 2024"


def children() -> set[int]:
    return {pid for pid, row in processes().items() if row.parent == os.getpid()}


@pytest.mark.skipif(shutil.which("ps") is None, reason="this system has no ps")
def test_the_program_that_lists_processes_is_not_listed(monkeypatch):
    """It is a child of the keeper, as the candidate is: where it counts, no candidate is ever alone or gone."""
    monkeypatch.setattr("trainer.sandbox.process_table.sys", SimpleNamespace(platform="darwin"))
    before = children()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert children() - before == {child.pid}
        child.communicate(b"\n")
