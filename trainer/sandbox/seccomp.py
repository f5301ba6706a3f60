"""The system-call filter: what a computing program needs, and an error for everything else.

An allow-list, so that a call the kernel learns tomorrow is refused as ENOSYS, which C libraries treat as an old kernel.
Beyond the plain list:

- No sockets of any family, AF_UNIX too. With a GPU, and for programs of several processes, connected stream pairs are
  allowed (worker pools talk over them); datagram pairs never, since those can be sent to any address.
- No signal, limit or affinity for another process where neither a pid namespace nor Landlock keeps them apart.
- `setsid` and `setpgid` succeed and do nothing: the candidate's processes stay in one process group for ever, which is
  what makes one `kill` reach them all at once (see `supervisor.py`). Worker pools call `setsid` and carry on.
- `chmod` likewise: Landlock does not mediate it, so it could spoil files outside, while tools that use it on their own
  output do not depend on it. `utime`, `chown` and extended attributes are not mediated either, and fail.
- `flock` likewise: a lock on a library that two candidates read is a message from one to the other. Caches that lock
  their own files are used by one candidate alone, and rename what they finished into its place.
- What tells or settles which pages of a file are in memory is refused or pretended: `mincore`, `fadvise64`,
  `readahead`, reads that do not wait, advice to drop pages. One candidate could leave a message for the next in the
  libraries that both read. What a slow read still tells is said in docs/decisions/exam.md.
- One process: starting another fails with EPERM. `clone3` is always ENOSYS, since a filter cannot read its arguments;
  the C library then uses `clone`, whose flags can be read.

Leaves out paths, which a filter cannot see: `landlock.py`.
"""

import ctypes
import os
import struct
import sys

from trainer.sandbox import kernel
from trainer.sandbox.syscalls import ARCHITECTURES

# As text: a list of 150 quoted names would not be read.
_ALLOWED = """
read write open openat close stat fstat lstat newfstatat statx poll ppoll lseek mmap mprotect munmap brk rt_sigaction
rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pread64 pwrite64 readv writev preadv
pwritev access faccessat faccessat2 pipe pipe2 select pselect6 sched_yield mremap msync
dup dup2 dup3 pause nanosleep clock_nanosleep getitimer setitimer alarm getpid gettid getppid sendfile exit exit_group
wait4 waitid uname fsync fdatasync ftruncate fallocate getdents64 getdents getcwd chdir fchdir
rename renameat renameat2 mkdir mkdirat rmdir creat unlink unlinkat link linkat readlink readlinkat umask gettimeofday
time times getrlimit setrlimit getrusage sysinfo getuid getgid geteuid getegid getresuid getresgid getgroups getpgrp
getpgid getsid capget statfs fstatfs sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval sched_getaffinity getpriority mlock munlock mlock2 mlockall munlockall arch_prctl set_tid_address
set_robust_list futex futex_waitv futex_wake futex_wait futex_requeue epoll_create epoll_create1 epoll_ctl epoll_wait
epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 timerfd_create timerfd_settime timerfd_gettime timer_create
timer_settime timer_gettime timer_getoverrun timer_delete clock_gettime clock_getres restart_syscall getrandom
copy_file_range membarrier rseq getcpu execve get_mempolicy set_mempolicy mbind pkey_alloc pkey_free pkey_mprotect
close_range map_shadow_stack
""".split()  # noqa: SIM905 - as above
_PRETENDED = "setsid setpgid chmod fchmod fchmodat fchmodat2 fadvise64 readahead flock".split()  # noqa: SIM905 - as above
# Named only so that the error reads "not permitted" rather than "not implemented".
_FORBIDDEN = """
socket connect bind ptrace process_vm_readv process_vm_writev rt_sigqueueinfo rt_tgsigqueueinfo tkill pidfd_send_signal
pidfd_getfd mount umount2 pivot_root chroot unshare setns keyctl add_key request_key bpf perf_event_open userfaultfd
io_uring_setup kexec_load init_module finit_module truncate symlink symlinkat mknod mknodat personality chown fchown
lchown fchownat utime utimes futimesat utimensat seccomp mincore
""".split()  # noqa: SIM905 - as above
_PAIR_CALLS = "sendto recvfrom sendmsg recvmsg shutdown getsockopt getsockname".split()  # noqa: SIM905 - as above

_EPERM, _EINVAL, _EOPNOTSUPP = 1, 22, 95
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

_PRCTL = (3, 15, 16, 21, 23, 29, 30, 37, 39, 41, 42, 51, 0x53564D41)  # names, THP, vector length, queries
# No owner, signal or lease, which reach other processes; no range locks or pipe sizes, which take the kernel's memory.
_FCNTL = (0, 1, 2, 3, 4, 5, 9, 36, 1030, 1032, 1033, 1034)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x540F)  # terminal queries, FIONREAD, FIONBIO, close-on-exec
_GPU_IOCTL_TYPES = (0x46, 0x4B, 0x64)  # NVIDIA's, AMD's compute, the kernel's graphics
_UVM_IOCTL = (0x30000001, 0x30000002)
_UVM_HIGHEST = 0xFFF  # NVIDIA's unified memory numbers its other calls from 1, with no type

_MADV_COLD, _MADV_PAGEOUT = 20, 21

_CLONE_THREAD, _CLONE_PARENT, _CLONE_NAMESPACES = 0x10000, 0x8000, 0x7E020000
_O_ACCMODE_AND_TRUNC, _O_RDONLY_AND_TRUNC = 0o1003, 0o1000
_SOCK_TYPE, _SOCK_STREAM, _AF_UNIX = 0xF, 1, 1

_Instructions = list[tuple[int, int, int, int]]


class Filter:
    """What the filter depends on.

    own_pid: the candidate's first process as it sees itself.
    processes: more than 1 allows starting processes.
    pid_namespace: whether processes outside have no number for it.
    signals: whether something else already keeps signals inside.
    gpu: whether GPU drivers are called.
    """

    def __init__(self, own_pid: int, processes: int, *, pid_namespace: bool, signals: bool, gpu: bool) -> None:
        self.own_pid = own_pid
        self.processes = processes
        self.pid_namespace = pid_namespace
        self.signals = signals or pid_namespace
        self.gpu = gpu


def install(wanted: Filter) -> None:
    """Put this process and all it starts under the filter, for good. Raises OSError. Needs no_new_privs set."""
    program = build(wanted, os.uname().machine)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions)))
    # Without this flag, kernels before 5.16 switch off speculation for filtered programs, which slows training.
    set_mode_filter, spec_allow = 1, 4
    number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
    kernel.syscall(number, set_mode_filter, spec_allow, header)


def supported() -> bool:
    """Whether the filter knows this processor."""
    return os.uname().machine in ARCHITECTURES and sys.maxsize > 2**32 and sys.byteorder == "little"


def build(wanted: Filter, machine: str) -> bytes:
    """The filter as the kernel's instructions, 8 bytes each."""
    architecture, numbers = ARCHITECTURES[machine]
    program: _Instructions = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _NUMBER_AT))
    for name, body in _bodies(wanted).items():
        if name in numbers:
            program.append((_EQUAL, 0, len(body), numbers[name]))
            program += body
    program.append((_RETURN, 0, 0, _ERRNO | 38))  # ENOSYS
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _bodies(wanted: Filter) -> dict[str, _Instructions]:
    """For each call, the instructions that decide it; each ends in a return."""
    bodies = {name: _verdict(_ALLOW) for name in _ALLOWED}
    bodies |= {name: _verdict(_ERRNO) for name in _PRETENDED}
    bodies |= {name: _verdict(_ERRNO | _EPERM) for name in _FORBIDDEN}
    bodies |= {name: _unless(2 if name == "openat" else 1) for name in ("open", "openat")}
    bodies |= {name: _one_of(5, (0,), _EOPNOTSUPP) for name in ("preadv2", "pwritev2")}
    bodies["madvise"] = _none_of(2, (_MADV_COLD, _MADV_PAGEOUT), _EINVAL)
    bodies |= {"prctl": _one_of(0, _PRCTL, _EINVAL), "fcntl": _one_of(1, _FCNTL, _EPERM), "ioctl": _ioctl(wanted.gpu)}
    return bodies | _starting(wanted) | _reaching(wanted) | _pairs(wanted)


def _starting(wanted: Filter) -> dict[str, _Instructions]:
    """Threads always; processes where the policy has more than one."""
    several = wanted.processes > 1
    whole = _verdict(_ALLOW if several else _ERRNO | _EPERM)
    refuse = (_RETURN, 0, 0, _ERRNO | _EPERM)
    clone: _Instructions = [_argument(0), (_ANY_BIT, 0, 1, _CLONE_NAMESPACES | _CLONE_PARENT), refuse]
    if not several:
        clone += [(_ANY_BIT, 1, 0, _CLONE_THREAD), refuse]
    return {"clone": clone + _verdict(_ALLOW), "fork": whole, "vfork": whole}


def _reaching(wanted: Filter) -> dict[str, _Instructions]:
    """Calls that name a process: only itself, unless a signal cannot leave anyway."""
    own = (0, wanted.own_pid)
    signal = _verdict(_ALLOW) if wanted.signals else _one_of(0, own, _EPERM)
    return {
        "kill": signal,
        "tgkill": signal,
        "prlimit64": _one_of(0, own, _EPERM),
        "sched_setaffinity": _verdict(_ALLOW) if wanted.pid_namespace else _one_of(0, own, _EPERM),
    }


def _pairs(wanted: Filter) -> dict[str, _Instructions]:
    if not wanted.gpu and wanted.processes == 1:
        return {"socketpair": _verdict(_ERRNO | _EPERM)}
    refuse = (_RETURN, 0, 0, _ERRNO | _EPERM)
    stream: _Instructions = [_argument(0), (_EQUAL, 1, 0, _AF_UNIX), refuse, _argument(1), (_AND, 0, 0, _SOCK_TYPE)]
    stream += [(_EQUAL, 1, 0, _SOCK_STREAM), refuse]
    bodies = {name: _verdict(_ALLOW) for name in _PAIR_CALLS}
    if wanted.gpu:  # drivers keep code in anonymous files; the watch counts them
        bodies["memfd_create"] = _verdict(_ALLOW)
    return bodies | {"socketpair": stream + _verdict(_ALLOW)}


def _ioctl(gpu: bool) -> _Instructions:
    """Queries on plain files and terminals, and GPU drivers' own calls; nothing that types into a terminal."""
    body = _one_of(1, _IOCTL + (_UVM_IOCTL if gpu else ()), _EPERM)
    if not gpu:
        return body
    # What is left of the number without the low 12 bits is nothing: a unified memory call.
    body = [*body[:-1], (_ANY_BIT, 1, 0, 0xFFFFFFFF ^ _UVM_HIGHEST), (_RETURN, 0, 0, _ALLOW), (_AND, 0, 0, 0xFF00)]
    for kind in _GPU_IOCTL_TYPES:
        body += [(_EQUAL, 0, 1, kind << 8), (_RETURN, 0, 0, _ALLOW)]
    return body + _verdict(_ERRNO | _EPERM)


def _unless(flags_argument: int) -> _Instructions:
    """Refuse to open for reading and truncate at once: older Landlock lets that empty a file one may only read."""
    test = (_EQUAL, 0, 1, _O_RDONLY_AND_TRUNC)
    refuse = (_RETURN, 0, 0, _ERRNO | _EPERM)
    return [_argument(flags_argument), (_AND, 0, 0, _O_ACCMODE_AND_TRUNC), test, refuse, *_verdict(_ALLOW)]


def _one_of(argument: int, values: tuple[int, ...], error: int) -> _Instructions:
    body: _Instructions = [_argument(argument)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return body + _verdict(_ERRNO | error)


def _none_of(argument: int, values: tuple[int, ...], error: int) -> _Instructions:
    body: _Instructions = [_argument(argument)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | error)]
    return body + _verdict(_ALLOW)


def _verdict(value: int) -> _Instructions:
    return [(_RETURN, 0, 0, value)]


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the low half of an argument; the kernel reads all the arguments looked at here as 32 bits."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)
