"""What disturbs a trial, by how much, and what the person is told: the rule over values, and what the system tells."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trainer import host
from trainer.disturbance import GpuUse, HostUse, Waiting, disturbance
from trainer.gpu_use import EVERY_S, WatchedGpu, descendants, watch_gpu

QUIET = HostUse(wall_s=60, cores=2)


NOTHING = (Waiting(), GpuUse())


def judged(waiting=NOTHING[0], machine=QUIET, gpu=NOTHING[1], *, by_wall=False, late=False) -> str:
    return disturbance(waiting, machine, gpu, by_wall=by_wall, late=late)


def test_a_quiet_machine_disturbs_nothing():
    assert judged() == judged(by_wall=True) == judged(late=True) == ""


@pytest.mark.parametrize(
    ("share", "late", "disturbed"),
    [(0.89, False, False), (0.91, False, True), (0.29, True, False), (0.31, True, True)],
)
def test_with_the_budget_in_processor_time_waiting_makes_a_trial_long_not_worse(share, late, disturbed):
    said = judged(Waiting(share, lost=share), HostUse(60, 2, others_cores=1.84), late=late)
    assert bool(said) is disturbed
    if said:
        assert said == (
            f"other programs used the processor (1.8 of 2 cores): the trial waited for it {share:.0%} of the time; "
            "run fewer of them beside it, or give it fewer threads"
        )


def test_with_the_budget_by_the_wall_whatever_is_lost_counts():
    assert judged(Waiting(share=0.5, lost=0.009), by_wall=True) == ""
    assert "waited for it 2% of the time" in judged(Waiting(share=0.0, lost=0.02), by_wall=True)


@pytest.mark.parametrize(
    ("machine", "gpu", "said"),
    [
        (HostUse(slept_s=2100), GpuUse(), "this machine slept for 2100 s during the trial: keep it awake"),
        (HostUse(slowed=0.23), GpuUse(), "the processor was too hot or short of power and slowed down 23% of"),
        (QUIET, GpuUse(0.4, ("game", "Xorg")), "other programs (game, Xorg) used the GPU 40% of the time: close"),
        (QUIET, GpuUse(0.4), "other programs used the GPU 40%"),
        (QUIET, GpuUse(hot=0.5), "the GPU was too hot and slowed down 50% of the time: improve its cooling"),
        (QUIET, GpuUse(braked=0.5), "the GPU was short of power and slowed down 50% of the time: check its power"),
    ],
)
def test_each_disturbance_is_said_with_its_amount_and_what_to_do(machine, gpu, said):
    for by_wall in (False, True):
        assert said in judged(machine=machine, gpu=gpu, by_wall=by_wall)


def test_little_of_anything_is_no_disturbance():
    machine = HostUse(60, 2, others_cores=2.0, slowed=0.04, stalled=0.04, slept_s=0.5)
    assert judged(machine=machine, gpu=GpuUse(0.009, ("Xorg",), 0.04, 0.04), by_wall=True) == ""


def test_want_of_memory_counts_where_time_counts():
    short = HostUse(60, 2, stalled=0.4)
    assert judged(machine=short) == ""
    assert "short of memory and stood still 40%" in judged(machine=short, late=True)
    assert "close other programs" in judged(machine=short, by_wall=True)


def test_several_disturbances_are_all_named():
    said = judged(machine=HostUse(slept_s=60, slowed=0.5))
    assert said.count("; ") == 1


# --- what Linux tells ---

STAT = "cpu  {user} 139 12751 {idle} 2089 0 351 {stolen} 0 0\ncpu0 20728 1239 5419 86724 624 0 36 1027 0 0\n"


def machine(folder, *, user=48396, idle=164586, stolen=2130, stalled_us=0, slowed_ms=(0, 0)):
    """/proc and /sys as a machine with two cores shows them."""
    (folder / "pressure").mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(STAT.format(user=user, idle=idle, stolen=stolen))
    (folder / "pressure" / "memory").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=999999999\n"
        f"full avg10=0.00 avg60=0.00 avg300=0.00 total={stalled_us}\n"
    )
    for core, milliseconds in enumerate(slowed_ms):
        throttle = folder / "sys" / "devices" / "system" / "cpu" / f"cpu{core}" / "thermal_throttle"
        throttle.mkdir(parents=True, exist_ok=True)
        (throttle / "core_throttle_total_time_ms").write_text(f"{milliseconds}\n")
        (throttle / "package_throttle_total_time_ms").write_text("0\n")
    (folder / "meminfo").write_text("MemTotal: 16000000 kB\nMemFree: 100 kB\nMemAvailable:    8000000 kB\n")
    return folder, folder / "sys"


def counted(folder, at_s, **shown):
    return host.read_counters(lambda: at_s, *machine(folder, **shown))


def test_counters_become_what_happened_between_them(tmp_path):
    before = counted(tmp_path, 1000.0, stalled_us=5_000_000)
    after = counted(
        tmp_path, 1010.0, user=48396 + 1500, idle=164586 + 400, stolen=2130 + 100, stalled_us=6_000_000,
        slowed_ms=(0, 2500),
    )  # fmt: skip
    use = host.use_between(before, after, children_s=9.0)
    assert use.wall_s == pytest.approx(10)
    assert use.others_cores == pytest.approx(0.6, abs=0.05)  # 15 s of processor time in 10 s, 9 of them the trial's
    assert use.slowed == pytest.approx(0.25)
    assert use.stalled == pytest.approx(0.1)
    assert 0 <= use.slept_s < 0.1
    assert host.available_memory_bytes(tmp_path) == 8_000_000 * 1024


def test_a_system_that_tells_nothing_disturbs_nothing(tmp_path):
    before = host.read_counters(lambda: 0.0, tmp_path, tmp_path)
    after = host.read_counters(lambda: 9.0, tmp_path, tmp_path)
    assert judged(machine=host.use_between(before, after, children_s=1.0), by_wall=True, late=True) == ""
    assert host.available_memory_bytes(tmp_path) is None


# --- what NVIDIA's driver tells ---


class NvmlError(Exception):
    """As the driver's own."""


class Nvml:
    """Answers as `pynvml` does, from recorded values."""

    NVMLError = NvmlError
    nvmlClocksThrottleReasonSwPowerCap = 0x4
    nvmlClocksThrottleReasonSwThermalSlowdown = 0x20
    nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self, looks, reasons):
        self.looks, self.reasons, self.asked_since = list(looks), list(reasons), []

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"gpu {index}"

    def nvmlDeviceGetProcessUtilization(self, handle, since):
        assert handle == "gpu 0"
        self.asked_since.append(since)
        found = self.looks.pop(0)
        if not found:
            raise NvmlError("not found")
        return [SimpleNamespace(pid=pid, smUtil=share, timeStamp=stamp) for pid, share, stamp in found]

    def nvmlSystemGetProcessName(self, pid):
        if pid == 9:
            raise NvmlError("no permission")
        return b"/usr/lib/xorg/Xorg\x1b[2J -core"

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons.pop(0)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(free=6 << 30, total=8 << 30)


def watched(nvml, processes_of, is_here=lambda _pid: True):
    return WatchedGpu(0, processes_of=processes_of, is_here=is_here, nvml=nvml)


def test_in_a_container_the_drivers_numbers_of_processes_are_nobodys():
    """They are of outside: the trial's own work would count as another's, and each trial as disturbed."""
    gpu = watched(Nvml([[(41_005, 97, 100)]], [0]), lambda _pid: {5}, lambda pid: pid == 5)
    gpu.sample(1.0)
    assert gpu.use() == GpuUse()


def test_samples_are_averaged_and_the_own_processes_left_out():
    looks = [[(5, 97, 100), (7, 20, 90)], [], [(5, 99, 300), (7, 40, 290), (9, 0, 310)], [(9, 60, 400)]]
    nvml = Nvml(looks, [0x4, 0x4 | 0x20, 0x40, 0x80])
    gpu = watched(nvml, lambda _pid: {5})
    for look in range(8):  # every second look comes too soon
        gpu.sample(look * EVERY_S / 2)
    use = gpu.use()
    assert use.others == pytest.approx((0.2 + 0 + 0.4 + 0.6) / 4)
    assert use.programs == ("Xorg", "process 9")
    assert (use.hot, use.braked) == (0.5, 0.25)
    assert nvml.asked_since == [0, 100, 100, 310]
    assert gpu.memory_bytes() == (6 << 30, 8 << 30)


def test_what_one_trial_uses_of_the_gpu_is_counted_before_its_training_and_apart_from_the_averages():
    looks = [[(5, 50, 100), (6, 30, 100)], [(5, 100, 300), (6, 100, 300), (7, 80, 300)], [], [(5, 10, 500)]]
    gpu = watched(Nvml(looks, [0x20, 0, 0, 0]), lambda pid: {5} if pid == 5 else {5, 6, 7})
    assert gpu.used_s(5, 10.0) == 0.0
    gpu.sample(14.0)
    assert gpu.used_s(5, 14.1) == pytest.approx(4.0)
    gpu.sample(16.0)  # it did nothing
    assert gpu.use().hot == pytest.approx(1 / 3)
    gpu.start_over()
    assert gpu.used_s(5, 18.0) == pytest.approx(4.0 + 0.1 * EVERY_S)
    assert gpu.use() == GpuUse()


def test_a_card_that_tells_nothing_disturbs_nothing():
    gpu = watched(Nvml([[]], [0]), lambda _pid: set())
    assert gpu.use() == GpuUse()
    gpu.sample(1.0)
    assert gpu.use() == GpuUse()


def test_without_a_gpu_nobody_is_asked():
    assert watch_gpu("cpu") is None
    assert watch_gpu("mps") is None


def test_the_own_processes_are_this_one_and_all_that_come_of_it():
    inner = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    with subprocess.Popen(
        [sys.executable, "-c", f"{inner}; print(child.pid, flush=True); child.wait()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        grandchild = int(child.stdout.readline())
        found, of_child, of_grandchild = (descendants(pid) for pid in (os.getpid(), child.pid, grandchild))
        child.stdin.close()
    assert {os.getpid(), child.pid, grandchild} <= found
    assert 1 not in found
    assert of_child == of_grandchild == {child.pid, grandchild}
