"""One table from the gRPC status of a failed call to the error a person sees.

Left out: errors that this program finds itself (`errors.py`).
"""

from dataclasses import dataclass
from typing import Final

import grpc

from autoresearch import limits
from autoresearch.text import clean_line
from volunteer.errors import RpcError


@dataclass(frozen=True, slots=True)
class _Row:
    """`text` may use {target} and {details}; the details are the coordinator's own words."""

    text: str
    # Whether the same call may succeed later.
    retry: bool


_CODE = grpc.StatusCode
_ODD: Final = "the coordinator at {target} failed ({details}): try again, and tell its operator if it stays"

TABLE: Final[dict[grpc.StatusCode, _Row]] = {
    _CODE.OK: _Row("the coordinator at {target} ended the connection: try again", retry=True),
    _CODE.UNAVAILABLE: _Row("no coordinator answers at {target}: is the address right, and is it running?", retry=True),
    _CODE.DEADLINE_EXCEEDED: _Row("the coordinator at {target} did not answer in time: try again", retry=True),
    _CODE.CANCELLED: _Row("the coordinator at {target} ended the connection: try again", retry=True),
    _CODE.RESOURCE_EXHAUSTED: _Row("{details}: try again later", retry=True),
    _CODE.ABORTED: _Row("{details}: try again", retry=True),
    _CODE.INTERNAL: _Row(_ODD, retry=True),
    _CODE.UNKNOWN: _Row(_ODD, retry=True),
    _CODE.DATA_LOSS: _Row(_ODD, retry=True),
    _CODE.NOT_FOUND: _Row("{details}", retry=False),
    _CODE.ALREADY_EXISTS: _Row("{details}", retry=False),
    _CODE.INVALID_ARGUMENT: _Row("{details}", retry=False),
    _CODE.OUT_OF_RANGE: _Row("{details}", retry=False),
    _CODE.FAILED_PRECONDITION: _Row("{details}", retry=False),
    _CODE.PERMISSION_DENIED: _Row("{details}", retry=False),
    _CODE.UNAUTHENTICATED: _Row("{details}", retry=False),
    _CODE.UNIMPLEMENTED: _Row(
        "the coordinator at {target} does not know this request: it is another service or version; "
        "compare `autoresearch-volunteer --version` with its own",
        retry=False,
    ),
}


def translate(error: grpc.aio.AioRpcError, target: str) -> RpcError:
    """The error to raise instead of `error`, which came from a call to the coordinator at `target`."""
    return of_status(error.code(), error.details() or "", target)


def of_status(code: grpc.StatusCode, details: str, target: str) -> RpcError:
    """The error for a status and the coordinator's words about it."""
    row = TABLE[code]
    said = clean_line(details, limits.REASON_CHARACTERS).rstrip(".")
    if code is _CODE.UNAVAILABLE and said.startswith("the coordinator "):
        row = _Row("{details}", retry=True)  # its own words, not the transport's
    text = row.text.format(target=target, details=said or f"the coordinator refused without a reason ({code.name})")
    return RpcError(text, retry=row.retry)
