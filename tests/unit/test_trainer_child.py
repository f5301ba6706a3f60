"""What a child tells of its candidate's end."""

import pytest
import torch

from trainer.child import CandidateError, _failure


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (CandidateError("train.py has no function main(...)"), False),
        (SystemExit(0), False),
    ],
)
def test_an_end_for_want_of_memory_is_told_apart(error, short):
    assert _failure(error).header["out_of_memory"] is short


def test_a_reason_is_bounded():
    assert len(_failure(ValueError("x" * 5000)).header["reason"]) == 1000
