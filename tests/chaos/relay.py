"""TCP relays on 127.0.0.1 that cut, silence and delay what goes through them, and one that finds who serves.

`Front` stands where an operator's load balancer would: it sends connections to the coordinator that answers with TLS,
keeps to it while it does, and hangs up on everybody when it stops.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Sequence

CHUNK_BYTES = 1 << 16
CHECK_EVERY_S = 0.3
ANSWER_S = 1.0  # a coordinator that does not finish its handshake by then is out
FAILURES = 2  # in a row


class Relay:
    """Relays to one port; 0: nobody is there."""

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self.port = 0
        self.delay_s = 0.0  # one way
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "Relay":
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Hangs up for good."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Hangs up on everybody."""
        for writer in list(self._open):
            writer.transport.abort()

    def silence(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._flowing.clear()

    def resume(self) -> None:
        """Everything goes through again."""
        self._flowing.set()
        self.delay_s = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._flowing.wait()
            if not self.target:
                return
            async with asyncio.timeout(ANSWER_S):
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except (OSError, TimeoutError):
            return
        finally:
            if "there" not in locals():
                self._open.discard(writer)
                writer.transport.abort()
        self._open.add(back)
        ways = [asyncio.create_task(self._pump(*way)) for way in ((reader, back), (there, writer))]
        self._tasks.update(ways)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ways:
                task.cancel()
                self._tasks.discard(task)
            for end in (writer, back):
                self._open.discard(end)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


class Front(Relay):
    """Relays to whichever of several ports serves."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__()
        self._failed = dict.fromkeys(ports, FAILURES)
        self.turns: list[tuple[float, int]] = []  # from when on who was served; 0: nobody

    async def watch(self) -> None:
        """Looks who serves, until cancelled."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        while True:
            answers = await asyncio.gather(*(_answers(port, context) for port in self._failed))
            for port, well in zip(self._failed, answers, strict=True):
                self._failed[port] = 0 if well else self._failed[port] + 1
            if not self.target or self._failed[self.target] >= FAILURES:
                self.target = next((port for port, failed in self._failed.items() if not failed), 0)
                self.cut()
                if not self.turns or self.turns[-1][1] != self.target:
                    self.turns.append((time.time_ns() / 1e9, self.target))
            await asyncio.sleep(CHECK_EVERY_S)


async def _answers(port: int, context: ssl.SSLContext) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
