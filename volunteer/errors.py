"""What can go wrong at home, split by who has to act.

One base, `VolunteerError`, whose text is one line that says what to do next; the command line prints it and nothing
else. What a trial comes to (crashed, out of memory, disqualified) is a value and never one of these. Left out: which
gRPC status becomes which error (`rpc_errors.py`).
"""

from pathlib import Path


class VolunteerError(Exception):
    """Base of every error of this program."""


# --- the person at this machine has to act ---


class InputError(VolunteerError):
    """What was given on the command line or in a file cannot be used."""


class AddressError(InputError):
    """A join address that is not `host:port#fingerprint`."""

    def __init__(self, text: str, problem: str) -> None:
        self.text = text
        self.problem = problem
        super().__init__(
            f"the address {text[:120]!r} {problem}: "
            "give it as the coordinator prints it, like swarm.example.org:7070#fingerprint"
        )


class HomeError(VolunteerError):
    """The program's own folder cannot be used as it is."""


class DiskError(VolunteerError):
    """Something could not be written."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"cannot write {path} ({problem}): free some space or choose another folder with --home")


class MachineError(VolunteerError):
    """This machine lacks something: a sandbox, a device, a program."""


class UpgradeError(VolunteerError):
    """The swarm runs other trial code, or speaks another protocol, than this version."""


class RefusedError(VolunteerError):
    """The swarm does not want this identity; its operator said why."""


# --- the coordinator, or somebody between, has to act ---


class WrongCoordinatorError(VolunteerError):
    """Whoever answers is not the coordinator that the address names, or does not keep to the protocol."""


class AuditError(VolunteerError):
    """A ledger in which something differs from what it should be; `entry` is where."""

    def __init__(self, entry: int, text: str) -> None:
        self.entry = entry
        super().__init__(text)


class OrderError(WrongCoordinatorError):
    """An order that this machine must not run; `lease_id` is empty when it cannot be believed either."""

    def __init__(self, text: str, lease_id: str = "") -> None:
        self.lease_id = lease_id
        super().__init__(text)


class RpcError(VolunteerError):
    """The coordinator answered a call with an error, or not at all.

    `retry` says whether the same call may succeed later.
    """

    def __init__(self, text: str, *, retry: bool) -> None:
        self.retry = retry
        super().__init__(text)
