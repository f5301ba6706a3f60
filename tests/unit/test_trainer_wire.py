"""Frames and logs from an untrusted child: sizes checked first, nothing harmful shown."""

import json
import os
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.log import LogTail, anonymous, one_line, printable
from trainer.wire import MAX_HEADER_BYTES, Frame, FrameReader, WireError, encode_frame, read_frame, write_frame

LIMIT = 1000


@given(st.lists(st.tuples(st.dictionaries(st.text(max_size=5), st.integers()), st.binary(max_size=50))), st.data())
def test_frames_survive_any_chopping(messages, data):
    stream = b"".join(encode_frame(Frame(header, payload)) for header, payload in messages)
    reader, got, at = FrameReader(LIMIT), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, max(1, len(stream) - at)))
        got += [(dict(frame.header), frame.payload) for frame in reader.feed(stream[at : at + step])]
        at += step
    assert got == messages


@pytest.mark.parametrize(
    "lengths", [(MAX_HEADER_BYTES + 1, 0), (10, LIMIT + 1), (0xFFFFFFFF, 0xFFFFFFFF)], ids=["header", "payload", "both"]
)
def test_a_length_over_its_limit_is_refused_before_the_rest_arrives(lengths):
    with pytest.raises(WireError, match="over the limit"):
        list(FrameReader(LIMIT).feed(struct.pack(">II", *lengths)))


@pytest.mark.parametrize("header", [b"", b"[]", b"\xff\xff", b"1", b"[" * 10_000, b"{" * 3])
def test_a_header_that_is_no_object_is_refused(header):
    with pytest.raises(WireError):
        list(FrameReader(LIMIT).feed(struct.pack(">II", len(header), 0) + header))


def test_not_a_number_is_never_written():
    with pytest.raises(ValueError):
        encode_frame(Frame({"loss": float("nan")}))


def test_a_child_reads_what_was_written_until_the_end():
    read_fd, write_fd = os.pipe()
    payload = os.urandom(300_000)  # more than a pipe holds

    def write():
        write_frame(write_fd, Frame({"kind": "rows"}, payload))
        os.close(write_fd)

    writer = threading.Thread(target=write)
    writer.start()
    frame = read_frame(read_fd, 1 << 20)
    writer.join()
    assert (frame.kind, frame.payload) == ("rows", payload)
    assert read_frame(read_fd, 1 << 20) is None
    os.close(read_fd)


def test_a_stream_that_ends_inside_a_message_is_an_error():
    read_fd, write_fd = os.pipe()
    os.write(write_fd, encode_frame(Frame({"kind": "rows"}, b"abc"))[:-1])
    os.close(write_fd)
    with pytest.raises(WireError, match="ended inside"):
        read_frame(read_fd, LIMIT)
    os.close(read_fd)


def test_an_endless_log_keeps_its_end_only():
    log = LogTail(100)
    for number in range(10_000):
        log.add(f"line {number}\n".encode())
    assert log.text().endswith("line 9999\n")
    assert len(log.text()) <= 100


@given(st.binary())
def test_no_log_can_move_a_cursor(noise):
    log = LogTail(10_000)
    log.add(noise)
    assert all(char in "\n\t" or char.isprintable() or char.isspace() or ord(char) > 0x9F for char in log.text())
    assert "\x1b" not in log.text()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("50%\r100%\r\n", "50%\n100%\n"),
        ("a\u202eb\u200bc\x00d", "abcd"),
        ("a\tb", "a\tb"),
        ("a" + "".join(chr(0xE0000 + ord(letter)) for letter in "promote it") + "b", "ab"),
        ("a\u061cb\xad\ufe0f\U000e0101c", "abc"),
    ],
)
def test_escapes_and_hidden_characters_go(raw, shown):
    assert printable(raw) == shown


def test_a_reason_is_one_bounded_line():
    assert one_line("  a\n\n b\x1b[2J  ") == "a b"
    assert len(one_line("x" * 10_000, 300)) == 300


def test_a_log_tells_nothing_of_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    text = f'File "{tmp_path}/source/train.py"\nFile "/home/somebody/private/x.py"'
    assert anonymous(text, tmp_path) == 'File "source/train.py"\nFile "~/private/x.py"'


def test_encoding_is_plain_json():
    data = encode_frame(Frame({"kind": "spent"}))
    assert json.loads(data[8:]) == {"kind": "spent"}
