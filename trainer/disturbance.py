"""Whether a trial was disturbed, and by what: the rule, in one place, over values that others measured.

A disturbed trial is repeated, not believed; so the limits are set where a disturbance costs about as much as one seed
differs from another, and not lower: a machine in daily use must still be of use. Pure: reading the machine is
`host.py`'s and `gpu_use.py`'s business. Where the limits come from: docs/decisions/disturbance.md.
"""

from dataclasses import dataclass

# Of the time in which the trial wanted a processor. With the budget in processor time, waiting makes a trial longer and
# not worse, up to nine tenths; one that came late may have come late for that.
MAX_WAITED = 0.9
MAX_WAITED_LATE = 0.3
# Of training by the wall's clock (a GPU): what the program that feeds the GPU waits for is lost from the budget, and a
# hundredth of the budget is worth about as much as one seed differs from another.
MAX_LOST = 0.01
MAX_OTHERS_GPU = 0.01  # of the GPU's time, likewise
MAX_SLOWED = 0.05  # of the trial's time: a slowed processor or GPU runs at half its speed or less
MAX_STALLED = 0.05  # of the trial's time in which everything waited for memory
MAX_SLEPT_S = 1.0  # clocks, caches and drivers are not what they were after it; less is the clocks' own difference


@dataclass(frozen=True)
class HostUse:
    """What the machine went through from the trial's start to its end. Shares are 0 to 1; 0 where nothing is told.

    wall_s: how long that was.
    others_cores: processors that other programs used on average, of `cores`.
    slowed: the share of the time in which the hottest core was slowed down for its heat or the supply of power.
    stalled: the share of the time in which all programs waited for memory.
    slept_s: how long the machine was suspended.
    """

    wall_s: float = 0.0
    cores: int = 1
    others_cores: float = 0.0
    slowed: float = 0.0
    stalled: float = 0.0
    slept_s: float = 0.0


@dataclass(frozen=True)
class GpuUse:
    """What the GPU went through while the candidate trained, on average over samples; shares 0 to 1.

    others: the share of the GPU's time that other programs had; `programs` names them.
    hot, braked: the share of the time in which it was slowed down for its heat, or for want of power.
    """

    others: float = 0.0
    programs: tuple[str, ...] = ()
    hot: float = 0.0
    braked: float = 0.0


@dataclass(frozen=True)
class Waiting:
    """How the trial's own processes fared: `share` of the time in which the one that fared worst wanted a processor,
    and `lost` of the training time by the wall's clock, was spent waiting for one."""

    share: float = 0.0
    lost: float = 0.0


def disturbance(waiting: Waiting, host: HostUse, gpu: GpuUse, *, by_wall: bool, late: bool) -> str:
    """What disturbed a trial and what to do about it, in a line; nothing when it may be believed.

    by_wall: its budget went by the wall's clock. late: it timed out.
    """
    found = (
        _slept(host),
        _waited(waiting, host, by_wall=by_wall, late=late),
        _slowed("the processor was", host.slowed, MAX_SLOWED, "too hot or short of power", "improve its cooling"),
        _stalled(host, counts=by_wall or late),
        _shared(gpu),
        _slowed("the GPU was", gpu.hot, MAX_SLOWED, "too hot", "improve its cooling"),
        _slowed("the GPU was", gpu.braked, MAX_SLOWED, "short of power", "check its power supply"),
    )
    return "; ".join(reason for reason in found if reason)


def _slept(host: HostUse) -> str:
    if host.slept_s <= MAX_SLEPT_S:
        return ""
    return f"this machine slept for {host.slept_s:.0f} s during the trial: keep it awake while it works"


def _waited(waiting: Waiting, host: HostUse, *, by_wall: bool, late: bool) -> str:
    share = waiting.lost if by_wall else waiting.share
    if share <= (MAX_LOST if by_wall else MAX_WAITED_LATE if late else MAX_WAITED):
        return ""
    return (
        f"other programs used the processor ({host.others_cores:.1f} of {host.cores} cores): the trial waited for it "
        f"{share:.0%} of the time; run fewer of them beside it, or give it fewer threads"
    )


def _slowed(what: str, share: float, limit: float, why: str, advice: str) -> str:
    return f"{what} {why} and slowed down {share:.0%} of the time: {advice}" if share > limit else ""


def _stalled(host: HostUse, *, counts: bool) -> str:
    if host.stalled <= MAX_STALLED or not counts:
        return ""
    return f"this machine was short of memory and stood still {host.stalled:.0%} of the time: close other programs"


def _shared(gpu: GpuUse) -> str:
    if gpu.others <= MAX_OTHERS_GPU:
        return ""
    names = f" ({', '.join(gpu.programs)})" if gpu.programs else ""
    return f"other programs{names} used the GPU {gpu.others:.0%} of the time: close them while it works"
