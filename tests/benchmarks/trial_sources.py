"""The trainers that are compared, and how their constants are changed."""

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = HERE.parents[1] / "trainer" / "train.py"
RIVALS = {name: HERE / "trainers" / f"{name}_style.py" for name in ("nanogpt", "upstream")}


def with_constants(source: str, constants: dict[str, object]) -> str:
    """The source with some of its constants replaced."""
    for name, value in constants.items():
        source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value!r}  ", source, flags=re.MULTILINE)
        assert count == 1, name
    return source
