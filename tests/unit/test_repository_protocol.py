"""The protocol's gates: generated code is current, the linter is content, and signed messages stay signable."""

import importlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FileDescriptor

from autoresearch import envelope

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
VERSION = PROTO / "autoresearch" / "v1"


def files() -> list[FileDescriptor]:
    modules = (importlib.import_module(f"autoresearch.v1.{path.stem}_pb2") for path in sorted(VERSION.glob("*.proto")))
    return [module.DESCRIPTOR for module in modules]


def messages() -> Iterator[Descriptor]:
    for file in files():
        yield from file.message_types_by_name.values()


def reachable(message: Descriptor) -> set[Descriptor]:
    found, waiting = set(), [message]
    while waiting:
        found.add(here := waiting.pop())
        waiting += [
            field.message_type for field in here.fields if field.message_type and field.message_type not in found
        ]
    return found


def signed_messages() -> list[Descriptor]:
    """The messages that a payload type of the envelope names."""
    kinds = [value for name, value in vars(envelope).items() if name.isupper() and isinstance(value, str)]
    names = {kind.removeprefix("application/vnd.autoresearch.").removesuffix(".v1+protobuf") for kind in kinds}
    return [message for message in messages() if dashed(message.name) in names]


def dashed(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def test_generated_code_is_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROTO / "generate.py", "--out", tmp_path], check=True)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*") if path.is_file()}
    ours = [path for path in PROTO.rglob("*_pb2*") if path.parent.name != "__pycache__"]  # others may be writing there
    kept = {path.relative_to(PROTO): path.read_bytes() for path in ours}
    stale = {path.as_posix() for path in made.keys() | kept.keys() if made.get(path) != kept.get(path)}
    assert not stale, "run `make proto`"


def test_the_linter_is_content() -> None:
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    done = subprocess.run([buf, "lint", PROTO], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_payload_type_names_a_message() -> None:
    kinds = [name for name, value in vars(envelope).items() if name.isupper() and isinstance(value, str)]
    assert len(signed_messages()) == len([kind for kind in kinds if not kind.startswith("_")])


@pytest.mark.parametrize("message", signed_messages(), ids=lambda message: message.name)
def test_what_is_signed_holds_no_map_and_says_its_payload_type(message: Descriptor) -> None:
    """A map's order is not fixed, so two programs would sign different bytes for the same message."""
    for part in reachable(message):
        assert not part.GetOptions().map_entry, part.full_name
        assert part.file.package == "autoresearch.v1", part.full_name  # no Any, nor anything else from elsewhere
