"""A real swarm's ledger as Parquet tables, read back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator import upkeep
from coordinator.archive import Archive
from coordinator.errors import OperatorError

pq = pytest.importorskip("pyarrow.parquet")


def test_every_entry_is_in_the_tables(lived: Path, tmp_path: Path) -> None:
    entries = [json.loads(line) for line in Archive(lived).lines()]
    rows = upkeep.export(lived, tmp_path / "out")
    tables = {name: pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist() for name in rows}
    assert {name: len(table) for name, table in tables.items()} == rows
    assert [row["seq"] for row in tables["entries"]] == [entry["seq"] for entry in entries]
    kinds = {"results": ("result",), "patches": ("patch",), "verdicts": ("verdict",), "identities": ("identity",),
             "promotions": ("promotion", "rollback")}  # fmt: skip
    for name, own in kinds.items():
        wanted = [entry for entry in entries if entry["kind"] in own]
        assert wanted
        assert len(tables[name]) == len(wanted)
        for row, entry in zip(tables[name], wanted, strict=True):
            assert round(row["at"].timestamp() * 1000) == entry["at_ms"]
            for column in row.keys() & entry["body"].keys() - {"decision", "undone"}:
                assert row[column] == entry["body"][column], (name, column)
    result = tables["results"][0]
    assert (result["device_kind"], result["threads"], result["operating_system"]) == ("cuda", 8, "Linux 6")
    assert result["seed"] is not None
    assert tables["patches"][0]["diff"].startswith("--- a/train.py")
    promoted = [row for row in tables["verdicts"] if row["verdict"] == "promoted"]
    assert all(row["log_odds"] > 4.6 and row["gain_bpb"] > 0 for row in promoted)
    assert "envelope" not in tables["entries"][3]["body"]


def test_nothing_is_left_half_written(lived: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OperatorError, match="is there already"):
        upkeep.export(lived, tmp_path / "there")
    shutil.copytree(lived, tmp_path / "swarm", ignore=shutil.ignore_patterns("store", "datasets"))
    path = tmp_path / "swarm" / "autoresearch.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"val_bpb":1.0', b'"val_bpb":0.9', 1))
    with pytest.raises(OperatorError, match="ledger entry"):
        upkeep.export(tmp_path / "swarm", tmp_path / "out")
    with pytest.raises(OperatorError, match="there is no ledger"):
        upkeep.export(tmp_path / "there", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "swarm"}


def test_without_pyarrow_the_command_says_what_to_install(lived: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['pyarrow'] = None; from coordinator.cli import main; main()"
    command = [sys.executable, "-c", blocked, "export", "--data", str(lived), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: tables need pyarrow: pip install 'autoresearch-swarm[analysis]'\n"
