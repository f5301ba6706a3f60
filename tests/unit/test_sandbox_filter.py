"""The system-call filter, run by a small interpreter of the kernel's filter language: what it decides, call by call."""

import re
import struct
from pathlib import Path

import pytest

from trainer.sandbox import seccomp
from trainer.sandbox.syscalls import ARCHITECTURES

ALLOW, KILL = "allow", "kill"
EPERM, EINVAL, ENOSYS = 1, 22, 38
OWN_PID = 4321
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def decide(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> str | int:
    """What the kernel would do: allow, kill, or the error number the caller sees."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *[value & (2**64 - 1) for value in padded])
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x45:
            at += if_true if accumulator & value else if_false
        else:
            assert code == 0x06
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(value, value & 0xFFFF)


class Filtered:
    def __init__(self, machine: str, **wanted: object) -> None:
        defaults = {"processes": 1, "pid_namespace": False, "signals": False, "gpu": False}
        self.architecture, self.numbers = ARCHITECTURES[machine]
        self.program = seccomp.build(seccomp.Filter(OWN_PID, **(defaults | wanted)), machine)

    def __call__(self, name: str, *arguments: int) -> str | int:
        return decide(self.program, self.architecture, self.numbers[name], arguments)


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request):
    return request.param


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_the_numbers_are_the_kernels_own(machine):
    if not HEADERS[machine].exists():
        pytest.skip(f"the kernel's headers are not installed ({HEADERS[machine]})")
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", HEADERS[machine].read_text()))
    found.setdefault("newfstatat", found.get("fstatat"))  # the generic table's other name for it
    newer = {"futex_wake", "futex_wait", "futex_requeue", "map_shadow_stack", "fchmodat2"}  # than many headers
    for name, number in ARCHITECTURES[machine][1].items():
        assert name in newer or int(found[name]) == number, name


def test_every_jump_of_the_filter_lands_inside_it(machine):
    for gpu in (False, True):
        program = Filtered(machine, processes=8, gpu=gpu).program
        count = len(program) // 8
        assert count < 4096  # the kernel's limit
        for at in range(count):
            code, if_true, if_false, _ = struct.unpack_from("=HBBI", program, at * 8)
            assert code not in {0x15, 0x45} or at + 1 + max(if_true, if_false) < count


def test_a_call_of_another_architecture_kills(machine):
    filtered = Filtered(machine)
    i386 = 0x40000003
    assert decide(filtered.program, i386, filtered.numbers["read"]) == KILL


def test_an_unknown_call_looks_like_an_old_kernel(machine):
    filtered = Filtered(machine)
    x32 = 0x40000000
    assert decide(filtered.program, filtered.architecture, 999) == ENOSYS
    assert decide(filtered.program, filtered.architecture, x32 | filtered.numbers["read"]) == ENOSYS


@pytest.mark.parametrize("name", ["read", "write", "mmap", "futex", "execve", "getrandom", "openat", "exit_group"])
def test_a_computing_program_has_what_it_needs(machine, name):
    assert Filtered(machine)(name) == ALLOW


REACHING_OUT = """
socket connect bind ptrace process_vm_readv process_vm_writev pidfd_getfd pidfd_send_signal mount umount2 pivot_root
unshare setns keyctl add_key bpf perf_event_open userfaultfd io_uring_setup kexec_load init_module finit_module
rt_sigqueueinfo tkill truncate symlinkat mknodat personality fchown utimensat seccomp chroot
"""


@pytest.mark.parametrize("name", REACHING_OUT.split())
def test_what_reaches_out_is_not_permitted_in_any_configuration(machine, name):
    for wanted in ({}, {"processes": 8}, {"gpu": True, "processes": 8, "pid_namespace": True}):
        assert Filtered(machine, **wanted)(name) == EPERM


def test_one_process_may_start_threads_and_nothing_else(machine):
    one, several = Filtered(machine), Filtered(machine, processes=8)
    thread = 0x3D0F00  # what the C library passes for a thread
    vfork, child = 0x4111, 0x1200011
    assert one("clone", thread) == several("clone", thread) == ALLOW
    assert (one("clone", child), one("clone", vfork)) == (EPERM, EPERM)
    assert (several("clone", child), several("clone", vfork)) == (ALLOW, ALLOW)
    assert one("clone3") == several("clone3") == ENOSYS


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_no_process_starts_in_a_new_namespace(machine, flag):
    assert Filtered(machine, processes=8)("clone", flag | 17) == EPERM
    assert Filtered(machine, processes=8)("clone", flag | 0x3D0F00) == EPERM


def test_signals_go_to_itself_only_where_nothing_else_keeps_them_inside(machine):
    alone = Filtered(machine)
    assert alone("kill", OWN_PID, 9) == alone("kill", 0, 9) == alone("tgkill", OWN_PID, 1, 6) == ALLOW
    assert alone("kill", 1, 9) == alone("kill", -1, 9) == alone("kill", -OWN_PID, 9) == EPERM
    assert Filtered(machine, pid_namespace=True)("kill", 1, 9) == ALLOW
    assert Filtered(machine, signals=True)("kill", 1, 9) == ALLOW


def test_limits_of_another_process_are_out_of_reach(machine):
    for wanted in ({}, {"signals": True}):
        filtered = Filtered(machine, **wanted)
        assert filtered("prlimit64", 0) == filtered("prlimit64", OWN_PID) == ALLOW
        assert filtered("prlimit64", 1) == filtered("sched_setaffinity", 1) == EPERM


def test_leaving_the_process_group_is_pretended(machine):
    assert Filtered(machine)("setsid") == Filtered(machine)("setpgid") == Filtered(machine)("fchmod") == 0


def test_socket_pairs_are_connected_streams_between_own_processes(machine):
    unix, stream, datagram, raw, close_on_exec = 1, 1, 2, 3, 0o2000000
    assert Filtered(machine)("socketpair", unix, stream) == EPERM
    several = Filtered(machine, processes=8)
    assert several("socketpair", unix, stream | close_on_exec) == ALLOW
    assert several("socketpair", unix, datagram) == several("socketpair", unix, raw) == EPERM
    assert several("socketpair", 2, stream) == EPERM


def test_terminals_cannot_be_typed_into(machine):
    tiocsti, tcgets, tcsets = 0x5412, 0x5401, 0x5402
    for gpu in (False, True):
        filtered = Filtered(machine, gpu=gpu)
        assert filtered("ioctl", 0, tcgets) == ALLOW
        assert filtered("ioctl", 0, tiocsti) == filtered("ioctl", 0, tcsets) == EPERM


def test_gpu_drivers_are_called_only_where_there_is_one(machine):
    nvidia_control, unified_memory, unified_memory_start, amd_compute = 0xC020462A, 0x25, 0x30000001, 0x80084B01
    for call in (nvidia_control, unified_memory, unified_memory_start, amd_compute):
        assert Filtered(machine, gpu=True)("ioctl", 3, call) == ALLOW
        assert Filtered(machine)("ioctl", 3, call) == EPERM
    set_file_flags = 0x40086602
    assert Filtered(machine, gpu=True)("ioctl", 3, set_file_flags) == EPERM


def test_file_control_sets_no_owner_signal_lease_lock_or_pipe_size(machine):
    filtered = Filtered(machine)
    assert filtered("fcntl", 3, 1030) == filtered("fcntl", 3, 4) == ALLOW
    set_lock, set_owner, set_signal, set_owner_ex, set_lease, set_pipe_size = 6, 8, 10, 15, 1024, 1031
    for command in (set_lock, set_owner, set_signal, set_owner_ex, set_lease, set_pipe_size):
        assert filtered("fcntl", 3, command) == EPERM


def test_opening_for_reading_never_truncates(machine):
    filtered = Filtered(machine)
    read_only, write_only, truncate = 0, 1, 0o1000
    assert filtered("openat", 0, 0, read_only | truncate) == EPERM
    assert filtered("openat", 0, 0, write_only | truncate) == filtered("openat", 0, 0, read_only) == ALLOW


def test_which_pages_of_a_file_are_in_memory_is_neither_told_nor_settled(machine):
    """Two exam processes read the same libraries, one after the other."""
    filtered = Filtered(machine)
    no_wait, cold, page_out, not_needed, huge = 8, 20, 21, 4, 14
    assert filtered("mincore") == EPERM
    assert filtered("fadvise64") == filtered("readahead") == 0  # pretended
    assert filtered("preadv2", 3, 0, 1, 0, 0, 0) == ALLOW
    assert filtered("preadv2", 3, 0, 1, 0, 0, no_wait) == filtered("pwritev2", 3, 0, 1, 0, 0, no_wait) == 95
    assert filtered("madvise", 0, 0, not_needed) == filtered("madvise", 0, 0, huge) == ALLOW
    assert filtered("madvise", 0, 0, cold) == filtered("madvise", 0, 0, page_out) == EINVAL


def test_process_attributes_that_undo_protection_are_unknown(machine):
    filtered = Filtered(machine)
    set_death_signal, set_name, set_dumpable, set_filter, set_subreaper, set_tracer = 1, 15, 4, 22, 36, 0x59616D61
    assert filtered("prctl", set_name) == ALLOW
    for option in (set_death_signal, set_dumpable, set_filter, set_subreaper, set_tracer):
        assert filtered("prctl", option) == EINVAL
