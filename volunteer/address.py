"""The join address: where a coordinator answers, and the fingerprint of its key. No I/O.

Written `host:port#fingerprint`; an IPv6 host stands in brackets. Left out: what happens when the fingerprint is
missing (`connect.py`).
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

from autoresearch.digest import is_key_id
from volunteer.errors import AddressError

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_ADDRESS_CHARACTERS = 400  # longest host name, port and fingerprint with room to spare


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed join address; `host` without brackets."""

    host: str
    port: int
    fingerprint: str | None

    @property
    def target(self) -> str:
        """`host:port`, as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.target + (f"#{self.fingerprint}" if self.fingerprint else "")


def parse(text: str) -> Address:
    """The address that `text` writes.

    Raises:
        AddressError: names the part that is wrong.
    """
    text = text.strip()
    if not text or len(text) > _ADDRESS_CHARACTERS:
        raise AddressError(text, "is empty" if not text else "is too long")
    if "://" in text:
        raise AddressError(text, f"starts with {text.split('://')[0][:20]}://, which does not belong there")
    location, mark, fingerprint = text.partition("#")
    host, port = _split(text, location)
    return Address(_host(text, host), _port(text, port), _fingerprint(text, fingerprint) if mark else None)


def _split(text: str, location: str) -> tuple[str, str]:
    if location.startswith("["):
        host, bracket, rest = location[1:].partition("]")
        if not bracket:
            raise AddressError(text, "opens a bracket and does not close it")
        return f"[{host}", rest.removeprefix(":")
    if location.count(":") > 1:
        raise AddressError(text, "has several colons; an IPv6 address stands in brackets, like [::1]:7070")
    host, _, port = location.partition(":")
    return host, port


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:]))
        except (AddressValueError, ValueError) as error:
            raise AddressError(text, "has no IPv6 address between its brackets") from error
    if not host:
        raise AddressError(text, "has no host")
    if not _HOST.fullmatch(host):
        raise AddressError(text, "has characters in its host that no host name has")
    return host


def _port(text: str, port: str) -> int:
    if not port:
        raise AddressError(text, "has no port")
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise AddressError(text, "has a port that is not a number from 1 to 65535")
    return int(port)


def _fingerprint(text: str, fingerprint: str) -> str:
    fingerprint = fingerprint.strip().lower()
    if not is_key_id(fingerprint):
        raise AddressError(text, f"has a fingerprint of {len(fingerprint)} characters that is not 32 of a-z and 2-7")
    return fingerprint
