"""What a reader of the sources may count on: modules say what they are, exemptions say why, nothing is left."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("coordinator", "volunteer", "trainer", "proto", "tests")
MODULES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))
)
LEFT_OVER = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")  # spelled out nowhere else, this pattern apart
EXEMPTION = re.compile(r"#\s*noqa\b(?P<codes>:\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)?(?P<reason>.*)")


def lines() -> list[tuple[str, str]]:
    """Every line with where it is."""
    return [
        (f"{path.relative_to(ROOT)}:{number}", line)
        for path in MODULES
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
    ]


def test_every_module_says_what_it_is() -> None:
    silent = [path.relative_to(ROOT).as_posix() for path in MODULES if not says_something(path)]
    assert not silent


def says_something(path: Path) -> bool:
    """Empty files that only mark a package have nothing to say."""
    text = path.read_text()
    return not text.strip() or ast.get_docstring(ast.parse(text)) is not None


def test_nothing_is_left_for_later() -> None:
    assert not [where for where, line in lines() if LEFT_OVER.search(line)]


def test_every_exemption_names_its_rule_and_its_reason() -> None:
    found = ((where, EXEMPTION.search(line)) for where, line in lines())
    bare = [where for where, match in found if match and not (match["codes"] and re.search(r"\w{2}", match["reason"]))]
    assert not bare


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "Makefile", ".ci/run", "pyproject.toml"])
def test_a_visitor_finds(name: str) -> None:
    assert (ROOT / name).is_file()
