"""Makes an identity known to a swarm, with what the swarm asks of new ones: work, or an invitation.

Left out: the sandbox, the data and the machine (`joining.py`), and what an author submits (`drafts.py`).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from autoresearch import envelope, limits, work
from autoresearch.text import clean_line
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment
from volunteer.background import in_thread
from volunteer.client import Client
from volunteer.errors import InputError, RefusedError, WrongCoordinatorError
from volunteer.identity import Identity
from volunteer.results import Worker

_BITS_SAID: Final = 3  # a puzzle of fewer tries than 2^3 is solved before anybody could read about it


async def enrolment(
    client: Client,
    who: Identity,
    name: str,
    *,
    worker: Worker | None = None,
    invitation: str = "",
    tell: Callable[[str], None],
    at_ms: int,
) -> Envelope:
    """A signed enrolment of this identity, and of its machine when there is a `worker`. `at_ms`: Unix time.

    Raises:
        RefusedError: an operator shut this identity out.
        InputError: the swarm is by invitation and there is none.
        WrongCoordinatorError: it asks for more work than any swarm should.
    """
    swarm, standing = client.swarm, await client.standing(who.identity_id)
    if standing.HasField("ban"):
        reason = clean_line(standing.ban, limits.REASON_CHARACTERS)
        raise RefusedError(f"the operator of {swarm.address.target} shut this identity out: {reason}")
    message = Enrolment(protocol=limits.PROTOCOL, swarm_id=swarm.swarm_id, name=name, signed_at_ms=at_ms)
    if worker is not None:
        message.machine_id = worker.machine_id
        message.hardware.CopyFrom(worker.hardware)
        message.software.CopyFrom(worker.software)
        message.canary = worker.canary
    if not standing.enrolled:
        if swarm.by_invitation and not invitation:
            raise InputError("this swarm is by invitation: ask its operator for a code, and give it with --invitation")
        message.invitation = invitation
        message.work = await _solve(client, who, tell)
    return envelope.sign(message, envelope.ENROLMENT, who.key)


async def as_author(
    client: Client, who: Identity, name: str, invitation: str, tell: Callable[[str], None], *, at_ms: int
) -> None:
    """Enrolls an identity without a machine, unless the swarm knows it.

    Raises:
        VolunteerError: as `enrolment`, or the swarm refuses.
    """
    if not (await client.standing(who.identity_id)).enrolled:
        await client.enroll(await enrolment(client, who, name, invitation=invitation, tell=tell, at_ms=at_ms))


async def _solve(client: Client, who: Identity, tell: Callable[[str], None]) -> bytes:
    bits = client.swarm.work_bits
    if bits <= 0:
        return b""
    if bits > work.BITS_MOST:
        raise WrongCoordinatorError(
            f"{client.swarm.address.target} asks new identities for {bits} bits of work, and this program does "
            f"{work.BITS_MOST} at most: tell its operator"
        )
    if bits >= _BITS_SAID:
        tell(f"solving the swarm's puzzle, once for this identity (about {2**bits} tries of a tenth of a second)")
    asked = work.question(client.swarm.swarm_id, envelope.public_bytes(who.key))
    wanted = True
    try:
        answer = await in_thread(lambda: work.solve(asked, bits, lambda _: wanted))
    except asyncio.CancelledError:
        wanted = False  # the thread ends with the try under way
        raise
    assert answer is not None
    return answer
