"""Ctrl-C while a program still loads, which takes a second on a slow machine."""

import subprocess
import sys

import pytest

# A Ctrl-C that always comes at the same moment: when the module with the commands is looked for.
INTERRUPTED = """
import runpy, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1] + ".cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize("program", ["coordinator", "trainer", "volunteer"])
def test_ctrl_c_while_a_program_loads_ends_it_quietly(program: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
