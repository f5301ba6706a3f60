"""A patch is read from a diff with leading lines, and what the author can mend is found before it is sent."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import limits
from volunteer.drafts import Draft, check, parse
from volunteer.errors import InputError

DIFF = """diff --git a/train.py b/train.py
index 1111111..2222222 100644
--- a/train.py
+++ b/train.py
@@ -1,2 +1,2 @@
 x = 1
-y = 2
+y = 3
"""
GOOD = Draft(diff=DIFF.encode(), title="Better y")


def test_leading_lines_say_what_it_is() -> None:
    text = (
        "Title: Better y\nRationale: y was\n  too small.\n\nIt really was.\ntags: y, tuning\n"
        "Base: " + "a" * 40 + "\n\n" + DIFF
    )
    draft = parse(text.encode())
    assert draft.title == "Better y"
    assert draft.rationale == "y was\n  too small.\n\nIt really was."
    assert draft.tags == ("y", "tuning")
    assert draft.base_commit == "a" * 40
    assert draft.diff == DIFF.encode()
    check(draft)


def test_other_leading_text_is_passed_over() -> None:
    draft = parse(b"From: somebody\nSubject: [PATCH] x\n\n---\n train.py | 2 +-\n\n" + DIFF.encode())
    assert draft == Draft(diff=DIFF.encode())


def test_the_command_line_wins() -> None:
    draft = replace(GOOD, tags=("a",)).completed(title="Other", rationale="", tags=(), base_commit="b" * 40)
    assert (draft.title, draft.tags, draft.base_commit) == ("Other", ("a",), "b" * 40)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no diff"),
        (b"hello\n", "no diff"),
        (b"\xff\xfe" + DIFF.encode(), "not UTF-8"),
        (b"x" * (limits.DIFF_BYTES + 100_000), "propose a smaller change"),
    ],
)
def test_what_is_no_diff(data: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse(data)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"title": ""}, "--title"),
        ({"title": "two\nlines"}, "one line"),
        ({"title": "x" * 101}, "1 to 100"),
        ({"title": "a\u202eb"}, "printable"),
        ({"rationale": "x" * 4001}, "shorter"),
        ({"tags": ("Big Tag",)}, "lower-case"),
        ({"tags": tuple("abcdefghi")}, "at most 8"),
        ({"base_commit": "abc"}, "40 hex"),
        ({"diff": b"\xff"}, "not UTF-8"),
        ({"diff": DIFF.replace("train.py", "prepare.py").encode()}, "only train.py"),
        ({"diff": (DIFF + DIFF.replace("train.py", "prepare.py")).encode()}, "only train.py"),
        ({"diff": DIFF.split("@@", maxsplit=1)[0].encode()}, "changes nothing"),
        ({"diff": DIFF.encode() + b"+" * limits.DIFF_BYTES}, "smaller"),
    ],
)
def test_what_the_author_can_mend_is_named(change: dict[str, object], problem: str) -> None:
    check(GOOD)
    with pytest.raises(InputError, match=problem):
        check(replace(GOOD, **change))  # type: ignore[arg-type]


def test_removed_lines_that_look_like_a_file_header_are_content() -> None:
    diff = "--- train.py\n+++ train.py\n@@ -1,2 +1,2 @@\n--- old comment\n+++ new comment\n context\n"
    check(replace(GOOD, diff=diff.encode()))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_draft_or_a_clear_error(data: bytes) -> None:
    with contextlib.suppress(InputError):
        check(replace(parse(data), title="t"))
