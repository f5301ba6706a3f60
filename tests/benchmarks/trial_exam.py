"""The exam of an honest model, repeated: how far from its tolerances it stays, in float32 and in bfloat16.

    python tests/benchmarks/trial_exam.py [--quick] [--rows N] [--live N] [--probes N] [--json]

One model, the seed source trained for a few seconds, is examined by the real examiner in the real sandbox. Importing
torch anew for each exam would take most of the time, so the two children of an exam stay alive and are asked again: an
honest model keeps nothing from one question to the next. The positions of the first exams are dealt, not drawn:
together they are every position that any exam of these rows can ask. Then a quarter of them is asked again, by fresh
children and in other company, which shows that neither matters. So the answers of any exam are known, and 1,000 are
drawn as in a trial and judged by them. With --live so many more are drawn and asked, by a fresh pair of children for
every ten.

Also says what the best lie about single positions could gain, from the losses of this model: see
docs/decisions/exam.md.
"""

import json
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from trainer import sandbox
from trainer.agreement import TOLERANCE_EACH, TOLERANCE_MEAN, Probes, Question, bits_per_byte, draw_probes, judge
from trainer.conversation import Conversation
from trainer.examiner import Examiner
from trainer.installation import lay_out
from trainer.log import LogTail
from trainer.manifest import Manifest
from trainer.prepare import prepare
from trainer.process import Child
from trainer.result import Outcome, TrialLimits, TrialResult, TrialSpec
from trainer.training import orders_for
from trainer.trial import run_trial

SEED_SOURCE = Path(__file__).parents[2] / "trainer" / "train.py"
HALF = """

full_build_model = build_model

def build_model(config):
    import torch
    model = full_build_model(config)
    full_forward = model.forward
    def forward(tokens):
        with torch.autocast(config.device.type, torch.bfloat16):
            return full_forward(tokens).float()
    model.forward = forward
    return model
"""
PRECISIONS = {"float32": "", "bfloat16": HALF}
# Generous: what is measured is the model's arithmetic, on whatever machine.
LIMITS = TrialLimits(exam_s=3600.0, startup_s=600.0, grace_s=60.0, stretch=100.0)
WEIGHTS = "weights.safetensors"
SURVIVALS = (0.5, 0.1, 0.01)
EXAMS_OF_A_PAIR = 10


@dataclass(frozen=True)
class Exams:
    """What one precision showed: the margin of each exam, and every difference seen, (claimed - true) nats."""

    margins: np.ndarray
    differences: np.ndarray
    again_nats: float  # the largest difference between two answers to the same question
    claims: np.ndarray
    seconds: float  # for one exam that is asked, imports aside
    asked: int  # exams whose answers came from children, one by one
    live_margins: np.ndarray  # of those of them that were drawn as in a trial

    def summary(self) -> dict[str, float]:
        absolute = np.abs(self.differences)
        return {
            "exams": len(self.margins),
            "exams_asked": self.asked,
            "exams_asked_as_drawn": len(self.live_margins),
            "live_margin_max": float(self.live_margins.max(initial=0.0)),
            "positions_asked": self.differences.size,
            "false_alarms": 0,  # one would have ended the measurement
            "margin_max": float(self.margins.max()),
            "margin_99": float(np.quantile(self.margins, 0.99)),
            "margin_median": float(np.median(self.margins)),
            "nats_max": float(absolute.max()),
            "nats_99_9": float(np.quantile(absolute, 0.999)),
            "nats_mean": float(self.differences.mean()),
            "again_nats_max": self.again_nats,
            "seconds_per_exam": self.seconds,
        }


class Hall:
    """Where exams are held: the data, a source, its weights."""

    def __init__(self, folder: Path, manifest: Manifest, source: bytes, weights: Path, rows: int) -> None:
        self._folder = folder
        self._manifest = manifest
        self._source = folder / "train.py"
        self._source.write_bytes(source)
        self._weights = weights
        self._installation = lay_out(folder)
        self._children = 0
        self.question = Question(np.array(manifest.val_rows()[:rows]), manifest.tokenizer().byte_lengths())

    def examiner(self) -> Examiner:
        return Examiner(
            self.question,
            LIMITS,
            device="cpu",
            clock=time.monotonic,
            stop=threading.Event(),
            on_progress=lambda _progress: None,
        )

    @contextmanager
    def child(self) -> Iterator[Child]:
        """A child that has been given its orders once for all: it answers until it is ended."""
        self._children += 1
        output = self._folder / f"exam-{self._children}"
        output.mkdir()
        reads = (*self._installation.read_paths, self._source, self._weights.parent)
        policy = sandbox.Policy(reads, output, LIMITS.memory_bytes, 64 << 20, 1, 1 << 30)
        with Child(
            "exam",
            self._installation,
            policy,
            kind="auto",
            threads=1,
            device="cpu",
            log=LogTail(LIMITS.log_tail_bytes),
            max_payload_bytes=1 << 24,
        ) as child:
            yield child

    def admit(self, child: Child) -> "Seated":
        limits = replace(LIMITS, batch_tokens=self._manifest.row_tokens)  # one row at a time: all they are asked
        spec = TrialSpec(b"", 1, 1.0, self._manifest.data_dir, self._folder, limits=limits)
        return Seated(self.examiner(), child).begin(orders_for(spec, self._manifest, self._source, self._weights))


class Seated(Examiner):
    """An examiner of one child that stays: the same questions and the same judgement, without the orders again."""

    def __init__(self, like: Examiner, child: Child) -> None:
        self.__dict__.update(like.__dict__)
        self._conversation_of_child = Conversation(child, clock=time.monotonic, stop=threading.Event(), where="")
        self.child = child

    def begin(self, orders: object) -> "Seated":
        self._conversation_of_child.ask(orders, "ready", 0, time.monotonic() + LIMITS.exam_s)  # type: ignore[arg-type]
        return self

    def _begin(self, child: Child, orders: object) -> tuple[Conversation, float]:
        return self._conversation_of_child, time.monotonic() + LIMITS.exam_s

    def differences(self, claims: np.ndarray, rounds: list[Probes]) -> np.ndarray:
        """As `compare`, before it is judged."""
        conversation, deadline_at = self._begin(self.child, None)
        return np.concatenate(
            [
                claims[probes.rows, probes.positions] - self._true_losses(conversation, probes, deadline_at)
                for probes in self._questions(rounds)
            ]
        )


def dealt(scored: np.ndarray, count: int, chance: np.random.Generator) -> list[list[Probes]]:
    """Every position once, as the rounds of so many exams as that takes: (n, T) bool with equal rows."""
    rows, positions = scored.shape
    order = np.stack([chance.permutation(positions) for _ in range(rows)])
    rounds = [Probes(np.arange(rows), order[:, turn]) for turn in range(positions)]
    shuffled = []
    for one in rounds:
        mixed = chance.permutation(rows)
        shuffled.append(Probes(one.rows[mixed], one.positions[mixed]))
    each = max(1, count // rows)
    return [shuffled[first : first + each] for first in range(0, positions, each)]


def ask(hall: Hall, plans: list[list[Probes]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The claims of a fresh child, and what another says at the probes of each exam, (claimed - true) nats."""
    with hall.child() as a, hall.child() as b:
        claims = hall.admit(a).claims(a, None)  # type: ignore[arg-type]
        a.end()
        witness = hall.admit(b)
        return claims, [witness.differences(claims, rounds) for rounds in plans]


def live(hall: Hall, probes: int, count: int, chance: np.random.Generator) -> Iterator[float]:
    """The margins of so many exams, each with a secret of its own as in a trial, claims included."""
    for first in range(0, count, EXAMS_OF_A_PAIR):
        with hall.child() as a, hall.child() as b:
            claimant, witness = hall.admit(a), hall.admit(b)
            for _ in range(min(EXAMS_OF_A_PAIR, count - first)):
                claims = claimant.claims(a, None)  # type: ignore[arg-type]
                yield judge(witness.differences(claims, draw_probes(hall.question.scored, probes, chance)))


def repeat(hall: Hall, probes: int, *, asked: int, again: int, drawn: int, live_exams: int) -> Exams:
    """So many exams of one model that are asked, asked again by fresh children, drawn, and drawn and asked."""
    chance = np.random.default_rng(0)
    scored = hall.question.scored
    table = np.full(scored.shape, np.nan)
    began_at = time.monotonic()
    plans = dealt(scored, probes, chance)[:asked]
    claims, found = ask(hall, plans)
    seconds = (time.monotonic() - began_at) / len(plans)
    for rounds, differences in zip(plans, found, strict=True):
        table[flat(rounds)] = differences
    margins = [judge(differences) for differences in found]
    plans = dealt(scored, probes, chance)[:again]
    claims_again, found_again = ask(hall, plans)
    again_nats = float(np.abs(claims_again - claims).max())
    for rounds, differences in zip(plans, found_again, strict=True):
        known = table[flat(rounds)]
        both = np.abs(differences - known)[np.isfinite(known)]
        again_nats = max(again_nats, float(both.max(initial=0.0)))
        margins.append(judge(differences))
    found_live = np.array(list(live(hall, probes, live_exams, chance)))
    count = len(margins) + len(found_live)
    margins += [judge(table[flat(draw_probes(scored, probes, chance))]) for _ in range(drawn)]
    everything = np.concatenate([margins, found_live])
    return Exams(everything, table[np.isfinite(table)], again_nats, claims, seconds, count, found_live)


def flat(rounds: list[Probes]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and positions of all probes of an exam, in the order in which they are asked."""
    return np.concatenate([one.rows for one in rounds]), np.concatenate([one.positions for one in rounds])


def lies(losses: np.ndarray, question: Question, probes: int, exam_rows: int) -> dict[str, float]:
    """What lying at single positions could gain: claim nothing at the n positions with the largest losses.

    Of fewer rows than an exam has, each stands for several.

    For each n the gain in bits per byte and the chance that no probe meets one of them; `expected` is the best product.
    """
    copies = exam_rows // len(losses)
    losses, texts = np.tile(losses, (copies, 1)), np.tile(question.rows, (copies, 1))
    rows, positions = losses.shape
    each = probes // rows
    order = np.argsort(losses, axis=None)[::-1]
    in_row = np.zeros(rows, int)
    honest = bits_per_byte(losses, texts, question.byte_lengths)
    per_nat = honest / float(losses.sum())
    gain, survival = 0.0, 1.0  # of an exam that meets none of the lies
    best, at = 0.0, dict.fromkeys(SURVIVALS, 0.0)
    for flat in order[:4096]:
        row = flat // positions
        lied = in_row[row]
        # Of `each` distinct positions of this row, none is one of the lied + 1.
        survival *= math.comb(positions - lied - 1, each) / math.comb(positions - lied, each)
        in_row[row] += 1
        gain += float(losses.flat[flat]) * per_nat
        best = max(best, gain * survival)
        at = {share: gain if survival >= share else known for share, known in at.items()}
    return {
        "expected_bpb": best,
        **{f"gain_bpb_at_survival_{share:g}": value for share, value in at.items()},
        "everywhere_bpb": TOLERANCE_MEAN * per_nat * losses.size,
    }


def measure(
    quick: bool,
    *,
    rows: int = 256,
    precisions: tuple[str, ...] = ("float32", "bfloat16"),
    drawn: int = 1000,
    live_exams: int = 0,
    probes: int = LIMITS.exam_probes,
) -> dict[str, object]:
    """Quick: two exams in each precision, by two pairs of children. Else every position, and 1,000 exams drawn.

    rows: of the exam's; with fewer, as many probes fall on each as it takes, and every position is asked sooner.
    live_exams: so many more, drawn and asked. probes: of each exam.
    """
    with tempfile.TemporaryDirectory(prefix="exam-bench-") as name:
        folder = Path(name)
        manifest = prepare("tiny", folder / "tiny")
        report: dict[str, object] = {"tolerance_each": TOLERANCE_EACH, "tolerance_mean": TOLERANCE_MEAN}
        for precision in precisions:
            place = folder / precision
            (place / "weights").mkdir(parents=True)
            source, weights = SEED_SOURCE.read_bytes() + PRECISIONS[precision].encode(), place / "weights" / WEIGHTS
            budget_s = 2.0 if quick else 10.0
            result = trained(TrialSpec(source, 1, budget_s, folder / "tiny", place / "work", keep_weights=weights))
            hall = Hall(place, manifest, source, weights, rows)
            everything = math.ceil(hall.question.scored.size / probes)
            size = (1, 1, 0) if quick else (everything, math.ceil(everything / 4), drawn)
            exams = repeat(hall, probes, asked=size[0], again=size[1], drawn=size[2], live_exams=live_exams)
            report[precision] = {**exams.summary(), "trial_margin": result.exam_margin, "val_bpb": result.val_bpb}
            if precision == "float32":
                report["lies"] = lies(exams.claims, hall.question, LIMITS.exam_probes, manifest.exam_rows)
                report |= {"exam_margin": result.exam_margin, "exam_s": result.exam_s}
        return report


def trained(spec: TrialSpec) -> TrialResult:
    """A whole trial of the honest model, which leaves its weights."""
    result = run_trial(
        replace(spec, limits=LIMITS),
        clock=time.monotonic,
        on_progress=lambda _progress: None,
        stop=threading.Event(),
    )
    if result.outcome is not Outcome.COMPLETED:
        raise SystemExit(f"the honest model was not examined: {result.outcome}: {result.reason}")
    return result


@click.command()
@click.option("--quick", is_flag=True, help="Under a minute on a quiet machine.")
@click.option("--rows", default=256, show_default=True, type=click.IntRange(32, 256), help="Rows to examine.")
@click.option("--live", "live_exams", default=0, show_default=True, help="So many more exams, drawn and asked.")
@click.option("--probes", default=LIMITS.exam_probes, show_default=True, help="Of each exam.")
@click.option("--precision", multiple=True, type=click.Choice(list(PRECISIONS)), help="Only these [both].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(quick: bool, rows: int, live_exams: int, probes: int, precision: tuple[str, ...], as_json: bool) -> None:
    precisions = precision or tuple(PRECISIONS)
    report = measure(quick, rows=rows, precisions=precisions, live_exams=live_exams, probes=probes)
    for name, value in report.items():
        click.echo(f"{name:16} {value}")
    if as_json:
        click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
