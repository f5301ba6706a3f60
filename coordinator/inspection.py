"""What a source does beside training, for an approver to look at: imports and calls that reach outside. Pure.

A hint for people, not a defence: whatever runs, runs in the sandbox, and code can hide from this. It forbids nothing.
"""

import ast
from collections.abc import Iterator, Mapping
from typing import Final

FINDINGS_MOST: Final = 20

# Modules that a train.py has no need of, by what they reach.
_MODULES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("socket", "ssl", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "grpc", "websockets"),
        "the network",
    ),
    **dict.fromkeys(("subprocess", "multiprocessing", "pty", "signal", "concurrent", "threading"), "other processes"),
    **dict.fromkeys(("shutil", "tempfile", "glob", "pathlib", "fcntl", "mmap", "io", "zipfile", "tarfile"), "files"),
    **dict.fromkeys(("ctypes", "cffi", "importlib", "runpy", "code", "builtins", "gc", "inspect"), "the interpreter"),
    **dict.fromkeys(("pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"), "pickles"),
    **dict.fromkeys(("trainer", "autoresearch", "coordinator", "volunteer"), "the trial's own code"),
    "os": "files and processes",
    "sys": "the interpreter",
}
_CALLS: Final[Mapping[str, str]] = {
    "open": "files",
    "exec": "text as code",
    "eval": "text as code",
    "compile": "text as code",
    "__import__": "modules by name",
    "globals": "the interpreter",
    "vars": "the interpreter",
    "setattr": "other objects' insides",
    "input": "the terminal",
}
_ATTRIBUTES: Final[Mapping[tuple[str, str], str]] = {
    ("torch", "load"): "pickles",
    ("torch", "save"): "files",
    ("torch", "hub"): "the network",
    ("torch", "multiprocessing"): "other processes",
    ("torch", "distributed"): "the network",
    ("np", "load"): "files",
    ("numpy", "load"): "files",
}


def findings(source: str, base: str = "") -> tuple[str, ...]:
    """One line each, such as "line 12: imports socket (the network)"; what `base` does likewise is left out.

    At most FINDINGS_MOST. Both must parse.
    """
    known = {what for _, what in _found(base)}
    fresh = [f"line {line}: {what}" for line, what in sorted(_found(source)) if what not in known]
    return tuple(fresh[:FINDINGS_MOST])


def _found(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            yield from _module(node.lineno, node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield node.lineno, f"calls {node.func.id} ({_CALLS[node.func.id]})"
        elif isinstance(node, ast.Attribute):
            yield from _attribute(node)


def _module(line: int, name: str) -> Iterator[tuple[int, str]]:
    for known in (name, name.partition(".")[0]):
        if known in _MODULES:
            yield line, f"imports {name} ({_MODULES[known]})"
            return


def _attribute(node: ast.Attribute) -> Iterator[tuple[int, str]]:
    if node.attr.startswith("__") and node.attr.endswith("__") and node.attr not in ("__init__", "__name__"):
        yield node.lineno, f"uses {node.attr} (the interpreter)"
    elif isinstance(node.value, ast.Name) and (node.value.id, node.attr) in _ATTRIBUTES:
        yield node.lineno, f"uses {node.value.id}.{node.attr} ({_ATTRIBUTES[node.value.id, node.attr]})"
