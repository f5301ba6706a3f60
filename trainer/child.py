"""What runs inside the sandbox: `python -m trainer.child train|exam READ_FD WRITE_FD`.

Imports torch, waits for the parent's orders on one pipe and answers on another. It loads the candidate's source and
from then on is the candidate: nothing it says is believed. Deciding anything is the parent's business (`feed.py`,
`examiner.py`).
"""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from trainer.session import Config, Session, save_weights
from trainer.wire import Frame, read_frame, write_frame

MAX_ORDER_BYTES = 1 << 28
EXIT_FAILED = 3
# Of errors that are about memory though their class does not say so: a CPU's; a Mac's, and CUDA's when a kernel runs.
_SHORT_OF_MEMORY = ("can't allocate memory", "out of memory")


class CandidateError(Exception):
    """The source does not offer what a trial needs."""


def train(orders: Mapping[str, Any], read_fd: int, write_fd: int) -> None:
    """Run the candidate's `main`, hand over the weights of the model it returns, and say what that model predicts."""
    seed = int(orders["seed"])
    if problem := _device_problem(str(orders["device"])):
        write_frame(write_fd, Frame({"kind": "unusable", "reason": problem}))
        return
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # for candidates that draw from numpy's global state
    session = Session(
        _config(orders),
        seed=seed,
        budget_s=float(orders["budget_s"]),
        max_rows=int(orders["max_rows"]),
        read_fd=read_fd,
        write_fd=write_fd,
    )
    _import_ahead(Path(orders["source"]).read_bytes(), str(orders["device"]))
    write_frame(write_fd, Frame({"kind": "loaded"}))  # from here on the candidate's own code is timed
    source = _load_source(Path(orders["source"]))
    _offered(source, "build_model")
    model = _offered(source, "main")(session)
    session.finish()
    if not isinstance(model, torch.nn.Module):
        raise CandidateError("main(session) must return the trained model")
    save_weights(model, Path(orders["weights"]))
    vram_bytes = torch.cuda.max_memory_allocated() if session.device.type == "cuda" else 0
    told = {"peak_vram_bytes": vram_bytes, "flops_per_token": float(session.flops_per_token)}
    write_frame(write_fd, Frame({"kind": "weights", **told}))
    if "torch._dynamo" in sys.modules:  # what was compiled for training would be compiled again for these questions
        torch.compiler.set_stance("eager_on_recompile")
    original = getattr(model, "_orig_mod", model)  # torch.compile wraps the module it is given
    _answer_all(original.to(session.device).eval(), session.config, read_fd, write_fd)


def exam(orders: Mapping[str, Any], read_fd: int, write_fd: int) -> None:
    """Load the weights through the candidate's `build_model` and answer the parent's questions until it hangs up."""
    config = _config(orders)
    model = _offered(_load_source(Path(orders["source"])), "build_model")(config)
    _load_weights(model, Path(orders["weights"]))
    model.to(config.device).eval()
    write_frame(write_fd, Frame({"kind": "ready"}))
    _answer_all(model, config, read_fd, write_fd)


def _answer_all(model: torch.nn.Module, config: Config, read_fd: int, write_fd: int) -> None:
    """Answer questions about the model until the parent hangs up, or ends this process."""
    with torch.inference_mode():
        while (question := read_frame(read_fd, MAX_ORDER_BYTES)) is not None:
            write_frame(write_fd, _answer(model, config, question))


def _answer(model: torch.nn.Module, config: Config, question: Frame) -> Frame:
    """`rows`: (n, T+1) tokens -> (n, T) losses in nats.

    `cut`: (n, T) tokens, (n,) positions -> (n, vocab) logits there; the tokens after a position are not the text's.
    """
    count = int(question.header["rows"])
    if question.kind == "cut":
        tokens_bytes = len(question.payload) - 4 * count
        inputs = _tokens(question.payload[:tokens_bytes], count, config)
        positions = torch.from_numpy(np.frombuffer(question.payload[tokens_bytes:], dtype="<u4").astype(np.int64))
        logits = _logits(model, inputs, config)[torch.arange(count), positions.to(config.device)]
        return Frame({"kind": "logits"}, logits.float().cpu().numpy().astype("<f4").tobytes())
    rows = _tokens(question.payload, count, config)
    logits = _logits(model, rows[:, :-1], config).float()
    losses = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return Frame({"kind": "losses"}, losses.cpu().numpy().astype("<f4").tobytes())


def _tokens(payload: bytes, count: int, config: Config) -> torch.Tensor:
    tokens = np.frombuffer(payload, dtype="<u2").astype(np.int64).reshape(count, -1)
    return torch.from_numpy(tokens).to(config.device)


def _logits(model: torch.nn.Module, inputs: torch.Tensor, config: Config) -> torch.Tensor:
    logits: torch.Tensor = model(inputs)
    wanted = (*inputs.shape, config.vocab_size)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise CandidateError(f"model(tokens) must return logits of shape {wanted}, it returned {got}")
    return logits


def _config(orders: Mapping[str, Any]) -> Config:
    torch.set_num_threads(int(orders["threads"]))
    return Config(
        vocab_size=int(orders["vocab_size"]),
        sequence_len=int(orders["sequence_len"]),
        bos_id=int(orders["bos_id"]),
        device=torch.device(str(orders["device"])),
    )


def _device_problem(device: str) -> str:
    """Why torch cannot compute on the device. Asked before the candidate is loaded, so that the parent believes it."""
    try:
        torch.ones(2, device=device).sum().item()
    except Exception as error:  # noqa: BLE001  (drivers and builds of torch fail in ways of their own)
        return f"{type(error).__name__}: {error}"[:1000]
    return ""


def _import_ahead(source: bytes, device: str) -> None:
    """Import what the source will make torch import later, 1.2 s of it, before its own time is counted."""
    if b"torch.optim" in source or (device != "cpu" and b"torch.compile" in source):
        importlib.import_module("torch._dynamo")


def _load_source(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    return module


def _offered(source: ModuleType, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] | None = getattr(source, name, None)
    if not callable(found):
        raise CandidateError(f"train.py has no function {name}: define it, as the seed's train.py does")
    return found


def _load_weights(model: torch.nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        raise CandidateError(f"the weights do not fit build_model: {error}") from error


def _failure(error: BaseException) -> Frame:
    text = f"{type(error).__name__}: {error}" if not isinstance(error, CandidateError) else str(error)
    short = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in text for word in _SHORT_OF_MEMORY)
    return Frame({"kind": "failed", "reason": text[:1000], "out_of_memory": short})


def main() -> int:
    role, read_fd, write_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    orders = read_frame(read_fd, MAX_ORDER_BYTES)
    if orders is None:
        return 0  # no longer needed
    try:
        {"train": train, "exam": exam}[role](orders.header, read_fd, write_fd)
    except BaseException as error:  # noqa: BLE001  (a candidate may raise anything, SystemExit included)
        if not isinstance(error, CandidateError):  # which says all itself
            traceback.print_exc()
        write_frame(write_fd, _failure(error))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the work is handed over: waiting for the candidate's threads gains nothing
