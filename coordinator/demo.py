"""The demo: a private swarm on this machine that decides four sample patches by real trials.

A coordinator, three volunteers and the author's submissions are separate processes that use the same commands as
everybody else; this file starts them, watches, starts again what somebody kills, and reports. Nothing is scripted.
"""

import fcntl
import json
import os
import shutil
import socket
import sysconfig
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from autoresearch.v1 import patch_pb2
from coordinator import segments
from coordinator.demo_processes import DemoError, Process, submit
from coordinator.demo_reader import Reader
from coordinator.demo_report import Report
from coordinator.demo_screen import Screen
from coordinator.demo_settings import AUTHOR, PATCHES, VOLUNTEERS, DemoSettings
from coordinator.errors import OperatorError

START_S = 120.0  # the coordinator prepares data on its first start
MOST_S = 3600.0  # a machine that needs longer than this is not able to run the demo
SETTLED_S = 2.0  # decided, and nothing under way, for this long
LOOK_S = 0.5  # each look is five calls, on processors that have trials to run
KEEP_LOOK_S = 1.0


def run(settings: DemoSettings) -> int:
    """Runs the demo; the exit code is 0 when every patch was decided as expected.

    Raises:
        OperatorError: it cannot be run here.
    """
    console = Console()
    demo = _Demo(settings, console)
    try:
        return demo.run()
    except DemoError as error:
        raise OperatorError(str(error)) from error
    except KeyboardInterrupt:
        console.print("stopped; the same command continues where this ended, --fresh begins anew")
        return 130
    finally:
        demo.end()


class _Demo:
    def __init__(self, settings: DemoSettings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._cores = _cores()
        self._folder = settings.data_dir.absolute()
        self._processes: list[Process] = []
        self._reader: Reader | None = None
        self._lock: int | None = None

    def run(self) -> int:
        began = time.monotonic()
        patches_dir = _samples()
        self._check_report()
        self._make_folder()
        address, reader = self._start_coordinator()
        slots = max(1, min(len(VOLUNTEERS), self._cores))
        heading = (
            f"{len(VOLUNTEERS)} volunteers share the {self._cores} core(s) of this machine: "
            f"{slots} trial(s) at a time, one thread each"
        )
        self._console.print(Text(heading))
        for name in VOLUNTEERS:
            self._start_volunteer(name, address, slots)
        ids = self._submit(patches_dir, address, reader)
        with Screen(self._console, heading) as screen:
            screen.names = {patch_id: name for name, patch_id in ids.items()}
            self._watch(screen, reader, set(ids.values()), began)
        report = Report(self._console, self._settings, reader, ids)
        expected = report.show(time.monotonic() - began)
        report.say_how_to_join(address)
        if self._settings.keep:
            self._keep()
        return 0 if expected else 1

    def _keep(self) -> None:
        while True:
            for process in self._processes:
                process.revive(self._console.print)
            time.sleep(KEEP_LOOK_S)

    def end(self) -> None:
        """Ends every process: volunteers first, so that they can give their leases back."""
        for process in reversed(self._processes):
            process.end()
        if self._reader is not None:
            self._reader.close()
        if self._lock is not None:
            os.close(self._lock)

    # --- starting ---

    def _check_report(self) -> None:
        """Before the demo, not after its minutes, says that the report has no place."""
        report = self._settings.report
        if report is not None and not os.access(report.absolute().parent, os.W_OK | os.X_OK):
            raise DemoError(f"cannot write the report {report}: choose a file in a folder that exists, with --json")

    def _make_folder(self) -> None:
        """Makes the folder, and locks it: a demo must not be thrown away, or continued, while it runs."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._settings.fresh:
                _empty(self._folder)
        except BlockingIOError as error:
            raise DemoError(
                f"a demo runs in {self._folder} already: stop that one, or choose another folder with --data"
            ) from error
        except OSError as error:
            raise DemoError(
                f"cannot use the folder {self._folder}: {error.strerror}; choose another with --data"
            ) from error

    def _start_coordinator(self) -> tuple[str, Reader]:
        terms, own = self._settings.terms(), self._settings.coordinator()
        port = self._port()
        arguments = ["-m", "coordinator", "serve", "--data", str(own.data_dir), "--listen", f"127.0.0.1:{port}"]
        arguments += ["--enrolment", "open"]  # nobody else reaches it
        numbers = {
            "--budget": terms.budget_s,
            "--delta": terms.delta_bpb,
            "--noise": terms.noise_prior_bpb,
            "--baselines": terms.first_baselines,
            "--lease": own.lease_s,
        }
        arguments += ["--name", terms.name, *(word for flag, number in numbers.items() for word in (flag, str(number)))]
        self._console.print(f"coordinator: preparing the text, starting the embedded store and TLS in {self._folder}")
        process = self._add("coordinator", arguments)
        certificate = own.data_dir / "tls.crt"
        address = self._await_address(process)
        self._reader = Reader(port, certificate)
        if not self._reader.wait(START_S):
            raise DemoError(f"the coordinator does not answer; read {process.log}")
        return address, self._reader

    def _port(self) -> int:
        """A free port, kept for the demo's whole life: the volunteers know the coordinator by it."""
        path = self._folder / "port"
        known = path.read_text(errors="replace").strip() if path.exists() else ""
        if known.isdecimal() and _is_free(int(known)):
            return int(known)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        path.write_text(str(port))
        return port

    def _await_address(self, process: Process) -> str:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert process.running is not None
            lines = process.log.read_text(errors="replace").splitlines() if process.log.exists() else []
            found = [line.split("'")[1] for line in lines if line.startswith("join ")]
            if found:
                return found[-1]
            if process.running.poll() is not None:
                raise DemoError(f"the coordinator ended: {lines[-1] if lines else 'no output'}")
            time.sleep(LOOK_S)
        raise DemoError(f"the coordinator did not start within {START_S:g} s; read {process.log}")

    def _start_volunteer(self, name: str, address: str, slots: int) -> None:
        home = self._folder / "volunteers" / name
        arguments = ["-m", "volunteer", "join", address, "--home", str(home), "--name", name, "--threads", "1"]
        arguments += ["--slots", str(slots), "--slots-dir", str(self._folder / "slots"), "--device", "cpu"]
        arguments += ["--data-dir", str(self._folder / "data")]
        self._add(name, arguments)

    def _add(self, name: str, arguments: list[str]) -> Process:
        process = Process(name, arguments, self._folder / "logs" / f"{name}.log")
        process.log.unlink(missing_ok=True)
        process.start()
        self._processes.append(process)
        return process

    def _submit(self, patches_dir: Path, address: str, reader: Reader) -> dict[str, str]:
        record = self._folder / "patches.json"
        ids: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
        own = ["--home", str(self._folder / "author"), "--swarm", address, "--author", AUTHOR]
        for name, (file, _) in PATCHES.items():
            while name not in ids:
                try:
                    ids[name] = submit([*own, str(patches_dir / file)])
                except DemoError:
                    if not self._was_disturbed(reader):
                        raise
            segments.replace(record, [json.dumps(ids).encode()])
        return ids

    def _was_disturbed(self, reader: Reader) -> bool:
        """Whether somebody had killed a part of the swarm; all of it is there again on return.

        Raises:
            DemoError: it does not come back.
        """
        gone = [process.revive(self._console.print) for process in self._processes]
        if not any(gone) and reader.look():
            return False
        if not reader.wait(START_S):
            raise DemoError(f"the coordinator does not answer; read the logs in {self._folder / 'logs'}")
        return True

    # --- watching ---

    def _watch(self, screen: Screen, reader: Reader, wanted: set[str], began: float) -> None:
        settled_at = 0.0
        while True:
            for process in self._processes:
                process.revive(screen.say)
            reader.look()
            screen.show(reader.picture)
            now = time.monotonic()
            if not _decided(reader.picture.patches, wanted):
                settled_at = 0.0
            elif not settled_at:
                settled_at = now
            elif now - settled_at >= SETTLED_S:
                return
            if now - began > MOST_S:
                raise DemoError(
                    f"not decided after {MOST_S / 60:.0f} minutes; read the logs in {self._folder / 'logs'}"
                )
            time.sleep(LOOK_S)


def _decided(patches: list[patch_pb2.Patch], wanted: set[str]) -> bool:
    """Whether each wanted patch has its verdict, and nothing that could change one is under way or will be."""
    shown = [patch for patch in patches if patch.patch_id in wanted]
    return len([patch for patch in shown if _settled(patch)]) == len(wanted)


def _settled(patch: patch_pb2.Patch) -> bool:
    doubted = patch.verdict == patch_pb2.VERDICT_PARKED and patch.evidence.doubts  # somebody else will look
    return patch.verdict != patch_pb2.VERDICT_OPEN and not patch.evidence.in_flight and not doubted


def _samples() -> Path:
    """Where the sample patches are: beside the packages in a checkout, under share/ when installed."""
    beside = Path(__file__).resolve().parent.parent / "examples" / "patches"
    installed = Path(sysconfig.get_path("data")) / "share/autoresearch-swarm/patches"
    for folder in (beside, installed):
        if all((folder / file).exists() for file, _ in PATCHES.values()):
            return folder
    raise DemoError(f"the sample patches are neither in {beside} nor in {installed}: install the package again")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
