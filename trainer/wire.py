"""Frames between the trusted parent and a child: a JSON header and a raw array, lengths first.

A frame is `>II` (header bytes, payload bytes), the header (one JSON object), the payload. Lengths are checked before
a byte of either is read, and nothing is ever unpickled. `FrameReader` is the parent's, fed with whatever arrived;
`read_frame` and `write_frame` are the child's and block. What the frames mean is said in `feed.py` and `examiner.py`.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_HEADER_BYTES = 16_384
_LENGTHS = struct.Struct(">II")


class WireError(ValueError):
    """The other end sent something that is not a frame, or too much."""


@dataclass(frozen=True)
class Frame:
    """One message. `payload` is raw little-endian array data whose type and shape follow from the header."""

    header: Mapping[str, Any]
    payload: bytes = b""

    @property
    def kind(self) -> str:
        return str(self.header.get("kind", ""))


def encode_frame(frame: Frame) -> bytes:
    header = json.dumps(frame.header, allow_nan=False).encode()
    return _LENGTHS.pack(len(header), len(frame.payload)) + header + frame.payload


class FrameReader:
    """Turns a stream of bytes from an untrusted child into frames, holding at most one frame's bytes."""

    def __init__(self, max_payload_bytes: int) -> None:
        self._max_payload_bytes = max_payload_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames completed by `data`.

        Raises:
            WireError: a length over its limit, or a header that is not a JSON object.
        """
        self._data += data
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        if len(self._data) < _LENGTHS.size:
            return None
        header_bytes, payload_bytes = check_lengths(self._data[: _LENGTHS.size], self._max_payload_bytes)
        end = _LENGTHS.size + header_bytes + payload_bytes
        if len(self._data) < end:
            return None
        header_end = _LENGTHS.size + header_bytes
        frame = Frame(_parse_header(bytes(self._data[_LENGTHS.size : header_end])), bytes(self._data[header_end:end]))
        del self._data[:end]
        return frame


def check_lengths(prefix: bytes | bytearray, max_payload_bytes: int) -> tuple[int, int]:
    header_bytes, payload_bytes = _LENGTHS.unpack(prefix)
    if header_bytes > MAX_HEADER_BYTES or payload_bytes > max_payload_bytes:
        raise WireError(f"a message of {header_bytes} + {payload_bytes} bytes is over the limit")
    return header_bytes, payload_bytes


def read_frame(fd: int, max_payload_bytes: int) -> Frame | None:
    """Block for one frame; None when the other end has closed."""
    prefix = _read_exactly(fd, _LENGTHS.size)
    if prefix is None:
        return None
    header_bytes, payload_bytes = check_lengths(prefix, max_payload_bytes)
    header, payload = _read_exactly(fd, header_bytes), _read_exactly(fd, payload_bytes)
    if header is None or payload is None:
        raise WireError("the stream ended inside a message")
    return Frame(_parse_header(header), payload)


def write_frame(fd: int, frame: Frame) -> None:
    data = memoryview(encode_frame(frame))
    while data:
        data = data[os.write(fd, data) :]


def _parse_header(header: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise WireError("a message header is not JSON") from error
    if not isinstance(fields, dict):
        raise WireError("a message header is not an object")
    return fields


def _read_exactly(fd: int, size: int) -> bytes | None:
    """`size` bytes, or None when the stream ends before the first."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(fd, size - len(data))
        if not chunk:
            if data:
                raise WireError("the stream ended inside a message")
            return None if size else b""
        data += chunk
    return bytes(data)
