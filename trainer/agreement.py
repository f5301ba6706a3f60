"""What an exam asks, and which answers agree: secret positions, bits per byte, tolerances. Values in, values out.

Three processes speak of the same model. The one that trained it says what it loses on a few rows, once its weights are
fixed; child A claims the loss of every token; child B is shown what came before a secret position, and nothing of what
came after. Asking them is `examiner.py`'s business; docs/decisions/exam.md has the figures behind each number here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trainer.result import Outcome, TrialEnded

# Nats, between A's claim and B at one position. All questions have one shape, in which an honest model repeats itself
# to the last bit on a CPU; other arithmetic may round otherwise: bfloat16 keeps 8 bits, logits near 8 differ by 2^-5.
TOLERANCE_EACH = 0.15
# Nats, likewise, over all positions: what lying a little everywhere could gain, 0.0005 bits per byte on `tiny`.
TOLERANCE_MEAN = 0.001
# Nats, between A and the process that trained, over the rows both saw: the mean, and the mean of the absolute values.
# Compiled and autocast arithmetic stays far below; one step of an optimiser moves single losses by more than either.
TOLERANCE_TRAINED_MEAN = 0.002
TOLERANCE_TRAINED_EACH = 0.05


@dataclass(frozen=True)
class Question:
    """Rows to be examined: (n, T+1) uint16. `byte_lengths` is (vocab,) with 0 for tokens that are not scored."""

    rows: np.ndarray
    byte_lengths: np.ndarray

    @property
    def vocab_size(self) -> int:
        return len(self.byte_lengths)

    @property
    def scored(self) -> np.ndarray:
        """(n, T) bool: the targets that are text."""
        scored: np.ndarray = (self.byte_lengths > 0)[self.rows[:, 1:]]
        return scored


@dataclass(frozen=True)
class Probes:
    """Secret positions, (n,) each: the model is shown `rows[i, : positions[i] + 1]` and judged on what follows."""

    rows: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def bits_per_byte(losses: np.ndarray, rows: np.ndarray, byte_lengths: np.ndarray) -> float:
    """Total nats / (ln 2 x total bytes) over the targets that are text; (n, T) losses of (n, T+1) rows."""
    nats, total_bytes = 0.0, 0
    for part, claimed in zip(rows, losses, strict=True):  # one by one: all at once would take 140 MB for 2048 long rows
        lengths = byte_lengths[part[1:]]
        nats += float(claimed.astype(np.float64)[lengths > 0].sum())
        total_bytes += int(lengths.sum())
    return nats / (math.log(2) * total_bytes)


def draw_probes(scored: np.ndarray, count: int, chance: np.random.Generator) -> list[Probes]:
    """About `count` of the scored positions, (n, T) bool, spread evenly over the rows, in rounds.

    A round has at most one position of a row, and a later round only later ones: were it otherwise, one question would
    show what another asks. Every row gets as many, or one more: where there are no more rows than positions, a lie
    about one whole row is met for certain.
    """
    wanted = np.full(len(scored), count // len(scored))
    wanted[chance.permutation(len(scored))[: count % len(scored)]] += 1
    drawn = [
        np.sort(chance.permutation(np.flatnonzero(row))[:number]) for row, number in zip(scored, wanted, strict=True)
    ]
    rounds = []
    for turn in range(int(wanted.max())):
        rows = chance.permutation([row for row, positions in enumerate(drawn) if len(positions) > turn])
        rounds.append(Probes(rows, np.array([drawn[row][turn] for row in rows])))
    return [one for one in rounds if len(one)]


def losses_of(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] in nats, in float64: (n, vocab), (n,) -> (n,)."""
    exact = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # not-a-number stays that, and is refused by name
        exact -= exact.max(axis=1, keepdims=True)
        totals = np.log(np.exp(exact).sum(axis=1))
    losses: np.ndarray = totals - exact[np.arange(len(targets)), targets]
    return losses


def same_shape(array: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """The array in parts of exactly `rows` rows; the last is filled up with its own rows.

    Arithmetic depends on the shape of a batch: in one shape, an honest model repeats itself.
    """
    for first in range(0, len(array), rows):
        part = array[first : first + rows]
        yield np.resize(part, (rows, *part.shape[1:]))


def check_claims(losses: np.ndarray) -> np.ndarray:
    """The losses, when they can be losses at all.

    Raises:
        TrialEnded: they cannot.
    """
    if not np.isfinite(losses).all():
        raise TrialEnded(Outcome.CRASHED, "in the exam: the model's losses are not finite (training diverged)")
    if (losses < -1e-4).any():  # rounding may put a certain token's loss a little under zero
        raise TrialEnded(Outcome.DISQUALIFIED, "in the exam: the model claims negative losses")
    return losses


def judge(differences: np.ndarray) -> float:
    """The largest disagreement, (claimed - true) nats at each probe, as a share of its tolerance: 1 or less is honest.

    Raises:
        TrialEnded: more.
    """
    worst = float(np.abs(differences).max())
    mean = float(differences.mean())
    if not worst <= TOLERANCE_EACH or not abs(mean) <= TOLERANCE_MEAN:
        count = int((np.abs(differences) > TOLERANCE_EACH).sum())
        raise TrialEnded(
            Outcome.DISQUALIFIED,
            f"the model claims other losses when it is shown what follows: at {count} of {len(differences)} secret "
            f"positions by more than {TOLERANCE_EACH} nats, on average by {mean:+.4f} (of {TOLERANCE_MEAN}); a model "
            "may use the earlier tokens of a row and nothing else: no later ones, no other rows, no memory, no chance",
        )
    return max(worst / TOLERANCE_EACH, abs(mean) / TOLERANCE_MEAN)


def judge_trained(said: np.ndarray, claims: np.ndarray) -> float:
    """Whether the model examined is the model that was trained: as `judge`, for losses of the same rows.

    Raises:
        TrialEnded: it is another.
    """
    differences = claims.astype(np.float64) - said.astype(np.float64)
    each, mean = float(np.abs(differences).mean()), float(differences.mean())
    if not each <= TOLERANCE_TRAINED_EACH or not abs(mean) <= TOLERANCE_TRAINED_MEAN:
        raise TrialEnded(
            Outcome.DISQUALIFIED,
            f"the model in the exam is not the one that was trained: on the same rows its losses differ by {each:.3f} "
            f"nats (mean {mean:+.4f}); everything it needs must be in its parameters and buffers when main returns, "
            "and nothing may train it afterwards",
        )
    return max(each / TOLERANCE_TRAINED_EACH, abs(mean) / TOLERANCE_TRAINED_MEAN)
