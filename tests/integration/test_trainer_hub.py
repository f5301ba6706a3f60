"""Fetching from a hub: whole and right or not at all, continued, redirected, and every failure one line that helps."""

import hashlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.integration.hub_server import (
    COMMIT,
    REPOSITORY,
    Fault,
    LocalHub,
    Proxy,
    breaks_off,
    certificate,
    flipped,
    goes_round,
    ignores_range,
    local_hub,
    longer,
    other_length,
    other_range,
    silent,
    status,
    trickles,
    web_page,
)
from trainer.answers import RemoteFile
from trainer.errors import DownloadError, PreparationStoppedError, SettingError
from trainer.hub import Hub
from trainer.settings import hub_from

NAME = "shard_00000.parquet"
CONTENT = bytes(range(256)) * 4096  # 1 MB


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    with local_hub({NAME: CONTENT}) as running:
        yield running


def client(endpoint: str, **options: object) -> Hub:
    return Hub(endpoint, clock=time.monotonic, first_pause_s=0.01, **options)


def describe(hub: Hub, revision: str = "main") -> RemoteFile:
    return hub.describe(REPOSITORY, revision, NAME, stop=threading.Event())


def fetch(hub: Hub, remote: RemoteFile, folder: Path, seen: list[int] | None = None) -> Path:
    on_bytes = (lambda _have: None) if seen is None else seen.append
    return hub.fetch(REPOSITORY, remote, folder, on_bytes=on_bytes, stop=threading.Event())


def refusal(server: LocalHub, folder: Path, *faults: Fault, role: str = "content", **options: object) -> str:
    """The words of the error, when nothing that could count as done is left."""
    remote = describe(client(server.endpoint))
    server.fault(role, "GET", NAME, *faults)
    with pytest.raises(DownloadError) as caught:
        fetch(client(server.endpoint, **options), remote, folder)
    assert not (folder / NAME).exists()
    assert "\n" not in str(caught.value)
    assert NAME in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# what a hub says of a file


def test_a_file_is_described_by_the_hub_and_not_by_the_content_server(server: LocalHub):
    assert describe(client(server.endpoint)) == RemoteFile(
        NAME, COMMIT, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
    )
    assert [role for role, *_ in server.asked] == ["hub"]


def test_a_mirror_may_send_the_file_itself(server: LocalHub):
    etag = hashlib.sha256(CONTENT).hexdigest()
    server.fault(
        "hub",
        "HEAD",
        NAME,
        lambda handler, content: handler.answer(200, content, {"ETag": f'W/"{etag}"', "X-Repo-Commit": COMMIT}),
    )
    assert describe(client(server.endpoint)).sha256 == etag


def test_a_mirror_that_tells_no_commit_with_the_file_is_asked_for_it(server: LocalHub):
    etag = hashlib.sha256(CONTENT).hexdigest()
    server.fault("hub", "HEAD", NAME, lambda handler, content: handler.answer(200, content, {"ETag": etag}))
    assert describe(client(server.endpoint)).commit == COMMIT
    assert server.asked[-1][2] == f"/api/datasets/{REPOSITORY}/revision/main"


def test_a_renamed_data_set_is_followed(server: LocalHub):
    server.fault(
        "hub",
        "HEAD",
        NAME,
        lambda handler, _content: handler.answer(
            307, b"", {"Location": f"/datasets/{REPOSITORY}/resolve/main/{NAME}?again"}
        ),
    )
    assert describe(client(server.endpoint)).commit == COMMIT


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (status(401), "HF_TOKEN"),
        (status(403), "HF_TOKEN"),
        (status(404, X_Error_Code="RevisionNotFound"), "no such revision"),
        (status(404), "no such file"),
        (status(451), "refused"),
        (web_page, "login page"),
        (status(200), "no commit|no size|sha256"),
        (status(200, ETag="a" * 40, X_Repo_Commit=COMMIT), "sha256"),
        (status(200, ETag="a" * 64, X_Repo_Commit=COMMIT, X_Linked_Size="99999999999999"), "size"),
        (status(200, ETag="a" * 64, X_Repo_Commit=COMMIT, X_Linked_Size="-1"), "size"),
        (status(429, Retry_After="7200"), "7200 s"),
        (goes_round, "without end"),
    ],
)
def test_an_answer_that_helps_nobody_is_one_line(server: LocalHub, fault: Fault, words: str):
    server.fault("hub", "HEAD", NAME, fault)
    with pytest.raises(DownloadError, match=words) as caught:
        describe(client(server.endpoint))
    assert "\n" not in str(caught.value)


def test_another_commit_than_asked_for_is_refused(server: LocalHub):
    etag = hashlib.sha256(CONTENT).hexdigest()
    server.fault("hub", "HEAD", NAME, status(200, ETag=etag, X_Repo_Commit="f" * 40, X_Linked_Size="5"))
    with pytest.raises(DownloadError, match="commit"):
        describe(client(server.endpoint), COMMIT)


def test_a_token_that_is_not_accepted_is_named_and_not_shown(server: LocalHub):
    server.fault("hub", "HEAD", NAME, status(401))
    with pytest.raises(DownloadError, match="renew HF_TOKEN") as caught:
        describe(client(server.endpoint, token="hf_secret"))
    assert "hf_secret" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# fetching


def test_a_file_arrives_whole_from_the_content_server(server: LocalHub, tmp_path: Path):
    hub, seen = client(server.endpoint, token="hf_secret"), []
    path = fetch(hub, describe(hub), tmp_path, seen)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


def test_the_token_is_shown_to_the_hub_alone(server: LocalHub, tmp_path: Path):
    hub = client(server.endpoint, token="hf_secret")
    fetch(hub, describe(hub), tmp_path)
    shown = {role: headers.get("authorization") for role, _, _, headers in server.asked}
    assert shown == {"hub": "Bearer hf_secret", "content": None}


def test_a_netrc_is_not_asked(server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    describe(client(server.endpoint))
    assert "authorization" not in server.asked[-1][3]


def test_what_is_there_is_not_fetched_again(server: LocalHub, tmp_path: Path):
    hub = client(server.endpoint)
    remote = describe(hub)
    fetch(hub, remote, tmp_path)
    server.asked.clear()
    fetch(hub, remote, tmp_path)
    assert server.asked == []


def test_a_damaged_file_does_not_count_as_there(server: LocalHub, tmp_path: Path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1] + b"x")
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("after", [0, 1, 700_000, len(CONTENT) - 1])
def test_a_broken_connection_is_continued_where_it_broke(server: LocalHub, tmp_path: Path, after: int):
    server.fault("content", "GET", NAME, breaks_off(after))
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["", f"bytes={after}-" if after else ""]


def test_a_later_run_continues_what_an_earlier_one_left(server: LocalHub, tmp_path: Path):
    refusal(server, tmp_path, breaks_off(400_000), *[status(503)] * 4)
    server.asked.clear()
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT
    assert server.ranges() == ["bytes=400000-"]


def test_what_is_left_of_another_content_is_not_continued(server: LocalHub, tmp_path: Path):
    refusal(server, tmp_path, breaks_off(400_000), *[status(503)] * 4)
    server.files[NAME] = CONTENT[::-1]
    server.asked.clear()
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT[::-1]
    assert server.ranges() == [""]


@pytest.mark.parametrize("fault", [ignores_range, other_range, status(416)])
def test_a_server_that_cannot_continue_starts_again(server: LocalHub, tmp_path: Path, fault: Fault):
    server.fault("content", "GET", NAME, breaks_off(400_000), fault)
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "fault",
    [flipped, longer, other_length, status(500), status(429, Retry_After="0"), status(403), silent, trickles],
)
def test_one_failure_is_survived(server: LocalHub, tmp_path: Path, fault: Fault):
    server.fault("content", "GET", NAME, fault)
    hub = client(server.endpoint, timeout_s=(5, 0.3), window_s=0.3)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_a_server_may_say_by_date_when_to_come_again(server: LocalHub, tmp_path: Path):
    soon = format_datetime(datetime.now(UTC) - timedelta(seconds=1), usegmt=True)
    server.fault("content", "GET", NAME, status(503, Retry_After=soon))
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT


def test_progress_is_not_taken_for_failure(server: LocalHub, tmp_path: Path):
    """More breaks than attempts in a row, each after a good part of the file."""
    server.fault("content", "GET", NAME, *[breaks_off(300_000)] * 3, *[breaks_off(20_000)] * 3)
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (breaks_off(10), "connection to 127.*breaks.*is kept"),
        (status(503), "status 503"),
        (status(429), "status 429"),
        (flipped, "damaged.*twice"),
        (longer, "longer"),
        (other_length, "1048580 bytes"),
        (silent, "silent"),
        (trickles, "bytes/s"),
    ],
)
def test_a_failure_that_stays_is_one_line(server: LocalHub, tmp_path: Path, fault: Fault, words: str):
    """Whoever is not silent may be slow: a busy machine's pause must not be taken for the failure."""
    read_s = 0.1 if fault is silent else 30.0
    said = refusal(server, tmp_path, *[fault] * 6, timeout_s=(5, read_s), window_s=0.1)
    assert re.search(words, said), said


def test_a_login_page_in_between_is_said_at_once(server: LocalHub, tmp_path: Path):
    assert "login page" in refusal(server, tmp_path, web_page)
    assert len(server.ranges()) == 1


def test_redirections_in_a_circle_end(server: LocalHub, tmp_path: Path):
    assert "without end" in refusal(server, tmp_path, goes_round, role="hub")


def test_a_long_wait_is_left_to_the_person(server: LocalHub, tmp_path: Path):
    assert "3600 s" in refusal(server, tmp_path, status(429, Retry_After="3600"))


def test_nobody_there_is_said(tmp_path: Path):
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:9 cannot be reached.*HTTPS_PROXY"):
        describe(client("http://127.0.0.1:9"))


def test_waiting_ends_when_somebody_asks_to_stop(server: LocalHub, tmp_path: Path):
    hub, stop = client(server.endpoint, timeout_s=(5, 30)), threading.Event()
    remote = describe(hub)
    server.fault("content", "GET", NAME, status(503, Retry_After="50"))
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(PreparationStoppedError):
        hub.fetch(REPOSITORY, remote, tmp_path, on_bytes=lambda _have: None, stop=stop)


def test_a_killed_process_leaves_nothing_that_counts_and_is_continued(server: LocalHub, tmp_path: Path, until):
    script = (
        "import threading, time; from pathlib import Path; from trainer.hub import Hub;"
        f"hub = Hub({server.endpoint!r}, clock=time.monotonic); stop = threading.Event();"
        f"remote = hub.describe({REPOSITORY!r}, 'main', {NAME!r}, stop=stop);"
        f"hub.fetch({REPOSITORY!r}, remote, Path({str(tmp_path)!r}), on_bytes=lambda have: None, stop=stop)"
    )
    server.fault("content", "GET", NAME, silent)
    process = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: any(path.stat().st_size for path in tmp_path.glob(".partial-*")), timeout_s=60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / NAME).exists()
    hub = client(server.endpoint)
    assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT
    assert server.ranges()[-1].startswith("bytes=")


# ---------------------------------------------------------------------------------------------------------------------
# surroundings


def test_a_proxy_of_the_environment_is_used_for_every_request(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    proxy = Proxy()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    try:
        hub = client(server.endpoint)
        assert fetch(hub, describe(hub), tmp_path).read_bytes() == CONTENT
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert {address.partition("/datasets")[0].partition("/shard")[0] for address in proxy.asked} == {
        server.endpoint,
        server.content_url,
    }


def test_a_proxy_that_is_down_is_named(server: LocalHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadError, match=r"proxy.*HTTP_PROXY"):
        describe(client(server.endpoint))


def test_tls_goes_through_a_proxy_unread_and_its_certificate_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, tls = certificate(tmp_path)
    proxy = Proxy()
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    try:
        with local_hub({NAME: CONTENT}, tls) as server:
            hub = client(server.endpoint)
            with pytest.raises(DownloadError, match=r"certificate of 127\.0\.0\.1.*REQUESTS_CA_BUNDLE"):
                describe(hub)
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
            folder = tmp_path / "data"
            folder.mkdir()
            assert fetch(hub, describe(hub), folder).read_bytes() == CONTENT
            addresses = {url.removeprefix("https://") for url in (server.endpoint, server.content_url)}
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert set(proxy.asked) == addresses


def test_the_environment_names_endpoint_and_token(server: LocalHub):
    hub = hub_from({"HF_ENDPOINT": f"{server.endpoint}/", "HF_TOKEN": "hf_secret"})
    describe(hub)
    assert server.asked[0][3]["authorization"] == "Bearer hf_secret"
    assert hub_from({}).name == "huggingface.co"


@pytest.mark.parametrize(
    "environment",
    [{"HF_ENDPOINT": "huggingface.co"}, {"HF_ENDPOINT": "ftp://x"}, {"HF_ENDPOINT": "https://"}, {"HF_TOKEN": "a\nb"}],
)
def test_an_environment_that_makes_no_sense_is_one_line(environment: dict[str, str]):
    with pytest.raises(SettingError, match="HF_") as caught:
        hub_from(environment)
    assert "\n" not in str(caught.value)
