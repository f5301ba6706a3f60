"""Diffs as authors, git, mailers and attackers make them: what applies, and the one clear line when it does not."""

import contextlib
import difflib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoresearch.admission_errors import AdmissionCode, AdmissionError
from autoresearch.unified_diff import apply_hunks, apply_patch, parse_patch, split_lines

BASE = "".join(f"line {n}\n" for n in range(1, 21))
HEADER = "--- a/train.py\n+++ b/train.py\n"
EDIT = "@@ -2,3 +2,3 @@\n line 2\n-line 3\n+LINE 3\n line 4\n"
EDITED = BASE.replace("line 3\n", "LINE 3\n")
NO_NEWLINE = "\\ No newline at end of file\n"


def unified(old: str, new: str, context: int = 3) -> bytes:
    """A diff as git writes it; difflib leaves out the note on a missing last newline."""
    lines = difflib.unified_diff(split_lines(old), split_lines(new), "a/train.py", "b/train.py", n=context)
    return "".join(line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}" for line in lines).encode()


def refusal(diff: bytes | str, base: str = BASE) -> AdmissionError:
    with pytest.raises(AdmissionError) as caught:
        apply_patch(diff.encode() if isinstance(diff, str) else diff, base)
    assert "\n" not in str(caught.value)
    return caught.value


# --- what applies ---


@pytest.mark.parametrize(
    "diff",
    [
        HEADER + EDIT,
        "--- train.py\n+++ train.py\n" + EDIT,
        "--- i/train.py\n+++ w/train.py\n" + EDIT,
        "--- a/train.py\t2026-03-01 10:00:00\n+++ b/train.py\t2026-03-01 10:00:01\n" + EDIT,
        "diff --git a/train.py b/train.py\nindex 0123abc..4567def 100644\n" + HEADER + EDIT,
        "Title: wider MLP\n\nWhy: because\n---\n train.py | 2 +-\n\n" + HEADER + EDIT,
        "From 0123abc Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n---\n" + HEADER + EDIT + "-- \n2.39.5\n\n",
        "\ufeff" + HEADER + EDIT,
        HEADER + EDIT.replace("@@\n", "@@ def main():\n"),
        (HEADER + EDIT).removesuffix("\n"),
        (HEADER + EDIT).replace("\n", "\r\n"),
    ],
    ids=[
        "git",
        "plain",
        "mnemonic",
        "dated",
        "extended",
        "titled",
        "mailed",
        "marked",
        "section",
        "unterminated",
        "crlf",
    ],
)
def test_a_diff_applies_however_it_was_made(diff: str) -> None:
    assert apply_patch(diff.encode(), BASE) == EDITED


def test_an_empty_context_line_may_have_lost_its_space() -> None:
    base = "a\n\nb\n"
    assert apply_patch((HEADER + "@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n").encode(), base) == "a\n\nc\n"


def test_a_hunk_is_found_at_the_single_other_place_and_this_is_said() -> None:
    diff = (HEADER + EDIT.replace("-2,3", "-9,3")).encode()
    applied = apply_hunks(parse_patch(diff), BASE)
    assert applied.text == EDITED
    assert applied.notes == ("hunk 1 applied at line 2 of train.py; it says line 9",)


def test_counts_added_and_removed_lines() -> None:
    (hunk,) = parse_patch((HEADER + "@@ -1,2 +1,3 @@\n-a\n+b\n+c\n d\n").encode())
    assert (hunk.added, hunk.removed) == (2, 1)


text = st.text(st.sampled_from("ab\n \t\r\f\x85é\u2028+-@\\"), max_size=60)


@given(text, text, st.integers(0, 3))
@example("", "a", 3)
@example("a", "", 3)
@example("a", "a\n", 3)
@example("a\nb", "a\nb\nc", 0)
def test_a_diff_of_two_sources_makes_the_second_from_the_first(old: str, new: str, context: int) -> None:
    diff = unified(old, new, context)
    if diff:
        assert apply_patch(diff, old) == new


@given(st.lists(st.sampled_from("abcde"), min_size=3, max_size=40), st.integers(0, 39), st.integers(0, 60))
def test_a_hunk_goes_to_the_line_it_states_or_to_its_one_place_or_nowhere(
    letters: list[str], at: int, start: int
) -> None:
    at %= len(letters) - 2
    wanted = letters[at : at + 3]
    body = f"@@ -{start},3 +{start},3 @@\n {wanted[0]}\n-{wanted[1]}\n+z\n {wanted[2]}\n"
    old = "".join(f"{letter}\n" for letter in letters)
    places = [place for place in range(len(letters)) if letters[place : place + 3] == wanted]
    place = start - 1 if start - 1 in places else places[0]
    if start - 1 in places or len(places) == 1:
        new = [*letters[: place + 1], "z", *letters[place + 2 :]]
        assert apply_patch((HEADER + body).encode(), old) == "".join(f"{letter}\n" for letter in new)
    else:
        assert "occur at line" in str(refusal(HEADER + body, old))


# --- what does not ---


@given(st.binary(max_size=200))
def test_bytes_from_anywhere_raise_nothing_else(diff: bytes) -> None:
    refusal(diff)


PIECES = """\
--- a/train.py
+++ b/train.py
@@ -1,2 +1,2 @@
@@ -0,0 +1 @@
@@ -99999999 +1 @@
@@
 line 1
-line 1
-line 2
+x
\\ No newline at end of file

--
diff --git a/train.py b/train.py
rename to x
Binary files x
--- /dev/null
+++ ../../etc/passwd
\x00"""
pieces = st.sampled_from(PIECES.split("\n"))


@given(st.lists(pieces, max_size=14), st.sampled_from(["\n", "\r\n"]))
def test_a_heap_of_diff_lines_applies_or_is_refused(lines: list[str], end: str) -> None:
    with contextlib.suppress(AdmissionError):
        apply_patch(end.join(lines).encode(), BASE)


@pytest.mark.parametrize(
    ("diff", "code", "says"),
    [
        ("", "empty", "the diff is empty"),
        (" \n\t\n", "empty", "the diff is empty"),
        (b"\xff\xfe-\x00", "not-utf8", "looks like UTF-16"),
        (HEADER.encode() + b"\x80", "not-utf8", "at byte 30"),
        ("please make it faster\n", "not-a-diff", "no file header"),
        ("--- a/train.py\n", "not-a-diff", "no file header"),
        (HEADER, "malformed-diff", "no hunk"),
        (HEADER.replace("train", "prepare") + EDIT, "other-file", "line 1 of the diff: touches 'a/prepare.py'"),
        ("--- a/train.py\n+++ b/prepare.py\n" + EDIT, "other-file", "'b/prepare.py'"),
        ("--- a/../train.py\n+++ b/../train.py\n" + EDIT, "other-file", "'a/../train.py'"),
        ("--- a//train.py\n+++ b/train.py\n" + EDIT, "other-file", "'a//train.py'"),
        ("--- /srv/train.py\n+++ /srv/train.py\n" + EDIT, "other-file", "'/srv/train.py'"),
        ('--- "a/tr\\141in.py"\n+++ "b/train.py"\n' + EDIT, "other-file", "touches"),
        ("--- a/train.py \n+++ b/train.py\n" + EDIT, "other-file", "'a/train.py '"),
        ("diff --git a/train.py b/x.py\n" + HEADER + EDIT, "other-file", "'b/x.py'"),
        (HEADER + EDIT + "--- a/x.py\n+++ b/x.py\n" + EDIT, "other-file", "line 8 of the diff: touches 'a/x.py'"),
        (HEADER + EDIT + "diff --git a/x b/x\nnew file mode 100755\n", "other-file", "touches 'a/x'"),
        (HEADER + EDIT + "-- \n2.39\ndiff --git a/x b/x\n", "other-file", "touches 'a/x'"),
        (HEADER + EDIT + HEADER + EDIT, "malformed-diff", "line 8 of the diff: a second diff of train.py"),
        ("--- /dev/null\n+++ b/train.py\n@@ -0,0 +1 @@\n+x\n", "not-an-edit", "creates or deletes"),
        ("--- a/train.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n", "not-an-edit", "creates or deletes"),
        ("diff --git a/train.py b/train.py\nold mode 100644\nnew mode 100755\n", "not-an-edit", "mode"),
        ("diff --git a/train.py b/train.py\nnew file mode 120000\n" + HEADER + EDIT, "not-an-edit", "creates"),
        ("diff --git a/train.py b/train.py\nindex 1..2 120000\n" + HEADER + EDIT, "not-an-edit", "link"),
        ("diff --git a/train.py b/train.py\nrename from train.py\n" + HEADER + EDIT, "not-an-edit", "renames"),
        ("diff --git a/train.py b/train.py\ncopy to x\n" + HEADER + EDIT, "not-an-edit", "copies"),
        ("diff --git a/train.py b/train.py\nindex 1..2\nGIT binary patch\nliteral 9\n", "not-an-edit", "binary"),
        (
            HEADER + EDIT.replace("-2,3 +2,3", "-2,4 +2,4"),
            "malformed-diff",
            "states 4 old and 4 new lines and has 3 and 3",
        ),
        (HEADER + EDIT + "+one more\n", "malformed-diff", "line 8 of the diff: belongs to no hunk"),
        (HEADER + EDIT.replace("-2,3 +2,3", "-2,3 +2,9999999"), "malformed-diff", "states 3 old and 9999999 new"),
        (HEADER + f"@@ -{'1' * 5000} +1 @@\n-a\n+b\n", "malformed-diff", "not a hunk header"),
        (HEADER + "@@ -١ +1 @@\n-line 1\n+b\n", "malformed-diff", "not a hunk header"),
        (HEADER + "@@ -1,0 +1,0 @@\n", "malformed-diff", "the hunk is empty"),
        (HEADER + "@@ -1 +1 @@\n\\ No newline at end of file\n-a\n+b\n", "malformed-diff", "follows no line"),
        (HEADER + f"@@ -1,2 +1,2 @@\n-a\n{NO_NEWLINE}+b\n c\n", "malformed-diff", "before the end of the file"),
        (HEADER + "@@ -1 +1 @@\n?line 1\n", "malformed-diff", "'?line 1' starts with none of"),
        (HEADER + "@@ -30,0 +31 @@\n+x\n", "does-not-apply", "inserts after line 30 of train.py, which has 20 lines"),
        (HEADER + EDIT.replace("-line 3", "-line 33"), "does-not-apply", "expects 'line 33\\n' at line 3"),
        (HEADER + EDIT.replace("-line 3", "-line 3 "), "does-not-apply", "differ in white space at the end"),
        (HEADER + EDIT.replace("\n", "\r\n"), "does-not-apply", "white space at the end of the line"),
        (HEADER + "@@ -19,2 +19,2 @@\n line 19\n-line 20\n+x\n" + EDIT, "does-not-apply", "not in the file's order"),
        (HEADER + EDIT + EDIT, "does-not-apply", "hunk 2 (line 8 of the diff) does not apply: overlaps"),
        (HEADER + f"@@ -20 +20 @@\n-line 20\n{NO_NEWLINE}+x\n", "does-not-apply", "expects 'line 20'"),
        (HEADER + f"@@ -3 +3 @@\n-line 3\n+x\n{NO_NEWLINE}", "does-not-apply", "without a newline"),
    ],
)
def test_a_bad_diff_is_refused_by_name_and_place(diff: bytes | str, code: str, says: str) -> None:
    error = refusal(diff)
    assert (error.code, says in str(error)) == (code, True), error


def test_long_lines_are_shown_from_where_they_differ() -> None:
    line = "PAIRS = dict(gpu80=65_536, gpu24=32_768, mps=16k, gpu8=16_384, "
    error = refusal(HEADER + f"@@ -1 +1 @@\n-{line}cpu=4_096\n+x\n", f"{line}cpu=2_048\n")
    assert "expects '..._384, cpu=4_096\\n' at line 1 of train.py, which has '..._384, cpu=2_048\\n'" in str(error)
    error = refusal(HEADER + f"@@ -1 +1 @@\n-{line}cpu=4_096\n+x\n", line)
    assert "which has '...8=16_384, ';" in str(error)


def test_lines_that_occur_twice_are_not_guessed_at() -> None:
    base = "x\na\nb\ny\na\nb\n"
    error = refusal(HEADER + "@@ -1,2 +1,2 @@\n a\n-b\n+c\n", base)
    assert "occur at line 2, at line 5" in str(error)


def test_an_insertion_after_a_line_without_newline_does_not_join_them() -> None:
    assert refusal(HEADER + "@@ -1,0 +2 @@\n+b\n", "a").code == AdmissionCode.DOES_NOT_APPLY


def test_a_line_without_newline_is_found_only_as_a_whole_line() -> None:
    diff = HEADER + f"@@ -9 +9 @@\n-b\n{NO_NEWLINE}+c\n"
    assert apply_patch(diff.encode(), "x\nb") == "x\nc\n"
    assert refusal(diff, "x\nab").code == AdmissionCode.DOES_NOT_APPLY


def test_limits_are_checked_before_the_text_is_read() -> None:
    with pytest.raises(AdmissionError, match="has 71 bytes and the limit is 70") as large:
        parse_patch(b"\xff" * 71, max_bytes=70)
    assert large.value.code == AdmissionCode.TOO_LARGE
    with pytest.raises(AdmissionError, match="more than 2 hunks"):
        parse_patch((HEADER + EDIT * 3).encode(), max_hunks=2)


def test_what_an_attacker_wrote_reaches_a_terminal_only_in_quotes_and_cut_short() -> None:
    error = refusal("--- \x1b[2J" + "x" * 9000 + "\n+++ b/train.py\n")
    assert "\x1b" not in str(error)
    assert len(str(error)) < 300


def test_the_largest_diffs_take_no_longer_than_their_size() -> None:
    base = "a\n" * 250_000
    started = time.thread_time()  # what others take of the processor meanwhile is not the reader's
    refusal(
        HEADER + "".join(f"@@ -{2 * n + 1} +{2 * n + 1} @@\n-a\n+b\n" for n in range(255)) + "@@ -9 +9 @@\n-c\n+d\n",
        base,
    )
    refusal(HEADER + "@@ -1,60000 +1,60000 @@\n-b\n+b\n" + " a\n" * 59_999, base)
    refusal("--- \n" * 50_000)
    refusal(HEADER + "@@ -1,9999999 +1,1 @@\n" + "-\n" * 120_000)
    assert time.thread_time() - started < 5.0
