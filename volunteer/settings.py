"""Every choice of the person at this machine, gathered once from options and environment.

The only file that reads the environment. Left out: what is stored in the home folder (`identity.py`, `pin.py`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from volunteer.errors import HomeError

_FOLDER = "autoresearch-swarm"


@dataclass(frozen=True, slots=True)
class JoinSettings:
    """How this machine works for the swarm."""

    name: str | None = None
    # "cpu", "cuda", "cuda:1", "mps"; None means the best there is.
    device: str | None = None
    # Processor threads of one trial; None means those that are free now.
    threads: int | None = None
    # Trials at a time on this host; None means as many as `threads` fits into its cores.
    slots: int | None = None
    # None means the folder that all volunteers of this user share.
    slots_dir: Path | None = None
    data_dir: Path | None = None
    unsafe_no_sandbox: bool = False
    # Stop after so many trials; None means work until told to stop.
    max_trials: int | None = None
    quiet: bool = False
    # A code that lets a new identity into a swarm that is by invitation.
    invitation: str = ""
    # Take the first run of patches by authors whom the swarm does not know.
    canary: bool = False
    # The beginning of the digest of a challenge that the person accepts, where it is another than before.
    accept_challenge: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The program's settings, built once and handed on piecewise."""

    # Identity, pinned swarm, undelivered results, scratch.
    home: Path
    # Per-user folder that all volunteers of this host share while somebody is logged in, and the one otherwise.
    runtime_dir: Path
    spare_runtime_dir: Path
    # A join address given now; None means the swarm that was joined before.
    swarm: str | None = None
    # Believe the key of a coordinator whose address carries no fingerprint.
    trust_first_use: bool = False
    # Environment of the `git` program: everything but what would point it at another repository.
    git_environment: Mapping[str, str] = field(default_factory=dict)
    join: JoinSettings = JoinSettings()


def load(
    environment: Mapping[str, str],
    *,
    home: Path | None = None,
    swarm: str | None = None,
    trust_first_use: bool = False,
    join: JoinSettings | None = None,
) -> Settings:
    """Settings from options, which win, and the environment.

    Raises:
        HomeError: the home folder is nowhere.
    """
    return Settings(
        home=_expanded(home or _home(environment)),
        runtime_dir=_runtime_dir(environment),
        spare_runtime_dir=Path(f"/tmp/{_FOLDER}-{os.getuid()}"),  # noqa: S108 - made 0700, its owner checked (slots.py)
        swarm=swarm or environment.get("AUTORESEARCH_SWARM") or None,
        trust_first_use=trust_first_use,
        git_environment=_git_environment(environment),
        join=join or JoinSettings(),
    )


def load_here(
    *,
    home: Path | None = None,
    swarm: str | None = None,
    trust_first_use: bool = False,
    join: JoinSettings | None = None,
) -> Settings:
    """`load` from this process's environment."""
    return load(os.environ, home=home, swarm=swarm, trust_first_use=trust_first_use, join=join)


def _home(environment: Mapping[str, str]) -> Path:
    if named := environment.get("AUTORESEARCH_HOME"):
        return Path(named)
    data = environment.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore a relative path.
    return (Path(data) if data.startswith("/") else Path("~/.local/share")) / _FOLDER


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:  # ~name of nobody
        raise HomeError(f"{path} is in the home of somebody who is not known here: choose another --home") from error


def _runtime_dir(environment: Mapping[str, str]) -> Path:
    """Found without the variable too, so that a volunteer started by cron shares it with one from a login."""
    named = environment.get("XDG_RUNTIME_DIR", "")
    return (Path(named) if named.startswith("/") else Path(f"/run/user/{os.getuid()}")) / _FOLDER


def _git_environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
    return kept | {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
