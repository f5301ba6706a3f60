"""What whoever starts a candidate sees: statuses, usage, time-outs, and errors that name the fix."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import trainer.sandbox
from trainer.sandbox import Policy, SandboxError, available, launch, self_test
from trainer.sandbox.runner import unavailable


def quiet(policy, argv, **changes):
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {}}
    return launch(argv, policy, **(streams | changes))


@pytest.mark.parametrize(
    ("program", "status"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.abort()", -signal.SIGABRT), ("1 / 0", 1)],
)
def test_the_exit_status_is_the_programs_own(sandbox, program, status):
    assert sandbox.run(program).status == status


def test_a_running_program_is_waited_for_in_vain_then_killed(sandbox):
    process, output = sandbox.start("import time; time.sleep(600)")
    with output:
        assert process.poll() is None
        with pytest.raises(TimeoutError):
            process.wait(0.1)
        process.kill_tree()
        process.kill_tree()
        assert process.poll() == process.wait(0) == -signal.SIGKILL


def test_usage_grows_while_it_runs_and_stays_after(sandbox, until):
    process, output = sandbox.start("hold = bytearray(64 << 20)\nprint('held', flush=True)\nwhile True: pass")
    with output:
        output.readline()
        until(lambda: process.usage().cpu_s > 0.2 and process.usage().peak_memory_bytes > 64 << 20)
        process.kill_tree()
    assert process.usage().cpu_s > 0.2
    assert 64 << 20 < process.usage().peak_memory_bytes < 512 << 20


def test_another_thread_may_kill_while_one_waits(sandbox):
    process, output = sandbox.start("import time; time.sleep(600)")
    with output:
        killer = threading.Thread(target=process.kill_tree)
        killer.start()
        assert process.wait(30) == -signal.SIGKILL
        killer.join()


def test_the_program_starts_in_its_folder_and_leaves_plain_files(sandbox):
    sandbox.run("open('weights', 'wb').write(b'x' * 10)")
    assert (sandbox.folder / "weights").read_bytes() == b"x" * 10


def test_standard_input_is_the_given_one(sandbox, tmp_path):
    (tmp_path / "given").write_text("from outside")
    reading, writing = os.pipe()
    with (tmp_path / "given").open() as given, os.fdopen(reading) as output:
        argv = [sys.executable, "-c", "import sys; print(sys.stdin.read())"]
        process = quiet(sandbox.policy(), argv, stdin=given.fileno(), stdout=writing, kind=sandbox.kind)
        os.close(writing)
        assert output.read() == "from outside\n"
    assert process.wait(20) == 0


def test_programs_are_found_on_the_given_path(sandbox):
    process = quiet(sandbox.policy(), ["python3", "-c", ""], env={"PATH": str(Path(sys.executable).parent)})
    assert process.wait(20) == 0


def test_what_cannot_be_started_says_why(sandbox, tmp_path):
    policy = sandbox.policy()
    with pytest.raises(SandboxError, match="no program 'no-such-program': install it"):
        quiet(policy, ["no-such-program"])
    with pytest.raises(SandboxError, match="missing does not exist"):
        quiet(sandbox.policy(read_paths=(*policy.read_paths, tmp_path / "missing")), [sys.executable])
    with pytest.raises(SandboxError, match="nowhere is no folder: make it first"):
        quiet(sandbox.policy(write_dir=tmp_path / "nowhere"), [sys.executable])
    with pytest.raises(SandboxError, match="nvidia77 does not exist"):
        quiet(sandbox.policy(gpu_devices=("/dev/nvidia77",)), [sys.executable])
    with pytest.raises(SandboxError, match=r"could not be built: .*Error"):
        quiet(sandbox.policy(read_paths=()), [sys.executable], kind=sandbox.kind)
    with pytest.raises(SandboxError, match="no kind of sandbox called 'soft'"):
        quiet(policy, [sys.executable], kind="soft")


def test_a_link_is_no_write_folder(sandbox, tmp_path):
    (tmp_path / "link").symlink_to(sandbox.outside)
    with pytest.raises(SandboxError, match="is no folder"):
        quiet(sandbox.policy(write_dir=tmp_path / "link"), [sys.executable])


def test_the_sandbox_keeps_everything_out_by_its_own_trial(sandbox, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert self_test(tmp_path, sandbox.kind) == ()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_trial_sees_what_is_not_protected(tmp_path):
    found = self_test(tmp_path, "none")
    for words in ("open a TCP connection (IPv4)", "list the home folder", "write a file outside", "signal the parent"):
        assert f"a patch can {words}" in found
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_sandbox_refuses_unless_told_in_words(tmp_path):
    if unavailable() is None:
        assert available() in {"linux", "macos"}
        return
    policy = Policy((), tmp_path, 1 << 28, 1 << 20, 1, 10)
    with pytest.raises(SandboxError, match="--unsafe-no-sandbox"):
        quiet(policy, [sys.executable])
    assert self_test(tmp_path)[0].startswith("nothing is protected")


ORDINARY_USER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trainer.sandbox import self_test
print([self_test(Path(sys.argv[2]), kind) for kind in ("linux", "landlock")])
"""


@contextmanager
def ordinary_users_copy() -> Iterator[Path]:
    """The package, and a scratch folder, where everybody may read: the working copy may lie in a private home."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(trainer.sandbox.__file__).parent, folder / "trainer" / "sandbox", ignore=ignore)
        for file in ("__init__.py", "errors.py"):
            shutil.copy(Path(trainer.__file__).with_name(file), folder / "trainer")
        for path in folder.rglob("*"):
            path.chmod(0o755)
        (folder / "scratch").mkdir()
        (folder / "scratch").chmod(0o777)
        yield folder


def test_it_holds_for_an_ordinary_user_with_nothing_but_python(sandbox, tmp_path_factory):
    python = Path("/usr/bin/python3")
    if os.getuid() != 0 or not python.exists() or sandbox.kind != "linux":
        pytest.skip("run as an ordinary user already, or no system Python, or the other configuration did it")
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info >= (3, 11))"], check=True, capture_output=True
    )
    if version.stdout != b"True\n":
        pytest.skip("the system's Python is older than this program supports")
    with ordinary_users_copy() as folder:
        ran = subprocess.run(
            [python, "-I", "-B", "-c", ORDINARY_USER, folder, folder / "scratch"],
            user=65534, group=65534, extra_groups=[], env={"HOME": str(folder)}, cwd="/",
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert (ran.stdout, ran.stderr) == ("[(), ()]\n", "")
