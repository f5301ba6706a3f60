"""The stages of one trial in order, and what is known of it after each: train, take the weights, examine them.

Fills itself in stage by stage, so that a result can be made wherever a trial ends. Who runs the stages, and cleans up,
is `trial.py`.
"""

import math
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from trainer import sandbox
from trainer.agreement import Question, bits_per_byte, draw_probes, judge_trained
from trainer.examiner import INTERVIEW_SHARE, Examiner
from trainer.feed import Feed
from trainer.folder import remove_tree
from trainer.gpus import leased_gpu
from trainer.installation import Installation, lay_out
from trainer.log import LogTail, anonymous
from trainer.manifest import Manifest
from trainer.packing import Packer, seeded_order
from trainer.process import Child
from trainer.result import (
    Outcome,
    TrialEnded,
    TrialProgress,
    TrialResult,
    TrialSpec,
    processes_allowed,
)
from trainer.source import source_problem
from trainer.training import Trainer, orders_for
from trainer.weights import Weights, seal_weights, take_weights
from trainer.wire import Frame

_EXAM_FILE_BYTES = 64 << 20  # an exam child has nothing to write but its caches


class Stages:
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
        secret: Callable[[], int],
    ) -> None:
        self._spec = spec
        self._manifest = manifest
        self._folder = folder
        self._clock = clock
        self._on_progress = on_progress
        self._stop = stop
        self._secret = secret
        self._log = LogTail(spec.limits.log_tail_bytes)
        self._feed = self._make_feed(clock)
        self._source = folder / "source" / "train.py"
        self._taken = folder / "weights" / "weights.safetensors"
        self._installation: Installation
        self._trainer: Trainer | None = None
        self._sealed: str | None = None
        self._interview: tuple[np.ndarray, np.ndarray] | None = None
        self._weights: Weights | None = None
        self._peak_memory_bytes = 0
        self._exam_began_at: float | None = None
        self._exam_ended_at = 0.0
        self._val_bpb: float | None = None
        self._fresh_bpb: float | None = None
        self._margin: float | None = None
        self._children: list[Child] = []

    def lay_out(self) -> None:
        """Write the source and what a child may import into the trial's folder.

        Raises:
            TrialEnded: this cannot be a source.
        """
        problem = source_problem(self._spec.source, self._spec.limits.source_bytes)
        if problem:
            raise TrialEnded(Outcome.CRASHED, problem)
        for folder in (self._source.parent, self._taken.parent):
            folder.mkdir()
        self._source.write_bytes(self._spec.source)
        self._installation = lay_out(self._folder)

    def result(self, outcome: Outcome, reason: str, *, wall_s: float) -> TrialResult:
        exam_s = (
            (self._exam_ended_at or self._clock()) - self._exam_began_at if self._exam_began_at is not None else 0.0
        )
        return TrialResult(
            outcome=outcome,
            reason=anonymous(reason, self._folder),
            val_bpb=self._val_bpb if outcome is Outcome.COMPLETED else None,
            fresh_bpb=self._fresh_bpb if outcome is Outcome.COMPLETED else None,
            tokens_served=self._feed.tokens_served,
            steps=self._feed.steps,
            startup_s=self._startup_s(),
            train_s=self._trainer.spent_s if self._trainer is not None else 0.0,
            exam_s=exam_s,
            wall_s=wall_s,
            peak_memory_bytes=self._peak_memory_bytes,
            weights_sha256=self._weights.sha256 if self._weights else None,
            loss_curve=self._feed.curve(),
            log_tail=anonymous(self._log.text(), self._folder),
            cpu_share=self._cpu_share(),
            disturbed=self._disturbance(outcome),
            exam_margin=self._margin,
        )

    def _make_feed(self, budget_clock: Callable[[], float]) -> Feed:
        manifest, limits = self._manifest, self._spec.limits
        packer = Packer(manifest.shards(), row_tokens=manifest.row_tokens, bos_id=manifest.bos_id, seed=self._spec.seed)
        return Feed(
            packer,
            row_tokens=manifest.row_tokens,
            budget_s=self._spec.budget_s,
            max_rows=limits.batch_tokens // manifest.row_tokens,
            clock=budget_clock,
        )

    def _budget_clock(self, child: Child) -> Callable[[], float]:
        if self._spec.device != "cpu":
            return self._clock
        return lambda: child.processor_s() / self._spec.threads

    def train(self) -> Path:
        """Let a child train for the budget. The file it wrote, with its process tree dead.

        Raises:
            TrialEnded: it did not come so far.
        """
        output = self._folder / "training"
        written = output / "weights.safetensors"
        with self._child("train", output, self._spec.limits.weights_bytes) as child:
            self._feed = self._make_feed(self._budget_clock(child))
            self._trainer = Trainer(
                child,
                self._feed,
                self._spec.limits,
                budget_s=self._spec.budget_s,
                clock=self._clock,
                budget_clock=self._budget_clock(child),
                free_warmup_s=self._spec.limits.warmup_s if self._spec.device == "cpu" else math.inf,
                stop=self._stop,
                on_progress=self._on_progress,
            )
            try:
                self._trainer.run(self._orders(written, seed=self._spec.seed, budget_s=self._spec.budget_s))
                self._hear_trained(child, written)
            finally:
                self._peak_memory_bytes = child.usage().peak_memory_bytes
        return written

    def _hear_trained(self, child: Child, written: Path) -> None:
        """Fix the weights, then ask the model that was trained what it loses on rows it could not foresee."""
        self._sealed = seal_weights(written, self._spec.limits.weights_bytes)
        clock = self._budget_clock(child)
        began_s = clock()
        self._interview = self._examiner().interview(
            child,
            self._chance(),
            tokens_trained=self._feed.tokens_served,
            deadline_at=self._clock() + self._spec.limits.exam_s,
        )
        limits = self._spec.limits
        once_s = limits.interview_s if self._spec.device == "cpu" else limits.interview_gpu_s
        allowed_s = once_s + INTERVIEW_SHARE * self._spec.budget_s
        took_s = clock() - began_s
        if took_s > allowed_s:
            raise TrialEnded(
                Outcome.TIMED_OUT,
                f"took {took_s:.2f} s to read a few rows after training, {allowed_s:.2f} s is allowed: nothing may "
                "train on once session.batches() has ended",
            )

    def take(self, written: Path) -> None:
        """Check the weights and keep a copy the candidate never saw.

        Raises:
            TrialEnded: they are not what they should be, or came too late.
        """
        self._weights = take_weights(written, self._taken, self._spec.limits.weights_bytes, self._sealed)
        if self._trainer is not None:
            self._trainer.check_overtime(self._weights.size_bytes)
            remove_tree(written.parent)

    def examine(self) -> None:
        """Have the weights examined by two children, one after the other.

        Raises:
            TrialEnded: they failed, or disagree.
        """
        self._exam_began_at = self._clock()
        question, examiner = self._question(), self._examiner()
        orders = self._orders(self._taken)
        with ExitStack() as running:
            # Both start importing now; the second is told nothing, the source included, until the first is dead.
            first, second = (
                running.enter_context(self._child("exam", self._folder / name, _EXAM_FILE_BYTES, self._taken.parent))
                for name in ("exam-a", "exam-b")
            )
            claims = examiner.claims(first, orders)
            first.end()
            trained = 0.0
            if self._interview is not None:
                asked, said = self._interview
                trained = judge_trained(said, claims[asked])
            probes = draw_probes(question.scored, self._spec.limits.exam_probes, self._chance())
            self._margin = max(trained, examiner.compare(second, orders, claims, probes))
        self._exam_ended_at = self._clock()
        self._score(claims, question)
        if self._spec.keep_weights is not None:
            shutil.copyfile(self._taken, self._spec.keep_weights)

    def _score(self, claims: np.ndarray, question: Question) -> None:
        fixed = self._manifest.exam_rows
        self._val_bpb = bits_per_byte(claims[:fixed], question.rows[:fixed], question.byte_lengths)
        if self._spec.fresh_rows:
            self._fresh_bpb = bits_per_byte(claims[fixed:], question.rows[fixed:], question.byte_lengths)

    def _examiner(self) -> Examiner:
        return Examiner(
            self._question(),
            self._spec.limits,
            device=self._spec.device,
            clock=self._clock,
            stop=self._stop,
            on_progress=self._on_progress,
        )

    def _chance(self) -> np.random.Generator:
        return np.random.default_rng(self._secret())

    def _question(self) -> Question:
        rows = self._manifest.val_rows()
        if self._spec.fresh_rows:
            reserve = self._manifest.reserve_rows()
            fresh = seeded_order(len(reserve), self._spec.fresh_seed, "fresh")[: self._spec.fresh_rows]
            rows = np.concatenate([rows, reserve[fresh]])
        return Question(rows, self._manifest.tokenizer().byte_lengths())

    def _child(self, role: str, output: Path, file_bytes: int, *readable: Path) -> Child:
        spec, limits = self._spec, self._spec.limits
        output.mkdir()
        allowed_s = limits.startup_s + spec.budget_s + limits.grace_s + limits.exam_s
        policy = sandbox.Policy(
            read_paths=(*self._installation.read_paths, self._source.parent, *readable),
            write_dir=output,
            memory_bytes=limits.memory_bytes,
            file_bytes=file_bytes,
            processes=processes_allowed(spec.device),
            cpu_s=int(allowed_s * max(spec.threads, 1 if spec.device == "cpu" else 16)) + 30,
            gpu_devices=gpu.nodes if (gpu := leased_gpu(spec.device)) is not None else (),
        )
        child = Child(
            role,
            self._installation,
            policy,
            kind=spec.sandbox,
            threads=spec.threads,
            device=spec.device,
            log=self._log,
            max_payload_bytes=4 * max(self._manifest.vocab_size, limits.batch_tokens),
        )
        self._children.append(child)
        return child

    def _orders(self, weights: Path, **more: object) -> Frame:
        manifest = self._manifest
        fields: dict[str, object] = {
            "vocab_size": manifest.vocab_size,
            "sequence_len": manifest.sequence_len,
            "bos_id": manifest.bos_id,
            "device": "cuda:0" if self._spec.device.startswith("cuda") else self._spec.device,  # it sees one GPU only
            "threads": self._spec.threads,
            "max_rows": self._spec.limits.batch_tokens // manifest.row_tokens,
        }
        return orders_for({**fields, **more}, self._source, weights)

    def _startup_s(self) -> float:
        if self._trainer is None:
            return 0.0
        return (self._trainer.started_at or self._clock()) - self._trainer.launched_at

    def _cpu_share(self) -> float | None:
        trainer = self._trainer
        if trainer is None or trainer.started_at is None or trainer.ended_at is None:
            return None
        return trainer.processor_s / (max(1e-9, trainer.ended_at - trainer.started_at) * self._spec.threads)

    def _disturbance(self, outcome: Outcome) -> str:
        limits = self._spec.limits
        allowed = limits.max_starved_late if outcome is Outcome.TIMED_OUT else limits.max_starved
        starved = max((child.starved_share for child in self._children), default=0.0)
        if starved <= allowed:
            return ""
        return f"other programs used the processor: the trial waited for it {starved:.0%} of the time"
