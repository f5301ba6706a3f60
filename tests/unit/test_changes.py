"""What a patch changes, whatever the rest of the file is."""

import pytest

from coordinator.changes import change_key

BASE = """\
WIDTH = 128
RATE = 0.01


def build_model(config):
    if config:
        x = 1
        return x
    return WIDTH


def main(session):
    model = build_model(session)
    return model
"""


def edit(*changes: tuple[str, str], base: str = BASE) -> str:
    for old, new in changes:
        assert old in base
        base = base.replace(old, new)
    return base


WIDER = ("WIDTH = 128", "WIDTH = 256")


def test_the_same_change_of_another_best_is_the_same() -> None:
    moved = edit(("RATE = 0.01", "RATE = 0.02"), ("    return model\n", "    print(model)\n    return model\n"))
    assert change_key(moved, edit(WIDER, base=moved)) == change_key(BASE, edit(WIDER))


def test_layout_and_comments_are_no_change() -> None:
    assert change_key(BASE, edit(("WIDTH = 128", "WIDTH  = (256)  # wider"))) == change_key(BASE, edit(WIDER))


@pytest.mark.parametrize(
    "other",
    [
        ("WIDTH = 128", "WIDTH = 255"),
        ("RATE = 0.01", "RATE = 256"),
        ("        x = 1", "        x = 2"),
        ("    if config:", "    if not config:"),
        ("def main(session):", "def main(session, more=1):"),
    ],
)
def test_another_change_is_another(other: tuple[str, str]) -> None:
    assert change_key(BASE, edit(other)) != change_key(BASE, edit(WIDER))


def test_the_same_statement_in_another_function_is_another() -> None:
    first = edit(("        x = 1\n", "        x = 1\n        y = 2\n"))
    second = edit(("    return model\n", "    y = 2\n    return model\n"))
    assert change_key(BASE, first) != change_key(BASE, second)


def test_taking_back_is_not_the_change() -> None:
    assert change_key(edit(WIDER), BASE) != change_key(BASE, edit(WIDER))
