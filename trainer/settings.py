"""What the surroundings say about downloads: the only module here that reads the environment for a setting.

Builds the one object that fetches files, with the real clock. Proxies (`HTTPS_PROXY`, `NO_PROXY`, ...) and extra
certificates (`REQUESTS_CA_BUNDLE`) are read by the HTTP library itself, as everywhere.
"""

import os
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from trainer.errors import SettingError
from trainer.hub import Hub

DEFAULT_ENDPOINT = "https://huggingface.co"
_TOKEN = re.compile(r"[!-~]{1,512}")  # what may stand in a header


def hub_from(environment: Mapping[str, str]) -> Hub:
    """The Hugging Face hub, or the mirror that HF_ENDPOINT names, with HF_TOKEN if there is one.

    Raises:
        SettingError: a variable that is no address, or no token.
    """
    endpoint = (environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SettingError(f"HF_ENDPOINT is {endpoint[:200]!r}: give an address such as {DEFAULT_ENDPOINT}")
    token = environment.get("HF_TOKEN", "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise SettingError("HF_TOKEN holds characters that no token has: copy it again, or unset it")
    return Hub(endpoint, token=token, clock=time.monotonic)


def hub() -> Hub:
    """`hub_from` this process's environment."""
    return hub_from(os.environ)
