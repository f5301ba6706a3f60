"""Takes a call's messages in: in turn, within a time, and parsed where a failure can be answered.

gRPC would read the one message of an ordinary call before anything of ours runs, for as long as its sender likes, and
would answer one that cannot be parsed with UNKNOWN and its own words. So every call is read here, as a stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from coordinator.places import Places
from coordinator.refusals import InvalidRequestError, TooSlowError

READ_S: Final = 30.0  # a whole message comes within this: the largest over a line of half a megabit a second
LEAST_SHARE: Final = 1 / 15  # of that time, when hardly a place is left: what was sent with its call is there by then
# Calls whose message is awaited at once, in this process and from one address; the others wait. With the limit on a
# message that is the most memory that half-sent ones take.
READING_MOST: Final = 128
READING_OF_ADDRESS: Final = 16

Parse = Callable[[bytes], Any]


class Receiver:
    """Reads the messages of all calls of a process."""

    def __init__(self, *, read_s: float = READ_S) -> None:
        self._read_s = read_s
        self._places = Places(READING_MOST, READING_OF_ADDRESS)

    async def only(self, requests: AsyncIterator[bytes], parse: Parse, address: str) -> Any:
        """The one message of a call.

        Raises:
            InvalidRequestError: there is none, or it cannot be parsed.
            TooSlowError: it did not come in time.
        """
        async with self._places.one(address):
            patience_s = self._patience_s()
            try:
                async with asyncio.timeout(patience_s):
                    data = await anext(aiter(requests), None)
            except TimeoutError as error:
                raise TooSlowError(f"the call's message did not come within {patience_s:.2g} s: call again") from error
        if data is None:
            raise InvalidRequestError("the call carries no message")
        return parsed(data, parse)

    def _patience_s(self) -> float:
        """How long a message is waited for: the less, the fewer places are left, so that no flood of slow ones, from
        however many addresses, keeps them for long."""
        left = (1 + self._places.free) / self._places.most
        return self._read_s * max(left * left, LEAST_SHARE)


async def each(requests: AsyncIterator[bytes], parse: Parse) -> AsyncIterator[Any]:
    """The messages of a stream as they come.

    Raises:
        InvalidRequestError: one cannot be parsed.
    """
    async for data in requests:
        yield parsed(data, parse)


def parsed(data: bytes, parse: Parse) -> Any:
    """A message.

    Raises:
        InvalidRequestError: it is none of the kind expected.
    """
    try:
        return parse(data)
    except (DecodeError, ValueError) as error:
        raise InvalidRequestError("the call's message cannot be parsed") from error
