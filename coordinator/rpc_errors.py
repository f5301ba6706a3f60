"""One table from exception class to gRPC status, and the wrapper that applies it at the edge.

An unexpected exception reaches the peer as INTERNAL with no text: its text may hold paths or keys. It is logged here.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from autoresearch.admission_errors import AdmissionError
from autoresearch.envelope import EnvelopeError
from coordinator.errors import OperatorError
from coordinator.refusals import (
    AlreadyExistsError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    TooOftenError,
    TooSlowError,
    UnauthenticatedError,
)
from coordinator.session import SessionError
from coordinator.store import StoreError

log = logging.getLogger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")

STATUS: dict[type[Exception], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    AdmissionError: grpc.StatusCode.INVALID_ARGUMENT,
    EnvelopeError: grpc.StatusCode.UNAUTHENTICATED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    NotNowError: grpc.StatusCode.FAILED_PRECONDITION,
    TooSlowError: grpc.StatusCode.DEADLINE_EXCEEDED,
    TooOftenError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    SessionError: grpc.StatusCode.INVALID_ARGUMENT,
    StoreError: grpc.StatusCode.UNAVAILABLE,
    OperatorError: grpc.StatusCode.UNAVAILABLE,
}
PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6: clients that retry by themselves wait so long
TROUBLE = "the coordinator has trouble with its disk or store; nothing was lost, try again later"


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """What the peer is told."""
    for kind in type(error).__mro__:
        code = STATUS.get(kind)
        if code is grpc.StatusCode.UNAVAILABLE:
            return code, TROUBLE  # the operator's business: logged, not sent
        if code is not None:
            return code, str(error)
    return grpc.StatusCode.INTERNAL, ""


async def abort(error: Exception, context: Context) -> None:
    """Ends a call with the status of an error."""
    code, text = status_of(error)
    if code is grpc.StatusCode.INTERNAL:
        log.exception("call failed", exc_info=error)
    elif code is grpc.StatusCode.UNAVAILABLE:  # its text says what to mend; hundreds may fail for the same reason
        log.warning("call failed: %s", error)
    more = ((PUSHBACK, str(error.wait_ms)),) if isinstance(error, TooOftenError) else ()
    await context.abort(code, text, more)


def unary(
    method: Callable[[Any, Request, Context], Awaitable[Response]],
) -> Callable[[Any, Request, Context], Awaitable[Response]]:
    """Translates what a unary method raises."""

    async def wrapped(servicer: Any, request: Request, context: Context) -> Response:
        try:
            return await method(servicer, request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(error, context)
            raise

    return wrapped


def streaming(
    method: Callable[[Any, Request, Context], AsyncIterator[Response]],
) -> Callable[[Any, Request, Context], AsyncIterator[Response]]:
    """Translates what a streaming method raises."""

    async def wrapped(servicer: Any, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            async for response in method(servicer, request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(error, context)
            raise

    return wrapped
