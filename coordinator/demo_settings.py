"""What the demo runs: its challenge, its volunteers, its patches. Values only."""

from dataclasses import dataclass
from pathlib import Path

from coordinator.settings import Settings, Terms

VOLUNTEERS = ("ada", "grace", "katherine")
AUTHOR = "demo"
PATCHES = {  # name in the report -> (file in examples/patches, the verdict that the demo expects)
    "improvement": ("improvement.patch", "promoted"),
    "no-effect": ("no-effect.patch", "parked"),
    "crash": ("crash.patch", "crashed"),
    "peek": ("peek.patch", "disqualified"),
}
BUDGET_S = 7.0
DELTA_BPB = 0.06  # two standard deviations of such a trial beside busy neighbours; the improvement gains 0.10 to 0.15
NOISE_PRIOR_BPB = 0.025
FIRST_BASELINES = 2  # two on each machine: their spread is the demo's own measure of the noise
LEASE_S = 20.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How the demo was called."""

    data_dir: Path
    report: Path | None = None
    keep: bool = False
    fresh: bool = False

    def coordinator(self) -> Settings:
        """The coordinator's settings: this machine only, a free port."""
        return Settings(self.data_dir / "coordinator", listen="127.0.0.1:0", lease_s=LEASE_S)

    def terms(self) -> Terms:
        """The demo's challenge and rule."""
        return Terms(
            name="demo",
            budget_s=BUDGET_S,
            delta_bpb=DELTA_BPB,
            noise_prior_bpb=NOISE_PRIOR_BPB,
            first_baselines=FIRST_BASELINES,
        )
