"""Parsers under any input: they take it or raise what they document, and nothing else comes out.

The short form asks each parser some hundred things. The long form makes a million inputs by changing bytes of real
ones, and has atheris look for more in every parser, where there is one for this Python and machine.
"""

import importlib.util
import json
import logging
import os
import random  # noqa: TID251  # seeded: the same inputs every time
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.hostile.messages import TEXTS, mutated
from tests.hostile.parsers import PARSERS, Parser

log = logging.getLogger(__name__)
SHORT = 60
LONG_IN_ALL = 1_000_000
PIECES = (
    *(text.encode() for text in TEXTS if len(text) < 100), b"[" * 3_000, b"{\"a\":" * 600, b"1e999", b"Infinity",
    b"NaN", b"-0", b"9" * 5_000, b"\xff" * 9, b"\x80" * 20, b"\xf4\x90\x80\x80", b"@@ -" + b"9" * 5_000 + b" +1 @@\n",
    b"true", b"null", b"\\u0000", b"--- /dev/null\n", b"+++ b/../train.py\n", b"\\ No newline at end of file\n",
    b"\r\n", b"\n" * 300, b"'\\d'", b"\"\\400\"", b"1if 1else 2", b"f'{x!r:>{y}}'", b"(" * 150, b"\x0c",
)  # fmt: skip


with_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python or machine"
)


@pytest.mark.parametrize("name", PARSERS)
def test_nothing_but_documented_errors_comes_out(name: str) -> None:
    parser = PARSERS[name]
    changed = mutated(st.sampled_from(parser.seeds))
    joined = st.lists(st.sampled_from([*PIECES, *parser.seeds]), max_size=4).map(b"".join)

    @settings(max_examples=SHORT // parser.cost + 20, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(changed, changed, joined, st.binary(max_size=2_000)))
    @example(b"")
    @example(b"[" * 100_000)
    @example(b"1" * 100_000)
    def take(data: bytes) -> None:
        parser.take(data)

    take()


@pytest.mark.parametrize("name", PARSERS)
def test_real_inputs_are_taken(name: str) -> None:
    parser = PARSERS[name]
    if name not in ("record", "segments", "proof"):  # those seeds are beginnings
        assert parser.take(parser.seeds[0])


def changed_by_chance(parser: Parser, chance: random.Random) -> bytes:
    """An input made of a real one by what happens to bytes: changed, lost, doubled, swapped, joined with others."""
    data = bytearray(chance.choice(parser.seeds))
    for _ in range(1 + chance.getrandbits(2)):
        at, span = chance.randrange(len(data) + 1), chance.randrange(1, 9)
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes((chance.getrandbits(8),))
            case 1:
                del data[at : at + span]
            case 2:
                data[at:at] = data[at : at + span] * 3
            case 3:
                data[at:at] = chance.randbytes(span)
            case 4:
                data[at : at + span] = chance.choice(PIECES)
            case 5:
                data[at : at + span] = chance.choice(parser.seeds)[:64]
            case _:
                del data[at:]
    return bytes(data)


@pytest.mark.full
@pytest.mark.parametrize("name", PARSERS)
def test_a_million_inputs(name: str) -> None:
    parser, chance = PARSERS[name], random.Random(name)
    shares = sum(1 / own.cost for own in PARSERS.values())
    count = round(LONG_IN_ALL / shares / parser.cost) + 1
    taken = 0
    for _ in range(count):
        data = changed_by_chance(parser, chance)
        try:
            taken += parser.take(data)
        except Exception as error:
            error.add_note(f"{name} with {data[:2_000]!r}")
            raise
    log.info("%s: %d inputs, %d taken", name, count, taken)


@with_atheris
@pytest.mark.parametrize(
    "runs", [pytest.param(30, id="short"), pytest.param(60_000, id="long", marks=pytest.mark.full)]
)
def test_inputs_that_reach_new_code(runs: int) -> None:
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    log.info("%s", report)
    assert report.get("failed") == {}, done.stdout[-3_000:] + done.stderr[-3_000:]
    assert done.returncode == 0
    assert (report["parsers"], report["inputs"] >= runs) == (len(PARSERS), True)


@with_atheris
def test_a_fault_is_found_and_told_with_its_input(tmp_path: Path) -> None:
    """In a parser that breaks on what no seed holds."""
    program = tmp_path / "broken.py"
    program.write_text(
        "import sys\nfrom tests.hostile import fuzz, parsers\n"
        "def broken(data):\n    if data[:1] > b'~':\n        raise KeyError('not documented')\n"
        "parsers.PARSERS['broken'] = parsers.Parser(broken, (b'a',))\nfuzz.main()\n"
    )
    command = [sys.executable, str(program), "broken", "address", "--runs", "2000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert list(report["failed"]) == ["broken"]
    assert report["failed"]["broken"].startswith("b'"), report
    assert "not documented" in done.stdout + done.stderr
