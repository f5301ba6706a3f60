"""Measures val_bpb without believing the candidate: asks three processes about one model.

When the weights are fixed, the process that trained the model is asked what it loses on a few rows (the interview), so
that no exam can examine a model that was trained further. Child A is given whole rows and claims a loss for every
token. When A is dead, child B, which never sees what follows a secret position, returns its logits there; they are
normalised here, in float64, and compared with A's claims. A model that looks ahead, learns during the exam, or lies,
disagrees with itself. B's imports overlap with A's exam, but no candidate code runs in B before A is gone, so that
neither can tell the other anything. What agrees and what does not is `agreement.py`'s business.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from trainer.agreement import Probes, Question, check_claims, judge, losses_of, same_shape
from trainer.conversation import Conversation
from trainer.process import Child
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialProgress
from trainer.wire import Frame

# Tokens in one question: on a CPU, logits of a small vocabulary stay in the cache; on a GPU, a home card holds them.
QUESTION_TOKENS = {"cpu": 4096}
QUESTION_TOKENS_GPU = 32_768
CLAIMS_SHARE = 0.25  # of the exam's time; the probes take the rest
# The interview's rows cost at most so much of the budget, were reading a token as slow as training on it; it takes a
# third of that, but some models learn from fewer tokens than they read. One row is asked about however little was
# trained, and then costs more.
INTERVIEW_SHARE = 0.02
INTERVIEW_SLOWER = 4.0  # reading a token than training on it, within that share
INTERVIEW_MOST = 0.15


def interview_share(asked_tokens: int, trained_tokens: int) -> float:
    """Which share of the budget the answer to so many tokens may take."""
    share = asked_tokens / trained_tokens
    return min(INTERVIEW_MOST, max(share, min(INTERVIEW_SHARE, INTERVIEW_SLOWER * share)))


class Examiner:
    """One exam: three children, launched by the caller, who passes each when its turn has come."""

    def __init__(
        self,
        question: Question,
        limits: TrialLimits,
        *,
        device: str,
        clock: Callable[[], float],
        stop: threading.Event,
        on_progress: Callable[[TrialProgress], None],
    ) -> None:
        self._question = question
        self._limits = limits
        self._clock = clock
        self._stop = stop
        self._on_progress = on_progress
        tokens = QUESTION_TOKENS.get(device, QUESTION_TOKENS_GPU)
        self._once_s = limits.interview_s if device == "cpu" else limits.interview_gpu_s
        self._at_once = max(1, tokens // (question.rows.shape[1] - 1))

    def interview(
        self,
        child: Child,
        chance: np.random.Generator,
        *,
        tokens_trained: int,
        budget_s: float,
        budget_clock: Callable[[], float],
        began_at: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which rows the child that trained was asked about, and the losses it says its model has: (n,), (n, T).

        began_at: since when what it computes counts as part of the answer, by `budget_clock`.

        Raises:
            TrialEnded: it failed or came late.
        """
        row_tokens = self._question.rows.shape[1] - 1
        affordable = int(INTERVIEW_SHARE * tokens_trained) // row_tokens
        rows = chance.permutation(len(self._question.rows))[: max(1, min(self._at_once, affordable))]
        said = self._said_after_training(child, rows)
        took_s = budget_clock() - began_at
        allowed_s = self._once_s + interview_share(len(rows) * row_tokens, tokens_trained) * budget_s
        if took_s > allowed_s:
            raise TrialEnded(
                Outcome.TIMED_OUT,
                f"took {took_s:.2f} s to read a few rows after training, {allowed_s:.2f} s is allowed: nothing may "
                "train on once session.batches() has ended",
            )
        return rows, said

    def _said_after_training(self, child: Child, rows: np.ndarray) -> np.ndarray:
        deadline_at = self._clock() + self._limits.exam_s
        conversation = self._conversation(child, "after training: ")
        said = self._losses(conversation, self._question.rows[rows], deadline_at)
        if not np.isfinite(said).all():
            raise TrialEnded(Outcome.CRASHED, "after training: the model's losses are not finite (training diverged)")
        return said

    def claims(self, child: Child, orders: Frame) -> np.ndarray:
        """(n, T) float32: child A's losses, finite and not negative.

        Raises:
            TrialEnded: it failed, came late, or claimed what cannot be.
        """
        conversation, deadline_at = self._begin(child, orders)
        parts: list[np.ndarray] = []
        for part in same_shape(self._question.rows, self._at_once):
            parts.append(self._losses(conversation, part, deadline_at))
            done = min(1.0, len(parts) * self._at_once / len(self._question.rows))
            self._on_progress(TrialProgress("exam", CLAIMS_SHARE * done))
        return check_claims(np.concatenate(parts)[: len(self._question.rows)])

    def compare(self, child: Child, orders: Frame, claims: np.ndarray, rounds: Sequence[Probes]) -> float:
        """Ask child B at the probes; the largest disagreement with the claims as a share of what is tolerated.

        Raises:
            TrialEnded: it failed, came late, or disagrees.
        """
        conversation, deadline_at = self._begin(child, orders)
        total = sum(map(len, rounds))
        differences: list[np.ndarray] = []
        for probes in self._questions(rounds):
            truth = self._true_losses(conversation, probes, deadline_at)
            differences.append(claims[probes.rows, probes.positions] - truth)
            done = sum(map(len, differences)) / total
            self._on_progress(TrialProgress("exam", CLAIMS_SHARE + (1 - CLAIMS_SHARE) * min(1.0, done)))
        return judge(np.concatenate(differences))

    def _questions(self, rounds: Sequence[Probes]) -> Iterator[Probes]:
        for probes in rounds:
            for first in range(0, len(probes), self._at_once):
                part = slice(first, first + self._at_once)
                yield Probes(probes.rows[part], probes.positions[part])

    def _conversation(self, child: Child, where: str) -> Conversation:
        return Conversation(child, clock=self._clock, stop=self._stop, where=where)

    def _begin(self, child: Child, orders: Frame) -> tuple[Conversation, float]:
        """Give the orders and wait until the model is loaded."""
        conversation = self._conversation(child, "in the exam: ")
        deadline_at = self._clock() + self._limits.exam_s
        conversation.ask(orders, "ready", 0, deadline_at)
        return conversation, deadline_at

    def _losses(self, conversation: Conversation, rows: np.ndarray, deadline_at: float) -> np.ndarray:
        """(n, T) float32: what the child says its model loses on whole rows."""
        shape = (len(rows), rows.shape[1] - 1)
        asked = Frame({"kind": "rows", "rows": len(rows)}, rows.astype("<u2").tobytes())
        answer = conversation.ask(asked, "losses", 4 * shape[0] * shape[1], deadline_at)
        return np.frombuffer(answer, dtype="<f4").reshape(shape)

    def _true_losses(self, conversation: Conversation, probes: Probes, deadline_at: float) -> np.ndarray:
        """(n,) float64: the losses at the probes, by a model that is not shown what follows them."""
        count, rows, vocab_size = len(probes), self._question.rows, self._question.vocab_size
        inputs = rows[probes.rows, :-1].copy()
        hidden = np.arange(inputs.shape[1]) > probes.positions[:, None]
        # The first token, BOS, stands for what is hidden: the shape stays, and nothing else of the row is told.
        inputs = np.where(hidden, inputs[:, :1], inputs)
        asked_rows = next(same_shape(inputs, self._at_once))
        asked_positions = next(same_shape(probes.positions, self._at_once))
        payload = asked_rows.astype("<u2").tobytes() + asked_positions.astype("<u4").tobytes()
        asked = Frame({"kind": "cut", "rows": self._at_once}, payload)
        answer = conversation.ask(asked, "logits", 4 * self._at_once * vocab_size, deadline_at)
        logits = np.frombuffer(answer, dtype="<f4").reshape(self._at_once, vocab_size)[:count]
        losses = losses_of(logits, rows[probes.rows, probes.positions + 1])
        if not np.isfinite(losses).all():
            raise TrialEnded(Outcome.CRASHED, "in the exam: the model's logits are not finite (training diverged)")
        return losses
