"""What an answer of a hub means: a file's description, a reason to try again, or an error that a person must read.

Judges statuses, headers and failed connections; asks nothing. A server's words never reach a message, its numbers do.
"""

import email.utils
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from trainer.errors import DownloadError
from trainer.log import one_line

if TYPE_CHECKING:
    import requests

MAX_FILE_BYTES: Final = 4 << 30  # a shard has 0.1 GB: whoever announces more is no hub
IN_BETWEEN: Final = "is a login page or a proxy in between? Check the network, HTTPS_PROXY and HF_ENDPOINT"
PARTIAL_CONTENT: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_FORBIDDEN: Final = (401, 403)
_ABSENT: Final = (404, 410)


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub describes it, at one commit."""

    path: str
    commit: str
    size_bytes: int
    sha256: str


class TryAgainError(Exception):
    """This attempt failed in a way that another one may not. `pause_s`: what the server asked to wait, if it did."""

    def __init__(self, problem: str, pause_s: float | None = None) -> None:
        self.problem = problem
        self.pause_s = pause_s
        super().__init__(problem)


def described(headers: Mapping[str, str], path: str, commit: str, name: str) -> RemoteFile:
    """What the headers of the hub called `name` say of the file.

    Raises:
        DownloadError: not what a hub says.
    """
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"').lower()
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    if is_page(headers) and not _SHA256.fullmatch(etag):
        raise DownloadError(path, f"is a web page at {name}, no file", IN_BETWEEN)
    if not _COMMIT.fullmatch(commit):
        raise DownloadError(path, f"is not described by {name} as a hub does (no commit)", IN_BETWEEN)
    if not _SHA256.fullmatch(etag):
        raise DownloadError(path, f"is not named by its sha256 at {name}", "use another mirror with HF_ENDPOINT")
    if not (_NUMBER.fullmatch(size) and 0 < int(size) <= MAX_FILE_BYTES):
        raise DownloadError(path, f"has no size at {name} that a shard can have", IN_BETWEEN)
    return RemoteFile(path, commit, int(size), etag)


def is_page(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").lower().startswith("text/html")


def check_status(response: "requests.Response", path: str, name: str, *, has_token: bool) -> None:
    """Whether the answer is a success or a redirection.

    Raises:
        TryAgainError: the server is busy.
        DownloadError: it will never be.
    """
    status = response.status_code
    if status < 400:
        return
    expired = bool(response.history) and status in _FORBIDDEN  # a content server's signed address that has run out
    if status in _BUSY or expired:
        raise TryAgainError(f"cannot be had from {name} now (status {status})", _asked_pause_s(response.headers))
    if status in _FORBIDDEN:
        advice = "renew HF_TOKEN, it is not accepted" if has_token else "set HF_TOKEN to a token that may read it"
        advice += "; the data set's page says whether its terms must be accepted first"
        raise DownloadError(path, f"may not be read at {name} (status {status})", advice)
    if status in _ABSENT:
        code = response.headers.get("X-Error-Code", "")
        what = {"RepoNotFound": "data set", "RevisionNotFound": "revision"}.get(code, "file")
        advice = "check --shards, --revision and HF_ENDPOINT"
        raise DownloadError(path, f"is not at {name} (status {status}: no such {what})", advice)
    raise DownloadError(path, f"is refused by {name} (status {status})", IN_BETWEEN)


def announced_length(headers: Mapping[str, str]) -> int | None:
    """`Content-Length` of an uncompressed body."""
    length = headers.get("Content-Length", "")
    return int(length) if _NUMBER.fullmatch(length) else None


def ranges_from(headers: Mapping[str, str], first: int, size: int) -> bool:
    """Whether `Content-Range` begins at byte `first` of a file of that size."""
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == first and match[2] in ("*", str(size))


def explained(error: Exception, library: ModuleType, path: str, host: str) -> Exception:
    """What a person, or the next attempt, should know of a request that failed without an answer."""
    kinds = library.exceptions
    if isinstance(error, kinds.SSLError):
        advice = "check this machine's clock, or name your network's authority with REQUESTS_CA_BUNDLE"
        return DownloadError(path, f"cannot be asked for: the certificate of {host} is not trusted", advice)
    if isinstance(error, kinds.ProxyError):
        return TryAgainError(f"cannot be asked for: the proxy to {host} fails (HTTPS_PROXY, HTTP_PROXY)")
    if isinstance(error, kinds.TooManyRedirects):
        return DownloadError(path, f"is redirected by {host} without end", IN_BETWEEN)
    if isinstance(error, kinds.InvalidURL | kinds.InvalidSchema | kinds.MissingSchema | UnicodeError):
        return DownloadError(path, f"has no usable address at {host}", "check HF_ENDPOINT and HTTPS_PROXY")
    if isinstance(error, kinds.Timeout) or "timed out" in str(error).lower():
        return TryAgainError(f"does not come: {host} is silent")
    if isinstance(error, kinds.ConnectionError):
        return TryAgainError(f"cannot be had: {host} cannot be reached (HF_ENDPOINT, HTTPS_PROXY)")
    return TryAgainError(f"does not come whole: the connection to {host} breaks")


def host_of(url: str) -> str:
    """For messages: host and port, never a user's name or password."""
    parts = urlsplit(url)
    return one_line(f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname), 100)


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _asked_pause_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After`, in seconds or as a date."""
    asked = headers.get("Retry-After", "").strip()
    if _NUMBER.fullmatch(asked):
        return float(asked)
    with suppress(ValueError, TypeError):
        return max(0.0, (email.utils.parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    return None
