"""Writes a ledger as Parquet tables for analysis: one for each kind of entry that people count, one of everything.

Needs pyarrow (the extra `analysis`). The tables are a reading of the ledger and prove nothing: signatures and the chain
are not in them. Left out: reading and checking the ledger (`archive.py`).
"""

import json
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from autoresearch.judging.auditing import Auditor
from autoresearch.judging.ledger import Entry
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.patch_pb2 import PatchSubmission
from autoresearch.v1.trial_pb2 import Result

BATCH = 10_000  # rows written at once
LONG = ("envelope", "source", "files", "challenge")  # left out of the table of everything
Row = dict[str, Any]


def _columns(**types: pa.DataType) -> pa.Schema:
    return pa.schema([("seq", pa.int64()), ("at", pa.timestamp("ms", tz="UTC")), *types.items()])


_TEXT, _LONG, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
SCHEMAS: Mapping[str, pa.Schema] = {
    "entries": _columns(kind=_TEXT, patch_id=_TEXT, identity_id=_TEXT, body=_TEXT),
    "identities": _columns(identity_id=_TEXT, name=_TEXT, machine_id=_TEXT, hardware_class=_TEXT),
    "patches": _columns(
        patch_id=_TEXT, author_id=_TEXT, author_name=_TEXT, title=_TEXT, rationale=_TEXT, tags=pa.list_(_TEXT),
        base_commit=_TEXT, base_generation=_LONG, candidate_sha256=_TEXT, fingerprint=_TEXT, diff=_TEXT,
    ),
    "results": _columns(
        result_sha256=_TEXT, lease_id=_TEXT, order_id=_TEXT, identity_id=_TEXT, machine_id=_TEXT, hardware_class=_TEXT,
        patch_id=_TEXT, source_sha256=_TEXT, outcome=_TEXT, val_bpb=_REAL, disturbed=_FLAG, tokens=_LONG, setting=_TEXT,
        seed=_LONG, steps=_LONG, startup_ms=_LONG, train_ms=_LONG, exam_ms=_LONG, peak_memory_bytes=_LONG,
        cpu_share=_REAL, reason=_TEXT, weights_sha256=_TEXT, device_kind=_TEXT, device_name=_TEXT,
        device_memory_bytes=_LONG, threads=_LONG, operating_system=_TEXT, driver=_TEXT, python=_TEXT, torch=_TEXT,
        client=_TEXT, curve_share=pa.list_(_REAL), curve_loss=pa.list_(_REAL),
    ),
    "verdicts": _columns(
        patch_id=_TEXT, verdict=_TEXT, reason=_TEXT, log_odds=_REAL, gain_bpb=_REAL, standard_error=_REAL,
        identities=_LONG, trials=_LONG, evidence_before=_LONG, decision=_TEXT,
    ),
    "promotions": _columns(
        kind=_TEXT, generation=_LONG, commit=_TEXT, parent=_TEXT, source_sha256=_TEXT, patch_id=_TEXT, title=_TEXT,
        reason=_TEXT, undone=pa.list_(_LONG),
    ),
}  # fmt: skip


def write(lines: Iterable[bytes], folder: Path, auditor: Auditor) -> dict[str, int]:
    """Writes `NAME.parquet` for every table into a new folder, all of them or none; returns how many rows each has.

    `auditor` goes through the lines on the way: what does not hold is not written.

    Raises:
        LedgerError: as the auditor.
        FileExistsError, OSError: the folder is there, or cannot be written.
    """
    building = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        rows = _fill(lines, building, auditor)
        auditor.finish()
        if folder.exists():
            raise FileExistsError(17, "File exists")
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return rows


def _fill(lines: Iterable[bytes], folder: Path, auditor: Auditor) -> dict[str, int]:
    tables = {name: _Table(folder / f"{name}.parquet", schema) for name, schema in SCHEMAS.items()}
    try:
        for line in lines:
            entry = auditor.take(line)
            tables["entries"].add(entry, _everything(entry))
            if entry.kind in _ROWS:
                name, row = _ROWS[entry.kind]
                tables[name].add(entry, row(entry))
    finally:
        for table in tables.values():
            table.close()
    return {name: table.rows for name, table in tables.items()}


class _Table:
    """A file that rows are added to."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._batch: list[Row] = []

    def add(self, entry: Entry, row: Mapping[str, Any]) -> None:
        known = {name: row.get(name) for name in self._schema.names}
        self._batch.append(known | {"seq": entry.seq, "at": datetime.fromtimestamp(entry.at_ms / 1000, UTC)})
        self.rows += 1
        if len(self._batch) == BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._batch, schema=self._schema))
        self._batch = []


def _everything(entry: Entry) -> Row:
    body = {name: value for name, value in entry.body.items() if name not in LONG}
    return {
        "kind": entry.kind,
        "patch_id": body.get("patch_id"),
        "identity_id": body.get("identity_id"),
        "body": json.dumps(body, sort_keys=True),
    }


def _result(entry: Entry) -> Row:
    result = Result.FromString(_payload(entry))
    measured = {
        name: getattr(result, name)
        for name in (
            "seed", "steps", "startup_ms", "exam_ms", "peak_memory_bytes", "cpu_share", "reason", "weights_sha256"
        )
    }  # fmt: skip
    ran_on = {field.name: value for field, value in result.hardware.ListFields()}
    ran_with = {field.name: value for field, value in result.software.ListFields()}
    curve = {
        "curve_share": [point.share for point in result.loss_curve],
        "curve_loss": [point.loss for point in result.loss_curve],
    }
    return {**entry.body, **measured, **ran_on, **ran_with, **curve}


def _patch(entry: Entry) -> Row:
    submission = PatchSubmission.FromString(_payload(entry))
    more = {
        "rationale": submission.rationale,
        "tags": list(submission.tags),
        "base_commit": submission.base_commit,
        "diff": submission.diff.decode("utf-8", "replace"),
    }
    return {**entry.body, **more}


def _verdict(entry: Entry) -> Row:
    decision = entry.body["decision"] or {}
    names = ("log_odds", "gain_bpb", "standard_error", "identities", "trials")
    return {
        **entry.body,
        **{name: decision.get(name) for name in names},
        "decision": json.dumps(decision, sort_keys=True),
    }


def _plain(entry: Entry) -> Row:
    return {**entry.body, "kind": entry.kind}


def _payload(entry: Entry) -> bytes:
    return Envelope.FromString(b64decode(entry.body["envelope"])).payload


_ROWS: Mapping[str, tuple[str, Callable[[Entry], Row]]] = {
    "identity": ("identities", _plain),
    "patch": ("patches", _patch),
    "result": ("results", _result),
    "verdict": ("verdicts", _verdict),
    "promotion": ("promotions", _plain),
    "rollback": ("promotions", _plain),
}
