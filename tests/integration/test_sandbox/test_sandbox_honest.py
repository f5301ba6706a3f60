"""Honest training works in the sandbox as outside it."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

TRAIN = """
import torch
from safetensors.torch import save_file
torch.manual_seed(1)
torch.set_num_threads(2)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 1))
optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
inputs = torch.randn(256, 16)
targets = inputs.sum(1, keepdim=True)
for step in range(100):
    loss = ((model(inputs) - targets) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"{loss.item():.4f}")
save_file(model.state_dict(), "weights.safetensors")
"""
COMPILE = """
import torch
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU())
inputs = torch.randn(4, 8)
print(torch.allclose(torch.compile(model)(inputs), model(inputs), atol=1e-5))
"""
GIB = 1 << 30


def test_training_learns_and_leaves_its_weights(sandbox):
    ran = sandbox.run(TRAIN, memory_bytes=4 * GIB, env={"HOME": str(sandbox.folder)})
    assert ran.status == 0, ran.output
    assert float(ran.output) < 0.1
    weights = load_file(sandbox.folder / "weights.safetensors")
    assert weights["0.weight"].shape == (32, 16)
    assert np.isfinite(weights["0.weight"]).all()


def test_only_the_leased_devices_are_there(sandbox):
    """A terminal stands in for a graphics card: a device node this person may open."""
    ours, theirs = os.openpty()
    leased = os.ttyname(theirs)
    program = f"""
    import os
    for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/kmsg", "/dev/mem", "/dev/fuse", {leased!r}):
        try:
            os.close(os.open(device, os.O_RDWR | os.O_NOCTTY))
            print(device)
        except OSError:
            pass
    """
    for devices in ((), (leased,)):
        ran = sandbox.run(program, gpu_devices=devices)
        assert ran.output.split() == ["/dev/null", "/dev/zero", "/dev/urandom", *devices]
    os.close(ours)
    os.close(theirs)


def test_compilers_of_gpu_kernels_find_the_driver(sandbox):
    """Triton asks this program, by this path."""
    if not Path("/sbin/ldconfig").exists():
        pytest.skip("this system has no /sbin/ldconfig")
    program = (
        "import subprocess; print(subprocess.run(['/sbin/ldconfig', '-p'], stdout=subprocess.PIPE).stdout.decode())"
    )
    assert " => " in sandbox.run(program, processes=4).output


def test_a_pool_of_processes_has_no_semaphores(sandbox):
    """Why a trial's environment has torch compile in its own process."""
    ran = sandbox.run("import multiprocessing; multiprocessing.Lock()", processes=4)
    assert (ran.status, "Error: [Errno" in ran.output) == (1, True)


@pytest.mark.full
def test_compiling_works_where_processes_are_allowed(sandbox):
    folder = str(sandbox.folder)
    env = {
        "HOME": folder,
        "TMPDIR": folder,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    ran = sandbox.run(COMPILE, memory_bytes=4 * GIB, file_bytes=GIB, processes=16, cpu_s=600, env=env)
    assert (ran.status, ran.output.splitlines()[-1:]) == (0, ["True"]), ran.output
