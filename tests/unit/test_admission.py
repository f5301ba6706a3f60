"""Which candidates may be tried, and which programs are the same program."""

import contextlib
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch.unified_diff import split_lines
from coordinator.admission import (
    AdmissionCode,
    AdmissionError,
    Limits,
    admit,
    check_source,
    normalised_fingerprint,
)

LIMITS = Limits()
BASE = '''\
"""Trains a model."""

WIDTH = 128  # channels
RATE = 0.001


def build_model(width=WIDTH):
    """Makes the model."""
    return width


def main(session):
    model = build_model()
    for batch in session:
        model += batch
    return {"model": model}
'''


def whole(old: str, new: str) -> bytes:
    """A diff that replaces every line."""
    before, after = split_lines(old), split_lines(new)
    note = "\\ No newline at end of file\n"
    body = ["-" + line for line in before] + ["+" + line for line in after]
    text = "".join(line if line.endswith("\n") else f"{line}\n{note}" for line in body)
    start = f"@@ -{min(len(before), 1)},{len(before)} +{min(len(after), 1)},{len(after)} @@\n"
    return f"--- a/train.py\n+++ b/train.py\n{start}{text}".encode()


def refusal(candidate: str, limits: Limits = LIMITS) -> AdmissionError:
    with pytest.raises(AdmissionError) as caught:
        admit(whole(BASE, candidate), BASE, limits=limits)
    assert "\n" not in str(caught.value)
    return caught.value


def same(one: str, other: str) -> bool:
    return normalised_fingerprint(one) == normalised_fingerprint(other)


def test_admits_an_edit_and_says_what_it_did() -> None:
    diff = b"--- train.py\n+++ train.py\n@@ -3 +3,2 @@\n-WIDTH = 128  # channels\n+WIDTH = 192\n+DEPTH = 8\n"
    admitted = admit(diff, BASE)
    assert admitted.candidate_source == BASE.replace("WIDTH = 128  # channels", "WIDTH = 192\nDEPTH = 8")
    assert (admitted.lines_added, admitted.lines_removed, admitted.notes) == (2, 1, ())
    assert admitted.fingerprint == normalised_fingerprint(admitted.candidate_source)


def test_passes_on_where_a_hunk_was_found() -> None:
    diff = b"--- train.py\n+++ train.py\n@@ -9 +9 @@\n-RATE = 0.001\n+RATE = 0.002\n"
    assert admit(diff, BASE).notes == ("hunk 1 applied at line 4 of train.py; it says line 9",)


def test_an_error_has_a_stable_code() -> None:
    assert refusal(BASE).code == "no-change"


# --- no change ---


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIDTH = 128", "WIDTH = 128"),
        ("  # channels", "  # how wide"),
        ("RATE = 0.001", "RATE = (\n    1e-3\n)"),
        ('{"model": model}', "{'model': model}"),
        ("Makes the model.", "Makes a model."),
        ("    return width\n", "    pass\n    return width\n"),
        ("RATE = 0.001\n", "RATE = 0.001; 'about right'\n"),
    ],
)
def test_what_does_not_change_the_program_is_no_change(old: str, new: str) -> None:
    assert refusal(BASE.replace(old, new)).code == AdmissionCode.NO_CHANGE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 0.0", "x = -0.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = ..."),
        ("x = y", "x = 'y'"),
        ("f(a, b)", "f(a)(b)"),
        ("f(a, b)", "f(a, *b)"),
        ("f(a=1)", "f(**a)"),
        ("a - b - c", "a - (b - c)"),
        ("x = [a, [b]]", "x = [[a], b]"),
        ("x[a:]", "x[:a]"),
        ("def f(a, /): return a", "def f(a): return a"),
        ("def f(*, a): return a", "def f(a): return a"),
        ("if a:\n b\n c", "if a:\n b\nc"),
        ("if a: b\nelse: c", "if a: b\nc"),
        ("try: a\nexcept E: b", "try: a\nfinally: b"),
        ("{**a}", "{a: a}"),
        ("from . import a", "from .. import a"),
        ("import a", "import a as b"),
        ("global_name = 1", "other_name = 1"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = f'{a:b}'", "x = f'{a:{b}}'"),
        ("async def f(): a", "def f(): a"),
        ("match x:\n case None: a", "match x:\n case _: a"),
        ("a\nb", "b\na"),
    ],
)
def test_different_programs_have_different_fingerprints(one: str, other: str) -> None:
    assert not same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 10_000", "x = 0x2710"),
        ("x = 'a' 'b'", "x = 'ab'"),
        ("x = u'a'", "x = 'a'"),
        ("x = (a)", "x = a"),
        ("if a: b", "if a:\n    # why\n    b\n"),
        ("def f():\n 'doc'\n return 1", "def f(): return 1"),
        ("if a: b\nelse: pass", "if a: b"),
        ("f(\n a,\n)", "f(a)"),
    ],
)
def test_other_spellings_of_a_program_have_its_fingerprint(one: str, other: str) -> None:
    assert same(one, other)


def test_docstrings_count_where_the_program_reads_them() -> None:
    source = "def f():\n    '{}'\nprint(f.__doc__)\n"
    assert not same(source.format("a"), source.format("b"))


def test_the_fingerprint_is_stable() -> None:
    # Fingerprints are kept in the ledger: if this changes, old patches can be tested again.
    expected = "8d0eee786533cfe549c91cdb06c23cfa0fa2a0a38e5fa379892f311c9fb76636"
    assert normalised_fingerprint(BASE) == expected


@given(st.integers(), st.floats(), st.text(), st.binary(max_size=20))
def test_values_decide(number: int, real: float, text: str, data: bytes) -> None:
    source = f"x = {number!r}, {text!r}, {data!r}, {real!r}"
    assert same(source, source.replace(", ", "  ,  ") if ", " not in text else source)
    assert not same(source, f"x = {number + 1!r}, {text!r}, {data!r}, {real!r}")
    assert not same(source, f"x = {number!r}, {text + 'a'!r}, {data!r}, {real!r}")


def test_a_number_too_long_for_decimal_digits_has_a_fingerprint() -> None:
    assert not same("x = 0x" + "f" * 9000, "x = 0x" + "f" * 8999 + "e")


# --- not a program ---


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (BASE + "def f(:\n", "line 17 of train.py does not parse: invalid syntax"),
        (BASE + "x = 1\n  y = 1\n", "line 18 of train.py does not parse: unexpected indent"),
        (BASE + "x = '''\n", "unterminated"),
        (BASE + "x = " + "(" * 300 + ")" * 300, "too many nested parentheses"),
        (BASE + "x = 1 if" + "\n" * 3, "line 17"),
    ],
)
def test_what_does_not_parse_is_refused_with_its_line(candidate: str, says: str) -> None:
    error = refusal(candidate)
    assert error.code == AdmissionCode.DOES_NOT_PARSE
    assert says in str(error)


def test_a_number_that_python_refuses_is_refused() -> None:
    with pytest.raises(AdmissionError, match="does not parse: Exceeds the limit"):
        normalised_fingerprint("x = " + "9" * 5000)


DEEP = {
    "minus": "x = " + "-" * 3000 + "1",
    "not": "x = " + "not\\\n " * 6000 + "1",
    "lambda": "x = (" + "lambda:\n" * 9000 + "1)",
    "attributes": "x = (a" + "\n.a" * 20_000 + ")",
    "sum": "x = (1" + "\n+1" * 20_000 + ")",
    "calls": "x = (a" + "()\n" * 20_000 + ")",
    "power": "x = (1" + "\n**1" * 12_000 + ")",
    "choice": "x = (a" + "\nif b else a" * 9_000 + ")",
    "elif": "if a: b\n" + "elif a: b\n" * 9_000,
    "indents": "\n".join(" " * depth + "if a:" for depth in range(200)),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_is_an_error_and_not_the_end_of_the_process(name: str) -> None:
    caught: list[AdmissionError] = []
    worker = threading.Thread(target=lambda: caught.append(refusal(BASE + DEEP[name] + "\n")))
    worker.start()  # the coordinator admits in threads, whose stacks are smaller on some systems
    worker.join(timeout=60)
    assert [error.code for error in caught] == [AdmissionCode.DOES_NOT_PARSE]


def test_a_deep_tree_that_parses_has_a_fingerprint() -> None:
    assert check_source(BASE + "x = " + "a" + ".a" * 900 + "\n")


HIDING = ["\x00", "\x1b", "\r", "\x0b", "\x7f", "\x85", "\ufeff", "\u202e", "\u2066", "\u200b"]


@pytest.mark.parametrize("character", HIDING)
def test_characters_that_hide_code_are_refused_with_their_line(character: str) -> None:
    error = refusal(BASE + f"# {character}\n")
    assert error.code == AdmissionCode.FORBIDDEN_CHARACTER
    assert f"line 17 of train.py has the character U+{ord(character):04X}" in str(error)
    assert character not in str(error)


def test_form_feeds_tabs_and_letters_of_any_language_are_fine() -> None:
    candidate = BASE + "\f\nif WIDTH:\n\tβ = 'é 数 \\x1b'\n"
    assert admit(whole(BASE, candidate), BASE).candidate_source == candidate


@pytest.mark.parametrize("coding", ["latin-1", "utf-7", "no-such", "utf_16"])
def test_another_encoding_is_refused(coding: str) -> None:
    assert refusal(f"# -*- coding: {coding} -*-\n" + BASE).code == AdmissionCode.NOT_UTF8


def test_saying_utf8_is_fine() -> None:
    assert admit(whole(BASE, "# coding: utf-8\nDEPTH = 1\n" + BASE), BASE)


def test_odd_escapes_do_not_warn() -> None:
    assert admit(whole(BASE, BASE + "x = '\\d'\n"), BASE)  # a warning would be an error in this suite


# --- entry points ---


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("def main", "def run", "main"),
        ("def build_model", "def make", "build_model"),
        ("def main", "async def main", "main"),
        ("def main(session):\n", "class A:\n  def main(session):\n    pass\ndef run(session):\n", "main"),
    ],
)
def test_a_source_without_what_the_trial_calls_is_refused(old: str, new: str, missing: str) -> None:
    error = refusal(BASE.replace(old, new))
    assert error.code == AdmissionCode.MISSING_ENTRY_POINT
    assert f"no `{missing}` at top level" in str(error)


BINDINGS = [
    "main = build_model",
    "from a import main",
    "import a as main",
    "class main: pass",
    "main: object = 1",
    "if WIDTH:\n def main(): pass",
    "with a:\n main = 1",
    "try:\n x = 1\nexcept Exception:\n main = 1",
]


@pytest.mark.parametrize("definition", BINDINGS)
def test_an_entry_point_may_be_bound_in_any_way_at_top_level(definition: str) -> None:
    assert check_source(BASE.replace("def main", "def run") + definition + "\n")


def test_another_challenge_may_need_other_names() -> None:
    assert check_source("x = 1", entry_points=["x"])


# --- size ---


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(source_bytes=300), "more than 300 bytes"),
        (Limits(line_chars=100), "line 17 of train.py has 140 characters and the limit is 100"),
        (Limits(words=60), "more than 60 words and marks"),
        (Limits(braces=0), "more than 0 opening braces"),
        (Limits(diff_bytes=300), "the diff has 742 bytes"),
        (Limits(hunks=0), "more than 0 hunks"),
    ],
)
def test_each_limit_holds(limits: Limits, says: str) -> None:
    error = refusal(BASE + f"# {'y' * 138}\n", limits)
    assert error.code == AdmissionCode.TOO_LARGE
    assert says in str(error)


def test_the_limits_bound_the_time_to_read_any_source() -> None:
    worst = ["a\n" * 65_000, "x = f'''" + ("{a}" + "p" * 20) * 8_000 + "'''", "a = (\n" + "a,\n" * 32_000 + ")"]
    worst += [
        "a" + "=a" * 2000 + "\n",
        "x = '" + "\\q" * 2000 + "'\n",
        "x = f'" + "{a}" * 1300 + "'\n",
        "@a\n" * 30_000,
    ]
    started = time.thread_time()  # what others take of the processor meanwhile is not the reader's
    for source in worst:
        with contextlib.suppress(AdmissionError):
            check_source(BASE + source, limits=Limits(line_chars=10**6))
    assert time.thread_time() - started < 30


@given(st.text(max_size=300))
def test_text_from_anywhere_raises_nothing_else(source: str) -> None:
    for entry_points in ((), ("main",)):
        with contextlib.suppress(AdmissionError):
            check_source(source, entry_points=entry_points)
