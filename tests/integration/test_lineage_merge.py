"""Three-way merges of a candidate onto a best that has moved, with real git."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.lineage import Conflict, merge

BASE = """\
WIDTH = 128
DEPTH = 4
RATE = 0.01


def build_model():
    return WIDTH


def main(session):
    model = build_model()
    return model
"""


def test_edits_of_different_places_both_count() -> None:
    ours, theirs = BASE.replace("128", "192"), BASE.replace("return model", "return {'model': model}")
    assert merge(BASE, ours, theirs) == ours.replace("return model", "return {'model': model}")


def test_the_same_edit_on_both_sides_counts_once() -> None:
    both = BASE.replace("128", "192")
    assert merge(BASE, both, both) == both


def test_a_side_that_did_not_move_takes_the_other() -> None:
    edited = BASE.replace("0.01", "0.02")
    assert merge(BASE, BASE, edited) == edited
    assert merge(BASE, edited, BASE) == edited


def test_a_file_may_lack_its_last_newline() -> None:
    ours, theirs = BASE.replace("128", "192").removesuffix("\n"), BASE.removesuffix("\n")
    assert merge(BASE.removesuffix("\n"), ours, theirs) == ours


def test_edits_of_the_same_line_conflict_and_show_where() -> None:
    conflict = merge(BASE, BASE.replace("128", "192"), BASE.replace("128", "256"))
    assert isinstance(conflict, Conflict)
    assert conflict.reason.startswith("the best has changed the same lines in one place: check out the best")
    assert conflict.excerpt == ("<<<<<<< best", "WIDTH = 192", "=======", "WIDTH = 256", ">>>>>>> patch")


def test_a_long_conflict_is_shown_in_part_and_without_control_characters() -> None:
    ours = BASE.replace("DEPTH = 4", "\n".join(f"A{n} = {'1' * 900}" for n in range(900)))
    conflict = merge(BASE, ours, BASE.replace("DEPTH = 4", "B = '\x1b'"))
    assert isinstance(conflict, Conflict)
    assert len(conflict.excerpt) == 12
    assert all(len(line) <= 120 and line.isprintable() for line in conflict.excerpt)


def test_more_conflicts_than_an_exit_status_can_count() -> None:
    numbered = "".join(f"x{n} = 1\n\n\n\n" for n in range(300)) + BASE
    conflict = merge(numbered, numbered.replace("= 1\n", "= 2\n"), numbered.replace("= 1\n", "= 3\n"))
    assert isinstance(conflict, Conflict)
    assert conflict.excerpt[:2] == ("<<<<<<< best", "x0 = 2")


def test_line_ends_do_not_hide_a_conflict() -> None:
    base = BASE.replace("\n", "\r\n")
    assert isinstance(merge(base, base.replace("128", "192"), base.replace("128", "256")), Conflict)


def test_texts_that_merge_into_no_program_are_a_conflict() -> None:
    ours = BASE.replace("def build_model():\n    return WIDTH\n", "build_model = dict(\n    width=WIDTH,\n)\n")
    theirs = BASE.replace("def main(session):\n", "def main(session):\n    import math\n").replace("WIDTH = 128\n", "")
    merged = merge(BASE, ours, theirs)
    assert merged == ours.replace("WIDTH = 128\n", "").replace("(session):\n", "(session):\n    import math\n")
    base = BASE + "\n\n# one\n\n\n# two\n\n\n# three\n"
    unparsable = merge(base, base.replace("# one", "x = ("), base.replace("# three", "y = 1"))
    assert isinstance(unparsable, Conflict)
    assert "does not parse" in unparsable.reason
    assert "\n" not in unparsable.reason


def test_marks_of_a_conflict_in_a_source_are_text() -> None:
    marked = BASE + "TEXT = '''\n<<<<<<< best\n=======\n>>>>>>> patch\n'''\n"
    assert merge(marked, marked.replace("128", "192"), marked) == marked.replace("128", "192")


def test_the_environment_does_not_change_a_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = (BASE, BASE.replace("128", "192"), BASE.replace("128", "256"))
    expected = merge(*sides)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "merge.conflictStyle")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "diff3")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert merge(*sides) == expected


lines = st.lists(st.sampled_from(["a = 1", "b = 2", "c = 3", ""]), max_size=8)


@settings(max_examples=25)
@given(lines, lines, lines)
def test_a_merge_is_a_program_or_a_conflict_each_time(base: list[str], ours: list[str], theirs: list[str]) -> None:
    texts = ["\n".join([*side, BASE]) for side in (base, ours, theirs)]
    merged = merge(*texts)
    assert merge(*texts) == merged
    if isinstance(merged, Conflict):
        assert merged.excerpt[0] == "<<<<<<< best"
    else:
        compile(merged, "train.py", "exec")
