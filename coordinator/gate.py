"""The guard in front of every call: applies the access table and the quotas before a handler sees the call.

An interceptor, so that no call can be forgotten. What a signed message proves is known only after it was verified, so
the servicers of such calls ask `signed` with the signer; calls by token and the address's quota are settled here.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from autoresearch.digest import sha256_hex
from coordinator import tokens
from coordinator.access import CALLS, By, Terms
from coordinator.quotas import SESSION_MESSAGES, Quota, address_of, spoken_wait
from coordinator.refusals import NotAllowedError, TooOftenError, UnauthenticatedError
from coordinator.register import Register
from coordinator.rpc_errors import abort
from coordinator.store import Store

_OTHERS: Final = ("/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/")  # for probes and tools
SESSION_CALL: Final = "/autoresearch.v1.VolunteerService/Session"
_BEARER: Final = "Bearer "


class Gate(grpc.aio.ServerInterceptor):
    """Admits calls."""

    def __init__(self, store: Store, register: Register, token_key: bytes, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._register = register
        self._token_key = token_key
        self._now_ms = now_ms

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[grpc.RpcMethodHandler[Any, Any] | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_OTHERS):
            return handler
        terms = CALLS.get(method)
        metadata = dict(handler_call_details.invocation_metadata)
        authorization = str(metadata.get("authorization", ""))

        async def check(context: Any) -> None:
            if terms is None:
                raise NotAllowedError("this call is not open to anybody")
            await self._admit(terms, context.peer(), authorization)

        return _guarded(handler, check)

    async def _admit(self, terms: Terms, peer: str, authorization: str) -> None:
        quota = terms.quota
        bucket = f"{quota.name}:address:{address_of(peer)}"
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


def _guarded(
    handler: "grpc.RpcMethodHandler[Any, Any]", check: Callable[[Any], Awaitable[None]]
) -> "grpc.RpcMethodHandler[Any, Any]":
    """The same handler behind a check; a check that raises ends the call with the error's status."""
    single: Any = handler.unary_unary or handler.stream_unary
    stream: Any = handler.unary_stream or handler.stream_stream

    async def passed(context: Any) -> None:
        try:
            await check(context)
        except Exception as error:  # noqa: BLE001 - the edge: every error becomes a status
            await abort(error, context)

    async def one(request: Any, context: Any) -> Any:
        await passed(context)
        return await single(request, context)

    async def many(request: Any, context: Any) -> Any:
        await passed(context)
        async for response in stream(request, context):
            yield response

    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    behaviour = many if handler.response_streaming else one
    made: grpc.RpcMethodHandler[Any, Any] = make(behaviour, handler.request_deserializer, handler.response_serializer)
    return made
