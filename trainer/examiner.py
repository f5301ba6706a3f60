"""Measures val_bpb without believing the candidate.

Child A is given whole rows and claims a loss for every token. When A is dead, child B, which never saw a whole row,
is given prefixes that end at secretly drawn positions, one a row, and returns its logits there; they are normalised
here, in float64, and compared with A's claims. A model that looks ahead, learns during the exam, or lies, disagrees
with itself. B's imports overlap with A's exam, but no candidate code runs in B before A is gone, so that neither can
tell the other anything.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.conversation import Conversation
from trainer.process import Child
from trainer.result import Outcome, TrialEnded, TrialLimits, TrialProgress
from trainer.wire import Frame

PROBES_PER_REPORT = 32
ROWS_TOKENS = 4096  # tokens in one question to A: logits of a small vocabulary stay in the cache

# A's and B's arithmetic differ only by the shape of the batch: float32 agrees to about 1e-5 nats. bfloat16 keeps 8
# bits, so logits near 8 differ by up to 2^-5 now and then, and their mean over the probes by far less.
TOLERANCE_EACH = 0.15  # nats, at any one position
TOLERANCE_MEAN = 0.004  # nats, over all positions: what lying a little everywhere could gain, 0.002 bpb on `tiny`


@dataclass(frozen=True)
class Question:
    """Rows to be examined: (n, T+1) uint16. `byte_lengths` is (vocab,) with 0 for tokens that are not scored."""

    rows: np.ndarray
    byte_lengths: np.ndarray

    @property
    def vocab_size(self) -> int:
        return len(self.byte_lengths)


@dataclass(frozen=True)
class Probe:
    """One secret position: the model is shown `row[: position + 1]` and judged on `row[position + 1]`."""

    row: int
    position: int


def bits_per_byte(losses: np.ndarray, rows: np.ndarray, byte_lengths: np.ndarray) -> float:
    """Total nats / (ln 2 x total bytes) over the targets that are text; (n, T) losses of (n, T+1) rows."""
    lengths = byte_lengths[rows[:, 1:]]
    nats = losses.astype(np.float64)[lengths > 0].sum()
    return float(nats / (math.log(2) * lengths.sum()))


def draw_probes(rows: int, row_tokens: int, count: int, chance: np.random.Generator) -> list[Probe]:
    """At most one a row: were there two, the longer prefix would show what follows the shorter."""
    chosen = chance.permutation(rows)[:count]
    positions = chance.integers(0, row_tokens - 1, size=len(chosen))
    return [Probe(int(row), int(position)) for row, position in zip(chosen, positions, strict=True)]


def loss_of(logits: np.ndarray, target: int) -> float:
    """-log softmax(logits)[target] in nats, in float64."""
    exact = logits.astype(np.float64)
    top = exact.max()
    return float(top + math.log(np.exp(exact - top).sum()) - exact[target])


class Examiner:
    """One exam: two children, launched by the caller, who passes each when its turn has come."""

    def __init__(
        self,
        question: Question,
        limits: TrialLimits,
        *,
        clock: Callable[[], float],
        stop: threading.Event,
        on_progress: Callable[[TrialProgress], None],
    ) -> None:
        self._question = question
        self._limits = limits
        self._clock = clock
        self._stop = stop
        self._on_progress = on_progress

    def claims(self, child: Child, orders: Frame) -> np.ndarray:
        """(n, T) float32: child A's losses, finite and not negative.

        Raises:
            TrialEnded: it failed, came late, or claimed what cannot be.
        """
        conversation, deadline_at = self._begin(child, orders)
        rows = self._question.rows
        at_once = max(1, ROWS_TOKENS // rows.shape[1])
        parts = []
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            shape = (len(part), part.shape[1] - 1)
            asked = Frame({"kind": "rows", "rows": len(part)}, part.astype("<u2").tobytes())
            answer = conversation.ask(asked, "losses", 4 * shape[0] * shape[1], deadline_at)
            parts.append(np.frombuffer(answer, dtype="<f4").reshape(shape))
            self._on_progress(TrialProgress("exam", 0.8 * (first + len(part)) / len(rows)))
        return _checked(np.concatenate(parts))

    def compare(self, child: Child, orders: Frame, claims: np.ndarray, probes: Sequence[Probe]) -> float:
        """Ask child B at the probes; the largest disagreement with the claims as a share of what is tolerated.

        Raises:
            TrialEnded: it failed, came late, or disagrees.
        """
        conversation, deadline_at = self._begin(child, orders)
        differences = np.empty(len(probes))
        for index, probe in enumerate(probes):
            truth = self._true_loss(conversation, probe, deadline_at)
            differences[index] = claims[probe.row, probe.position] - truth
            if (index + 1) % PROBES_PER_REPORT == 0:
                self._on_progress(TrialProgress("exam", 0.8 + 0.2 * (index + 1) / len(probes)))
        return judge(differences)

    def _begin(self, child: Child, orders: Frame) -> tuple[Conversation, float]:
        """Give the orders and wait until the model is loaded."""
        conversation = Conversation(child, clock=self._clock, stop=self._stop, where="in the exam: ")
        deadline_at = self._clock() + self._limits.exam_s
        conversation.ask(orders, "ready", 0, deadline_at)
        return conversation, deadline_at

    def _true_loss(self, conversation: Conversation, probe: Probe, deadline_at: float) -> float:
        row = self._question.rows[probe.row]
        prefix = row[: probe.position + 1]
        asked = Frame({"kind": "prefix"}, prefix.astype("<u2").tobytes())
        answer = conversation.ask(asked, "logits", 4 * self._question.vocab_size, deadline_at)
        loss = loss_of(np.frombuffer(answer, dtype="<f4"), int(row[probe.position + 1]))
        if not math.isfinite(loss):
            raise TrialEnded(Outcome.CRASHED, "in the exam: the model's logits are not finite (training diverged)")
        return loss


def judge(differences: np.ndarray) -> float:
    """The largest disagreement, (claimed - true) nats at each probe, as a share of its tolerance: 1 or less is honest.

    Raises:
        TrialEnded: more.
    """
    worst = float(np.abs(differences).max())
    mean = float(differences.mean())
    if worst > TOLERANCE_EACH or abs(mean) > TOLERANCE_MEAN:
        count = int((np.abs(differences) > TOLERANCE_EACH).sum())
        raise TrialEnded(
            Outcome.DISQUALIFIED,
            f"the model claims other losses when it is shown what follows: at {count} of {len(differences)} secret "
            f"positions by more than {TOLERANCE_EACH} nats (mean {mean:+.3f}); a model may only use earlier tokens",
        )
    return max(worst / TOLERANCE_EACH, abs(mean) / TOLERANCE_MEAN)


def _checked(losses: np.ndarray) -> np.ndarray:
    if not np.isfinite(losses).all():
        raise TrialEnded(Outcome.CRASHED, "in the exam: the model's losses are not finite (training diverged)")
    if (losses < -1e-4).any():  # rounding may put a certain token's loss a little under zero
        raise TrialEnded(Outcome.DISQUALIFIED, "in the exam: the model claims negative losses")
    return losses
