"""Brings a store and a data folder that an older version wrote up to this version, step by step; refuses newer ones.

Both carry the number of their schema. Each step is one atomic change that also writes the number it leads to, so that a
death between two of them leaves the one or the other. What is older than the numbers has none, and counts as 0.

Left out: the ledger, which is never rewritten: its first entry names the schema of its own.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from coordinator import segments
from coordinator.errors import OperatorError
from coordinator.settings import LEDGER, SIGNING_KEY
from coordinator.store import Change, Holds, Operation, Put, Store

FOLDER_FILE = "autoresearch.version.json"
_FILE_BYTES = 4096

StoreStep = Callable[[Store], Awaitable[Sequence[Operation]]]
FolderStep = Callable[[Path], None]


async def _numbered(_: Store) -> Sequence[Operation]:
    """The first schema differs from what came before by its number alone."""
    return ()


def _folder_numbered(_: Path) -> None:
    """Likewise."""


STORE_STEPS: tuple[StoreStep, ...] = (_numbered,)  # step n leads from schema n to n + 1
FOLDER_STEPS: tuple[FolderStep, ...] = (_folder_numbered,)
STORE_SCHEMA, FOLDER_SCHEMA = len(STORE_STEPS), len(FOLDER_STEPS)


def numbered() -> Operation:
    """What a new store is marked with."""
    return Put("meta", "schema", b"%d" % STORE_SCHEMA)


async def upgrade_store(store: Store, steps: Sequence[StoreStep] = STORE_STEPS) -> int:
    """Brings a swarm's store up; returns the number of steps that it took. An empty store needs none.

    Raises:
        OperatorError: it was written by a newer version.
    """
    taken = 0
    while True:
        known = await store.get("meta", "schema")
        schema = int(known or 0)
        _refuse_newer(schema, len(steps), "the store")
        if schema == len(steps) or await store.get("meta", "swarm") is None:
            return taken
        mark = Put("meta", "schema", b"%d" % (schema + 1))
        change = Change((Holds("meta", "schema", known),), (*await steps[schema](store), mark))
        taken += await store.apply(change) is None  # else somebody else took the step: look again


def check_folder(data_dir: Path) -> int:
    """The schema of a data folder.

    Raises:
        OperatorError: it was written by a newer version, or its number is damaged.
    """
    path = data_dir / FOLDER_FILE
    try:
        with path.open("rb") as file:
            schema = int(json.loads(file.read(_FILE_BYTES))["schema"])
    except FileNotFoundError:
        fresh = not any((data_dir / name).exists() for name in (LEDGER, SIGNING_KEY))
        return FOLDER_SCHEMA if fresh else 0
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"{path} is damaged: restore it from a copy") from error
    _refuse_newer(schema, FOLDER_SCHEMA, f"the data folder {data_dir}")
    return schema


def upgrade_folder(data_dir: Path, steps: Sequence[FolderStep] = FOLDER_STEPS) -> None:
    """Brings a data folder up; marks a new one.

    Raises:
        OperatorError: as `check_folder`, or it cannot be written.
    """
    schema = check_folder(data_dir)
    try:
        for step in steps[schema:]:
            step(data_dir)
            schema += 1
            _mark(data_dir, schema)
        if not (data_dir / FOLDER_FILE).exists():
            _mark(data_dir, schema)
    except OSError as error:
        raise OperatorError(f"cannot write {data_dir}: {error.strerror}; mend that and start again") from error


def _mark(data_dir: Path, schema: int) -> None:
    segments.replace(data_dir / FOLDER_FILE, [json.dumps({"schema": schema}).encode() + b"\n"])


def _refuse_newer(schema: int, known: int, what: str) -> None:
    if schema > known:
        raise OperatorError(
            f"{what} was written by a newer version (schema {schema}, this one knows {known}): upgrade this coordinator"
        )
