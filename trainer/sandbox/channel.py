"""What a supervisor says to the trusted parent and hears from it; `supervisor.py` lists the words.

Imports little, because it is loaded on the way to every trial. Leaves out the parent's side: `supervised.py`.
"""

import marshal
import os


def receive(channel: int) -> dict:  # type: ignore[type-arg] # from marshal
    """The settings the parent sends first. Ends the process where the parent is gone."""
    length = int.from_bytes(_exactly(channel, 4), "big")
    settings = marshal.loads(_exactly(channel, length))  # noqa: S302 - from the parent, over a private socket
    assert isinstance(settings, dict)
    return settings


def _exactly(channel: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = os.read(channel, length - len(data))
        if not piece:
            raise SystemExit
        data += piece
    return data


def line(pipe: int) -> str:
    """The next line from a pipe, without taking anything after it; empty at its end."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(pipe, 1)
        if not piece:
            break
        data += piece
    return data.decode(errors="replace").strip()


def say(channel: int, words: str) -> None:
    """Tell the parent one line, if it still lives."""
    try:
        os.write(channel, words.replace("\n", " ").encode() + b"\n")
    except OSError:
        pass  # the parent is no more


def let_go(pass_fds: list[int]) -> None:
    """Close what is the candidate's alone, so that its end of a pipe closes when it does."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for number in pass_fds:
        os.close(number)
