"""Hostile programs run for real: each tries to reach something outside and must find nothing there."""

import fcntl
import os
import platform
import signal
import socket
from pathlib import Path

import pytest

# Prints one line for each attempt that worked.
ATTEMPT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, action):
    try:
        result = action()
    except (OSError, ValueError) as error:
        return
    print("worked:", name, result, flush=True)
def call(name, number, *arguments):
    attempt(name, lambda: fail(libc.syscall(number, *arguments)))
def fail(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
"""


def reached(sandbox, program, *arguments, **changes):
    """Runs `ATTEMPT` and the program; what worked."""
    ran = sandbox.run(ATTEMPT + program + "\nprint('tried')\n", *arguments, **changes)
    assert ran.output.endswith("tried\n"), ran.output
    return ran.output.removesuffix("tried\n")


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    facts = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        facts[str(path)] = (status.st_mode, status.st_nlink, status.st_mtime_ns, content)
    return facts


def test_no_socket_of_any_family_opens(sandbox):
    program = """
import socket
for family in range(64):
    for kind in (1, 2, 3, 5):
        attempt(f"socket {family} {kind}", lambda: socket.socket(family, kind))
attempt("pair", socket.socketpair)
"""
    assert reached(sandbox, program) == ""


def test_listening_services_are_not_reached(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0sandbox-test-{os.getpid()}")
        abstract.listen()
        program = """
import socket
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + sys.argv[2]))
attempt("name", lambda: socket.getaddrinfo("localhost", 80))
attempt("name", lambda: socket.gethostbyname("example.org"))
"""
        assert reached(sandbox, program, tcp.getsockname()[1], f"sandbox-test-{os.getpid()}") == ""


def test_worker_pools_talk_over_connected_streams_that_cannot_be_redirected(sandbox):
    program = """
import socket
one, other = socket.socketpair()
one.send(b"hello"); assert other.recv(9) == b"hello"
attempt("datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
attempt("connect", lambda: one.connect(chr(0) + "elsewhere"))
attempt("send to", lambda: one.sendto(b"x", chr(0) + "elsewhere"))
attempt("bind", lambda: one.bind(chr(0) + "here"))
"""
    assert reached(sandbox, program, processes=4) == ""


def test_nothing_outside_is_read_or_listed(sandbox):
    (sandbox.outside / "id_ed25519").write_text("a key")
    program = """
from pathlib import Path
home, outside = sys.argv[1:]
for folder in (home, outside, home + "/.ssh", "/", "/etc", "/root", "/home", "/var", "/tmp", "/run", "/mnt", "/boot"):
    attempt("list " + folder, lambda: os.listdir(folder))
for file in (outside + "/id_ed25519", "/etc/passwd", "/etc/shadow", "/etc/hosts", "/proc/self/environ", "/proc/1/maps"):
    attempt("read " + file, lambda: Path(file).read_bytes())
attempt("through /proc", lambda: Path("/proc/self/root" + outside + "/id_ed25519").read_bytes())
attempt("through cwd", lambda: Path("../outside/id_ed25519").read_bytes())
os.chdir("/")
attempt("from the root", lambda: Path(outside.lstrip("/") + "/id_ed25519").read_bytes())
attempt("execute", lambda: os.execv(outside + "/id_ed25519", ["x"]))
"""
    assert reached(sandbox, program, Path.home(), sandbox.outside) == ""


def test_even_names_outside_are_hidden_where_mount_namespaces_are_allowed(sandbox):
    (sandbox.outside / "diary").touch()
    ran = sandbox.run(f"import os; print(os.path.lexists({str(sandbox.outside / 'diary')!r}))")
    if "own root" not in ran.process.protection:
        pytest.skip(
            f"no mount namespace in this configuration ({ran.process.protection}): a guessed name can be checked"
        )
    assert ran.output == "False\n"


def test_nothing_outside_is_changed_in_any_way(sandbox):
    outside = sandbox.outside
    (outside / "file").write_text("precious")
    (outside / "folder").mkdir()
    before = snapshot(outside)
    program = """
from pathlib import Path
outside = Path(sys.argv[1]); file = outside / "file"
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT):
    attempt(f"open {flags:o}", lambda: os.open(file, flags))
attempt("make", lambda: os.open(outside / "new", os.O_CREAT | os.O_WRONLY))
attempt("nameless", lambda: os.open(outside, os.O_TMPFILE | os.O_WRONLY))
attempt("truncate", lambda: os.truncate(file, 0))
attempt("unlink", lambda: file.unlink())
attempt("rename away", lambda: file.rename("taken"))
attempt("rename within", lambda: file.rename(outside / "other"))
Path("mine").write_text("mine")
attempt("rename over", lambda: Path("mine").rename(file))
attempt("exchange", lambda: fail(libc.renameat2(-100, b"mine", -100, os.fsencode(file), 2)))
attempt("hard link in", lambda: os.link(file, "linked"))
attempt("hard link out", lambda: os.link("mine", outside / "linked"))
attempt("symbolic link in", lambda: os.symlink(file, "link"))
attempt("symbolic link out", lambda: os.symlink("x", outside / "link"))
attempt("mkdir", lambda: (outside / "made").mkdir())
attempt("rmdir", lambda: (outside / "folder").rmdir())
attempt("utime", lambda: os.utime(file, (1, 1)))
attempt("chown", lambda: os.chown(file, os.getuid(), os.getgid()))
attempt("xattr", lambda: os.setxattr(file, "user.x", b"1"))
os.chmod(file, 0o777); os.chmod(outside, 0)
"""
    reached_something = reached(sandbox, program, outside)
    assert (reached_something, snapshot(outside)) == ("", before)
    assert os.access(outside, os.R_OK | os.X_OK)


def test_what_may_be_read_may_not_be_changed(sandbox):
    readable = sandbox.outside / "library.py"
    readable.write_text("x = 1")
    before = snapshot(sandbox.outside)
    program = """
file = sys.argv[1]
assert open(file).read() == "x = 1"
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
    attempt(f"open {flags:o}", lambda: os.open(file, flags))
opened = os.open(file, os.O_RDONLY)
attempt("reopen", lambda: os.open(f"/proc/self/fd/{opened}", os.O_WRONLY))
attempt("truncate", lambda: os.truncate(file, 0))
attempt("ftruncate", lambda: os.ftruncate(opened, 0))
attempt("utime", lambda: os.utime(opened, (1, 1)))
attempt("xattr", lambda: os.setxattr(opened, "user.x", b"1"))
os.fchmod(opened, 0o777)
"""
    policy = sandbox.policy()
    assert reached(sandbox, program, readable, read_paths=(*policy.read_paths, readable)) == ""
    assert snapshot(sandbox.outside) == before


def test_only_plain_files_and_folders_are_made(sandbox):
    program = """
import socket, stat
attempt("fifo", lambda: os.mkfifo("fifo"))
attempt("device", lambda: os.mknod("device", 0o600 | stat.S_IFCHR, os.makedev(1, 3)))
attempt("block device", lambda: os.mknod("block", 0o600 | stat.S_IFBLK, os.makedev(7, 0)))
attempt("symbolic link", lambda: os.symlink("/etc/passwd", "link"))
os.mkdir("folder"); open("folder/file", "w").write("fine"); os.rename("folder/file", "file")
"""
    assert reached(sandbox, program) == ""
    assert sorted(path.name for path in sandbox.folder.iterdir()) == ["file", "folder"]


def test_shared_memory_and_temporary_folders_are_closed(sandbox):
    program = """
import tempfile
from multiprocessing import shared_memory
for folder in ("/dev/shm", "/tmp", "/var/tmp", "/run", "/dev", "/proc/self", "/sys"):
    attempt(folder, lambda: open(folder + "/x", "w"))
attempt("shared memory", lambda: shared_memory.SharedMemory(create=True, size=4096))
x86 = os.uname().machine == "x86_64"
call("shmget", 29 if x86 else 194, 0, 4096, 0o1600)
call("msgget", 68 if x86 else 186, 0, 0o1600)
call("semget", 64 if x86 else 190, 0, 1, 0o1600)
call("mq_open", 240 if x86 else 180, b"x", 0o102, 0o600, None)
call("memfd_create", 319 if x86 else 279, b"x", 0)
call("memfd_secret", 447, 0)
"""
    assert reached(sandbox, program) == ""


def test_which_pages_of_a_library_are_in_memory_cannot_be_asked_or_changed(sandbox):
    program = """
import mmap
file = open(os.__file__, "rb")
size = os.fstat(file.fileno()).st_size
pages = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(bytearray(1))))
attempt("read without waiting", lambda: os.preadv(file.fileno(), [bytearray(9)], 0, 8))
attempt("advise out", lambda: pages.madvise(21))
attempt("advise cold", lambda: pages.madvise(20))
x86 = os.uname().machine == "x86_64"
call("mincore", 27 if x86 else 232, address, 4096, ctypes.create_string_buffer(1))
call("cachestat", 451, file.fileno(), None, None, 0)
call("process_madvise", 440, 0, None, 0, 21, 0)
assert os.posix_fadvise(file.fileno(), 0, size, os.POSIX_FADV_DONTNEED) is None  # pretended
"""
    assert reached(sandbox, program) == ""


def test_a_lock_on_what_two_candidates_read_is_no_message(sandbox):
    readable = sandbox.outside / "library.py"
    readable.touch()
    program = """
import fcntl
fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)  # pretended, though somebody holds it
"""
    with readable.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert reached(sandbox, program, readable, read_paths=(*sandbox.policy().read_paths, readable)) == ""


def test_reading_leaves_no_time_behind_where_mount_namespaces_are_allowed(sandbox):
    readable = sandbox.outside / "library.py"
    readable.write_text("x = 1")
    os.utime(readable, (1, 2))  # read before it was written: the kernel would note the next reading
    read_paths = (*sandbox.policy().read_paths, readable)
    ran = sandbox.run("import sys; print(open(sys.argv[1]).read())", readable, read_paths=read_paths)
    assert ran.output == "x = 1\n"
    if "own root" not in ran.process.protection:
        pytest.skip(f"no mount namespace in this configuration ({ran.process.protection}): times of reading are noted")
    assert readable.stat().st_atime == 1


def test_other_processes_are_neither_seen_nor_touched(sandbox, bystander):
    program = """
import resource, signal
from pathlib import Path
pid = int(sys.argv[1])
for name in ("environ", "cmdline", "maps", "mem", "status", "stat", "comm"):
    attempt(name, lambda: Path(f"/proc/{pid}/{name}").read_bytes())
for name in ("fd", "cwd", "root", "task"):
    attempt(name, lambda: os.listdir(f"/proc/{pid}/{name}"))
for number in (0, signal.SIGCONT, signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
    attempt(f"signal {number} to the group", lambda: os.kill(-pid, number))
for number in (0, signal.SIGCONT, signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
    attempt(f"signal {number}", lambda: os.kill(pid, number))
attempt("limits", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (0, 0)))
attempt("affinity", lambda: os.sched_setaffinity(pid, {0}))
attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
attempt("everybody's priority", lambda: os.setpriority(os.PRIO_USER, 0, 19))
attempt("pidfd", lambda: os.pidfd_open(pid))
attempt("ptrace attach", lambda: fail(libc.ptrace(16, pid, 0, 0)))
attempt("ptrace seize", lambda: fail(libc.ptrace(0x4206, pid, 0, 0)))
x86 = os.uname().machine == "x86_64"
call("tkill", 200 if x86 else 130, pid, 0)
call("tgkill", 234 if x86 else 131, pid, pid, 0)
call("process_vm_readv", 310 if x86 else 270, pid, None, 0, None, 0, 0)
call("process_vm_writev", 311 if x86 else 271, pid, None, 0, None, 0, 0)
call("kcmp", 312 if x86 else 272, pid, os.getpid(), 0, 0, 0)
call("migrate_pages", 256 if x86 else 238, pid, 1, None, None)
call("ioprio_set", 251 if x86 else 30, 1, pid, 0)
call("process_madvise", 440, 3, None, 0, 0, 0)
"""
    assert reached(sandbox, program, bystander.pid) == ""


def test_a_signal_cannot_be_sent_by_way_of_a_file(sandbox, bystander):
    program = """
import fcntl
reading, writing = os.pipe()
for command, value in ((8, int(sys.argv[1])), (10, 9), (15, 0), (1024, 1), (1031, 1 << 20)):
    attempt(f"fcntl {command}", lambda: fcntl.fcntl(reading, command, value))
"""
    assert reached(sandbox, program, bystander.pid) == ""


def test_the_kernels_sharp_tools_are_out_of_reach(sandbox):
    program = """
x86 = os.uname().machine == "x86_64"
sharp = dict(mount=(165, 40), umount2=(166, 39), unshare=(272, 97), setns=(308, 268), bpf=(321, 280),
    perf_event_open=(298, 241), userfaultfd=(323, 282), keyctl=(250, 219), add_key=(248, 217), kexec_load=(246, 104),
    init_module=(175, 105), pivot_root=(155, 41), chroot=(161, 51), open_by_handle_at=(304, 265), swapon=(167, 224),
    name_to_handle_at=(303, 264), reboot=(169, 142), sethostname=(170, 161), syslog=(103, 116), quotactl=(179, 60),
    inotify_init1=(294, 26), fanotify_init=(300, 262), seccomp=(317, 277), acct=(163, 89), settimeofday=(170, 170),
    io_uring_setup=(425, 425), open_tree=(428, 428), fsopen=(430, 430), pidfd_open=(434, 434), clone3=(435, 435),
    openat2=(437, 437), pidfd_getfd=(438, 438), landlock_create_ruleset=(444, 444), mount_setattr=(442, 442),
    setuid=(105, 146), setresuid=(117, 147), capset=(126, 91), execveat=(322, 281), vmsplice=(278, 75))
for name, numbers in sharp.items():
    call(name, numbers[0] if x86 else numbers[1], 0, 0, 0, 0, 0)
if x86:
    call("x32 getpid", 0x40000000 | 39)
attempt("become root", lambda: os.setuid(0))
attempt("death signal", lambda: fail(libc.prctl(1, 0, 0, 0, 0)))
attempt("dumpable", lambda: fail(libc.prctl(4, 0, 0, 0, 0)))
"""
    assert reached(sandbox, program, processes=8) == ""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls of another architecture exist on x86-64 only")
def test_a_call_of_the_old_architecture_ends_the_program(sandbox):
    program = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))  # getpid as a 32-bit program asks it
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
print("worked")
"""
    ran = sandbox.run(program)
    assert (ran.status, ran.output) == (-signal.SIGSYS, "")


def test_no_privilege_is_left(sandbox):
    ran = sandbox.run("print(open('/proc/self/status').read())")
    facts = dict(line.split(":\t", 1) for line in ran.output.splitlines() if ":\t" in line)
    assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_only_given_descriptors_and_variables_come_in(sandbox):
    secret = sandbox.outside / "secret"
    secret.write_text("secret")
    given_reading, given_writing = os.pipe()
    with secret.open() as leaked:
        os.set_inheritable(leaked.fileno(), True)
        program = """
        import os, sys
        given = int(sys.argv[1])
        os.write(given, b"through the given one")
        print(sorted(set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, given})[1:], dict(os.environ))
        """
        ran = sandbox.run(program, given_writing, env={"ONLY": "this"}, pass_fds=(given_writing,))
    os.close(given_writing)
    with os.fdopen(given_reading, "rb") as reading:
        assert reading.read() == b"through the given one"
    assert ran.output == "[] {'ONLY': 'this', 'LC_CTYPE': 'C.UTF-8'}\n"


def test_one_process_cannot_become_two_but_has_threads(sandbox):
    program = """
import subprocess, threading
attempt("fork", os.fork)
attempt("run", lambda: subprocess.run([sys.executable, "-c", ""]))
attempt("spawn", lambda: os.posix_spawn(sys.executable, ["python"], {}))
attempt("system", lambda: fail(-os.system("true")))
attempt("clone", lambda: fail(libc.syscall(56 if os.uname().machine == "x86_64" else 220, 17, 0, 0, 0, 0)))
threads = [threading.Thread(target=print, args=("thread",)) for _ in range(3)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
"""
    assert reached(sandbox, program) == "thread\n" * 3


def test_the_process_group_cannot_be_left(sandbox):
    program = """
import os
before = os.getsid(0), os.getpgid(0)
os.setsid(); os.setpgid(0, 0); os.setpgrp() if hasattr(os, "setpgrp") else None
print((os.getsid(0), os.getpgid(0)) == before)
"""
    assert sandbox.run(program).output == "True\n"
