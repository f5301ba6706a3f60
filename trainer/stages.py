"""The stages of one trial in order, and what is known of it after each: warm up, train, take the weights, examine them.

Fills itself in stage by stage, so that a result can be made wherever a trial ends. Who runs the stages, and cleans up,
is `trial.py`.
"""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np

from trainer.agreement import Question, bits_per_byte, draw_probes, judge_trained
from trainer.anatomy import Anatomy, read_anatomy
from trainer.disturbance import GpuUse, Waiting, disturbance
from trainer.examiner import Examiner
from trainer.feed import Feed
from trainer.folder import copy_whole, remove_tree
from trainer.gpu_use import watch_gpu
from trainer.gpus import leased_gpu
from trainer.host import read_counters, use_between
from trainer.installation import Installation, lay_out
from trainer.log import LogTail, anonymous
from trainer.manifest import Manifest
from trainer.pace import LivePace, ReplayedPace
from trainer.packing import Packer, seeded_order
from trainer.peaks import mfu_percent
from trainer.permissions import policy_for
from trainer.process import Child
from trainer.result import Outcome, TrialEnded, TrialProgress, TrialResult, TrialSpec
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
        stop: threading.Event,
        secret: Callable[[], int],
    ) -> None:
        self.on_progress: Callable[[TrialProgress], None] = lambda _progress: None
        self._spec = spec
        self._manifest = manifest
        self._folder = folder
        self._clock = clock
        self._stop = stop
        self._secret = secret
        self._log = LogTail(spec.limits.log_tail_bytes)
        self._feed = self._make_feed(clock)
        self._counters = read_counters(clock)
        self._gpu = watch_gpu(spec.device)
        self._source = folder / "source" / "train.py"
        self._taken = folder / "weights" / "weights.safetensors"
        self._installation: Installation
        self._training: Child | None = None
        self._trainer: Trainer | None = None
        self._sealed: str | None = None
        self._interview: tuple[np.ndarray, np.ndarray] | None = None
        self._weights: Weights | None = None
        self._anatomy = Anatomy()
        self._peak_memory_bytes = 0
        self._exam_began_at: float | None = None
        self._exam_ended_at = 0.0
        self._val_bpb: float | None = None
        self._fresh_bpb: float | None = None
        self._margin: float | None = None
        self._children: list[Child] = []

    def close(self) -> None:
        """End every process that is left, and keep the last words of each."""
        self._end_training()
        for child in self._children:
            child.end()

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
            startup_s=self._trainer.startup_s if self._trainer is not None else 0.0,
            train_s=self._trainer.spent_s if self._trainer is not None else 0.0,
            exam_s=exam_s,
            wall_s=wall_s,
            peak_memory_bytes=self._peak_memory_bytes,
            weights_sha256=self._weights.sha256 if self._weights else None,
            loss_curve=self._feed.curve(),
            log_tail=anonymous(self._log.text(), self._folder),
            cpu_share=self._trainer.cpu_share if self._trainer is not None else None,
            disturbed=self._disturbance(outcome),
            exam_margin=self._margin,
            parameters=self._anatomy.parameters,
            depth=self._anatomy.depth,
            peak_vram_bytes=self._trainer.peak_vram_bytes if self._trainer is not None else 0,
            flops_per_token=self._trainer.flops_per_token if self._trainer is not None else 0.0,
            mfu_percent=self._mfu_percent(),
            batches_sha256=self._feed.log.sha256() if len(self._feed.log) else "",
            batches=self._feed.log,
        )

    def _make_feed(self, budget_clock: Callable[[], float]) -> Feed:
        manifest, limits = self._manifest, self._spec.limits
        packer = Packer(manifest.shards(), row_tokens=manifest.row_tokens, bos_id=manifest.bos_id, seed=self._spec.seed)
        replay = self._spec.replay
        pace = ReplayedPace(replay, budget_clock) if replay else LivePace(self._spec.budget_s, budget_clock)
        return Feed(
            packer,
            row_tokens=manifest.row_tokens,
            max_rows=limits.batch_tokens // manifest.row_tokens,
            pace=pace,
        )

    @property
    def _by_processor(self) -> bool:
        """Whether the budget is processor time."""
        return self._spec.device == "cpu"

    def _budget_clock(self, child: Child) -> Callable[[], float]:
        if not self._by_processor:
            return self._clock
        return lambda: child.processor_s() / self._spec.threads

    def _warmup_clock(self, child: Child) -> Callable[[], float]:
        """Runs with what training would take, as far as it can be told: NVIDIA's driver says who uses its GPU."""
        if self._by_processor:
            return self._budget_clock(child)
        return lambda: 0.0 if self._gpu is None else self._gpu.used_s(child.pid, self._clock())

    def warm_up(self) -> None:
        """Start a child and wait until it asks for its first batch.

        Raises:
            TrialEnded: it did not come so far.
        """
        child = self._training = self._child("train", self._output, self._spec.limits.weights_bytes)
        self._feed = self._make_feed(self._budget_clock(child))
        self._trainer = Trainer(
            child,
            self._feed,
            self._spec.limits,
            budget_s=self._spec.budget_s,
            threads=self._spec.threads,
            clock=self._clock,
            budget_clock=self._budget_clock(child),
            warmup_clock=self._warmup_clock(child),
            free_warmup_s=0.0 if self._by_processor else self._spec.limits.warmup_gpu_s,
            longest_saving_s=self._spec.limits.saving_s if self._by_processor else self._spec.limits.saving_gpu_s,
            on_wait=self._watch,
            stop=self._stop,
        )
        self.on_progress(TrialProgress("starting", 0.0))
        self._trainer.warm_up(self._orders(self._written, seed=self._spec.seed, budget_s=self._spec.budget_s))

    def train(self) -> Path:
        """Let the child train for the budget. The file it wrote, with its process tree dead.

        Raises:
            TrialEnded: it did not come so far.
        """
        assert self._trainer is not None
        assert self._training is not None
        examiner = self._examiner()  # reads its rows while nobody's time is counted: from a disk it may take seconds
        if self._gpu is not None:
            self._gpu.start_over()
        self._trainer.serve(self.on_progress)
        self._hear_trained(self._training, self._written, examiner)
        self._end_training()
        return self._written

    def _end_training(self) -> None:
        child, self._training = self._training, None
        if child is not None:
            self._peak_memory_bytes = child.usage().peak_memory_bytes
            child.end()

    @property
    def _output(self) -> Path:
        return self._folder / "training"

    @property
    def _written(self) -> Path:
        return self._output / "weights.safetensors"

    def _watch(self) -> None:
        if self._gpu is not None:
            self._gpu.sample(self._clock())

    def _hear_trained(self, child: Child, written: Path, examiner: Examiner) -> None:
        """Fix the weights, then ask the model that was trained what it loses on rows it could not foresee.

        What the child computes while its file is read counts as part of its answer, where that can be told.
        """
        budget_clock = self._budget_clock(child)
        heard_at = budget_clock()
        self._sealed = seal_weights(written, self._spec.limits.weights_bytes)
        self._interview = examiner.interview(
            child,
            self._chance(),
            tokens_trained=self._feed.tokens_served,
            budget_s=self._spec.budget_s,
            budget_clock=budget_clock,
            began_at=heard_at if self._by_processor else budget_clock(),
        )

    def take(self, written: Path) -> None:
        """Check the weights and keep a copy the candidate never saw.

        Raises:
            TrialEnded: they are not what they should be, or came too late.
        """
        self._weights = take_weights(written, self._taken, self._spec.limits.weights_bytes, self._sealed)
        self._anatomy = read_anatomy(self._taken)
        if self._trainer is not None:
            if self._spec.replay is None:  # a replay goes by no clock
                self._trainer.check_overtime(self._weights.size_bytes)
            remove_tree(written.parent)

    def examine(self) -> None:
        """Have the weights examined by two children, one after the other.

        Raises:
            TrialEnded: they failed, or disagree.
        """
        self._exam_began_at = self._clock()
        self.on_progress(TrialProgress("exam", 0.0, peak_memory_bytes=self._peak_memory_bytes))
        question, examiner = self._question, self._examiner()
        orders = self._orders(self._taken)
        with ExitStack() as running:
            # Both start importing now; the second is told nothing, the source included, until the first is dead.
            first, second = (
                running.enter_context(self._child("exam", self._folder / name, _EXAM_FILE_BYTES, self._taken.parent))
                for name in ("exam-a", "exam-b")
            )
            claims = examiner.claims(first, orders)
            first.end()
            remove_tree(self._folder / "exam-a")  # a name or a size in it can be asked for where reading is forbidden
            trained = 0.0
            if self._interview is not None:
                asked, said = self._interview
                trained = judge_trained(said, claims[asked])
            probes = draw_probes(question.scored, self._spec.limits.exam_probes, self._chance())
            self._margin = max(trained, examiner.compare(second, orders, claims, probes))
        self._exam_ended_at = self._clock()
        self._score(claims, question)
        if self._spec.keep_weights is not None:
            copy_whole(self._taken, self._spec.keep_weights)

    def _score(self, claims: np.ndarray, question: Question) -> None:
        fixed = self._manifest.exam_rows
        self._val_bpb = bits_per_byte(claims[:fixed], question.rows[:fixed], question.byte_lengths)
        if self._spec.fresh_rows:
            self._fresh_bpb = bits_per_byte(claims[fixed:], question.rows[fixed:], question.byte_lengths)

    def _examiner(self) -> Examiner:
        return Examiner(
            self._question,
            self._spec.limits,
            device=self._spec.device,
            clock=self._clock,
            stop=self._stop,
            on_progress=self.on_progress,
        )

    def _chance(self) -> np.random.Generator:
        return np.random.default_rng(self._secret())

    @cached_property
    def _question(self) -> Question:
        """What is asked in the interview and in the exam; read once."""
        rows = self._manifest.val_rows()
        if self._spec.fresh_rows:
            reserve = self._manifest.reserve_rows()
            fresh = seeded_order(len(reserve), self._spec.fresh_seed, "fresh")[: self._spec.fresh_rows]
            rows = np.concatenate([rows, reserve[fresh]])
        return Question(rows, self._manifest.tokenizer().byte_lengths())

    def _child(self, role: str, output: Path, file_bytes: int, *readable: Path) -> Child:
        spec = self._spec
        output.mkdir()
        child = Child(
            role,
            self._installation,
            policy_for(spec, (*self._installation.read_paths, self._source.parent, *readable), output, file_bytes),
            kind=spec.sandbox,
            threads=spec.threads,
            device=spec.device,
            log=self._log,
            max_payload_bytes=4 * max(self._manifest.vocab_size, spec.limits.batch_tokens),
        )
        self._children.append(child)
        return child

    def _orders(self, weights: Path, **more: object) -> Frame:
        return orders_for(self._spec, self._manifest, self._source, weights, **more)

    def _mfu_percent(self) -> float | None:
        trainer, gpu = self._trainer, leased_gpu(self._spec.device)
        if trainer is None or gpu is None:
            return None
        return mfu_percent(gpu.model, trainer.flops_per_token, self._feed.tokens_served, trainer.spent_s)

    def _disturbance(self, outcome: Outcome) -> str:
        own_s = sum(child.processor_s() for child in self._children)
        host = use_between(self._counters, read_counters(self._clock), children_s=own_s)
        waiting = Waiting(
            share=max((child.starved_share for child in self._children), default=0.0),
            lost=self._trainer.lost_share if self._trainer is not None else 0.0,
        )
        return disturbance(
            waiting,
            host,
            self._gpu.use() if self._gpu is not None else GpuUse(),
            by_wall=not self._by_processor,
            late=outcome is Outcome.TIMED_OUT,
        )
