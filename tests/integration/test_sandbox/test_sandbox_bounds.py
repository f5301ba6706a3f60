"""Bombs, each of bounded size so that a broken sandbox fails the test and not the machine."""

import signal

import pytest

MIB = 1 << 20


def test_private_memory_past_the_bound_is_refused_at_once(sandbox):
    ran = sandbox.run("bytearray(1 << 30)", memory_bytes=256 * MIB)
    assert (ran.status, ran.output.splitlines()[-1]) == (1, "MemoryError")


def test_shared_memory_past_the_bound_ends_the_program(sandbox):
    program = """
    import mmap, time
    memory = mmap.mmap(-1, 1 << 30)
    for begin in range(0, 1 << 30, 1 << 20):
        time.sleep(0.005)  # who looks late still looks in time
        for page in range(begin, begin + (1 << 20), 4096):
            memory[page] = 1
    print("all of it")
    """
    ran = sandbox.run(program, memory_bytes=256 * MIB)
    assert (ran.status, ran.exceeded, ran.output) == (-signal.SIGKILL, "memory", "")
    assert 256 * MIB < ran.process.usage().peak_memory_bytes < 1 << 30


def test_memory_of_all_processes_together_is_bounded(sandbox):
    program = """
    import os, time
    for _ in range(4):
        if os.fork() == 0:
            hold = bytearray(os.urandom(1 << 20)) * 100
            time.sleep(600)
    time.sleep(600)
    """
    ran = sandbox.run(program, memory_bytes=256 * MIB, processes=8)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "memory")


def test_memory_shared_after_a_fork_is_counted_once(sandbox):
    program = """
    import os, time
    hold = bytearray(os.urandom(1 << 20)) * 150
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            time.sleep(1)
            os._exit(0)
        children.append(pid)
    print([os.waitpid(pid, 0)[1] for pid in children])
    """
    ran = sandbox.run(program, memory_bytes=256 * MIB, processes=8)
    assert (ran.status, ran.exceeded, ran.output) == (0, None, "[0, 0, 0, 0]\n")


def test_a_fork_bomb_is_ended_with_all_it_made(sandbox, session_members):
    program = """
    import os
    for _ in range(9):  # 512 at most
        os.fork()
    while True:
        pass
    """
    ran = sandbox.run(program, processes=32)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "processes")
    assert session_members(ran.process.pid) == []


def test_a_thread_bomb_is_ended(sandbox):
    if sandbox.kind != "landlock":
        pytest.skip("the same watch in both configurations, and thousands of threads are slow to make")
    program = """
    import threading
    threading.stack_size(32768)
    for _ in range(6000):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    print("made")
    threading.Event().wait(60)
    """
    ran = sandbox.run(program, memory_bytes=2048 * MIB)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "threads")


def test_processor_time_of_all_is_bounded(sandbox):
    program = """
    import os
    os.fork()
    while True:
        pass
    """
    ran = sandbox.run(program, processes=2, cpu_s=1)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "cpu")
    assert 1 <= ran.process.usage().cpu_s < 8


def test_one_file_is_bounded_sparse_or_not(sandbox):
    program = """
    import os
    file = open("large", "wb")
    for attempt in (lambda: file.truncate(100 << 30), lambda: os.posix_fallocate(file.fileno(), 0, 100 << 30),
                    lambda: os.pwrite(file.fileno(), b"x", 100 << 30)):
        try:
            attempt()
        except OSError as error:
            print(error.strerror)
    """
    ran = sandbox.run(program)
    assert ran.output == "File too large\n" * 3


def test_many_files_together_are_bounded(sandbox):
    program = """
    for number in range(100):
        with open(str(number), "wb") as file:
            file.write(bytes(1 << 20))
    import time; time.sleep(60)
    """
    ran = sandbox.run(program, file_bytes=2 * MIB)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "disk")


def test_files_without_a_name_are_counted(sandbox):
    program = """
    import os, time
    held = []
    for number in range(16):
        held.append(open("file", "wb"))
        held[-1].write(bytes(1 << 20))
        held[-1].flush()
        os.unlink("file")
    time.sleep(60)
    """
    ran = sandbox.run(program, file_bytes=4 * MIB)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "disk")


def test_a_flood_of_empty_files_is_bounded(sandbox):
    program = """
    import os, time
    open("file", "w").close()
    for number in range(25_000):
        os.link("file", str(number))  # a name more, no file more: cheap to make and to remove
    time.sleep(60)
    """
    ran = sandbox.run(program)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "disk")


def test_a_folder_too_deep_to_be_looked_into_counts_as_full(sandbox):
    program = """
    import os, time
    for _ in range(40):
        os.mkdir("x" * 200)
        os.chdir("x" * 200)
    time.sleep(60)
    """
    ran = sandbox.run(program)
    assert (ran.status, ran.exceeded) == (-signal.SIGKILL, "disk")


def test_rewriting_a_file_is_honest_up_to_a_point(sandbox):
    program = """
    for _ in range(20):
        with open("checkpoint.new", "wb") as file:
            file.write(bytes(4 << 20))
        import os; os.replace("checkpoint.new", "checkpoint")
    """
    ran = sandbox.run(program, file_bytes=4 * MIB)
    assert (ran.status, ran.exceeded) == (0, None)


def test_the_limits_cannot_be_raised_again(sandbox):
    program = """
    import resource
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_DATA, resource.RLIMIT_AS, resource.RLIMIT_CPU):
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print("raised", kind)
        except (OSError, ValueError):
            pass
    """
    assert sandbox.run(program).output == ""
