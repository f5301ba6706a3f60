"""The guard in front of every call: applies the access table and the quotas before anything of a call is read.

An interceptor, so that no call can be forgotten. What a signed message proves is known only after it was verified, so
the servicers of such calls ask `signed` with the signer; calls by token and the address's quota are settled here.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

from autoresearch.digest import sha256_hex
from coordinator import receiving, tokens
from coordinator.access import CALLS, OTHERS, By, Terms
from coordinator.crowd import Crowd
from coordinator.places import Places
from coordinator.quotas import SESSION_MESSAGES, Quota, address_of, spoken_wait
from coordinator.receiving import Receiver
from coordinator.refusals import NotAllowedError, TooOftenError, UnauthenticatedError
from coordinator.register import Register
from coordinator.rpc_errors import abort
from coordinator.store import Store

SESSION_CALL: Final = "/autoresearch.v1.VolunteerService/Session"
# Calls that are admitted at once, in this process and from one address: each asks the store, and must not be the
# thousandth there.
ADMITTING_MOST: Final = 16
ADMITTING_OF_ADDRESS: Final = 4
_BEARER: Final = "Bearer "


class Gate(grpc.aio.ServerInterceptor):
    """Admits calls."""

    def __init__(self, store: Store, register: Register, token_key: bytes, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._register = register
        self._token_key = token_key
        self._now_ms = now_ms
        self._crowd = Crowd()
        self._admitting = Places(ADMITTING_MOST, ADMITTING_OF_ADDRESS)
        self._receiver = Receiver()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[grpc.RpcMethodHandler[Any, Any] | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        terms = CALLS.get(method) or next((terms for start, terms in OTHERS.items() if method.startswith(start)), None)
        metadata = dict(handler_call_details.invocation_metadata)
        authorization = str(metadata.get("authorization", ""))

        @contextlib.asynccontextmanager
        async def admitted(address: str) -> AsyncIterator[None]:
            if terms is None:
                raise NotAllowedError("this call is not open to anybody")
            with self._crowd.inside(terms.quota, address):
                async with self._admitting.one(address):
                    await self._admit(terms, address, authorization)
                yield

        return _Guarded(handler, admitted, self._receiver).handler()

    async def _admit(self, terms: Terms, address: str, authorization: str) -> None:
        quota = terms.quota
        bucket = f"{quota.name}:address:{address}"
        await self._take(bucket, quota.address_every_ms, quota.address_burst, "your address")
        if terms.by is By.TOKEN:
            await self._register.require(self._bearer(authorization), terms.roles)

    def _bearer(self, authorization: str) -> str:
        if not authorization.startswith(_BEARER):
            raise UnauthenticatedError("this call needs a session token: authenticate first")
        try:
            return tokens.read_token(self._token_key, authorization.removeprefix(_BEARER), self._now_ms())
        except tokens.TokenError as error:
            raise UnauthenticatedError(str(error)) from error

    async def signed(self, method: str, identity_id: str) -> None:
        """Admits the signer of the message in a call.

        Raises:
            NotAllowedError: they hold no role for it.
            TooOftenError: they called too often.
        """
        terms = CALLS[method]
        await self._register.require(identity_id, terms.roles)
        quota: Quota = terms.quota
        if quota.identity_every_ms:
            bucket = f"{quota.name}:identity:{identity_id}"
            await self._take(bucket, quota.identity_every_ms, quota.identity_burst, "this identity")

    async def holder(self, identity_id: str) -> None:
        """Raises NotAllowedError when the identity of an open session is a volunteer no more."""
        await self._register.require(identity_id, CALLS[SESSION_CALL].roles)

    async def message(self, machine_id: str) -> None:
        """Admits one more message of a machine's session, wherever its others came in.

        Raises:
            TooOftenError: it says too much.
        """
        pace = SESSION_MESSAGES
        await self._take(f"message:machine:{machine_id}", pace.every_ms, pace.burst, "this machine", "messages")

    async def once(self, nonce: bytes) -> None:
        """Uses a nonce up.

        Raises:
            UnauthenticatedError: it is not of this swarm, too old, or was used before.
        """
        try:
            tokens.check_nonce(self._token_key, nonce, self._now_ms())
        except tokens.TokenError as error:
            raise UnauthenticatedError(str(error)) from error
        bucket = f"nonce:{sha256_hex(nonce)[:32]}"
        if await self._store.throttle(bucket, every_ms=2 * tokens.NONCE_MS, burst=1, now_ms=self._now_ms()):
            raise UnauthenticatedError("the nonce was used before: ask for a new one")

    async def _take(self, bucket: str, every_ms: int, burst: int, whose: str, what: str = "calls") -> None:
        wait_ms = await self._store.throttle(bucket, every_ms=every_ms, burst=burst, now_ms=self._now_ms())
        if wait_ms:
            raise TooOftenError(f"too many {what} from {whose}; next in {spoken_wait(wait_ms)}", wait_ms)


class _Guarded:
    """A handler behind the guard, which reads its messages. On the wire nothing tells the kinds of handlers apart."""

    def __init__(
        self,
        handler: "grpc.RpcMethodHandler[Any, Any]",
        admitted: Callable[[str], "contextlib.AbstractAsyncContextManager[None]"],
        receiver: Receiver,
    ) -> None:
        self._handler = handler
        self._behaviour: Any = (
            handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        )
        self._admitted = admitted
        self._receiver = receiver

    def handler(self) -> "grpc.RpcMethodHandler[Any, Any]":
        """What gRPC calls instead."""
        if self._handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._many, None, self._handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(self._one, None, self._handler.response_serializer)

    async def _one(self, requests: AsyncIterator[bytes], context: Any) -> Any:
        async with _translated(context), self._asked(requests, context) as asked:
            return await self._behaviour(asked, context)

    async def _many(self, requests: AsyncIterator[bytes], context: Any) -> Any:
        async with _translated(context), self._asked(requests, context) as asked:
            answers = self._behaviour(asked, context)
            if inspect.isawaitable(answers):  # it writes by itself
                await answers
                return
            async for response in answers:
                yield response

    @contextlib.asynccontextmanager
    async def _asked(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        """What the handler is given: one message, or all as they come."""
        address = address_of(context.peer())
        parse: Any = self._handler.request_deserializer
        async with self._admitted(address):
            if self._handler.request_streaming:
                yield receiving.each(requests, parse)
            else:
                yield await self._receiver.only(requests, parse, address)


@contextlib.asynccontextmanager
async def _translated(context: Any) -> AsyncIterator[None]:
    """An error ends the call with its status."""
    try:
        yield
    except grpc.aio.BaseError:  # told already, or the peer hung up before it could be
        raise
    except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
        await abort(error, context)
