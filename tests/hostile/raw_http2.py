"""HTTP/2 by hand over TLS, for peers that no gRPC library would let one be: slow, half-open, compressed, cut off.

Blocking sockets and the few frames that a hostile client needs. Headers are sent as literals, without a table.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
_FRAME_BYTES: Final = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _length(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    out, value = bytearray((most,)), value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes((*out, value))


def literal(name: str, value: str) -> bytes:
    """A header field as HPACK's literal without indexing."""
    return b"\x00" + b"".join(_length(len(text), 7) + text for text in (name.encode(), value.encode()))


def grpc_message(payload: bytes, *, compressed: bool = False, claimed_bytes: int | None = None) -> bytes:
    """A message as it stands in DATA frames; `claimed_bytes`: the length that its head states."""
    length = len(payload) if claimed_bytes is None else claimed_bytes
    return bytes((compressed,)) + length.to_bytes(4, "big") + payload


def plain(host: str, port: int, source: str = "", timeout_s: float = 20.0) -> socket.socket:
    """A TCP connection; `source`: the address that it comes from."""
    return socket.create_connection((host, port), timeout_s, (source, 0) if source else None)


def context() -> ssl.SSLContext:
    """TLS as a client that believes anybody."""
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    return made


class Connection:
    """A client's end of one connection."""

    def __init__(
        self, host: str, port: int, *, source: str = "", tls: ssl.SSLContext | None = None, window_bytes: int = 65_535
    ) -> None:
        bare = plain(host, port, source)
        try:
            self.socket = (tls or context()).wrap_socket(bare)
        except BaseException:
            bare.close()
            raise
        settings = (4).to_bytes(2, "big") + window_bytes.to_bytes(4, "big")
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def open(self, stream: int, path: str, *, more: Sequence[tuple[str, str]] = (), end: bool = False) -> None:
        """Begins a call on an odd stream."""
        fields = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "autoresearch-swarm")]
        fields += [("te", "trailers"), ("content-type", "application/grpc"), *more]
        block = b"".join(literal(name, value) for name, value in fields)
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))

    def data(self, stream: int, payload: bytes, *, end: bool = False) -> None:
        """Data of a call, in frames of the usual size. Heeds no window: whoever sends much knows that there is room."""
        pieces = [payload[at : at + _FRAME_BYTES] for at in range(0, len(payload), _FRAME_BYTES)] or [b""]
        for number, piece in enumerate(pieces, start=1):
            self.send(frame(DATA, END_STREAM if end and number == len(pieces) else 0, stream, piece))

    def reset(self, stream: int) -> None:
        """Cancels a call."""
        self.send(frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")))

    def drain(self, seconds: float, enough: Callable[[bytes], object] = lambda said: False) -> bytes:
        """What the server says within so long, as bytes; settings are acknowledged. Ends early when it hangs up, or
        when what it said is `enough`."""
        said = bytearray()
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            self.send(frame(SETTINGS, ACK, 0))
            while (left := until - time.monotonic()) > 0:
                self.socket.settimeout(left)
                piece = self.socket.recv(65_536)
                if not piece:
                    break
                said += piece
                if enough(said):
                    break
        return bytes(said)

    def close(self) -> None:
        """Drops the connection without a word."""
        self.socket.close()
