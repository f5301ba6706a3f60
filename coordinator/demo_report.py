"""What the demo tells at the end: leaderboard, the new commit, the picture, every verdict, how to join. And as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from coordinator.demo_processes import DemoError
from coordinator.demo_reader import Reader
from coordinator.demo_screen import leaderboard_table, verdict_word
from coordinator.demo_settings import PATCHES, DemoSettings
from coordinator.demo_story import story
from coordinator.lineage import Lineage
from coordinator.picture import draw_progress
from coordinator.settings import LEDGER, LINEAGE


class Report:
    """Reports on a demo whose patches are decided. `ids`: the samples' names and patch ids."""

    def __init__(self, console: Console, settings: DemoSettings, reader: Reader, ids: Mapping[str, str]) -> None:
        self._console = console
        self._settings = settings
        self._reader = reader
        self._ids = ids
        folder = settings.coordinator().data_dir.absolute()
        self._ledger, self._lineage = folder / LEDGER, folder / LINEAGE

    def show(self, wall_s: float) -> bool:
        """Prints everything and writes the JSON; whether every verdict is the expected one."""
        by_id = {patch.patch_id: patch for patch in self._reader.picture.patches}
        verdicts = {name: verdict_word(by_id[patch_id]) for name, patch_id in self._ids.items()}
        self._console.print(leaderboard_table(self._reader.picture.leaderboard))
        self._line("\nthe lineage's newest commit (git log -p -1 best):\n")
        self._line(Lineage.open(self._lineage).log_patch(1))
        for name, verdict in verdicts.items():
            expected = PATCHES[name][1]
            self._line(f"{name:12} {verdict}" + ("" if verdict == expected else f"   (this demo expects: {expected})"))
        report = self._facts(verdicts, wall_s)
        best = report["best"]
        commit = best["commit"][:12]
        self._line(f"{'best':12} generation {best['generation']}, commit {commit}, val_bpb {best['val_bpb']}")
        self._line(f"{'trials':12} {report['trials']} in {wall_s:.0f} s")
        for word, path in (("picture", self._draw()), ("ledger", self._ledger), ("lineage", self._lineage)):
            self._line(f"{word:12} {path}")
        self._write(report)
        return all(verdict == PATCHES[name][1] for name, verdict in verdicts.items())

    def say_how_to_join(self, address: str) -> None:
        """The exact commands for another terminal."""
        running = "is running; Ctrl-C stops it" if self._settings.keep else "is stopping; --keep leaves it running"
        self._line(f"\nThis swarm {running}. From another terminal:")
        for command in (
            f"join '{address}' --name you",
            f"leaderboard --swarm '{address}'",
            f"checkout my-idea --swarm '{address}'        # edit my-idea/train.py, then",
            f"submit my-idea --title 'what it does' --swarm '{address}'",
        ):
            self._line(f"  autoresearch-volunteer {command}")

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _facts(self, verdicts: Mapping[str, str], wall_s: float) -> dict[str, Any]:
        picture = self._reader.picture
        scores = picture.best.scores
        patches = [{"name": name, "patch_id": self._ids[name], "verdict": word} for name, word in verdicts.items()]
        return {
            "patches": patches,
            "trials": picture.status.trials,
            "wall_s": round(wall_s, 1),
            "best": {
                "generation": picture.best.generation,
                "commit": picture.best.commit,
                "val_bpb": round(scores[0].val_bpb, 6) if scores else None,
            },
            "ledger": str(self._ledger),
        }

    def _draw(self) -> Path:
        path = self._settings.data_dir.absolute() / "progress.png"
        points, tests = story(self._reader.picture.events, self._reader.picture.patches)
        if points:
            draw_progress(points, tests, path)
        return path

    def _write(self, report: Mapping[str, Any]) -> None:
        if self._settings.report is None:
            return
        try:
            self._settings.report.write_text(json.dumps(report, indent=2) + "\n")
        except OSError as error:
            raise DemoError(f"cannot write the report {self._settings.report}: {error.strerror}") from error
