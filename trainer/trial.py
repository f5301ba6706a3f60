"""Runs one trial from outside the candidate's process and believes nothing the candidate says.

The trusted parent. It never imports torch: it launches a sandboxed child, serves it data for the length of the budget
(`training.py`), takes its weights as data (`weights.py`), and has them examined by two more children (`examiner.py`).
What a candidate does is an `Outcome` with a reason; only a fault of this machine is an exception. Knows nothing of
orders, leases and coordinators.
"""

import hashlib
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from trainer import sandbox
from trainer.errors import MachineError, NoSpaceError
from trainer.examiner import Examiner, Question, bits_per_byte, draw_probes
from trainer.feed import Feed
from trainer.installation import PACKAGE, Installation, lay_out
from trainer.log import LogTail
from trainer.manifest import Manifest, load_manifest
from trainer.packing import Packer, seeded_order
from trainer.process import Child
from trainer.result import (
    Outcome,
    TrialEnded,
    TrialLimits,
    TrialProgress,
    TrialResult,
    TrialSpec,
    gpu_device_nodes,
    processes_allowed,
)
from trainer.training import Trainer, Training, orders_for
from trainer.weights import Weights, take_weights
from trainer.wire import Frame

__all__ = [
    "Outcome",
    "TrialLimits",
    "TrialProgress",
    "TrialResult",
    "TrialSpec",
    "code_digest",
    "run_trial",
    "source_problem",
]

_EXAM_FILE_BYTES = 64 << 20  # an exam child has nothing to write but its caches


def run_trial(
    spec: TrialSpec,
    *,
    clock: Callable[[], float],
    on_progress: Callable[[TrialProgress], None],
    stop: threading.Event,
    secret: Callable[[], int] = lambda: secrets.randbits(128),
) -> TrialResult:
    """Run one trial; blocks until it ends, and leaves no process and no file behind.

    Safe in a worker thread. `clock` is monotonic, in seconds. Setting `stop` ends the trial as ABORTED within a
    fraction of a second. `secret` seeds the positions of the exam and must not be foreseeable.

    Raises:
        TrainerError: this machine cannot run it: data missing or other data than asked for, no space, no sandbox, no
            such device.
    """
    began_at = clock()
    manifest = load_manifest(spec.data_dir, spec.manifest_sha256)
    with _folder(spec) as folder:
        trial = _Trial(spec, manifest, folder, clock=clock, on_progress=on_progress, stop=stop)
        try:
            trial.run(secret)
            outcome, reason = Outcome.COMPLETED, "trained for its budget and passed the exam"
        except TrialEnded as ending:
            outcome, reason = ending.outcome, ending.reason
        return trial.result(outcome, reason, wall_s=clock() - began_at)


def source_problem(source: bytes, limit_bytes: int) -> str:
    """Why these bytes cannot be a source, or nothing. Whether it runs is found out by running it."""
    if not source.strip():
        return "train.py is empty"
    if len(source) > limit_bytes:
        return f"train.py is {len(source)} bytes long, the limit is {limit_bytes}"
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"train.py is not UTF-8 (byte {error.start})"
    return ""


def code_digest() -> str:
    """sha256 in hex over every module of this package but the seed source, names and contents.

    Two machines with the same digest run and judge trials by the same code, however it was installed.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py"), key=lambda path: path.relative_to(PACKAGE).as_posix()):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "train.py":
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


class _Trial:
    """The state of one trial, filled stage by stage, so that a result can be made wherever it ends."""

    def __init__(
        self,
        spec: TrialSpec,
        manifest: Manifest,
        folder: Path,
        *,
        clock: Callable[[], float],
        on_progress: Callable[[TrialProgress], None],
        stop: threading.Event,
    ) -> None:
        self._spec = spec
        self._manifest = manifest
        self._folder = folder
        self._clock = clock
        self._on_progress = on_progress
        self._stop = stop
        self._log = LogTail(spec.limits.log_tail_bytes)
        self._feed = self._make_feed()
        self._training: Training | None = None
        self._weights: Weights | None = None
        self._peak_memory_bytes = 0
        self._exam_began_at: float | None = None
        self._exam_ended_at = 0.0
        self._val_bpb: float | None = None
        self._fresh_bpb: float | None = None
        self._margin: float | None = None

    def run(self, secret: Callable[[], int]) -> None:
        """All stages in order.

        Raises:
            TrialEnded: it is over before the last.
        """
        problem = source_problem(self._spec.source, self._spec.limits.source_bytes)
        if problem:
            raise TrialEnded(Outcome.CRASHED, problem)
        source = self._folder / "source" / "train.py"
        source.parent.mkdir()
        source.write_bytes(self._spec.source)
        installation = lay_out(self._folder)
        self._train(installation, source)
        self._examine(installation, source, np.random.default_rng(secret()))

    def result(self, outcome: Outcome, reason: str, *, wall_s: float) -> TrialResult:
        exam_s = (
            (self._exam_ended_at or self._clock()) - self._exam_began_at if self._exam_began_at is not None else 0.0
        )
        cpu_share = self._cpu_share()
        return TrialResult(
            outcome=outcome,
            reason=reason,
            val_bpb=self._val_bpb if outcome is Outcome.COMPLETED else None,
            fresh_bpb=self._fresh_bpb if outcome is Outcome.COMPLETED else None,
            tokens_served=self._feed.tokens_served,
            steps=self._feed.steps,
            startup_s=self._startup_s(),
            train_s=self._train_s(),
            exam_s=exam_s,
            wall_s=wall_s,
            peak_memory_bytes=self._peak_memory_bytes,
            weights_sha256=self._weights.sha256 if self._weights else None,
            loss_curve=self._feed.curve(),
            log_tail=self._log.text(),
            cpu_share=cpu_share,
            disturbed=self._disturbance(cpu_share),
            exam_margin=self._margin,
        )

    def _make_feed(self) -> Feed:
        manifest, limits = self._manifest, self._spec.limits
        packer = Packer(manifest.shards(), row_tokens=manifest.row_tokens, bos_id=manifest.bos_id, seed=self._spec.seed)
        return Feed(
            packer,
            row_tokens=manifest.row_tokens,
            budget_s=self._spec.budget_s,
            max_rows=limits.batch_tokens // manifest.row_tokens,
            clock=self._clock,
        )

    def _train(self, installation: Installation, source: Path) -> None:
        output = self._folder / "training"
        written = output / "weights.safetensors"
        with self._child("train", installation, source, output, self._spec.limits.weights_bytes) as child:
            trainer = Trainer(
                child,
                self._feed,
                self._spec.limits,
                on_cpu=self._spec.device == "cpu",
                clock=self._clock,
                stop=self._stop,
                on_progress=self._on_progress,
            )
            self._training = trainer.training
            try:
                trainer.run(self._orders(source, written, seed=self._spec.seed, budget_s=self._spec.budget_s))
            finally:
                self._peak_memory_bytes = child.usage().peak_memory_bytes
        copy = self._folder / "weights" / "weights.safetensors"
        copy.parent.mkdir()
        self._weights = take_weights(written, copy, self._spec.limits.weights_bytes)
        trainer.check_overtime(self._weights.size_bytes)
        shutil.rmtree(output)

    def _examine(self, installation: Installation, source: Path, chance: np.random.Generator) -> None:
        assert self._weights is not None
        self._exam_began_at = self._clock()
        question = self._question()
        examiner = Examiner(
            question, self._spec.limits, clock=self._clock, stop=self._stop, on_progress=self._on_progress
        )
        orders = self._orders(source, self._weights.path)
        weights = self._weights.path.parent
        with ExitStack() as running:
            first, second = (
                running.enter_context(
                    self._child("exam", installation, source, self._folder / name, _EXAM_FILE_BYTES, weights)
                )
                for name in ("exam-a", "exam-b")
            )
            claims = examiner.claims(first, orders)
            first.end()  # before the second is told anything
            probes = draw_probes(len(question.rows), question.rows.shape[1], self._spec.limits.exam_probes, chance)
            self._margin = examiner.compare(second, orders, claims, probes)
        self._exam_ended_at = self._clock()
        self._score(claims, question)

    def _score(self, claims: np.ndarray, question: Question) -> None:
        fixed = self._manifest.exam_rows
        self._val_bpb = bits_per_byte(claims[:fixed], question.rows[:fixed], question.byte_lengths)
        if self._spec.fresh_rows:
            self._fresh_bpb = bits_per_byte(claims[fixed:], question.rows[fixed:], question.byte_lengths)

    def _question(self) -> Question:
        rows = self._manifest.val_rows()
        if self._spec.fresh_rows:
            reserve = self._manifest.reserve_rows()
            fresh = seeded_order(len(reserve), self._spec.fresh_seed, "fresh")[: self._spec.fresh_rows]
            rows = np.concatenate([rows, reserve[fresh]])
        return Question(rows, self._manifest.tokenizer().byte_lengths())

    def _child(
        self, role: str, installation: Installation, source: Path, output: Path, file_bytes: int, *extra: Path
    ) -> Child:
        spec, limits = self._spec, self._spec.limits
        output.mkdir()
        allowed_s = limits.startup_s + spec.budget_s + limits.grace_s + limits.exam_s
        policy = sandbox.Policy(
            read_paths=(*installation.read_paths, source.parent, *extra),
            write_dir=output,
            memory_bytes=limits.memory_bytes,
            file_bytes=file_bytes,
            processes=processes_allowed(spec.device),
            cpu_s=int(allowed_s * max(spec.threads, 1 if spec.device == "cpu" else 16)) + 30,
            gpu_devices=gpu_device_nodes(spec.device),
        )
        return Child(
            role,
            installation,
            policy,
            kind=spec.sandbox,
            threads=spec.threads,
            device=spec.device,
            log=self._log,
            max_payload_bytes=4 * max(self._manifest.vocab_size, limits.batch_tokens),
        )

    def _orders(self, source: Path, weights: Path, **more: object) -> Frame:
        manifest = self._manifest
        fields: dict[str, object] = {
            "vocab_size": manifest.vocab_size,
            "sequence_len": manifest.sequence_len,
            "bos_id": manifest.bos_id,
            "device": "cuda:0" if self._spec.device.startswith("cuda") else self._spec.device,  # it sees one GPU only
            "threads": self._spec.threads,
            "max_rows": self._spec.limits.batch_tokens // manifest.row_tokens,
        }
        return orders_for({**fields, **more}, source, weights)

    def _startup_s(self) -> float:
        if self._training is None:
            return 0.0
        return (self._feed.started_at or self._clock()) - self._training.launched_at

    def _train_s(self) -> float:
        if self._feed.started_at is None:
            return 0.0
        return (self._feed.spent_at or self._clock()) - self._feed.started_at

    def _cpu_share(self) -> float | None:
        if self._training is None or self._training.handed_over_at is None or self._feed.started_at is None:
            return None
        wall_s = max(1e-9, self._training.handed_over_at - self._feed.started_at)
        used_s = self._training.cpu_at_end_s - self._training.cpu_at_start_s
        return used_s / (wall_s * self._spec.threads)

    def _disturbance(self, cpu_share: float | None) -> str:
        if self._spec.device != "cpu" or cpu_share is None or cpu_share >= self._spec.limits.min_cpu_share:
            return ""
        return f"other programs used the processor: training got {cpu_share:.0%} of its {self._spec.threads} thread(s)"


@contextmanager
def _folder(spec: TrialSpec) -> Iterator[Path]:
    """A fresh folder in `work_dir` that is gone afterwards, whatever happened."""
    needed_bytes = 2 * min(spec.limits.weights_bytes, 256 << 20)
    try:
        spec.work_dir.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(spec.work_dir).free
        if free_bytes < needed_bytes:
            raise NoSpaceError(spec.work_dir, needed_bytes, free_bytes)
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=spec.work_dir.resolve()))
    except OSError as error:
        raise MachineError(f"cannot write {spec.work_dir} ({error.strerror}): choose another work folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
