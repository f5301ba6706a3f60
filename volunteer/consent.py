"""Whether this machine may work under other terms than those it joined under. Pure, but for the question that is asked.

A swarm's challenge says what is downloaded, how long a trial takes and how much memory it may use. The coordinator's
key vouches for it, and that key may be in other hands by now: so a person says yes to a change, by answering a question
or by naming the new challenge on the command line. Left out: another protocol, which this program does not speak at
all (`connect.py`), and a change while at work, which ends the work (`joining.py`).
"""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from autoresearch.digest import is_sha256
from autoresearch.text import clean_line
from autoresearch.v1.challenge_pb2 import Challenge
from volunteer.connect import Swarm
from volunteer.errors import InputError
from volunteer.pin import Pin

NAMED: Final = 12  # digits of a challenge's digest that name it well enough on a command line
_SHOWN: Final = 40  # characters of a value

Ask = Callable[[str], bool]


def check(pinned: Pin | None, swarm: Swarm, accepted: str, ask: Ask | None) -> None:
    """Returns when the terms are those of before, or a person accepts them. `accepted`: the beginning of the digest of
    a challenge that they accept; `ask`: puts a question to them, None when nobody is there.

    Raises:
        InputError: nobody accepts it.
    """
    what = change(pinned, swarm)
    if not what or (len(accepted) >= NAMED and swarm.challenge_sha256.startswith(accepted)):
        return
    name = swarm.challenge_sha256[:NAMED]
    if ask is None:
        raise InputError(f"{what}: to accept that, join with --accept-challenge {name}")
    if not ask(f"{what}. Work under these terms (challenge {name})?"):
        raise InputError(f"not accepted: {what}")


def change(pinned: Pin | None, swarm: Swarm) -> str:
    """What is new since this home joined the swarm of that key, in one line; empty when nothing is."""
    if pinned is None or pinned.address.fingerprint != swarm.fingerprint or not is_sha256(pinned.challenge_sha256):
        return ""
    if pinned.swarm_id != swarm.swarm_id:
        what = "it serves another swarm now"
    elif pinned.challenge_sha256 != swarm.challenge_sha256:
        what = "its challenge has changed"
    else:
        return ""
    return f"the coordinator at {swarm.address.target} is known to this home, but {what}: {_differences(pinned, swarm)}"


def _differences(pinned: Pin, swarm: Swarm) -> str:
    before = Challenge()
    try:
        before.ParseFromString(pinned.challenge)
    except DecodeError:
        before.Clear()
    fields = Challenge.DESCRIPTOR.fields
    found = [(field.name, getattr(before, field.name), getattr(swarm.challenge, field.name)) for field in fields]
    said = [f"{name} {_shown(old)} -> {_shown(new)}" for name, old, new in found if old != new]
    return ", ".join(said) or "the terms are the same"


def _shown(value: object) -> str:
    text = clean_line(str(value), 200)
    return text[:NAMED] if is_sha256(text) else text[:_SHOWN] or "nothing"
