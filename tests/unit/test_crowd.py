"""How many calls an address, and everybody together, may have open; and how a call's message is taken in."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from autoresearch.v1.patch_service_pb2 import GetPatchRequest
from coordinator import receiving
from coordinator.crowd import Crowd
from coordinator.quotas import Quota
from coordinator.receiving import READING_MOST, READING_OF_ADDRESS, Receiver
from coordinator.refusals import InvalidRequestError, TooOftenError, TooSlowError

FEW = Quota("few", address_every_ms=1, address_burst=1, address_open=2)
OTHER = Quota("other", address_every_ms=1, address_burst=1, address_open=2)
PARSE = GetPatchRequest.FromString
DATA = GetPatchRequest(patch_id="0" * 16).SerializeToString()


def test_an_address_has_so_many_calls_of_a_kind_open() -> None:
    crowd = Crowd()
    with crowd.inside(FEW, "a"), crowd.inside(FEW, "a"):
        with pytest.raises(TooOftenError, match="from your address") as refused, crowd.inside(FEW, "a"):
            pass
        assert refused.value.wait_ms > 0
        with crowd.inside(FEW, "b"), crowd.inside(OTHER, "a"):
            pass
    with crowd.inside(FEW, "a"):
        pass


def test_there_is_room_for_so_many_together_and_a_call_that_failed_gives_its_place_back() -> None:
    crowd = Crowd(most=1)

    def failing() -> None:
        with crowd.inside(FEW, "a"):
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    with crowd.inside(FEW, "a"), pytest.raises(TooOftenError, match="as it can take"), crowd.inside(FEW, "b"):
        pass


async def sent(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def silent() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def test_a_call_has_one_message() -> None:
    receiver = Receiver()
    assert (await receiver.only(sent([DATA]), PARSE, "a")).patch_id == "0" * 16
    with pytest.raises(InvalidRequestError, match="no message"):
        await receiver.only(sent([]), PARSE, "a")
    with pytest.raises(InvalidRequestError, match="cannot be parsed"):
        await receiver.only(sent([b"\xff"]), PARSE, "a")


async def test_a_stream_ends_at_what_cannot_be_parsed() -> None:
    messages = receiving.each(sent([DATA, b"\xff"]), PARSE)
    assert (await anext(messages)).patch_id == "0" * 16
    with pytest.raises(InvalidRequestError, match="cannot be parsed"):
        await anext(messages)


async def test_a_message_that_does_not_come_is_not_waited_for() -> None:
    with pytest.raises(TooSlowError, match=r"within 0\.01 s"):
        await Receiver(read_s=0.01).only(silent(), PARSE, "a")


async def test_an_address_that_sends_slowly_keeps_only_itself_waiting() -> None:
    receiver = Receiver(read_s=60.0)
    slow = [asyncio.create_task(receiver.only(silent(), PARSE, "a")) for _ in range(READING_OF_ADDRESS)]
    await asyncio.sleep(0)
    behind = asyncio.create_task(receiver.only(sent([DATA]), PARSE, "a"))
    assert (await receiver.only(sent([DATA]), PARSE, "b")).patch_id == "0" * 16
    assert not behind.done()
    slow[0].cancel()
    assert (await behind).patch_id == "0" * 16
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)


async def test_slow_senders_from_many_addresses_keep_nobody_waiting_for_long() -> None:
    receiver = Receiver(read_s=6.0)
    addresses = range(2 * READING_MOST // READING_OF_ADDRESS)
    slow = [
        asyncio.create_task(receiver.only(silent(), PARSE, f"slow {address}"))
        for address in addresses
        for _ in range(READING_OF_ADDRESS)
    ]
    await asyncio.sleep(0)
    assert (await receiver.only(sent([DATA]), PARSE, "honest")).patch_id == "0" * 16
    assert not slow[0].done()  # who came while there was room is given its time
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
