"""A lease names one GPU: its node and its name, however the driver and the CUDA library count."""

from types import SimpleNamespace

import pytest

from trainer.gpus import Gpu, leased_devices, leased_gpu
from trainer.peaks import mfu_percent, peak_flops
from trainer.permissions import policy_for
from trainer.result import TrialSpec
from trainer.sandbox.macos import profile

INFORMATION = """Model: \t\t NVIDIA GeForce RTX 3060
IRQ:   \t\t 0
GPU UUID: \t {name}
Video BIOS: \t 94.06.14.00.9b
Bus Type: \t PCIe
Bus Location: \t {address}
Device Minor: \t {minor}
GPU Excluded:\t No
"""
FIRST, SECOND = "GPU-11111111-2222-3333-4444-555555555555", "GPU-99999999-2222-3333-4444-555555555555"


@pytest.fixture
def machine(tmp_path):
    """Two GPUs whose device nodes are numbered against the order of their addresses, as happens."""
    for address, name, minor in (("0000:0a:00.0", FIRST, 1), ("0000:41:00.0", SECOND, 0)):
        (tmp_path / "driver" / address).mkdir(parents=True)
        (tmp_path / "driver" / address / "information").write_text(
            INFORMATION.format(name=name, address=address, minor=minor)
        )
    (tmp_path / "dev").mkdir()
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"):
        (tmp_path / "dev" / node).touch()
    return tmp_path / "driver", tmp_path / "dev"


@pytest.mark.parametrize(
    ("device", "node", "name"),
    [("cuda", "nvidia1", FIRST), ("cuda:0", "nvidia1", FIRST), ("cuda:1", "nvidia0", SECOND)],
)
def test_only_the_leased_gpu_is_given(machine, device, node, name):
    driver, nodes = machine
    assert leased_gpu(device, driver, nodes) == Gpu(
        tuple(str(nodes / each) for each in (node, "nvidiactl", "nvidia-uvm")), name, "NVIDIA GeForce RTX 3060"
    )


@pytest.mark.parametrize("text", [None, "", "Device Minor: x\n", "GPU UUID: \t GPU-0\n"])
def test_a_driver_that_says_nothing_is_taken_by_numbers(machine, tmp_path, text):
    driver = tmp_path / "other"
    if text is not None:
        (driver / "0000:01:00.0").mkdir(parents=True)
        (driver / "0000:01:00.0" / "information").write_text(text)
    found = leased_gpu("cuda:1", driver, machine[1])
    assert found.name == "1"
    assert found.nodes[0].endswith("nvidia1")
    assert len(found.nodes) == 3


def test_no_gpu_is_given_to_other_devices(machine):
    assert leased_gpu("cpu", *machine) is None
    assert leased_gpu("mps", *machine) is None


@pytest.mark.parametrize(("device", "reached"), [("mps", True), ("cpu", False)])
def test_a_macs_trial_reaches_its_gpu_where_it_is_asked_for(device, reached, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.gpus.sys", SimpleNamespace(platform="darwin"))
    spec = TrialSpec(b"", seed=0, budget_s=12.0, data_dir=tmp_path, work_dir=tmp_path, device=device)
    policy = policy_for(spec, (), tmp_path, 1)
    assert ("iokit-open" in profile(policy)) is reached
    assert policy.processes == (256 if reached else 1)


def test_a_macs_gpu_is_not_looked_for_elsewhere(monkeypatch):
    monkeypatch.setattr("trainer.gpus.sys", SimpleNamespace(platform="linux"))
    assert leased_devices("mps") == leased_devices("cpu") == ()


def test_the_use_of_a_gpu_is_told_where_everything_is_known():
    assert mfu_percent("NVIDIA A100-SXM4-80GB", 1e9, 156_000, 1.0) == pytest.approx(50.0)
    assert mfu_percent("NVIDIA GeForce RTX 3060", 1e9, 1000, 1.0) is None
    assert mfu_percent("NVIDIA A100-SXM4-80GB", 0.0, 1000, 1.0) is None
    assert mfu_percent("NVIDIA A100-SXM4-80GB", 1e9, 1000, 0.0) is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 3060", None),
        ("", None),
    ],
)
def test_a_peak_is_that_of_this_very_gpu_or_not_known(name, tflops):
    assert peak_flops(name) == (None if tflops is None else pytest.approx(tflops * 1e12))
