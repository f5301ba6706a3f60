"""A root folder that holds only what the candidate may reach, where the kernel allows a mount namespace.

Landlock stops reading and writing but not `stat`: without this a candidate could still ask whether a file of a guessed
name exists. Everything keeps its path, links stay links. What is not to be written is mounted so: then the kernel notes
no time of reading either, by which one candidate could tell the next what it saw. Leaves out rights: those are
Landlock's, here as elsewhere.
"""

import os

from trainer.sandbox import kernel
from trainer.sandbox.syscalls import ARCHITECTURES

_NEW_MOUNTS = 0x00020000
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18
_NO_SUID, _NO_DEVICES, _NO_EXEC, _READ_ONLY, _REMOUNT, _DETACH = 2, 4, 8, 1, 32, 2
# The new root is host memory: room for the names of a few hundred mount points and no more.
_SIZE = "size=1m,nr_inodes=4096,mode=755"
_STEP = "/proc"  # a folder every system has, to mount the new root over for a moment
_LINKS_MAX = 40


def replace(paths: list[str], writable: str) -> bool:
    """Make `paths` and /proc all there is for this process and its children; whether that was allowed.

    writable: the one folder, of those, that is written.

    Changes nothing that is seen if not.
    """
    try:
        kernel.unshare(_NEW_MOUNTS)
        kernel.mount(None, "/", None, _RECURSIVE | _PRIVATE)
        links, binds = plan([*paths, "/proc"])
        kernel.mount("tmpfs", _STEP, "tmpfs", _NO_SUID | _NO_DEVICES, _SIZE)
    except OSError:
        return False
    try:
        _step_over()
        _fill(links, binds, writable)
    except OSError:
        _step_back()
        return False
    _settle()
    return True


def plan(paths: list[str]) -> tuple[dict[str, str], list[str]]:
    """The links to make anew, and the real files and folders to show, outermost first and none within another."""
    links: dict[str, str] = {}
    real = {_resolve(path, links) for path in paths}
    binds = [path for path in sorted(real) if not any(path.startswith(other + "/") for other in real)]
    return {link: to for link, to in links.items() if not any(link.startswith(path + "/") for path in binds)}, binds


def _resolve(path: str, links: dict[str, str]) -> str:
    """The path with every link followed; each link met on the way is put into `links`."""
    done, waiting = "", [part for part in reversed(path.split("/")) if part]
    budget = _LINKS_MAX
    while waiting:
        part = waiting.pop()
        if part == "..":
            done = os.path.dirname(done).rstrip("/")
            continue
        if part == ".":
            continue
        step = f"{done}/{part}"
        try:
            to = os.readlink(step)
        except OSError:
            done = step
            continue
        budget -= 1
        if budget < 0:
            raise OSError(f"too many links on the way to {path}")
        links[step] = to
        done = "" if to.startswith("/") else done
        waiting += [part for part in reversed(to.split("/")) if part]
    return done


def _step_over() -> None:
    """Stand in the empty file system: the whole old one beneath /old, the new one to be made beneath /new."""
    os.chdir(_STEP)
    for name in ("old", "new"):
        os.mkdir(name, 0o755)
    _pivot(".", "old")
    os.chdir("/")
    kernel.mount("/new", "/new", None, _BIND)


def _step_back() -> None:
    os.chdir("/old" if os.path.isdir("/old/proc") else "/")
    if os.getcwd() != "/":
        _pivot(".", _STEP[1:])
        os.chdir("/")
    kernel.umount(_STEP, _DETACH)


def _fill(links: dict[str, str], binds: list[str], writable: str) -> None:
    for path in binds:
        source, target = f"/old{path}", f"/new{path}"
        if os.path.isdir(source):
            os.makedirs(target, 0o755, exist_ok=True)
        else:
            _make_parent(target)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
        kernel.mount(source, target, None, _BIND | _RECURSIVE)
        if not path.startswith(("/dev/", "/proc")) and not f"{writable}/".startswith(f"{path}/"):
            _make_read_only(target)
    for link, to in links.items():
        _make_parent(f"/new{link}")
        os.symlink(to, f"/new{link}")


def _make_read_only(target: str) -> None:
    """As far as that is allowed: Landlock forbids writing anyway."""
    kept = os.statvfs(target).f_flag & (_NO_SUID | _NO_DEVICES | _NO_EXEC)  # which may not be taken off
    try:
        kernel.mount(None, target, None, _BIND | _REMOUNT | _READ_ONLY | kept)
    except OSError:
        pass


def _settle() -> None:
    """Make /new the root, let the old one go, and forbid changes to what lies between the mounts."""
    os.chdir("/new")
    kernel.umount("/old", _DETACH)
    _pivot(".", ".")
    kernel.umount(".", _DETACH)
    kernel.mount(None, "/", None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir("/")


def _pivot(new_root: str, old_to: str) -> None:
    number = ARCHITECTURES[os.uname().machine][1]["pivot_root"]
    kernel.syscall(number, kernel.text(new_root), kernel.text(old_to))


def _make_parent(path: str) -> None:
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
