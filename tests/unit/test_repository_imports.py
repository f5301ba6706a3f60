"""Which way the rooms look: every import of every package, read from the source, against the rules of the design.

`cli -> main -> (service | adapters) -> use cases -> what they write to -> pure`; the coordinator and the volunteer
share nothing but `autoresearch`; torch is for the sandboxed child alone; pure modules do no input or output.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "autoresearch": ROOT / "proto" / "autoresearch",
    "coordinator": ROOT / "coordinator",
    "trainer": ROOT / "trainer",
    "volunteer": ROOT / "volunteer",
}

# Package -> the others of ours that it may import.
MAY_IMPORT = {
    "autoresearch": set(),
    "coordinator": {"autoresearch"},
    "trainer": set(),
    "volunteer": {"autoresearch", "trainer"},
}

# Run inside the sandbox; the only ones that import torch, and nothing of the trusted side imports them.
CHILD_SIDE = {"trainer.child", "trainer.session", "trainer.train"}


def names(text: str) -> set[str]:
    return set(text.split())


# Need the extra `climbmix`; the rest of the trainer, and so a volunteer of `tiny`, does without.
CLIMBMIX = {"trainer.hub", "trainer.transfer", "trainer.answers", "trainer.parquet"}

# Values in, values out. A pure module imports only pure ones of its own package.
PURE = {
    "coordinator": names("""
        accepting access admission bases changes commits eligibility errors facts fleet forms gathering
        leasing planning policy refusals session settling store turns views worth
        crowd disputes doubting inspection ordering quotas tokens waiting
    """),
    "trainer": names("batches disturbance peaks source"),
    "volunteer": names("""
        address errors narration orders session session_events session_rules session_state session_step
    """),
}
INPUT_OUTPUT = names("""
    asyncio fcntl git glob grpc http importlib logging multiprocessing os pathlib random redis secrets select shutil
    signal socket sqlite3 ssl subprocess sys tempfile time urllib uuid
""")
READERS = {"open", "input", "print", "exec", "eval", "__import__"}  # calls that reach outside without an import
CLOCKS = {"now", "utcnow", "today"}

# The coordinator's layers from the bottom. What is named in none is an adapter or the service.
LAYERS = [
    PURE["coordinator"] | {"settings"},
    names(
        "ending export lineage live_file merging sealed_git segments"
    ),  # git and the ledger's file: what the use cases write to
    names("""
        app archive backups branch checkpoints confirming deciding discounting dispatch filling following genesis intake
        journal keyring promoting queries reading rebuilding records register scheduling upgrading watching
    """),
    set(),
    names("main"),
    names("demo"),  # a whole swarm: the coordinator's main with volunteers beside it
    names("cli __main__"),
]
EDGE = 3


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(FOLDERS[package]).with_suffix("").parts
    return ".".join((package, *(part for part in parts if part != "__init__")))


@cache
def sources() -> dict[str, ast.Module]:
    """Every hand-written module by its name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                found[module_name(package, path)] = ast.parse(path.read_text(), path)
    return found


def imports(name: str) -> Iterator[str]:
    """The modules that `name` imports anywhere, `from a import b` as a.b."""
    for node in ast.walk(sources()[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_module(target: str) -> str | None:
    """The module of ours that an imported name is or lies in."""
    parts = target.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((name for name in names if name in sources()), None)


def of_package(package: str) -> list[str]:
    return [name for name in sources() if name.partition(".")[0] == package]


def pure_modules() -> list[str]:
    own = [f"{package}.{name}" for package, names in PURE.items() for name in names if f"{package}.{name}" in sources()]
    return [*own, *of_package("autoresearch")]


@pytest.mark.parametrize("package", FOLDERS)
def test_packages_look_one_way(package: str) -> None:
    forbidden = FOLDERS.keys() - MAY_IMPORT[package] - {package}
    wrong = [(name, to) for name in of_package(package) for to in imports(name) if to.partition(".")[0] in forbidden]
    assert not wrong


@pytest.mark.parametrize("package", FOLDERS)
def test_torch_is_for_the_child_alone(package: str) -> None:
    wrong = [
        (name, to)
        for name in of_package(package)
        for to in imports(name)
        if name not in CHILD_SIDE and ("torch" in to.split(".") or own_module(to) in CHILD_SIDE)
    ]
    assert not wrong


def test_nothing_loads_torch_in_the_programs_themselves() -> None:
    """Through other people's packages neither."""
    programs = [
        name for name in ("coordinator.cli", "volunteer.cli", "trainer.cli", "trainer.trial") if name in sources()
    ]
    script = "\n".join(f"import {name}" for name in programs) + "\nimport sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_no_command_needs_the_heavy_packages_to_start() -> None:
    """`--help` and every query must answer at once; drawing and merging are loaded by those who do them."""
    heavy = "{'matplotlib', 'git', 'redis', 'pyarrow', 'requests'}"
    script = f"import volunteer.cli, trainer.cli, sys; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_pure_modules_do_no_input_or_output() -> None:
    errors = {"volunteer.errors"}  # names the paths it speaks of; opens none
    wrong = [
        (name, to)
        for name in pure_modules()
        for to in imports(name)
        if to.partition(".")[0] in INPUT_OUTPUT and name not in errors
    ]
    assert not wrong


def test_pure_modules_import_pure_ones_of_their_package() -> None:
    pure = set(pure_modules())
    wrong = [
        (name, module)
        for name in pure
        for to in imports(name)
        if (module := own_module(to)) is not None and module.partition(".")[0] == name.partition(".")[0]
        if module not in pure
    ]
    assert not wrong


def test_pure_modules_call_no_clock_and_open_nothing() -> None:
    wrong = []
    for name in pure_modules():
        for node in ast.walk(sources()[name]):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in READERS:
                wrong.append((name, node.lineno, called.id))
            if isinstance(called, ast.Attribute) and called.attr in CLOCKS:
                wrong.append((name, node.lineno, called.attr))
    assert not wrong


def layer(module: str) -> int:
    room = module.split(".")[1]
    room = "cli" if room.partition("_")[0] == "cli" else room
    return next((height for height, rooms in enumerate(LAYERS) if room in rooms), EDGE)


def test_the_coordinators_layers_look_down() -> None:
    wrong = [
        (name, module)
        for name in of_package("coordinator")
        for to in imports(name)
        if (module := own_module(to)) is not None and module.startswith("coordinator.")
        if layer(module) > layer(name)
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["coordinator", "volunteer"])
def test_nothing_imports_the_command_line_and_only_it_imports_main(package: str) -> None:
    def is_command_line(module: str) -> bool:
        room = module.split(".")[1] if "." in module else ""
        return room.partition("_")[0] == "cli" or room in ("__main__", "demo")

    wrong = [
        (name, module)
        for name in of_package(package)
        for to in imports(name)
        if (module := own_module(to)) is not None and module.startswith(f"{package}.") and not is_command_line(name)
        if is_command_line(module) or module == f"{package}.main"
    ]
    assert not wrong


NO_LOOK = ("dict(os.environ)", "os.environ.setdefault")  # handed on to a child process; a default for a library


def reads_environment(tree: ast.Module) -> bool:
    """Whether it looks at variables."""
    written = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute | ast.Call)]
    looks = sum(text in ("os.environ", "os.getenv") for text in written)
    return looks > sum(text in NO_LOOK for text in written)


@pytest.mark.parametrize("package", ["coordinator", "volunteer"])
def test_only_settings_read_the_environment(package: str) -> None:
    readers = [name for name in of_package(package) if reads_environment(sources()[name])]
    assert readers in ([], [f"{package}.settings"])


def distributions(extra: str | None) -> set[str]:
    """Names of the distributions that an installation with that extra brings, as pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    return {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in wanted}


@pytest.mark.parametrize(
    ("package", "extra"),
    [("autoresearch", None), ("trainer", None), ("volunteer", None), ("coordinator", "coordinator")],
)
def test_every_import_is_installed_by_what_the_package_asks_for(package: str, extra: str | None) -> None:
    """So that a volunteer's installation needs no operator's packages, and neither needs the developer's."""
    provided = distributions(extra)
    owners = packages_distributions()
    wrong = []
    for name in of_package(package):
        for top in {to.partition(".")[0] for to in imports(name)} - FOLDERS.keys() - sys.stdlib_module_names:
            brought = {owner.lower().replace("_", "-") for owner in owners.get(top, [])}
            extra_of = {**dict.fromkeys(CLIMBMIX, "climbmix"), "coordinator.tables": "analysis"}
            allowed = provided | (distributions(extra_of[name]) if name in extra_of else set())
            if top != "google" and not brought & allowed:  # google.protobuf shares its top with other packages
                wrong.append((name, top))
    assert not wrong


def test_a_volunteers_installation_says_what_a_coordinator_needs() -> None:
    """The command is there, and the packages of the extra are not."""
    program = "import sys; sys.modules['grpc_health'] = None; from coordinator.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: the package grpc_health is not installed, and a coordinator needs it: "
        "pip install 'autoresearch-swarm[coordinator]', or '.[coordinator]' in a checkout\n"
    )
