"""Hostile connections from other addresses of this host: `python -m tests.hostile.flood PORT KIND COUNT ADDRESSES`.

Says `open N` when everything is open, holds it, and tends what needs tending (a byte now and then) until its standard
input ends; then says `held N`: how many of its connections the server had not closed.
"""

import contextlib
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

from autoresearch.v1.leaderboard_service_pb2 import WatchEventsRequest
from tests.hostile import raw_http2 as raw
from tests.hostile.raw_http2 import Connection

HOST = "127.0.0.1"
SERVICE = "/autoresearch.v1.{}Service/{}"
CLAIMED_BYTES = 1_200_000
HALF_BYTES = 60_000  # what a client may send before the server asks for more
STREAMS = 100  # calls on one connection


class Flood:
    """Opens connections of one kind. Each opener returns a socket that is to be held, and what tends it."""

    def __init__(self, port: int, addresses: int) -> None:
        self._port = port
        self._addresses = addresses
        self._tls = raw.context()
        self._made = 0
        self.tended: list[Callable[[], None]] = []

    def _source(self) -> str:
        self._made += 1
        return f"127.0.1.{1 + self._made % self._addresses}"

    def _connection(self) -> Connection:
        return Connection(HOST, self._port, source=self._source(), tls=self._tls)

    def idle(self) -> socket.socket:
        """TCP, and not a byte."""
        return raw.plain(HOST, self._port, self._source())

    def tls(self) -> socket.socket:
        """TLS and HTTP/2's greeting, and no call."""
        return self._connection().socket

    def slow(self) -> socket.socket:
        """A call whose head and message come a byte at a time."""
        connection = self._connection()
        path = SERVICE.format("Patch", "GetPatch")
        fields = [(":method", "POST"), (":scheme", "https"), (":path", path), ("content-type", "application/grpc")]
        block = b"".join(raw.literal(name, value) for name, value in fields)
        head = raw.frame(raw.HEADERS, raw.END_HEADERS, 1, block)
        self._drip(connection, head + raw.frame(raw.DATA, 0, 1, raw.grpc_message(b"\x0a\x10" + b"0" * 16)[:-1]))
        return connection.socket

    def _drip(self, connection: Connection, data: bytes) -> None:
        left: Iterator[int] = iter(data)

        def drip() -> None:
            byte = next(left, None)
            if byte is not None:
                with contextlib.suppress(OSError):
                    connection.send(bytes((byte,)))

        self.tended.append(drip)

    def half(self) -> socket.socket:
        """Calls that state a large message each and send the beginning of it."""
        connection = self._connection()
        for stream in range(1, 2 * STREAMS, 2):
            connection.open(stream, SERVICE.format("Patch", "SubmitPatch"))
            part = raw.grpc_message(b"\x0a" * (HALF_BYTES // STREAMS), claimed_bytes=CLAIMED_BYTES)
            connection.data(stream, part)
        return connection.socket

    def sessions(self) -> socket.socket:
        """Sessions that are never proved."""
        connection = self._connection()
        for stream in range(1, 2 * STREAMS, 2):
            connection.open(stream, SERVICE.format("Volunteer", "Session"))
        return connection.socket

    def events(self) -> socket.socket:
        """Streams of events that nobody reads."""
        connection = self._connection()
        request = raw.grpc_message(WatchEventsRequest(follow=True).SerializeToString())
        for stream in range(1, 2 * STREAMS, 2):
            connection.open(stream, SERVICE.format("Leaderboard", "WatchEvents"))
            connection.data(stream, request, end=True)
        return connection.socket

    def resets(self) -> socket.socket:
        """Calls begun and cancelled as fast as they can be sent."""
        connection = self._connection()
        with contextlib.suppress(OSError):
            for stream in range(1, 20 * STREAMS, 2):
                connection.open(stream, SERVICE.format("Leaderboard", "GetStatus"), end=True)
                connection.reset(stream)
        return connection.socket

    def noise(self) -> socket.socket:
        """Bytes that are neither TLS nor anything else."""
        made = self.idle()
        made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        return made


def held(sockets: list[socket.socket]) -> int:
    """How many of these the server has left open."""
    count = 0
    for made in sockets:
        made.setblocking(False)
        with contextlib.suppress(OSError):
            while made.recv(65_536):
                pass
            continue  # an end: the server closed it
        count += _open(made)
    return count


def _open(made: socket.socket) -> bool:
    poller = select.poll()
    poller.register(made, select.POLLHUP | select.POLLERR)
    return not poller.poll(0)


def main(port: int, kind: str, count: int, addresses: int) -> None:
    """Opens, says so, holds, and says what was left."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flood = Flood(port, addresses)
    opener = getattr(flood, kind)
    sockets = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            sockets.append(opener())
    print("open", len(sockets), flush=True)  # noqa: T201  # to whoever started this
    while not select.select([sys.stdin], [], [], 0)[0]:
        for tend in flood.tended:
            tend()
        time.sleep(0.05)
    print("held", held(sockets), flush=True)  # noqa: T201  # likewise


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
