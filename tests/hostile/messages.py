"""Hypothesis strategies for what somebody hostile may send: any protobuf message, with values that code trips over."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

Kind = FieldDescriptor
Fixed = Mapping[type[Message], st.SearchStrategy[Message]]
TEXTS: Final = (
    "", "0", "-1", "\x00", "\x1b[2J\x1b]0;x\x07", "\u202egnp.exe", "\u2028",
    "[red]x[/red]", "<script>alert(1)</script>",
    "../../../etc/passwd", "/dev/zero", "a" * 16, "0" * 16, "0" * 32, "0" * 40, "0" * 64, "a" * 32, "ß" * 40,
    "x" * 5_000, "x\ny", "\r\n", "%s%n{0}", "'; DROP TABLE", "*", "\ud7ff", "\U0010ffff", "9" * 400, "1e999", "nan",
)  # fmt: skip
WHOLE: Final = (0, 1, 2, 7, 63, 64, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1)
WHOLE_64: Final = (*WHOLE, 2**63, 2**64 - 1)
_SIGNED: Final = {32: (Kind.TYPE_INT32, Kind.TYPE_SINT32, Kind.TYPE_SFIXED32),
                  64: (Kind.TYPE_INT64, Kind.TYPE_SINT64, Kind.TYPE_SFIXED64)}  # fmt: skip
_UNSIGNED: Final = {32: (Kind.TYPE_UINT32, Kind.TYPE_FIXED32), 64: (Kind.TYPE_UINT64, Kind.TYPE_FIXED64)}
_RANGES: Final = {
    **{kind: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits, kinds in _SIGNED.items() for kind in kinds},
    **{kind: (0, 2**bits - 1) for bits, kinds in _UNSIGNED.items() for kind in kinds},
}


def texts(known: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """Strings: those that mean something to this swarm, those that trip code, and any."""
    named = st.sampled_from([*known, *TEXTS])
    return st.one_of(named, named, st.text(st.characters(exclude_categories=["Cs"]), max_size=60))


def whole(kind: int) -> st.SearchStrategy[int]:
    """Integers that a field of this kind can carry, the ends of its range most often."""
    low, high = _RANGES[kind]
    return st.one_of(st.sampled_from([n for n in (*WHOLE_64, low, -1) if low <= n <= high]), st.integers(low, high))


def message(
    kind: type[Message],
    known: Sequence[str] = (),
    fixed: Mapping[type[Message], st.SearchStrategy[Message]] | None = None,
) -> st.SearchStrategy[Message]:
    """Any message of a class. `fixed`: strategies for messages of these classes, wherever they stand in it."""
    fields = {field.name: _field(field, tuple(known), fixed or {}) for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(functools.partial(_made, kind))


def spoilt(sound: Message, known: Sequence[str] = ()) -> st.SearchStrategy[Message]:
    """A message that would do, with at most two of its fields replaced by anything."""
    strategies = {field.name: _field(field, tuple(known), {}) for field in sound.DESCRIPTOR.fields}

    @functools.cache  # made once for each choice of fields: to make a strategy takes longer than to draw from it
    def values(names: frozenset[str]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({name: strategies[name] for name in sorted(names)})

    def replace(values: Mapping[str, Any]) -> Message:
        made = type(sound)()
        made.CopyFrom(sound)
        for name in values:
            made.ClearField(name)
        made.MergeFrom(_made(type(sound), values))
        return made

    replaced = st.lists(st.sampled_from(sorted(strategies)), max_size=2, unique=True).map(frozenset)
    return replaced.flatmap(values).map(replace)


def _made(kind: type[Message], fields: Mapping[str, Any]) -> Message:
    made = kind()
    for name, value in fields.items():
        if isinstance(value, Message):
            getattr(made, name).CopyFrom(value)
        elif isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


def _field(field: FieldDescriptor, known: Sequence[str], fixed: Fixed) -> st.SearchStrategy[Any]:
    single: st.SearchStrategy[Any]
    if field.type == Kind.TYPE_MESSAGE:
        inner = field.message_type._concrete_class
        single = fixed[inner] if inner in fixed else st.deferred(lambda: message(inner, known, fixed))
    elif field.type == Kind.TYPE_STRING:
        single = texts(known)
    elif field.type == Kind.TYPE_BYTES:
        single = st.one_of(st.binary(max_size=200), texts(known).map(str.encode), st.just(b"\x00" * 48))
    elif field.type == Kind.TYPE_ENUM:
        single = st.one_of(
            st.sampled_from([v.number for v in field.enum_type.values]), st.integers(-(2**31), 2**31 - 1)
        )
    elif field.type == Kind.TYPE_BOOL:
        single = st.booleans()
    elif field.type in (Kind.TYPE_DOUBLE, Kind.TYPE_FLOAT):
        single = st.floats(width=64 if field.type == Kind.TYPE_DOUBLE else 32)
    else:
        single = whole(field.type)
    return st.lists(single, max_size=5) if field.is_repeated else single


_EDITS: Final = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4
)


def mutated(sound: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes that were something, with some of them changed, cut out, doubled or put in."""
    return st.tuples(sound, _EDITS).map(_changed)


def _changed(drawn: tuple[bytes, list[tuple[int, int, bytes]]]) -> bytes:
    data, edits = drawn
    now = bytearray(data)
    for at, length, put in edits:
        begin = at % (len(now) + 1)
        now[begin : begin + length] = put
    return bytes(now)
