"""The trainer's own command line, for working without any swarm: `python -m trainer prepare|run|replay|exam|digest`.

Parses, calls, prints. A fault of the machine or the command is one line on standard error and exit status 2; a trial
that did not complete is 1; an interrupted one 130.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console

from trainer import main as running
from trainer import report
from trainer.dataset import FORMS, MOST_SHARDS, parse
from trainer.errors import MachineError, TrainerError
from trainer.live import LiveLine, PrepareLine
from trainer.manifest import Manifest
from trainer.prepare import prepare
from trainer.record import read_record, record_of, write_record
from trainer.result import DEVICE, Outcome, TrialLimits, TrialResult, TrialSpec
from trainer.source import lacking, source_problem
from trainer.trial import code_digest

EXIT_NOT_COMPLETED = 1
EXIT_MACHINE = 2
EXIT_INTERRUPTED = 130
DEFAULT_DATASET = "tiny"
MAX_READ_BYTES = 4 << 20  # of a source given by name; the trial's own limit is lower

FILE = click.Path(dir_okay=False, path_type=Path)

_stderr = Console(stderr=True)
Command = TypeVar("Command", bound=Callable[..., Any])


class OneLineErrors(click.Group):
    """Prints what is wrong with the command or this machine as one line: no usage text, no traceback."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            status = super().main(*arguments, **{**options, "standalone_mode": False})
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "python -m trainer"
            _fail(f"{error.format_message().rstrip('.')}: see `{where} --help`", EXIT_MACHINE)
        except (click.ClickException, TrainerError) as error:
            _fail(error.format_message() if isinstance(error, click.ClickException) else str(error), EXIT_MACHINE)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", EXIT_INTERRUPTED)
        sys.exit(status if isinstance(status, int) else 0)


def _fail(text: str, status: int) -> NoReturn:
    click.echo("error: " + " ".join(text.split()), err=True)
    sys.exit(status)


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases of click only
    """A number of seconds in a range; click's own ranges let NaN through."""

    name = "seconds"

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = math.nan
        if not self._least <= seconds <= self._most:
            self.fail(f"{value!r} is not a number of seconds from {self._least:g} to {self._most:g}", param, ctx)
        return seconds


class Device(click.ParamType):  # type: ignore[type-arg]  # likewise
    """`auto`, or a device as torch names it."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "auto" and not DEVICE.fullmatch(str(value)):
            self.fail(f"{value!r} is no device: choose auto, cpu, mps, cuda or cuda:N", param, ctx)
        return str(value)


@click.group(cls=OneLineErrors, no_args_is_help=False)
def main() -> None:
    """Train a train.py for a fixed budget and measure it, alone on this machine."""


def _with(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options at once, in this order."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    return click.option(*names, **settings)


_data_options = _with(
    _option("--dataset", help=f"One of {', '.join(FORMS)}. Default: {DEFAULT_DATASET}."),
    _option("--data-dir", type=click.Path(path_type=Path), help="Default: a folder in ~/.cache."),
)
_json_option = _option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the block.")
_sandbox_option = _option("--unsafe-no-sandbox", is_flag=True, help="Run the source with all your rights. Your own!")
_trial_options = _with(
    _option("--device", type=Device(), default="auto", show_default=True, help="cpu, mps, cuda or cuda:N."),
    _option("--threads", type=click.IntRange(1, 256), default=1, show_default=True),
    _json_option,
    _sandbox_option,
    _data_options,
)


@main.command("prepare")
@_data_options
@click.option("--shards", type=int, help=f"climbmix: training shards of 0.1 GB, 1 to {MOST_SHARDS}. Default: 10.")
@click.option(
    "--revision", metavar="COMMIT", help="climbmix: its commit. Default: the one that is here, or the newest."
)
def prepare_command(dataset: str | None, data_dir: Path | None, shards: int | None, revision: str | None) -> None:
    """Prepare the data set, or check that it is prepared.

    Interrupted, it goes on where it was when it is run again. climbmix is downloaded from HF_ENDPOINT (the Hugging Face
    hub), with HF_TOKEN if that is set, through HTTPS_PROXY if that is set.
    """
    try:
        manifest = _prepared(dataset, data_dir, shards, revision)
    except KeyboardInterrupt:
        click.echo("error: interrupted: run the same command to go on", err=True)
        sys.exit(EXIT_INTERRUPTED)
    click.echo(f"{manifest.data_dir}\ndataset {manifest.dataset}\nmanifest sha256 {manifest.sha256}")


@main.command()
@click.argument("source", type=FILE)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--budget", "budget_s", type=Seconds(0.5, 86_400), help="Default: 12 on cpu, else 300.")
@click.option(
    "--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, with consecutive seeds."
)
@click.option("--compare", type=FILE, help="Run this source too, paired by seed.")
@click.option("--keep-weights", type=FILE, help="Keep the (last) weights here.")
@click.option("--record", type=FILE, help="Write the run down here, for `replay`.")
@_trial_options
def run(source: Path, compare: Path | None, repeat: int, record: Path | None, **options: Any) -> None:
    """Train SOURCE for the budget, examine the weights, print val_bpb (lower is better)."""
    if record is not None and (repeat > 1 or compare is not None):
        raise click.UsageError("--record keeps one run: leave out --repeat and --compare")
    _check_writable(record, options["keep_weights"])
    sources = {str(source): _read_source(source)}
    if compare is not None:
        sources[str(compare) if compare != source else f"{compare} again"] = _read_source(compare)
    with _spec(sources[str(source)], **options) as (spec, manifest):
        runs = []
        for name, result in running.run_repeated(sources, spec, repeat, _watched(options["as_json"])):
            runs.append((name, result))
            if not options["as_json"]:
                _print_run(name, result, alone=len(sources) == 1 and repeat == 1)
        if record is not None and result.outcome is Outcome.COMPLETED:
            write_record(record, record_of(spec, result, manifest, code_digest()))
    _finish(runs, list(sources), as_json=options["as_json"])


@main.command()
@click.argument("record", type=FILE)
@click.argument("source", type=FILE, required=False)
@click.option("--threads", type=click.IntRange(1, 256), help="Other than recorded: the numbers may differ then.")
@_with(_json_option, _sandbox_option, _data_options)
def replay(record: Path, source: Path | None, threads: int | None, dataset: str | None, **options: Any) -> None:
    """Train again on the batches of RECORD, made by `run --record`, with the recorded shares of the budget.

    The source in the record is trained, or SOURCE. On the same kind of machine the same weights should come out,
    however busy it is.
    """
    recorded = read_record(record)
    content = recorded.source if source is None else _read_source(source)
    terms: dict[str, Any] = {"seed": recorded.seed, "budget_s": recorded.budget_s, "device": recorded.device}
    terms |= {"threads": threads or recorded.threads, "dataset": dataset or recorded.dataset, "keep_weights": None}
    line = LiveLine(record.name, _stderr, budget_s=recorded.budget_s, quiet=options["as_json"])
    with _spec(content, **terms, **options) as (spec, _), line:
        result = running.replay(spec, recorded, line.show)
    name = str(source or record)
    if not options["as_json"]:
        _print_run(name, result, alone=True)
        for text in report.replay_lines(recorded, spec, result, code_digest()):
            click.echo(text)
    _finish([(name, result)], [name], as_json=options["as_json"], replay=report.replay_json(recorded, spec, result))


@main.command()
@click.argument("source", type=FILE)
@click.argument("weights", type=FILE)
@_trial_options
def exam(source: Path, weights: Path, **options: Any) -> None:
    """Examine WEIGHTS, kept by `run --keep-weights`, through SOURCE's build_model."""
    content = _read_source(source)
    if not weights.is_file():
        raise click.UsageError(f"there is no file {weights}: keep one with `run --keep-weights`")
    line = LiveLine(source.name, _stderr, quiet=options["as_json"])
    with _spec(content, seed=0, budget_s=None, keep_weights=None, **options) as (spec, _), line:
        result = running.run_exam(spec, weights.resolve(), line.show)  # a person may name a link, a candidate may not
    if not options["as_json"]:
        _print_run(str(source), result, alone=True)
    _finish([(str(source), result)], [str(source)], as_json=options["as_json"])


@main.command()
def digest() -> None:
    """Print the digest of the trial code: two machines with the same one judge alike."""
    click.echo(code_digest())


@contextmanager
def _spec(
    source: bytes,
    *,
    seed: int,
    budget_s: float | None,
    keep_weights: Path | None,
    device: str,
    threads: int,
    dataset: str | None,
    data_dir: Path | None,
    unsafe_no_sandbox: bool,
    as_json: bool,  # noqa: ARG001  (the commands pass all their options on)
) -> Iterator[tuple[TrialSpec, Manifest]]:
    manifest = _prepared(dataset, data_dir)
    device = running.best_device() if device == "auto" else device
    with _temporary_folder() as work_dir:
        spec = TrialSpec(
            source=source,
            seed=seed,
            budget_s=budget_s or running.default_budget_s(device),
            data_dir=manifest.data_dir,
            work_dir=Path(work_dir),
            device=device,
            threads=threads,
            sandbox="none" if unsafe_no_sandbox else "auto",
            keep_weights=keep_weights,
        )
        yield spec, manifest


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="autoresearch-")
    except OSError as error:
        raise MachineError(f"cannot make a temporary folder ({error.strerror}): set TMPDIR to another place") from error


def _check_writable(*files: Path | None) -> None:
    """Before a trial is run for nothing."""
    for path in files:
        if path is not None and not path.parent.is_dir():
            raise click.UsageError(f"there is no folder {path.parent} to write {path.name} in")
        if path is not None and not os.access(path.parent, os.W_OK):
            raise click.UsageError(f"cannot write in {path.parent}")


def _prepared(
    dataset: str | None, data_dir: Path | None, shards: int | None = None, revision: str | None = None
) -> Manifest:
    wanted = parse(dataset or DEFAULT_DATASET).narrowed(shards, revision)
    with PrepareLine(_stderr) as line:
        return prepare(wanted, data_dir or running.default_data_dir(wanted.family), on_progress=line.show)


def _watched(quiet: bool) -> running.Watch:
    return lambda name, spec: LiveLine(
        f"{Path(name).name} seed {spec.seed}", _stderr, budget_s=spec.budget_s, quiet=quiet
    )


def _read_source(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            source = stream.read(MAX_READ_BYTES)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error
    problem = source_problem(source, TrialLimits().source_bytes) or lacking(source)
    if problem:
        raise click.UsageError(f"{path}: {problem}")
    return source


def _print_run(name: str, result: TrialResult, *, alone: bool) -> None:
    if result.outcome is not Outcome.COMPLETED and result.log_tail:
        click.echo(result.log_tail, err=True)
    if alone:
        click.echo(report.block(result))
    else:
        score = f"{result.val_bpb:.6f}" if result.val_bpb is not None else result.outcome.value
        click.echo(f"{name}  val_bpb {score}  steps {result.steps}  cpu_share {report.percent(result.cpu_share)}")
    if result.outcome is not Outcome.COMPLETED:
        click.echo(f"error: {result.outcome}: {result.reason}", err=True)


def _finish(runs: list[tuple[str, TrialResult]], names: list[str], *, as_json: bool, **more: object) -> None:
    """The summary, and the exit status of the worst run."""
    if as_json:
        click.echo(json.dumps(report.summary_json(runs, names) | more))
    elif len(runs) > 1:
        for line in report.summary(runs, names):
            click.echo(line)
    outcomes = {result.outcome for _, result in runs}
    if Outcome.ABORTED in outcomes:
        sys.exit(EXIT_INTERRUPTED)
    if outcomes != {Outcome.COMPLETED}:
        sys.exit(EXIT_NOT_COMPLETED)
