"""Volunteers of one host take turns; a killed one leaves its place."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from volunteer.errors import MachineError
from volunteer.slots import Slots, Turn

TIMEOUT_S = 60.0
HOLDER = """
import asyncio, sys
from pathlib import Path
from volunteer.slots import Slots

async def main():
    turn = await Slots(Path(sys.argv[1]), 1).take()
    print("held", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


async def taken(slots: Slots) -> Turn:
    async with asyncio.timeout(TIMEOUT_S):
        return await slots.take()


async def waiting(slots: Slots, many: int) -> list["asyncio.Task[Turn]"]:
    """Tasks that stand in the queue in this order."""
    tasks = []
    for _ in range(many):
        tasks.append(asyncio.create_task(slots.take()))
        await asyncio.sleep(0)  # lets it take its ticket
    return tasks


async def test_the_first_to_wait_is_the_next_to_work(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 1)
    turn = await taken(slots)
    queue = await waiting(slots, 3)
    assert slots.others_wait()
    for position in range(3):
        turn.leave()
        async with asyncio.timeout(TIMEOUT_S):
            done, _ = await asyncio.wait(queue, return_when=asyncio.FIRST_COMPLETED)
        assert done == {queue[0]}, f"position {position}"
        turn = queue.pop(0).result()
    turn.leave()
    assert not slots.others_wait()


async def test_who_comes_back_stands_behind_who_waits(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 1)
    turn = await taken(slots)
    (other,) = await waiting(slots, 1)
    turn.leave()
    (again,) = await waiting(slots, 1)
    async with asyncio.timeout(TIMEOUT_S):
        done, _ = await asyncio.wait([other, again], return_when=asyncio.FIRST_COMPLETED)
    assert done == {other}
    other.result().leave()
    (await again).leave()


async def test_trials_of_several_threads_take_several_places(tmp_path: Path) -> None:
    folder = tmp_path / "slots"
    one, two = Slots(folder, 3, need=1), Slots(folder, 3, need=2)
    small, large = await taken(one), await taken(two)
    (third,) = await waiting(two, 1)
    small.leave()
    assert not third.done()
    large.leave()
    async with asyncio.timeout(TIMEOUT_S):
        (await third).leave()


async def test_a_trial_larger_than_the_host_takes_it_all(tmp_path: Path) -> None:
    (await taken(Slots(tmp_path / "slots", 2, need=5))).leave()


async def test_giving_up_waiting_lets_the_next_one_pass(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 1)
    turn = await taken(slots)
    first, second = await waiting(slots, 2)
    first.cancel()
    turn.leave()
    async with asyncio.timeout(TIMEOUT_S):
        (await second).leave()
    assert first.cancelled()


async def test_a_killed_volunteer_frees_its_place_and_its_ticket(tmp_path: Path) -> None:
    folder = tmp_path / "slots"
    slots = Slots(folder, 1)
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # noqa: ASYNC220 - short
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        (folder / "ticket-000000000000").touch()  # of one that died waiting
        (mine,) = await waiting(slots, 1)
        assert not mine.done()
        holder.kill()
        async with asyncio.timeout(TIMEOUT_S):
            (await mine).leave()
    assert not list(folder.glob("ticket-*"))


async def test_a_folder_that_is_removed_is_made_again(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots" / "cpu", 1)
    turn = await taken(slots)
    queue = await waiting(slots, 2)
    shutil.rmtree(tmp_path / "slots")
    assert not slots.others_wait()
    for _ in range(2):  # one of them has the place by now, and then the other
        async with asyncio.timeout(TIMEOUT_S):
            done, left = await asyncio.wait(queue, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        done.pop().result().leave()
        queue = list(left)
    turn.leave()
    (await taken(slots)).leave()
    assert not list((tmp_path / "slots" / "cpu").glob("ticket-*"))


async def test_a_number_given_again_in_a_folder_made_again_is_anothers(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 1)
    first = await taken(slots)
    [early] = await waiting(slots, 1)
    shutil.rmtree(tmp_path / "slots")
    second = await taken(slots)
    [late] = await waiting(slots, 1)  # with the number that the early one had
    async with asyncio.timeout(TIMEOUT_S):
        while len(list((tmp_path / "slots").glob("ticket-*"))) < 2:  # the early one has queued up anew
            await asyncio.sleep(0.01)
    first.leave()
    second.leave()
    async with asyncio.timeout(TIMEOUT_S):
        (await late).leave()
        (await early).leave()
    assert not slots.others_wait()


async def test_the_spare_folder_is_shared_while_the_first_cannot_be_had(tmp_path: Path) -> None:
    login, spare = tmp_path / "login", tmp_path / "tmp" / "slots"
    login.mkdir()
    slots = Slots(login / "slots", 1, spare=spare)
    (await taken(slots)).leave()
    assert not spare.exists()
    shutil.rmtree(login)
    login.write_text("so that nobody can make it again")
    turn, another = await taken(slots), Slots(login / "slots", 1, spare=spare)
    (waits,) = await waiting(another, 1)
    assert slots.others_wait()
    turn.leave()
    async with asyncio.timeout(TIMEOUT_S):
        (await waits).leave()
    login.unlink()
    (await taken(slots)).leave()
    assert (login / "slots" / "place-0").exists()
    with pytest.raises(MachineError, match="--slots-dir"):
        Slots(spare / "place-0" / "slots", 1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_below_somebody_elses_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    Slots(theirs / "slots" / "cpu", 1)
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o700
    os.chown(theirs, 12345, 12345)
    with pytest.raises(MachineError, match="belongs to, or is writable by, others"):
        Slots(theirs / "slots" / "cpu", 1)


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "slots"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(MachineError, match="--slots-dir"):
        Slots(folder, 1)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(MachineError, match="--slots-dir"):
        Slots(tmp_path / "link", 1)
