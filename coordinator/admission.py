"""Decides whether a patch may enter the swarm: a diff and its base in, the candidate source and its fingerprint out.

Pure. Nothing here runs, imports or compiles the candidate: it is read into a syntax tree and no further (compiling
copies nested `finally` blocks, which a few lines can make exponential). What only the compiler or a run can tell, such
as `return` outside a function, is found by the trial.

Leaves out: where the base comes from (`lineage`), whether the fingerprint is known already, who may submit.
"""

import ast
import hashlib
import io
import itertools
import re
import threading
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from autoresearch.admission_errors import AdmissionCode, AdmissionError, quoted
from autoresearch.limits import DIFF_BYTES, SOURCE_BYTES
from autoresearch.text import clean_line
from autoresearch.unified_diff import MAX_HUNKS, PATCHED_FILE, apply_hunks, apply_patch, parse_patch

__all__ = [
    "AdmissionCode",
    "AdmissionError",
    "Admitted",
    "Limits",
    "admit",
    "apply_patch",
    "check_source",
    "normalised_fingerprint",
    "parse_patch",
]

ENTRY_POINTS: Final = ("build_model", "main")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a patch may cost us to read. The defaults leave several times what a long training script needs."""

    diff_bytes: int = DIFF_BYTES
    hunks: int = MAX_HUNKS
    source_bytes: int = SOURCE_BYTES
    line_chars: int = 4_096
    # The tree takes up to 2 KB a word (measured: 120 MB for 65,536 one-letter lines).
    words: int = 65_536  # names, numbers and single marks; about 250 KB of ordinary code
    # Python 3.11 reads an f-string anew for each of its braces (measured: 19 s for 160,000 in 500 KB, 1 s for 8,192).
    braces: int = 8_192


@dataclass(frozen=True, slots=True)
class Admitted:
    """A patch that may be tried. Notes are sentences for the author, such as a hunk found away from its stated line."""

    candidate_source: str
    fingerprint: str
    lines_added: int
    lines_removed: int
    notes: tuple[str, ...] = ()


def admit(diff: bytes, base_source: str, *, limits: Limits = Limits()) -> Admitted:
    """The candidate that the diff makes of its base. `base_source` has passed `check_source` itself.

    Raises:
        AdmissionError: any of its codes; the first reason found.
    """
    hunks = parse_patch(diff, max_bytes=limits.diff_bytes, max_hunks=limits.hunks)
    applied = apply_hunks(hunks, base_source)
    if applied.text == base_source:
        raise AdmissionError(AdmissionCode.NO_CHANGE, f"the patch changes nothing; edit {PATCHED_FILE} and try again")
    fingerprint = check_source(applied.text, limits=limits)
    if fingerprint == normalised_fingerprint(base_source):
        message = "the patch changes only comments, docstrings or layout; change what the program does"
        raise AdmissionError(AdmissionCode.NO_CHANGE, message)
    added, removed = sum(hunk.added for hunk in hunks), sum(hunk.removed for hunk in hunks)
    return Admitted(applied.text, fingerprint, added, removed, applied.notes)


def check_source(source: str, *, limits: Limits = Limits(), entry_points: Sequence[str] = ENTRY_POINTS) -> str:
    """The fingerprint of a whole source that may be tried: a patched one, a merged one, or the first of a lineage.

    Raises:
        AdmissionError: too-large, forbidden-character, not-utf8, does-not-parse or missing-entry-point.
    """
    _check_size(source, limits)
    _check_characters(source)
    _check_encoding(source)
    tree = tree_of(source)
    bound = set(_top_level_names(tree))
    for name in entry_points:
        if name not in bound:
            message = f"{PATCHED_FILE} defines no `{name}` at top level; the trial calls it, so keep it"
            raise AdmissionError(AdmissionCode.MISSING_ENTRY_POINT, message)
    return _fingerprint(tree, source)


def normalised_fingerprint(source: str) -> str:
    """SHA-256, in hex, of what the program says and not of how it is written.

    Comments, layout, quoting, the spelling of numbers, `pass` and statements that are a bare constant do not count; nor
    do docstrings, unless the source mentions `__doc__` or `getdoc`. Names, order and values do. Fields that are absent
    are left out, so that a later Python with new optional syntax gives the same fingerprint.

    Raises:
        AdmissionError: does-not-parse.
    """
    return _fingerprint(tree_of(source), source)


def _check_size(source: str, limits: Limits) -> None:
    size_bytes = len(source.encode("utf-8", "surrogatepass"))
    words = sum(1 for _ in itertools.islice(re.finditer(r"\w+|[^\w\s]", source), limits.words + 1))
    for what, amount, limit in (
        ("bytes", size_bytes, limits.source_bytes),
        ("words and marks", words, limits.words),
        ("opening braces", source.count("{"), limits.braces),
    ):
        if amount > limit:
            message = f"{PATCHED_FILE} would have more than {limit} {what}; make it smaller"
            raise AdmissionError(AdmissionCode.TOO_LARGE, message)
    for number, line in enumerate(source.split("\n"), 1):
        if len(line) > limits.line_chars:
            message = f"line {number} of {PATCHED_FILE} has {len(line)} characters and the limit is {limits.line_chars}"
            raise AdmissionError(AdmissionCode.TOO_LARGE, f"{message}; break it", line=number)


# Control characters but tab, newline and form feed; marks that reorder or hide text on a reader's screen (people review
# diffs before they run them); a byte order mark. \r is a line end to Python and not to a diff: it hides code.
_FORBIDDEN: Final = re.compile(
    "[\x00-\x08\x0b\x0d-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def _check_characters(source: str) -> None:
    found = _FORBIDDEN.search(source)
    if found is None:
        return
    line = source.count("\n", 0, found.start()) + 1
    character = f"U+{ord(found.group()):04X}"
    hint = "use \\n line ends" if found.group() == "\r" else "write it as an escape or remove it"
    message = f"line {line} of {PATCHED_FILE} has the character {character}; {hint}"
    raise AdmissionError(AdmissionCode.FORBIDDEN_CHARACTER, message, line=line)


def _check_encoding(source: str) -> None:
    """A coding comment makes Python read other text from the same bytes than was checked here (utf-7 hides code)."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source.encode()).readline)
    except SyntaxError:
        encoding = "one that is unknown"
    if encoding != "utf-8":
        message = f"{PATCHED_FILE} declares its encoding as {quoted(encoding)}; remove the coding comment"
        raise AdmissionError(AdmissionCode.NOT_UTF8, message, line=1)


_parsing = threading.Lock()  # warning filters belong to the process


def tree_of(source: str) -> ast.Module:
    """The syntax tree of a source, without a word on standard error.

    Raises:
        AdmissionError: does-not-parse.
    """
    try:
        # Odd escapes warn, once for each: text from outside must not write to our log.
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source, PATCHED_FILE)
    except (RecursionError, MemoryError):  # the parser's own limits on depth
        raise _unparsable("it is nested too deeply", None) from None
    except SyntaxError as error:
        raise _unparsable(error.msg, error.lineno) from None
    except ValueError as error:  # NUL, lone surrogates
        raise _unparsable(str(error), None) from None


def _unparsable(reason: str, line: int | None) -> AdmissionError:
    where = PATCHED_FILE if line is None else f"line {line} of {PATCHED_FILE}"
    remedy = f"run `python -m py_compile {PATCHED_FILE}` before you submit"
    message = f"{where} does not parse: {clean_line(reason, 120)}; {remedy}"
    return AdmissionError(AdmissionCode.DOES_NOT_PARSE, message, line=line)


_SCOPES: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _top_level_names(tree: ast.Module) -> Iterator[str]:
    """Names that running the module binds to something callable as it stands, also under `if`, `try` and `with`."""
    waiting: list[ast.AST] = [*tree.body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        if not isinstance(node, _SCOPES):
            inner = ast.iter_child_nodes(node)
            waiting += [child for child in inner if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)]


# Said again by position (ctx), or without effect on a run.
_UNSAID: Final = frozenset(["ctx", "kind", "type_comment", "type_ignores"])


def _fingerprint(tree: ast.Module, source: str) -> str:
    """Hashes the tree in preorder, each item with its length, so that different trees give different bytes.

    Iterative: the tree may be deeper than the interpreter's stack.
    """
    keeps_docstrings = "__doc__" in source or "getdoc" in source
    digest = hashlib.sha256()
    waiting: list[object] = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.AST):
            fields = list(_said(item, keeps_docstrings))
            said = f"{type(item).__name__}({','.join(name for name, _ in fields)})".encode()
            waiting.extend(value for _, value in reversed(fields))
        elif isinstance(item, list):
            said = f"[{len(item)}]".encode()
            waiting.extend(reversed(item))
        else:
            said = _constant(item)
        digest.update(b"%d:%b" % (len(said), said))
    return digest.hexdigest()


def _said(node: ast.AST, keeps_docstrings: bool) -> Iterator[tuple[str, object]]:
    for name, value in ast.iter_fields(node):
        said = value
        if isinstance(value, list) and not keeps_docstrings:
            said = [item for item in value if not _is_idle(item)]
        if name not in _UNSAID and said is not None and said != []:
            yield name, said


def _is_idle(statement: object) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)


def _constant(value: object) -> bytes:
    """Type and value: 1, 1.0 and True are different programs, 1e-3 and 0.001 are one."""
    if isinstance(value, str):
        said = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        said = value
    elif type(value) is int:
        said = b"%x" % value  # decimal digits take quadratic time, and Python refuses more than 4,300
    else:
        said = repr(value).encode()  # float, complex, bool, Ellipsis
    return type(value).__name__.encode() + b" " + said
