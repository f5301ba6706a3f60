"""Fuzzes parsers with atheris, guided by the code that is reached: `python -m tests.hostile.fuzz [NAME ...] --runs N`.

Each parser (all, if none is named) has a process of its own, one after the other, and N inputs divided by its cost. The
last line is one JSON object: how many inputs each took, in how many seconds, and what failed, with the input that did
it. Ends with an error if anything but documented errors came out of one.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["autoresearch", "coordinator", "trainer", "volunteer"]):
    from tests.hostile.parsers import PARSERS

# Of one input, by the clock: libFuzzer cannot count the processor's time, and a busy machine lets a process wait.
INPUT_S = 60
SHOWN_BYTES = 2_000


def fuzz(name: str, runs: int, found: Path) -> None:
    """Fuzzes one parser in this process, and ends it; an input that fails is left in `found`."""
    parser = PARSERS[name]
    tempfile.tempdir = str(found.parent)
    corpus = found.with_name("corpus")
    corpus.mkdir()
    for number, seed in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-runs={runs}", "-seed=1", f"-timeout={INPUT_S}", "-max_len=4096", "-verbosity=0"]

    def take(data: bytes) -> None:  # libFuzzer wants no answer, and leaves an input itself only if it took too long
        try:
            parser.take(data)
        except Exception:
            found.write_bytes(data)
            raise

    atheris.Setup([sys.argv[0], str(corpus), f"-exact_artifact_path={found}", *options], take)
    atheris.Fuzz()


def in_a_process(name: str, runs: int) -> str:
    """Fuzzes one parser; the input that failed, or how the process ended, if it did not end well."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    found = folder / "failed"
    child = os.fork()
    if not child:
        code = 1
        try:
            fuzz(name, runs, found)
        except SystemExit as end:  # so atheris ends, well or not
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os._exit(code)  # and cleans nothing up: what it found is its parent's
    try:
        _, status = os.waitpid(child, 0)
        if found.exists():
            return repr(found.read_bytes()[:SHOWN_BYTES])
        return f"ended with {os.waitstatus_to_exitcode(status)}" if status else ""
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help="a key of PARSERS [all]")
    parser.add_argument("--runs", type=int, default=60_000, help="inputs of a parser of cost 1 [60000]")
    given = parser.parse_args()
    began, inputs, failed = time.monotonic(), {}, {}
    for name in given.names or PARSERS:
        inputs[name] = max(1, given.runs // PARSERS[name].cost)
        why = in_a_process(name, inputs[name])
        failed |= {name: why} if why else {}
        sys.stderr.write(f"{name}: {inputs[name]} inputs, {time.monotonic() - began:.0f} s so far\n")
    report = {"parsers": len(inputs), "inputs": sum(inputs.values())}
    report |= {"seconds": round(time.monotonic() - began, 1), "failed": failed}
    print(json.dumps(report))  # noqa: T201  # to whoever started this
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
