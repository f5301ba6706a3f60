"""A hub on this machine that speaks Hugging Face's protocol over real sockets, and can be told to misbehave.

Two servers: the hub describes a file and redirects to the content server, as the real one does; both note what they
were asked. A fault is taken from the front of its file's list and replaces one answer.
"""

import hashlib
import io
import json
import select
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

REPOSITORY = "karpathy/climbmix-400b-shuffle"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Fault = Callable[["Handler", bytes], None]


def parquet(texts: list[str | None], *, column: str = "text", rows: int = 64) -> bytes:
    """A shard as upstream writes them: one column, small row groups, zstd."""
    out = io.BytesIO()
    pq.write_table(pa.table({column: texts}), out, row_group_size=rows, compression="zstd", use_dictionary=False)
    return out.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.hub.note(self)
        name = urlsplit(self.path).path.rsplit("/", 1)[-1]
        faults = self.server.hub.faults[self.server.role, self.command, name]
        content = self.server.hub.files.get(name)
        if faults:
            faults.pop(0)(self, content or b"")
        elif self.server.role == "hub":
            self.describe(name, content)
        elif content is None:
            self.answer(404, b"")
        else:
            self.send_content(content)

    def describe(self, name: str, content: bytes | None) -> None:
        hub = self.server.hub
        revision = urlsplit(self.path).path.split("/")[-2]
        if self.path.startswith("/api/"):
            self.answer(200, json.dumps({"sha": hub.commit}).encode(), {"Content-Type": "application/json"})
        elif not self.path.startswith(f"/datasets/{REPOSITORY}/resolve/"):
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", hub.commit):
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif content is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(302, b"moved", {**hub.description(content), "Location": f"{hub.content_url}/{name}?signed=1"})

    def send_content(self, content: bytes, *, keep: int | None = None, pretend: bytes | None = None) -> None:
        """Honour a range; `keep` bytes of it and then the connection breaks; or other bytes than there are."""
        first = self.first_byte()
        body = content if pretend is None else pretend
        if first >= len(content):
            self.answer(416, b"")
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        self.wfile.write(body[first:] if keep is None else body[first : first + keep])
        self.close_connection = keep is not None

    def first_byte(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, role: str, hub: "LocalHub", tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.role = role
        self.hub = hub
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the game."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"


class LocalHub:
    """Both servers, what they hold and what they were asked."""

    def __init__(self, files: dict[str, bytes], commit: str = COMMIT, tls: ssl.SSLContext | None = None) -> None:
        self.files = files
        self.commit = commit
        self.faults: dict[tuple[str, str, str], list[Fault]] = defaultdict(list)
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []  # role, method, path, headers
        self._servers = [_Server("hub", self, tls), _Server("content", self, tls)]
        self.endpoint, self.content_url = (server.url for server in self._servers)

    def note(self, handler: Handler) -> None:
        headers = {key.lower(): value for key, value in handler.headers.items()}
        self.asked.append((handler.server.role, handler.command, handler.path, headers))

    def description(self, content: bytes) -> dict[str, str]:
        return {
            "X-Repo-Commit": self.commit,
            "X-Linked-Size": str(len(content)),
            "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "ETag": '"an-etag-of-the-redirection"',
        }

    def fault(self, role: str, method: str, name: str, *faults: Fault) -> None:
        self.faults[role, method, name] += faults

    def ranges(self) -> list[str]:
        """`Range` of every request to the content server, empty where there was none."""
        return [headers.get("range", "") for role, _, _, headers in self.asked if role == "content"]

    def fetched(self) -> list[str]:
        """Names of what the content server was asked for."""
        return [urlsplit(path).path.lstrip("/") for role, _, path, _ in self.asked if role == "content"]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextmanager
def local_hub(files: dict[str, bytes], tls: ssl.SSLContext | None = None) -> Iterator[LocalHub]:
    hub = LocalHub(files, tls=tls)
    try:
        yield hub
    finally:
        hub.close()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate of its own for 127.0.0.1, and what a server needs to show it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hub")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, key_path = folder / "hub.crt", folder / "hub.key"
    path.write_bytes(made.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return path, context


# ---------------------------------------------------------------------------------------------------------------------
# faults


def breaks_off(after: int) -> Fault:
    return lambda handler, content: handler.send_content(content, keep=after)


def status(code: int, **headers: str) -> Fault:
    return lambda handler, _content: handler.answer(
        code, b"", {key.replace("_", "-"): value for key, value in headers.items()}
    )


def web_page(handler: Handler, _content: bytes) -> None:
    handler.answer(200, b"<html>Please accept our terms</html>", {"Content-Type": "text/html; charset=utf-8"})


def flipped(handler: Handler, content: bytes) -> None:
    handler.send_content(content, pretend=content[:-1] + bytes([content[-1] ^ 1]))


def longer(handler: Handler, content: bytes) -> None:
    """More than announced, without a length that would give it away."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content + b"more")
    handler.close_connection = True


def other_length(handler: Handler, content: bytes) -> None:
    handler.answer(200, content + b"more")


def ignores_range(handler: Handler, content: bytes) -> None:
    handler.answer(200, content)


def other_range(handler: Handler, content: bytes) -> None:
    handler.answer(206, content[1:], {"Content-Range": f"bytes 1-{len(content) - 1}/{len(content)}"})


def silent(handler: Handler, content: bytes) -> None:
    """Half of it, and then nothing for longer than a client waits."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.connection.recv(1)  # until the client gives up
    handler.close_connection = True


def trickles(handler: Handler, content: bytes) -> None:
    """A byte now and then: no single wait is long."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)


def goes_round(handler: Handler, _content: bytes) -> None:
    """Sent back to the same address, every time: said before the answer, after which the next request is on its way."""
    hub, name = handler.server.hub, urlsplit(handler.path).path.rsplit("/", 1)[-1]
    hub.fault(handler.server.role, handler.command, name, goes_round)
    handler.answer(302, b"", {"Location": handler.path})


# ---------------------------------------------------------------------------------------------------------------------
# a proxy


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Proxy"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        parts = urlsplit(self.path)
        connection = HTTPConnection(str(parts.hostname), parts.port)
        headers = {key: value for key, value in self.headers.items() if not key.lower().startswith("proxy-")}
        connection.request(self.command, f"{parts.path}?{parts.query}", headers=headers)
        response = connection.getresponse()
        body = response.read()
        self.send_response(response.status)
        for key, value in response.getheaders():
            if key.lower() not in ("server", "date"):
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    def do_CONNECT(self) -> None:
        """A tunnel, through which TLS goes unread."""
        self.server.asked.append(self.path)
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: other, other: self.connection}
            while True:
                for ready in select.select(list(ends), [], [])[0]:
                    if not (data := ready.recv(1 << 16)):
                        self.close_connection = True
                        return
                    ends[ready].sendall(data)


class Proxy(ThreadingHTTPServer):
    """Passes requests for whole addresses on, tunnels others, and notes both."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"
