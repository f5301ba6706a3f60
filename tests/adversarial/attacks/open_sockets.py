"""Opens sockets of every kind, listens, and resolves names.

outcome: CRASHED
reason: SystemExit: reached []
unprotected: IPv4
"""

from honest import *

import socket

reached, port, path = [], TARGETS["port"], TARGETS["socket"]
attempt(reached, "IPv4", lambda: socket.create_connection(("127.0.0.1", port), 2))
attempt(reached, "IPv6", lambda: socket.create_connection(("::1", port), 2))
attempt(reached, "listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt(reached, "datagrams", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)))
attempt(reached, "raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt(reached, "unix", lambda: socket.socket(socket.AF_UNIX).connect(path))
attempt(reached, "abstract", lambda: socket.socket(socket.AF_UNIX).connect("\0" + path))
for family in ("AF_NETLINK", "AF_VSOCK", "AF_PACKET", "AF_ALG", "AF_BLUETOOTH"):
    number = getattr(socket, family, None)
    if number is not None:
        attempt(reached, family, lambda: socket.socket(number, socket.SOCK_RAW))
attempt(reached, "names", lambda: socket.getaddrinfo("localhost", 80))
attempt(reached, "other names", lambda: socket.gethostbyname("example.org"))
give_up(reached)
