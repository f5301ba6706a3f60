"""Fuzzes one parser with atheris, guided by the code it reaches: `python -m tests.hostile.fuzz NAME [-runs=N ...]`.

Ends with an error at the first exception that the parser does not document. The options are libFuzzer's.
"""

import sys

import atheris

with atheris.instrument_imports(include=["autoresearch", "coordinator", "trainer", "volunteer"]):
    from tests.hostile.parsers import PARSERS, scratch


def main(name: str, *options: str) -> None:
    """Fuzzes until the runs are made."""
    parser = PARSERS[name]
    corpus = scratch() / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup(
        [sys.argv[0], str(corpus), "-max_len=4096", "-verbosity=0", *options], lambda data: reached(name, data)
    )
    atheris.Fuzz()


def reached(name: str, data: bytes) -> None:
    """One input; libFuzzer wants no answer."""
    PARSERS[name].take(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
