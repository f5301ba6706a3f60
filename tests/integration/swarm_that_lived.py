"""A swarm's life on the wire, for tests of what is left of it: its ledger. Holds no test itself."""

import asyncio
from pathlib import Path

from autoresearch.digest import sha256_hex
from autoresearch.v1 import trial_pb2
from tests.integration.swarm_on_wire import SOURCE, Starter, Swarm, change

CARDS = ("H100", "A100", "RTX 4090")
SECOND = change("        print(RATE, batch)", "        print(RATE * 2, batch)")


async def live(swarm: Swarm) -> None:
    """A swarm's life: promotions, one of them merged, a patch parked, one crashed, one withdrawn, one still open."""
    author = swarm.peer("author")
    wide = await author.submit(change("WIDTH = 128", "WIDTH = 256"), "Wider", rationale="because")
    fast = await author.submit(SECOND, "Faster")
    peers = [await swarm.peer(name, card).start() for name, card in zip(("ada", "bea", "cyd"), CARDS, strict=True)]
    start = sha256_hex(SOURCE.encode())  # whatever became the best since is better, also when it is audited
    for patch in (wide, fast):
        while (await swarm.patch(patch.patch_id)).verdict != 2:
            for peer in peers:
                answer = await peer.ask()
                if isinstance(answer, trial_pb2.Order):
                    await peer.deliver(peer.result(answer, 1.0 if answer.source_sha256 == start else 0.985))
    useless = await author.submit(change("RATE = 0.003", "RATE = 0.0031", merged()), "Useless")
    broken = await author.submit(change("    return (WIDTH, config)", "    raise ValueError", merged()), "Broken")
    for peer in peers:
        for _ in range(4):
            answer = await peer.ask()
            if isinstance(answer, trial_pb2.Order):
                source = answer.source_sha256
                fate = (
                    "crashed"
                    if source == broken.candidate_sha256
                    else 0.995
                    if source == useless.candidate_sha256
                    else 0.985
                )
                await peer.deliver(peer.result(answer, fate, **({"log_tail": "boom"} if fate == "crashed" else {})))
    await author.withdraw((await author.submit(change("RATE = 0.003", "RATE = 0.0017", merged()), "Regret")).patch_id)
    await author.submit(change("RATE = 0.003", "RATE = 0.0019", merged()), "Open")


def merged() -> str:
    return SOURCE.replace("WIDTH = 128", "WIDTH = 256").replace("print(RATE, batch)", "print(RATE * 2, batch)")


async def settled(swarm: Swarm) -> None:
    """Everything that is in the ledger was followed."""
    store = swarm.running.app.records.store

    async def done() -> bool:
        return int(await store.get("meta", "followed") or 0) == await store.length("ledger")

    await swarm.until(done)


def make(folder: Path, made_swarm: Path) -> Path:
    """The data folder of a stopped coordinator whose swarm has lived."""
    starter = Starter(folder, made_swarm)

    async def run() -> None:
        async with starter() as swarm:
            await live(swarm)
            await settled(swarm)

    asyncio.run(run())
    return folder / "swarm"
