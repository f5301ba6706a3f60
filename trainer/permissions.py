"""What a child of a trial may touch and use: from what is asked of a trial to a sandbox's policy.

Pure but for looking up which GPU is leased. Holding a child to it is `sandbox/`'s business.
"""

from pathlib import Path

from trainer.gpus import leased_devices
from trainer.result import TrialSpec
from trainer.sandbox.policy import Policy

_SLACK_CPU_S = 30
_COMPILING_CORES = 16


def policy_for(spec: TrialSpec, readable: tuple[Path, ...], output: Path, file_bytes: int) -> Policy:
    """For one child, which may read `readable` and write files of so many bytes to `output`."""
    limits, on_cpu = spec.limits, spec.device == "cpu"
    allowed_s = limits.startup_s + spec.budget_s + limits.grace_s + limits.exam_s
    return Policy(
        read_paths=readable,
        write_dir=output,
        memory_bytes=limits.memory_bytes,
        file_bytes=file_bytes,
        processes=1 if on_cpu else 256,  # compilers of GPU kernels start workers, an assembler, a linker
        cpu_s=int(allowed_s * max(spec.threads, 1 if on_cpu else _COMPILING_CORES)) + _SLACK_CPU_S,
        gpu_devices=leased_devices(spec.device),
    )
