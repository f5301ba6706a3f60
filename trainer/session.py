"""What a `train.py` talks to: batches that carry the share of the budget spent, and nothing else of the outside world.

    def main(session):
        model = build_model(session.config)
        for batch in session.batches(rows=16):
            ...                                   # batch.inputs, batch.targets, batch.share
            session.report(loss)
        return model

Lives in the candidate's process, so nothing here is believed: time, tokens and score are kept by the parent. A patch
that rewrites this module only makes its own trial fail.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from trainer.wire import Frame, read_frame, write_frame

MAX_BATCH_BYTES = 1 << 28


@dataclass(frozen=True)
class Config:
    """What `build_model` is given, in training and in the exam alike. Sizes are the data set's."""

    vocab_size: int
    sequence_len: int  # tokens in a row of inputs
    bos_id: int  # begins every row; scored nowhere
    device: torch.device


@dataclass(frozen=True)
class Batch:
    """(rows, sequence_len) int64 on the session's device; `targets` are `inputs` one token later.

    `share` is the part of the budget that was spent when the batch was served, 0 to 1: schedules follow it, not a
    clock.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    share: float


class Session:
    """One training run, seen from inside."""

    def __init__(
        self, config: Config, *, seed: int, budget_s: float, max_rows: int, read_fd: int, write_fd: int
    ) -> None:
        self.config = config
        self.seed = seed  # of this trial: everything drawn at random should follow from it
        self.budget_s = budget_s
        self.max_rows = max_rows  # of one batch
        self.flops_per_token = 0.0  # of training, by the source's own count: shown as the use of a GPU; 0: not told
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._steps = 0
        self._loss: float | None = None
        self._unanswered = 0  # requests

    @property
    def device(self) -> torch.device:
        return self.config.device

    def batches(self, rows: int, *, ahead: int | None = None) -> Iterator[Batch]:
        """Batches of `rows` rows until the budget is spent. The clock starts with the first one.

        `ahead` batches are asked for before they are needed, one unless another number is given: that hides the copy to
        a GPU, and spares a CPU the wait, after which its caches are somebody else's (a tenth of the speed where others
        are busy). A GPU works behind the program that tells it what to do, by one step at most here: were it more, the
        last steps would be worked off after the budget is spent.
        """
        behind = 1 if self.device.type == "cuda" else 0
        ahead = 1 if ahead is None else ahead
        queued: deque[Callable[[], None]] = deque()  # each waits until a step is done
        finished = 0
        self._ask(rows, finished)
        while (batch := self._receive(rows)) is not None:
            yield batch
            queued.append(self._wait_for_all())
            is_first = finished == 0  # done alone, so that the parent learns how long a step takes
            while len(queued) > (0 if is_first else behind):
                queued.popleft()()
                finished += 1
            for _ in range(1 + ahead if is_first else 1):
                self._ask(rows, finished)

    def finish(self) -> None:
        """Take in what was asked for and not used. Called when `main` has returned: the next word is another's."""
        while self._unanswered:
            self._read()

    def random_batch(self, rows: int) -> Batch:
        """Random tokens in a batch's shape: for compiling and warming up before the first batch. On a CPU that is part
        of the budget; on a GPU a few seconds of its use are free."""
        shape = (rows, self.config.sequence_len + 1)
        row = torch.randint(self.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
        return Batch(*self._split(row), share=0.0)

    def report(self, loss: float) -> None:
        """One optimiser step is done; `loss` in nats per token is shown to people and decides nothing."""
        self._steps += 1
        self._loss = float(loss)

    def _wait_for_all(self) -> Callable[[], None]:
        """A way to wait for everything that was asked of the device so far."""
        if self.device.type != "cuda":
            return lambda: None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves its types out
        event.record()
        return event.synchronize

    def _ask(self, rows: int, finished: int) -> None:
        loss = self._loss if self._loss is not None and np.isfinite(self._loss) else None
        said = {"rows": rows, "step": self._steps, "loss": loss, "finished": finished}
        write_frame(self._write_fd, Frame({"kind": "want", **said}))
        self._unanswered += 1

    def _receive(self, rows: int) -> Batch | None:
        frame = self._read()
        if frame.kind != "batch":
            return None
        row = torch.from_numpy(np.frombuffer(frame.payload, dtype="<u2").astype(np.int64).reshape(rows, -1))
        return Batch(*self._split(row), share=float(frame.header["share"]))

    def _read(self) -> Frame:
        frame = read_frame(self._read_fd, MAX_BATCH_BYTES)
        if frame is None:
            raise ConnectionError("the trial has ended")
        self._unanswered -= 1
        return frame

    def _split(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        on_gpu = self.device.type == "cuda"
        row = row.pin_memory().to(self.device, non_blocking=True) if on_gpu else row.to(self.device)
        return row[:, :-1], row[:, 1:]


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write the model's weights as one safetensors file that appears whole or not at all."""
    original = getattr(model, "_orig_mod", model)  # torch.compile wraps the module it is given
    tensors: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for name, tensor in original.state_dict().items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        # Tied weights share memory, which the format refuses; a copy of everything would take half of the time.
        tensors[name] = plain.clone() if place in places else plain
        places.add(place)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
