"""Fetches files of a data set from a hub that speaks Hugging Face's protocol, each whole and right or not at all.

Plain HTTP: `HEAD /datasets/REPO/resolve/REVISION/PATH` says size, sha256 and commit, `GET` gives the bytes, redirected
to a content server. Decides what to ask, whom to show the token, and how often to try again; `transfer.py` keeps what
comes, `answers.py` says what an answer means. Why not the hub's own library: docs/decisions/plain-downloads.md.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, urljoin

from trainer.answers import (
    IN_BETWEEN,
    RemoteFile,
    TryAgainError,
    check_status,
    described,
    explained,
    host_of,
    origin_of,
)
from trainer.errors import DownloadError, PreparationStoppedError
from trainer.packages import needed
from trainer.transfer import CHUNK_BYTES, Transfer, is_whole

if TYPE_CHECKING:
    import requests

ATTEMPTS: Final = 5  # in a row that bring next to nothing; a longer outage is a person's business
FIRST_PAUSE_S: Final = 0.5  # doubles with every attempt
LONGEST_PAUSE_S: Final = 60.0  # when a server asks for a longer one, waiting is left to the person
CONNECT_S: Final = 15.0
READ_S: Final = 30.0  # without a single byte
WINDOW_S: Final = 60.0  # over which the speed is watched
MAX_REDIRECTS: Final = 10
MAX_ANSWER_BYTES: Final = 8 << 20  # of the API's answer, which may name every file of the repository

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_KEPT: Final = "check the network and run the same command again; what is here already is kept"

Value = TypeVar("Value")


class Hub:
    """One endpoint. Safe in several threads: every attempt has a connection of its own."""

    def __init__(
        self,
        endpoint: str,
        *,
        clock: Callable[[], float],
        token: str = "",
        timeout_s: tuple[float, float] = (CONNECT_S, READ_S),
        window_s: float = WINDOW_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._clock = clock
        self._timeout_s = timeout_s
        self._window_s = window_s
        self._first_pause_s = first_pause_s

    @property
    def name(self) -> str:
        """For messages."""
        return host_of(self._endpoint)

    def describe(self, repository: str, revision: str, path: str, *, stop: threading.Event) -> RemoteFile:
        """Size, sha256 and commit of a file at a branch, tag or commit.

        Raises:
            DownloadError: there is none, it may not be read, or nobody answers like a hub.
            MissingPackageError: the HTTP library is not installed.
            PreparationStoppedError: `stop` was set.
        """

        def attempt() -> RemoteFile:
            headers = self._head(self._file_url(repository, revision, path), path)
            commit = headers.get("X-Repo-Commit") or self._commit(repository, revision, path)
            return described(headers, path, commit, self.name)

        found = self._patiently(path, attempt, lambda: 0, stop)
        if _COMMIT.fullmatch(revision) and found.commit != revision:
            problem = f"is of commit {found.commit[:12]} at {self.name}, {revision[:12]} was asked for"
            raise DownloadError(path, problem, "use a mirror that keeps commits apart (HF_ENDPOINT)")
        return found

    def fetch(
        self,
        repository: str,
        remote: RemoteFile,
        folder: Path,
        *,
        on_bytes: Callable[[int], None],
        stop: threading.Event,
    ) -> Path:
        """Make `folder` hold the file, and return its path. What is there already is not fetched again.

        `on_bytes` gets how many bytes are there.

        Raises:
            DownloadError: it cannot be had, or is not what the hub says it is.
            PreparationStoppedError: `stop` was set.
            OSError: the folder cannot be written.
        """
        target = folder / Path(remote.path).name
        if is_whole(target, remote):
            on_bytes(remote.size_bytes)
            return target
        url = self._file_url(repository, remote.commit, remote.path)
        transfer = Transfer(
            remote,
            folder,
            lambda first: self._asked("GET", url, remote.path, first=first, follow=True),
            clock=self._clock,
            window_s=self._window_s,
            on_bytes=on_bytes,
        )
        for _ in range(2):
            self._patiently(remote.path, lambda: transfer.attempt(stop), lambda: transfer.furthest_byte, stop)
            if transfer.finish(target):
                return target
        problem = f"arrives damaged from {self.name}, twice: its sha256 is not the announced {remote.sha256[:12]}..."
        advice = "something on the way changes it; try another network, or another mirror with HF_ENDPOINT"
        raise DownloadError(remote.path, problem, advice)

    def _file_url(self, repository: str, revision: str, path: str) -> str:
        return f"{self._endpoint}/datasets/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"

    def _head(self, url: str, path: str) -> Mapping[str, str]:
        """Headers of the answer that describes the file: the last one before the content server's."""
        for _ in range(MAX_REDIRECTS):
            with self._asked("HEAD", url, path) as response:
                check_status(response, path, self.name, has_token=bool(self._token))
                if not response.is_redirect or "X-Linked-Etag" in response.headers:
                    return response.headers
                url = urljoin(url, response.headers["Location"])
        raise DownloadError(path, f"is redirected by {self.name} without end", IN_BETWEEN)

    def _commit(self, repository: str, revision: str, path: str) -> str:
        """The commit of a revision, asked of the API of a mirror that does not tell it with the file; or nothing."""
        url = f"{self._endpoint}/api/datasets/{repository}/revision/{quote(revision, safe='')}"
        with self._asked("GET", url, path, follow=True) as response:
            if not response.ok:
                return ""
            answer = response.raw.read(MAX_ANSWER_BYTES, decode_content=True)
        try:
            return str(json.loads(answer)["sha"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""

    @contextmanager
    def _asked(
        self, method: str, url: str, path: str, *, first: int = 0, follow: bool = False
    ) -> "Iterator[requests.Response]":
        """The answer to one request, whatever its status; its body can be read inside the block.

        Raises:
            TryAgainError: the connection failed.
            DownloadError: it can never work.
        """
        library, transport = needed("requests"), needed("urllib3")
        headers = {"Accept-Encoding": "identity", "User-Agent": "autoresearch-swarm"}
        if first:
            headers["Range"] = f"bytes={first}-"
        options = {"auth": self._sign, "timeout": self._timeout_s, "allow_redirects": follow, "stream": True}
        try:
            with library.Session() as session:
                session.max_redirects = MAX_REDIRECTS
                with session.request(method, url, headers=headers, **options) as response:
                    yield response
        except (library.RequestException, transport.exceptions.HTTPError, UnicodeError) as error:
            raise explained(error, library, path, host_of(url)) from error

    def _sign(self, request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        """The token is for the endpoint alone. Being a function, it also keeps the library from asking a .netrc."""
        if self._token and origin_of(str(request.url)) == origin_of(self._endpoint):
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _patiently(
        self, path: str, attempt: Callable[[], Value], reached: Callable[[], int], stop: threading.Event
    ) -> Value:
        """What `attempt` returns, tried until it fails too often in a row without bringing anything much."""
        failures, before = 0, 0
        while not stop.is_set():
            try:
                return attempt()
            except TryAgainError as again:
                failures = 1 if reached() - before >= CHUNK_BYTES else failures + 1
                before = max(before, reached())
                if failures >= ATTEMPTS:
                    raise DownloadError(path, again.problem, _KEPT) from again
                pause_s = self._first_pause_s * 2 ** (failures - 1) if again.pause_s is None else again.pause_s
                if pause_s > LONGEST_PAUSE_S:
                    problem = f"{again.problem}, and to be asked for in {pause_s:.0f} s"
                    raise DownloadError(path, problem, "run the same command again then") from again
            stop.wait(pause_s)
        raise PreparationStoppedError
