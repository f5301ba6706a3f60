"""A join address says where the coordinator is and which key it must have; each malformed part is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volunteer.address import parse
from volunteer.errors import AddressError

PRINT = "abcdefghijklmnopqrstuvwxyz234567"


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        (f"swarm.example.org:7070#{PRINT}", "swarm.example.org", 7070, "swarm.example.org:7070"),
        (f"  127.0.0.1:1#{PRINT.upper()} ", "127.0.0.1", 1, "127.0.0.1:1"),
        (f"[::1]:65535#{PRINT}", "::1", 65535, "[::1]:65535"),
        (f"[2001:DB8::1]:443#{PRINT}", "2001:db8::1", 443, "[2001:db8::1]:443"),
    ],
)
def test_a_whole_address_is_read(text: str, host: str, port: int, target: str) -> None:
    address = parse(text)
    assert (address.host, address.port, address.fingerprint, address.target) == (host, port, PRINT, target)
    assert parse(str(address)) == address


def test_a_fingerprint_may_be_missing() -> None:
    assert parse("localhost:7070").fingerprint is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("localhost", "has no port"),
        ("localhost:#" + PRINT, "has no port"),
        (":7070#" + PRINT, "has no host"),
        ("localhost:0", "not a number from 1 to 65535"),
        ("localhost:70707", "not a number from 1 to 65535"),
        ("localhost:７０", "not a number from 1 to 65535"),
        ("::1:7070", "stands in brackets"),
        ("[::1:7070", "does not close it"),
        ("[::g]:7070", "no IPv6 address"),
        ("https://localhost:7070", "https://"),
        ("two words:7070", "characters in its host"),
        ("localhost:7070#abc", "fingerprint of 3 characters"),
        ("localhost:7070#" + PRINT.replace("2", "1"), "not 32 of a-z and 2-7"),
        ("localhost:7070#", "fingerprint of 0 characters"),
        ("x" * 500 + ":7070", "too long"),
    ],
)
def test_the_wrong_part_is_named(text: str, problem: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_clear_error(text: str) -> None:
    problem = ""
    try:
        address = parse(text)
        assert parse(str(address)) == address
    except AddressError as error:
        problem = str(error)
    assert problem.isprintable()
