"""Everything an operator can set, in two frozen objects. Built once by the command line; nothing else reads it.

`Settings` may change from start to start; `Terms` are fixed when the swarm is made and recorded in the ledger.
"""

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from autoresearch import work
from autoresearch.judging.rule import PRESETS, Rule, RuleError
from coordinator.errors import OperatorError
from coordinator.policy import Canaries

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_BITS = re.compile(r"[0-9]{1,3}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
LEDGER = "autoresearch.jsonl"  # files of the data folder
LINEAGE = "lineage.git"
STORE_NAME = "autoresearch"  # hash tag of every key in the store
SIGNING_KEY = "signing.key"
OPERATOR_KEY = "operator.key"
CERTIFICATE = "tls.crt"
ADDRESS = "coordinator.address"  # where the last start listened
WORK_BITS = 6  # 64 tries on average: some seconds of one core, once for an identity
BUDGET_S = (1.0, 24 * 3600.0)


class Approval(enum.StrEnum):
    """Whether a patch waits for an approver before it runs on anybody's machine."""

    AUTO = "auto"  # none does
    KNOWN_AUTHORS = "known-authors"  # those of authors without a promoted patch or a granted role, and suspicious ones
    MANUAL = "manual"  # every one


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a new identity has to bring. Neither: nothing."""

    work_bits: int = 0  # of the puzzle in `autoresearch.work`: 2^bits tries of about 0.1 s
    by_invitation: bool = False

    @classmethod
    def of(cls, word: str) -> Self:
        """From "open", "invitation", "work" or "work:BITS".

        Raises:
            OperatorError: none of them.
        """
        kind, _, bits = word.partition(":")
        if kind == "work" and (not bits or (_BITS.fullmatch(bits) and 1 <= int(bits) <= work.BITS_MOST)):
            return cls(work_bits=int(bits or WORK_BITS))
        if word not in ("open", "invitation"):
            raise OperatorError(f"--enrolment {word!r}: give open, invitation, work or work:1 to work:{work.BITS_MOST}")
        return cls(by_invitation=word == "invitation")


@dataclass(frozen=True, slots=True)
class Settings:
    """How this process runs."""

    data_dir: Path
    listen: str = "0.0.0.0:50600"
    public: str = ""  # host:port that volunteers use; empty: the listening one
    store: str = ""  # redis://, rediss:// or unix:// address; empty: the embedded one
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    lease_s: float = 120.0  # a lease ends so long after its last heartbeat
    enrolment: str = "work"  # what a new identity has to bring: see Enrolment.of
    approval: str = "auto"
    canaries: str = "prefer"

    def __post_init__(self) -> None:
        """Checks.

        Raises:
            OperatorError: names the setting and what it should be.
        """
        for flag, value in (("--listen", self.listen), ("--public", self.public)):
            if value:
                split_address(flag, value)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise OperatorError("--tls-certificate and --tls-key go together: give both or neither")
        if not 2.0 <= self.lease_s <= 3600.0:
            raise OperatorError(f"--lease is {self.lease_s:g} s: give 2 to 3600")
        Enrolment.of(self.enrolment)
        if self.canaries not in list(Canaries):
            raise OperatorError(f"--canaries {self.canaries!r} is none of {', '.join(Canaries)}")
        if self.approval not in list(Approval):
            raise OperatorError(f"--approval {self.approval!r} is none of {', '.join(Approval)}")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a new swarm optimises, and by which rule."""

    name: str = "tiny"
    dataset: str = "tiny"
    source: Path | None = None  # None: the trainer's seed source
    budget_s: float = 300.0
    rule: str = "default"
    delta_bpb: float = 0.0  # 0: the preset's own
    noise_prior_bpb: float = 0.0  # 0: the published one of the hardware class
    first_baselines: int = 1
    memory_bytes: int = 8 << 30

    def __post_init__(self) -> None:
        """Checks.

        Raises:
            OperatorError: names the setting and what it should be.
        """
        if not _NAME.fullmatch(self.name):
            raise OperatorError(f"--name {self.name!r}: lower-case letters, digits and dashes, at most 40")
        if not BUDGET_S[0] <= self.budget_s <= BUDGET_S[1]:
            raise OperatorError(f"--budget is {self.budget_s:g} s: give {BUDGET_S[0]:g} to {BUDGET_S[1]:g}")
        if self.rule not in PRESETS:
            raise OperatorError(f"--rule {self.rule!r} is none of {', '.join(sorted(PRESETS))}")
        if not 1 <= self.first_baselines <= 6:
            raise OperatorError(f"--baselines is {self.first_baselines}: give 1 to 6")
        if not (self.noise_prior_bpb == 0.0 or 1e-5 <= self.noise_prior_bpb <= 1.0):
            raise OperatorError(
                f"--noise is {self.noise_prior_bpb:g} bpb: give 0.00001 to 1, or 0 for the published one"
            )
        self.parsed_rule()

    def parsed_rule(self) -> Rule:
        """The preset, scaled to the wished gain.

        Raises:
            OperatorError: no usable rule.
        """
        try:
            rule = PRESETS[self.rule]
            return rule.scaled(self.delta_bpb) if self.delta_bpb else rule
        except RuleError as error:
            raise OperatorError(f"--delta: {error}") from error


def split_address(flag: str, address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        OperatorError: not such an address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 <= int(match["port"]) < 65536:
        raise OperatorError(f"{flag} {address!r} is not host:port, such as 0.0.0.0:50600 or [::]:50600")
    return match["host"], int(match["port"])
