"""How often an address and an identity may call: the limits, as values. Pure; the counting is the store's.

The generic cell rate algorithm: `burst` calls at once, then one every `every_ms`; what was not used comes back at that
rate. Home networks and laboratories share an address, so an address may do what dozens of honest machines do.
"""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """One kind of call. An `every_ms` of 0: not counted. `address_open`: open at once, in one process."""

    name: str
    address_every_ms: int
    address_burst: int
    identity_every_ms: int = 0
    identity_burst: int = 0
    address_open: int = 512


@dataclass(frozen=True, slots=True)
class Pace:
    """How many messages one machine may say in its sessions."""

    every_ms: int
    burst: int


READ = Quota("read", address_every_ms=20, address_burst=500)  # a page that asks everything twice a second
# Patches with their evidence: a page takes the coordinator as long as a hundred other answers.
LIST = Quota("list", address_every_ms=200, address_burst=300)
BULK = Quota("bulk", address_every_ms=1_000, address_burst=60, address_open=60)  # whole ledgers and lineages
# Statements of the ledger: each joining machine asks for two, and one may read a segment of the ledger from disk.
PROOF = Quota("proof", address_every_ms=200, address_burst=300)
# A laboratory that switches on, or reconnects after the coordinator was away; one machine of one identity opens few.
SESSION = Quota("session", address_every_ms=200, address_burst=300, identity_every_ms=1_000, identity_burst=120)
ENROL = Quota("enrol", address_every_ms=2_000, address_burst=120, identity_every_ms=1_000, identity_burst=120)
SUBMIT = Quota("submit", address_every_ms=2_000, address_burst=240, identity_every_ms=30_000, identity_burst=120)
AUTHENTICATE = Quota("authenticate", address_every_ms=500, address_burst=60)
INSTRUCT = Quota("instruct", address_every_ms=100, address_burst=120, identity_every_ms=500, identity_burst=120)

# A machine of 16 slots says 5 a second; one that comes back delivers its 500 kept results at once.
SESSION_MESSAGES = Pace(every_ms=50, burst=1_000)
OPEN_PATCHES_MOST = 200  # undecided patches of one author: more would not be tested sooner


def address_of(peer: str) -> str:
    """What counts as one address, from gRPC's name of a peer ("ipv4:203.0.113.7:5000", "ipv6:%5B2001:db8::1%5D:5000").

    An IPv6 host owns at least a /64, so that is what is counted. A unix socket is everybody on this machine.
    """
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kind or "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    network = ipaddress.IPv6Network((int(address), 64), strict=False)
    return str(network)


def spoken_wait(wait_ms: int) -> str:
    """A wait as people say it."""
    seconds = max(1, -(-wait_ms // 1000))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
