"""What can be wrong with this machine when it prepares data or runs a trial.

One base, `TrainerError`; a subclass per thing a person must do something about. What a candidate does (crashes, cheats,
runs out of memory) is a value, `trial.Outcome`, and never one of these.
"""

from pathlib import Path


class TrainerError(Exception):
    """Base of every error of this package. The text is one line and says what to do next."""


class DataMissingError(TrainerError):
    """The data folder holds no prepared data set."""

    def __init__(self, data_dir: Path, missing: str) -> None:
        self.data_dir = data_dir
        self.missing = missing
        super().__init__(f"no prepared data in {data_dir} ({missing} is missing): run `python -m trainer prepare`")


class DataDamagedError(TrainerError):
    """A prepared file is not what the manifest, or the challenge, says it is."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path} {problem}: run `python -m trainer prepare` to build it again")


class WrongDataError(TrainerError):
    """The data is sound, but it is other data than the challenge pins."""

    def __init__(self, data_dir: Path, expected_sha256: str, found_sha256: str) -> None:
        self.expected_sha256 = expected_sha256
        self.found_sha256 = found_sha256
        super().__init__(
            f"the data in {data_dir} has manifest {found_sha256[:12]}, but {expected_sha256[:12]} is asked for: "
            "prepare the challenge's data set with this version of the program"
        )


class UnknownDatasetError(TrainerError):
    """There is no data set of that name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        super().__init__(f"there is no data set {name!r}: choose one of {', '.join(known)}")


class SettingError(TrainerError):
    """A variable of the environment, or a choice of what to prepare, that cannot be."""


class DownloadError(TrainerError):
    """A file cannot be had from where it was asked for. What was received so far is kept and continued from."""

    def __init__(self, what: str, problem: str, advice: str) -> None:
        self.what = what
        self.problem = problem
        super().__init__(f"{what} {problem}: {advice}")


class PreparationStoppedError(TrainerError):
    """Somebody asked to stop."""

    def __init__(self) -> None:
        super().__init__("stopped while preparing the data: run the same command to go on")


class MissingPackageError(TrainerError):
    """A data set needs a package that a volunteer of other data sets does not."""

    def __init__(self, package: str, requirements: tuple[str, ...]) -> None:
        self.package = package
        wanted = " ".join(f"'{requirement}'" for requirement in requirements)
        super().__init__(f"this data set needs the package {package}: run `python -m pip install {wanted}`")


class SourceDamagedError(TrainerError):
    """A downloaded file is what the hub says it is, and yet not what the data set is made from."""


class NoSpaceError(TrainerError):
    """The disk cannot hold what is to be written. `needed_bytes` is None when it filled up on the way."""

    def __init__(self, folder: Path, needed_bytes: int | None, free_bytes: int) -> None:
        self.folder = folder
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        needed = (
            "its disk, or your share of it, is full"
            if needed_bytes is None
            else f"{needed_bytes / 1e6:.0f} MB are needed"
        )
        super().__init__(
            f"{folder} has {free_bytes / 1e6:.0f} MB free and {needed}: free some space or choose another folder"
        )


class MachineError(TrainerError):
    """This machine cannot run the trial: no such device, no sandbox, a folder that cannot be written."""
