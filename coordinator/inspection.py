"""What a source does beside training, for an approver to look at: imports and calls that reach outside. Pure.

A module that a training script has no need of is named, whatever it is: only those on a list of harmless ones are not.
Names are followed through `import ... as` and dots. A hint for people, not a defence: whatever runs, runs in the
sandbox, and code can hide from this. It forbids nothing.
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Final

from coordinator.admission import tree_of

FINDINGS_MOST: Final = 20
_DOTS_MOST: Final = 8  # of a name that is followed; a longer chain costs its length at every dot


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# What a training script is made of.
_HARMLESS: Final = frozenset(
    _words("""
    __future__ abc array bisect cmath collections contextlib copy dataclasses decimal enum fractions functools heapq
    itertools json math numbers numpy operator random re statistics string textwrap time torch typing
    typing_extensions warnings einops
    """)
)
# Modules by what they reach, and parts of harmless ones that reach outside.
_MODULES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        _words("""
        socket ssl http urllib requests httpx aiohttp ftplib smtplib grpc websockets asyncio select selectors
        socketserver xmlrpc imaplib poplib telnetlib webbrowser torch.hub torch.distributed torch.utils.model_zoo
        torch.testing._internal.distributed
        """),
        "the network",
    ),
    **dict.fromkeys(
        _words("""
        subprocess multiprocessing pty signal concurrent threading _thread resource atexit sched torch.multiprocessing
        """),
        "other processes",
    ),
    **dict.fromkeys(
        _words("""
        shutil tempfile glob pathlib fcntl mmap io zipfile tarfile gzip bz2 lzma fileinput linecache sqlite3 dbm csv
        configparser logging torch.save torch.from_file torch.utils.tensorboard numpy.load numpy.save numpy.savez
        numpy.savez_compressed numpy.fromfile numpy.loadtxt numpy.genfromtxt numpy.savetxt numpy.memmap numpy.lib
        numpy.DataSource safetensors
        """),
        "files",
    ),
    **dict.fromkeys(
        _words("""
        ctypes cffi importlib imp runpy code codeop builtins gc inspect ast dis types pkgutil site zipimport traceback
        faulthandler tracemalloc weakref numba cupy triton numpy.ctypeslib numpy.f2py torch.utils.cpp_extension
        torch.ops.load_library torch.classes.load_library torch.utils.dlpack torch.cuda.cudart
        """),
        "the interpreter, or other code",
    ),
    **dict.fromkeys(
        _words("""
        pickle marshal shelve dill cloudpickle joblib torch.load torch.jit.load torch.package torch.serialization
        """),
        "pickles",
    ),
    **dict.fromkeys(("trainer", "autoresearch", "coordinator", "volunteer"), "the trial's own code"),
    **dict.fromkeys(("platform", "getpass", "pwd", "grp", "uuid", "secrets", "locale"), "this machine and its people"),
    "os": "files and processes",
    "sys": "the interpreter, or other code",
}
_ROOTS: Final = frozenset(name.partition(".")[0] for name in _MODULES)
_DEPTH: Final = max(name.count(".") for name in _MODULES) + 1
_UNUSUAL: Final = "not what training needs"
_CALLS: Final[Mapping[str, str]] = {
    "open": "files",
    "exec": "text as code",
    "eval": "text as code",
    "compile": "text as code",
    "__import__": "modules by name",
    "__builtins__": "the interpreter, or other code",
    "globals": "the interpreter, or other code",
    "locals": "the interpreter, or other code",
    "vars": "the interpreter, or other code",
    "setattr": "other objects' insides",
    "delattr": "other objects' insides",
    "input": "the terminal",
    "breakpoint": "the terminal",
    "help": "the terminal",
}


def findings(source: str, base: str = "") -> tuple[str, ...]:
    """One line each, such as "line 12: imports socket (the network)"; what `base` does likewise is left out.

    At most FINDINGS_MOST; the last one says how many more there are. Both must parse.
    """
    known = {what for _, what in _found(base)}
    first: dict[str, int] = {}
    for line, what in sorted(_found(source)):
        if what not in known:
            first.setdefault(what, line)
    fresh = [f"line {line}: {what}" for what, line in first.items()]
    if len(fresh) > FINDINGS_MOST:
        fresh[FINDINGS_MOST - 1 :] = [f"and {len(fresh) - FINDINGS_MOST + 1} more: read the source"]
    return tuple(fresh)


def _found(source: str) -> Iterator[tuple[int, str]]:
    tree = tree_of(source)
    aliases = dict(_aliases(tree))
    called: set[int] = set()  # names that a call was reported for already
    parameters = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                for alias in node.names:
                    yield from _module(node.lineno, alias.name)
            case ast.ImportFrom():
                yield from _imported(node)
            case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
                called.add(id(node.func))
                yield node.lineno, f"calls {name} ({_CALLS[name]})"
            case ast.Call(func=ast.Name(id="getattr")):
                yield from _by_name(node, aliases)
            case ast.Name(id=name) if name in _CALLS and name not in parameters and id(node) not in called:
                yield node.lineno, f"names {name} ({_CALLS[name]})"
            case ast.Attribute():
                yield from _attribute(node, aliases)


def _aliases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What names of this source stand for, dotted: of its imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((own.asname, own.name) for own in node.names if own.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((own.asname or own.name, f"{node.module or ''}.{own.name}") for own in node.names)


def _module(line: int, name: str) -> Iterator[tuple[int, str]]:
    reached = _reach(name)
    if reached is None and name.partition(".")[0] not in _HARMLESS:
        reached = _UNUSUAL
    if reached is not None:
        yield line, f"imports {name} ({reached})"


def _imported(node: ast.ImportFrom) -> Iterator[tuple[int, str]]:
    module = "." * node.level + (node.module or "")
    found = list(_module(node.lineno, module))
    if found:
        yield from found
        return
    for own in node.names:
        if own.name == "*" or _reach(f"{module}.{own.name}"):
            yield node.lineno, f"imports {module}.{own.name} ({_reach(f'{module}.{own.name}') or 'names unseen'})"


def _reach(name: str) -> str | None:
    """What a dotted name, or the part of it that is known, reaches."""
    if name.partition(".")[0] not in _ROOTS:  # nearly always
        return None
    parts = name.split(".")[:_DEPTH]
    return next((_MODULES[own] for n in range(len(parts), 0, -1) if (own := ".".join(parts[:n])) in _MODULES), None)


def _attribute(node: ast.Attribute, aliases: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    if node.attr.startswith("__") and node.attr.endswith("__") and node.attr not in ("__init__", "__name__"):
        yield node.lineno, f"uses {node.attr} (the interpreter, or other code)"
        return
    name = _dotted(node, aliases)
    if name and (reached := _reach(name)) is not None:
        yield node.lineno, f"uses {name} ({reached})"


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    """`np.load` as "numpy.load"; empty for what does not begin with a name, or is very long."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
        if len(parts) > _DOTS_MOST:
            return ""
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, {"np": "numpy"}.get(node.id, node.id)), *reversed(parts)])


def _by_name(node: ast.Call, aliases: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """`getattr(torch, "load")`, or of a name that is made at run time."""
    match node.args:
        case [holder, ast.Constant(value=str(name)), *_]:
            whole = f"{_dotted(holder, aliases)}.{name}"
            if (reached := _reach(whole)) is not None:
                yield node.lineno, f"uses {whole} ({reached})"
        case _:
            yield node.lineno, "calls getattr with a name made at run time (other objects' insides)"
