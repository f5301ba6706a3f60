"""How fast the embedded store starts, answers durable writes and comes back with data. `make bench` runs it.

Every write here is flushed to disk before it is answered, as a result's acknowledgement is.
"""

import asyncio
import tempfile
from pathlib import Path
from time import perf_counter

import click
import redis.asyncio

from coordinator.embedded import EmbeddedStore

WRITES = 10_000
VALUE = bytes(1024)  # about a ledger entry


async def durable_writes(url: str, connections: int) -> float:
    """Writes per second over so many connections, each waiting for its answer before it writes again."""

    async def write(client: redis.asyncio.Redis, share: int) -> None:
        for _ in range(share):
            await client.rpush("ledger", VALUE)

    pool = redis.asyncio.ConnectionPool.from_url(url, max_connections=connections)
    async with redis.asyncio.Redis(connection_pool=pool) as client:
        begun = perf_counter()
        await asyncio.gather(*(write(client, WRITES // connections) for _ in range(connections)))
        elapsed = perf_counter() - begun
    await pool.disconnect()
    return WRITES / elapsed


def start_ms(data_dir: Path) -> tuple[EmbeddedStore, str, float]:
    """A started store, its address, and how long that took."""
    store = EmbeddedStore(data_dir)
    begun = perf_counter()
    url = store.start(60)
    return store, url, 1000 * (perf_counter() - begun)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        store, url, took = start_ms(data_dir)
        click.echo(f"embedded store: empty start          {took:8.0f} ms")
        for connections in (1, 8, 32):
            rate = asyncio.run(durable_writes(url, connections))
            click.echo(f"embedded store: durable writes, {connections:2} conn. {rate:8,.0f} /s")
        store.stop()
        mebibytes = sum(path.stat().st_size for path in data_dir.rglob("*.aof")) / 2**20
        store, _, took = start_ms(data_dir)
        click.echo(f"embedded store: start with {mebibytes:3.0f} MiB      {took:8.0f} ms")
        store.stop()


if __name__ == "__main__":
    main()
