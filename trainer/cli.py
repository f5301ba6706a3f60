"""The trainer's own command line, for working without any swarm: `python -m trainer prepare|run|exam|digest`.

Parses, calls, prints. A fault of the machine or the command is one line on standard error and exit status 2; a trial
that did not complete is 1; an interrupted one 130.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from trainer import main as running
from trainer import report
from trainer.dataset import FORMS, MOST_SHARDS, parse
from trainer.errors import TrainerError
from trainer.live import LiveLine, PrepareLine
from trainer.manifest import Manifest
from trainer.prepare import prepare
from trainer.result import Outcome, TrialLimits, TrialResult, TrialSpec
from trainer.trial import code_digest, source_problem

EXIT_NOT_COMPLETED = 1
EXIT_MACHINE = 2
EXIT_INTERRUPTED = 130
MAX_READ_BYTES = 4 << 20  # of a source given by name; the trial's own limit is lower

_stderr = Console(stderr=True)
Command = TypeVar("Command", bound=Callable[..., Any])


class OneLineErrors(click.Group):
    """Prints what is wrong with this machine as one line, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TrainerError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(EXIT_MACHINE)


@click.group(cls=OneLineErrors)
def main() -> None:
    """Train a train.py for a fixed budget and measure it, alone on this machine."""


def _data_options(command: Command) -> Command:
    dataset = click.option("--dataset", default="tiny", show_default=True, help=f"One of {', '.join(FORMS)}.")
    folder = click.option("--data-dir", type=click.Path(path_type=Path), help="Default: a folder in ~/.cache.")
    return dataset(folder(command))


def _trial_options(command: Command) -> Command:
    options = (
        click.option("--device", default="auto", show_default=True, help="cpu, mps, cuda or cuda:N."),
        click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the block."),
        click.option("--unsafe-no-sandbox", is_flag=True, help="Run the source with all your rights. Only your own!"),
    )
    for option in reversed(options):
        command = option(command)
    return _data_options(command)


@main.command("prepare")
@_data_options
@click.option("--shards", type=int, help=f"climbmix: training shards of 0.1 GB, 1 to {MOST_SHARDS}. Default: 10.")
@click.option(
    "--revision", metavar="COMMIT", help="climbmix: its commit. Default: the one that is here, or the newest."
)
def prepare_command(dataset: str, data_dir: Path | None, shards: int | None, revision: str | None) -> None:
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
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--budget", "budget_s", type=click.FloatRange(0.5, 86_400), help="Seconds. Default: 12 on cpu, else 300.")
@click.option(
    "--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, with consecutive seeds."
)
@click.option("--compare", type=click.Path(dir_okay=False, path_type=Path), help="Run this source too, paired by seed.")
@click.option("--keep-weights", type=click.Path(dir_okay=False, path_type=Path), help="Keep the (last) weights here.")
@_trial_options
def run(source: Path, compare: Path | None, repeat: int, keep_weights: Path | None, **options: Any) -> None:
    """Train SOURCE for the budget, examine the weights, print val_bpb (lower is better)."""
    sources = {str(source): _read_source(source)}
    if compare is not None:
        sources[str(compare) if compare != source else f"{compare} again"] = _read_source(compare)
    with _spec(sources[str(source)], keep_weights=keep_weights, **options) as spec:
        runs = []
        for name, result in running.run_repeated(sources, spec, repeat, _watched(options["as_json"])):
            runs.append((name, result))
            if not options["as_json"]:
                _print_run(name, result, alone=len(sources) == 1 and repeat == 1)
    _finish(runs, list(sources), as_json=options["as_json"])


@main.command()
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("weights", type=click.Path(dir_okay=False, path_type=Path))
@_trial_options
def exam(source: Path, weights: Path, **options: Any) -> None:
    """Examine WEIGHTS, kept by `run --keep-weights`, through SOURCE's build_model."""
    line = LiveLine(source.name, _stderr, quiet=options["as_json"])
    with _spec(_read_source(source), seed=0, budget_s=None, keep_weights=None, **options) as spec, line:
        result = running.run_exam(spec, weights, line.show)
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
    dataset: str,
    data_dir: Path | None,
    unsafe_no_sandbox: bool,
    as_json: bool,  # noqa: ARG001  (the commands pass all their options on)
) -> Iterator[TrialSpec]:
    if keep_weights is not None and not keep_weights.parent.is_dir():
        raise click.UsageError(f"there is no folder {keep_weights.parent} to keep weights in")
    manifest = _prepared(dataset, data_dir)
    device = running.best_device() if device == "auto" else device
    with tempfile.TemporaryDirectory(prefix="autoresearch-") as work_dir:
        yield TrialSpec(
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


def _prepared(dataset: str, data_dir: Path | None, shards: int | None = None, revision: str | None = None) -> Manifest:
    wanted = parse(dataset).narrowed(shards, revision)
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
    problem = source_problem(source, TrialLimits().source_bytes)
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


def _finish(runs: list[tuple[str, TrialResult]], names: list[str], *, as_json: bool) -> None:
    """The summary, and the exit status of the worst run."""
    if as_json:
        click.echo(json.dumps(report.summary_json(runs, names)))
    elif len(runs) > 1:
        for line in report.summary(runs, names):
            click.echo(line)
    outcomes = {result.outcome for _, result in runs}
    if Outcome.ABORTED in outcomes:
        sys.exit(EXIT_INTERRUPTED)
    if outcomes != {Outcome.COMPLETED}:
        sys.exit(EXIT_NOT_COMPLETED)
