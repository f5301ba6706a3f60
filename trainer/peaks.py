"""How many operations a GPU can do in a second at most: what a model's use of its hardware (MFU) is a share of.

bfloat16 on tensor cores, sums in float32, without sparsity, as NVIDIA's data sheets and white papers state it; where
a sheet gives the figure with sparsity, half of that. A GPU that is not here has no known peak, nor has a variant (a
laptop's card, a slice of one): a wrong figure would be worse than none.
"""

import re
from typing import Final

_VARIANTS: Final = {"NVL", "PCIe", "Laptop", "Ti", "SUPER", "D", "MIG", "Ada"}  # words that make it another GPU
# Words of the name, TFLOPS, and where that stands.
_PEAKS: Final = (
    ("B200", 2250.0),  # DGX B200 data sheet: 18 PFLOPS for 8 GPUs
    ("H200 NVL", 835.5),  # H200 data sheet: 1,671 with sparsity
    ("H200", 989.5),  # H200 data sheet: 1,979 with sparsity
    ("H100 NVL", 835.5),  # H100 data sheet: 1,671 with sparsity
    ("H100 PCIe", 756.5),  # H100 data sheet: 1,513 with sparsity
    ("H100", 989.5),  # H100 data sheet: 1,979 with sparsity
    ("A100", 312.0),  # A100 data sheet, the same for SXM and PCIe
    ("A100 PCIe", 312.0),
    ("A40", 149.7),  # A40 data sheet
    ("A30", 165.0),  # A30 data sheet
    ("A10", 125.0),  # A10 data sheet
    ("L40S", 362.0),  # L40S data sheet: 733 with sparsity
    ("L40", 181.0),  # L40 data sheet: 362 with sparsity
    ("L4", 121.0),  # L4 data sheet: 242 with sparsity
    ("RTX 5090", 209.5),  # white paper of the RTX Blackwell architecture
    ("RTX 4090", 165.2),  # white paper of the Ada architecture
    ("RTX 3090", 71.0),  # white paper of the GA102
)


def peak_flops(name: str) -> float | None:
    """Operations a second of the GPU that the driver calls `name`, such as "NVIDIA H100 80GB HBM3"; None: not known."""
    words = set(re.findall(r"[A-Za-z0-9]+", name))
    for known, tflops in _PEAKS:
        wanted = set(known.split())
        if wanted <= words and words & _VARIANTS <= wanted:
            return tflops * 1e12
    return None


def mfu_percent(name: str, flops_per_token: float, tokens: int, seconds: float) -> float | None:
    """The share of what that GPU can do at most that went into so many tokens; None where any of it is not known."""
    peak = peak_flops(name)
    if peak is None or not flops_per_token or not seconds:
        return None
    return 100 * flops_per_token * tokens / seconds / peak
