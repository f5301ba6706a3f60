"""Whether the next trial may start up while this one is examined: if that takes memory or time from nobody.

An exam uses little memory and, on a GPU, little of that; a start-up is most of what a trial costs beside its budget. A
trial that fails while it starts early is started anew, alone (`trial.py`), so that a wrong guess costs time and no
verdict. Reading the machine is `host.py`'s and `gpu_use.py`'s business.
"""

from trainer.gpu_use import watch_gpu
from trainer.host import available_memory_bytes, processors
from trainer.result import TrialSpec

_LEAST_BYTES = 2 << 30  # Python with torch, a small model, and room for whatever else this machine does
_FREE_SHARE_OF_GPU = 0.6  # free while the exam runs: the next trial may take what this one's training took


def may_start_early(spec: TrialSpec, last_peak_bytes: int) -> bool:
    """Whether a trial of `spec` may start now; the one under way used `last_peak_bytes` of memory to train.

    On a CPU there must be a processor beside those that a trial uses: on one core the two would only take turns, and
    the exam's deadline would be harder to keep.
    """
    available = available_memory_bytes()
    if available is None or available < max(_LEAST_BYTES, 2 * last_peak_bytes):
        return False
    if spec.device == "cpu":
        return processors() > spec.threads
    gpu = watch_gpu(spec.device)
    memory = gpu.memory_bytes() if gpu is not None else None
    return memory is not None and memory[0] >= _FREE_SHARE_OF_GPU * memory[1]
