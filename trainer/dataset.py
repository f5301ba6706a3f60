"""Names of data sets: `tiny`, or `climbmix` with how much of it and at which commit.

A name says all that decides the prepared bytes, once it is complete: `climbmix-10@COMMIT`. What a person leaves out is
chosen when the data is prepared and stands in the manifest's name, and so in a challenge. Builds nothing.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

from trainer.errors import SettingError, UnknownDatasetError

TINY: Final = "tiny"
CLIMBMIX: Final = "climbmix"
FORMS: Final = (TINY, CLIMBMIX, f"{CLIMBMIX}-SHARDS", f"{CLIMBMIX}-SHARDS@COMMIT")
MOST_SHARDS: Final = 6542  # training shards upstream has: 00000 to 06541; the next and last one validates

_NAME: Final = re.compile(rf"({TINY}|{CLIMBMIX}(?:-([0-9]{{1,6}}))?(?:@([0-9a-f]{{40}}))?)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Dataset:
    """A data set as it is asked for, or as it was prepared."""

    family: str
    shards: int | None = None  # training shards, from the first on
    commit: str | None = None  # of the repository that holds them

    def __str__(self) -> str:
        shards = f"-{self.shards}" if self.shards is not None else ""
        return f"{self.family}{shards}" + (f"@{self.commit}" if self.commit else "")

    def narrowed(self, shards: int | None, commit: str | None) -> Self:
        """With what the command line says more exactly.

        Raises:
            SettingError: there is nothing to choose, or another choice was made already.
        """
        if self.family != CLIMBMIX and (shards is not None or commit is not None):
            raise SettingError(
                f"{self.family} has no shards and no revisions to choose: leave --shards and --revision out"
            )
        for flag, given, named in (("--shards", shards, self.shards), ("--revision", commit, self.commit)):
            if given is not None and named not in (None, given):
                raise SettingError(f"the name {self} says otherwise than {flag} {given}: leave one of them out")
        chosen = replace(self, shards=self.shards if shards is None else shards, commit=self.commit or commit)
        _check(chosen)
        return chosen

    def is_met_by(self, prepared: Self) -> bool:
        """Whether that data will do."""
        return (
            self.family == prepared.family
            and self.shards in (None, prepared.shards)
            and self.commit in (None, prepared.commit)
        )


def parse(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        UnknownDatasetError: there is none.
        SettingError: so many shards it does not have.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UnknownDatasetError(name[:100], FORMS)
    family = TINY if match[1] == TINY else CLIMBMIX
    dataset = Dataset(family, int(match[2]) if match[2] else None, match[3])
    _check(dataset)
    return dataset


def _check(dataset: Dataset) -> None:
    if dataset.shards is not None and not 1 <= dataset.shards <= MOST_SHARDS:
        raise SettingError(f"{dataset.shards} shards: {CLIMBMIX} has 1 to {MOST_SHARDS} of them to train on")
    if dataset.commit is not None and not _COMMIT.fullmatch(dataset.commit):
        raise SettingError(f"--revision {dataset.commit[:60]!r} is no commit: give its 40 hexadecimal digits")
