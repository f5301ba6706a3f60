"""Sources that are small and cost much: what a parser, a recursion or a join could be made to do with them."""

from collections.abc import Callable

TAIL = "\n\ndef build_model(config):\n    return config\n\n\ndef main(session):\n    return session\n"


def _nested(count: int) -> str:
    names = [("f" * 3_900) + str(level) for level in range(30)]
    heads = "".join(f"{' ' * level}def {name}():\n" for level, name in enumerate(names))
    return heads + (" " * 30 + "0;" * 1_000 + "0\n") * (count // 1_000)


# By name: a source of so many units.
SOURCES: dict[str, Callable[[int], str]] = {
    "a long sum": lambda n: "x = " + "+".join(["1"] * n) + "\n",
    "a long chain of elif": lambda n: "if 0:\n    0\n" + "elif 0:\n    0\n" * n,
    "statements within long names": _nested,
    "brackets": lambda n: "x = " + "(" * min(n, 199) + ")" * min(n, 199) + "\n" + "y = ()\n" * n,
    "f-strings": lambda n: "x = 1\ny = f'" + "{x}" * (n // 8) + "'\n",
    "f-strings in f-strings": lambda n: "x = 1\n" + "y = f'{f\"{x}\"}'\n" * (n // 8),
    "a long number": lambda n: "x = 0x" + "f" * n + "\n",
    "strings that join": lambda n: "x = (" + "'a'\n" * n + ")\n",
    "odd escapes": lambda n: "x = '\\d'\n" * n,
    "decorators": lambda n: "@x\n" * n + "def f():\n    0\n",
    "one name many times": lambda n: "a = a\n" * n,
    "a long comparison": lambda n: "x = " + "<".join(["1"] * n) + "\n",
    "attributes": lambda n: "x = y" + ".z" * n + "\n",
    "unary marks": lambda n: "x = " + "-" * n + "1\n",
    "lambdas": lambda n: "x = " + "lambda:" * n + "0\n",
    "comments": lambda n: "#\n" * n,
    "keyword arguments": lambda n: "x = f(" + ",".join(f"a{i}=1" for i in range(n)) + ")\n",
    "lines that go on": lambda n: "x = \\\n" + "1 + \\\n" * n + "1\n",
    "dictionaries": lambda n: "x = " + "{1:" * min(n, 199) + "1" + "}" * min(n, 199) + "\n",
    "matches": lambda n: "match 0:\n" + "    case 0:\n        0\n" * n,
}
