"""What a machine is, from what the operating system says about it."""

from dataclasses import replace

import pytest

from volunteer.errors import InputError, MachineError
from volunteer.hardware import Host, choose, free_threads, read_host

LINUX = Host(
    system="Linux",
    release="6.1",
    architecture="x86_64",
    cpu_text="processor\t: 0\nmodel name\t: AMD EPYC 9000\nflags\t: fpu\n",
    cores=8,
    load=2.4,
    memory_bytes=16 << 30,
    nvidia_text="",
)
TWO_GPUS = "0, NVIDIA GeForce RTX 3090, 24576, 550.54\n1, NVIDIA H100 80GB HBM3, 81559, 550.54\nbad line\n"


def test_a_processor_uses_the_threads_that_are_free() -> None:
    machine = choose(LINUX)
    assert machine.device == "cpu"
    assert machine.hardware.device_name == "AMD EPYC 9000"
    assert machine.hardware.device_memory_bytes == 16 << 30
    assert machine.hardware.threads == 6
    assert machine.hardware.operating_system == "Linux 6.1"
    assert choose(LINUX, threads=3).hardware.threads == 3


@pytest.mark.parametrize(("cores", "load", "free"), [(2, 0.0, 2), (2, 0.4, 2), (2, 1.2, 1), (2, 9.0, 1), (1, 0.0, 1)])
def test_free_threads(cores: int, load: float, free: int) -> None:
    assert free_threads(cores, load) == free


def test_a_gpu_is_preferred_and_may_be_chosen() -> None:
    host = replace(LINUX, nvidia_text=TWO_GPUS)
    first, second = choose(host), choose(host, "cuda:1")
    assert (first.device, first.hardware.device_name) == ("cuda:0", "NVIDIA GeForce RTX 3090")
    assert first.hardware.device_memory_bytes == 24576 << 20
    assert first.hardware.driver == "550.54"
    assert second.hardware.device_name == "NVIDIA H100 80GB HBM3"
    assert choose(host, "cpu").hardware.device_kind == "cpu"


def test_apple_silicon_has_its_gpu() -> None:
    mac = replace(LINUX, system="Darwin", architecture="arm64", cpu_text="Apple M3 Max\n")
    machine = choose(mac)
    assert (machine.device, machine.hardware.device_kind, machine.hardware.device_name) == (
        "mps",
        "mps",
        "Apple M3 Max",
    )


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_a_clear_error(device: str) -> None:
    with pytest.raises(MachineError, match="--device cpu"):
        choose(LINUX, device)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "CUDA", "cuda:-1", ":"])
def test_a_name_that_no_device_has(device: str) -> None:
    with pytest.raises(InputError, match="choose cpu, cuda"):
        choose(LINUX, device)


def test_a_processor_without_a_name_still_has_one() -> None:
    assert choose(replace(LINUX, cpu_text="BogoMIPS : 50\n")).hardware.device_name == "x86_64 processor"
    assert choose(replace(LINUX, cpu_text="")).hardware.device_name == "x86_64 processor"


def test_this_host_can_be_read() -> None:
    host = read_host()
    assert host.cores >= 1
    assert host.memory_bytes > 1 << 20
    assert choose(host, "cpu").hardware.device_name
