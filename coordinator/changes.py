"""What a patch changes, whatever the rest of the file is: a digest by which the same change is known on another best.

Without it one useless patch, sent again after every promotion, would get as many chances to pass by luck. Pure. Who
may send what again is decided in `intake`; the same whole program is known by `admission.normalised_fingerprint`.
"""

import ast
from collections import Counter
from collections.abc import Iterator

from autoresearch.admission_errors import AdmissionCode, AdmissionError
from autoresearch.digest import sha256_hex
from coordinator.admission import tree_of

_PLACE_CHARACTERS = 200  # of names around a statement; more are hashed, lest each statement repeat all of them
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def change_key(base: str, candidate: str) -> str:
    """Digest of the statements that are gone and of those that are new, each with the functions and classes around it.

    Both sources parse. Layout, comments and what stands elsewhere do not matter; where a statement stands within its
    block does not either.

    Raises:
        AdmissionError: one of them is nested more deeply, or has a longer number, than can be told.
    """
    try:
        before, after = (Counter(_statements(tree_of(source), "")) for source in (base, candidate))
    except (RecursionError, ValueError) as error:  # Python tells no number of more than 4,300 digits
        message = "the source is nested too deeply, or holds too long a number: write it flatter or shorter"
        raise AdmissionError(AdmissionCode.TOO_LARGE, message) from error
    lines = [f"- {line}" for line in sorted((before - after).elements())]
    lines += [f"+ {line}" for line in sorted((after - before).elements())]
    return sha256_hex("\n".join(lines).encode())


def _statements(tree: ast.AST, where: str) -> Iterator[str]:
    """Every statement without the blocks in it, after the names of what is around it."""
    for block in _BLOCKS:
        for node in getattr(tree, block, ()):
            own = {name: value for name, value in ast.iter_fields(node) if name not in _BLOCKS}
            yield f"{where}: {type(node).__name__} {_dumped(own)}"
            named = getattr(node, "name", None)
            yield from _statements(node, _place(where, named) if isinstance(named, str) else where)


def _place(where: str, name: str) -> str:
    place = f"{where}.{name}"
    return place if len(place) <= _PLACE_CHARACTERS else sha256_hex(place.encode())


def _dumped(fields: dict[str, object]) -> str:
    return repr({
        name: [_node(one) for one in value] if isinstance(value, list) else _node(value)
        for name, value in fields.items()
    })  # fmt: skip


def _node(value: object) -> str:
    return ast.dump(value) if isinstance(value, ast.AST) else repr(value)
