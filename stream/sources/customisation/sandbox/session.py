"""Runs commands in a tree on disk, as a separate program that needs only Python.

It runs twice in one call: `guard` starts it again as `run`, under fakeroot or not, and leaves
no process behind, whichever ends first. `run` starts bash, waits, kills the processes that
bash left running, and reports the outcome and the contents of the tree as JSON. Knows neither
recipes nor layers. Runs standalone: must not import the rest of the package.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

# prctl(2), mount(2), unshare(2), mount_setattr(2) and capabilities(7).
_PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 24, 36, 38
_CAP_SYS_ADMIN, _LAST_CAP = 21, 63
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_READ_ONLY, _WRITABLE = (_MOUNT_ATTR_RDONLY, 0), (0, _MOUNT_ATTR_RDONLY)  # set, cleared

GRACE = 0.5  # seconds that commands' processes may outlive them: bash does not wait for >(…)
PATIENCE = 5.0  # seconds until we give up on a process that does not die
MAX_PATH = 4095  # Linux's PATH_MAX, without the NUL
# A directory in the tree while it is the commands' root: holds tools that the tree lacks.
ASIDE = "/.stream-image"
# The paths of the dynamic loader and its default directories. Programs that are not from Nix
# look for them only there.
LIBRARIES = ("/lib64", "/usr/lib64", "/lib/*-linux-*", "/usr/lib/*-linux-*", "/lib/ld-*")
BOUND = ("/dev", "/proc", "/sys")
# The host's directories that stay writable if commands have its root directory.
SHARED = ("/dev", "/run", "/tmp", "/var/tmp")  # noqa: S108 — nothing of ours is there
UNFAKED = "fakeroot"

# The shell's own descriptors, so high that they do not collide with those of commands.
_LINES, _COMMANDS = 250, 251
# bash reads the commands from a descriptor, because they may exceed the length of an argument,
# and reports the number of the line that fails. Our code is one line, so that numbers match.
_SHELL = (
    "{fakery}"
    f"IFS= read -rd '' -u {_COMMANDS} \"$0\" || :; exec {_COMMANDS}<&-; "
    f"trap 'echo \"$LINENO\" >&{_LINES}' ERR; set -E; "
    'eval "${which}"'
)
_FAKERY = (
    f"[[ $(</proc/self/maps) == *libfakeroot* ]] || {{ echo {UNFAKED} >&{_LINES}; exit 1; }}; "
)

_libc = ctypes.CDLL(None, use_errno=True)


class _Refused(Exception):
    """Commands that cannot be run; the text is the reason."""


def _call(function: Any, *args: Any) -> None:
    if function(*args):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# ---- processes


def _descendants() -> dict[int, str]:
    """Return the running descendants of this process: their names by process ID."""
    children: dict[int, list[int]] = {}
    names = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with (
            suppress(OSError),
            open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file,
        ):
            name, _, rest = file.read().partition("(")[2].rpartition(")")
            state, parent = rest.split()[:2]
            children.setdefault(int(parent), []).append(pid)
            if state not in "ZX":
                names[pid] = name
    found: dict[int, str] = {}
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            waiting.append(child)
            if child in names:
                found[child] = names[child]
    return found


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _end_descendants(grace: float) -> list[str]:
    """Kill the descendants still running after `grace` seconds. Return their names."""
    killed: dict[int, str] = {}
    begun = time.monotonic()
    while (elapsed := time.monotonic() - begun) < grace + PATIENCE:
        _reap()
        found = _descendants()
        if not found:
            break
        if elapsed >= grace:
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            killed |= found
        time.sleep(0.005)
    return list(killed.values())


def _guard(control: int, argv: list[str]) -> int:
    """Run `argv` until it ends, or until nobody holds the other end of `control`."""
    os.set_inheritable(control, False)  # noqa: FBT003 — its only parameter
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    ended = os.pidfd_open(pid)
    select.select([control, ended], [], [])
    _end_descendants(0)
    return 0


# ---- privileges


def _status(key: str) -> str:
    """Return a field of this process's status, which fakeroot does not fake."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return next(line.split()[1] for line in file if line.startswith(key + ":"))


def _become_root() -> None:
    """Become root of a user namespace that maps only our user, unless we are root already.

    Raises OSError if that is not allowed.
    """
    uid, gid = _status("Uid"), _status("Gid")
    if uid == "0" and int(_status("CapEff"), 16) & 1 << _CAP_SYS_ADMIN:
        return
    _call(_libc.unshare, _CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _if_allowed(change: Callable[[], None]) -> bool:
    """Make a `change` of this process's namespaces, all of it or nothing; return whether it
    was made. A child tries it first: a system that allows only half of it would leave a
    process whose user is nobody.
    """
    pid = os.fork()
    if pid == 0:
        try:
            change()
        except BaseException:  # noqa: BLE001 — this process ends here in any case
            os._exit(1)
        os._exit(0)
    allowed = os.waitpid(pid, 0)[1] == 0
    if allowed:
        change()
    return allowed


def _drop_privileges() -> None:
    """Drop root's privileges from the next program on, so that what needs fakeroot for other
    users needs it for root as well.
    """
    for capability in range(_LAST_CAP + 1):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# ---- mounts


def _own_mounts() -> None:
    """Make this process's future mounts invisible to others. Raises OSError."""
    _call(_libc.unshare, _CLONE_NEWNS)
    _call(_libc.mount, b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)


def _bind(
    source: str, target: str, changes: tuple[int, int] | None = None, depth: int = _AT_RECURSIVE
) -> None:
    """Mount `source` at `target`, with everything mounted in it. Raises OSError."""
    where = os.fsencode(target)
    _call(_libc.mount, os.fsencode(source), where, None, _MS_BIND | _MS_REC, None)
    if changes is not None:
        _change(target, changes, depth)


def _change(target: str, changes: tuple[int, int], flags: int = 0) -> None:
    attributes = (ctypes.c_uint64 * 4)(*changes, 0, 0)
    arguments = (_AT_FDCWD, os.fsencode(target), flags, attributes, ctypes.sizeof(attributes))
    _call(_libc.syscall, _SYS_MOUNT_SETATTR, *arguments)


def _close_machine(stores: list[str], scratch: str) -> None:
    """Mount the file system of `/` and the directories `stores` read-only. Raises OSError.

    Otherwise a command that writes to /data, meaning the image's, would write to the host's if
    root runs us. And the tree is full of links to the store: writing through one would change
    the store's files.
    """
    scratch = os.path.realpath(scratch)
    _become_root()
    _own_mounts()
    with suppress(OSError):  # in a chroot, / is not a mount point
        for directory in SHARED:
            if os.path.isdir(directory):
                _bind(directory, directory)
        _change("/", _READ_ONLY)
    for store in {os.path.realpath(store) for store in stores}:
        if store != "/" and os.path.isdir(store):
            _bind(store, store, _READ_ONLY)
    _bind(scratch, scratch, _WRITABLE)


# ---- the tree as root directory


class _Root:
    """A tree prepared as the commands' root directory: the mounts in it, among them `store` at
    `store_dir`.

    Mount points that it lacks are made, and removed by `restore`.
    """

    def __init__(self, tree: str, aside: str, store_dir: str, store: str) -> None:
        self.tree = tree
        self._made: list[str] = []
        self._mounts: list[tuple[str, str, bool]] = []
        self.path = os.environ["PATH"]
        try:
            for directory in BOUND:
                self._add(directory, directory, read_only=directory != "/proc")
            if os.path.isdir(store):
                self._add(store, store_dir, read_only=True)
            self._add(aside, ASIDE, read_only=False)
            self._add_tools(aside, store_dir)
            self._add_libraries()
        except BaseException:
            self.restore()
            raise

    def _add(self, source: str, target: str, *, read_only: bool) -> None:
        path = self.tree
        is_directory = os.path.isdir(source)
        parts = [part for part in target.split("/") if part]
        for depth, part in enumerate(parts, 1):
            path += "/" + part
            want_file = depth == len(parts) and not is_directory
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                if want_file:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                else:
                    os.mkdir(path, 0o755)
                self._made.append(path)
                continue
            if not (stat.S_ISREG(mode) if want_file else stat.S_ISDIR(mode)):
                raise _Refused(
                    f"/{'/'.join(parts[:depth])} must be a directory: {target} is mounted there"
                )
        self._mounts.append((os.path.realpath(source), path, read_only))

    def _add_tools(self, aside: str, store_dir: str) -> None:
        """Add the directories of PATH that are not in the store, at paths of our own where
        they hide nothing and nothing hides them. They come last in the commands' PATH.
        """
        places: dict[str, str] = {}
        for directory in os.environ["PATH"].split(":"):
            real = os.path.realpath(directory)
            if (
                directory.startswith("/")
                and os.path.isdir(real)
                and not f"{real}/".startswith(f"{store_dir}/")
            ):
                places.setdefault(real, f"{ASIDE}/{len(places)}")
        links = f"{aside}/links"
        os.mkdir(links)
        for real, place in places.items():
            os.mkdir(aside + place.removeprefix(ASIDE))
            self._mounts.append((real, self.tree + place, True))
            for entry in os.scandir(real):
                # Absolute links would lead out of the mounted directory.
                if entry.is_symlink() and os.readlink(entry.path).startswith("/"):
                    there, _, name = os.path.realpath(entry.path).rpartition("/")
                    if there in places:
                        with suppress(FileExistsError):
                            os.symlink(f"{places[there]}/{name}", f"{links}/{entry.name}")
        self.path = ":".join([self.path, f"{ASIDE}/links", *places.values()])

    def _add_libraries(self) -> None:
        """Add the paths where the dynamic loader looks, if the tree has nothing there."""
        found = [path for pattern in LIBRARIES for path in sorted(glob.glob(pattern))]
        found += filter(os.path.isdir, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
        hidden = [target for _, target, _ in self._mounts]
        for path in found:
            target = self.tree + path
            if not os.path.lexists(target) and not any(
                target.startswith(f"{above}/") for above in hidden
            ):
                with suppress(_Refused):  # under a link: the tree has its own
                    self._add(path, path, read_only=True)
                    hidden.append(target)

    def enter(self) -> None:
        """Make the tree the root directory of this process. Raises OSError."""
        _own_mounts()
        for source, target, read_only in self._mounts:
            # The mounts in /dev (shm, pts) stay writable for everybody.
            depth = 0 if source == "/dev" else _AT_RECURSIVE
            _bind(source, target, _READ_ONLY if read_only else None, depth)
        os.chroot(self.tree)
        os.chdir("/")
        os.environ["PATH"] = self.path
        os.environ["TMPDIR"] = f"{ASIDE}/tmp"  # noqa: S108 — ours

    def restore(self) -> None:
        """Remove the mount points that were made, except those that are not empty."""
        for path in reversed(self._made):
            with suppress(OSError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.rmdir(path)
                else:
                    os.unlink(path)


# ---- commands


def _memory(data: bytes) -> int:
    fd = os.memfd_create("commands")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _become_shell(
    request: dict[str, Any], root: _Root | None, descriptors: dict[int, int]
) -> NoReturn:
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    if root is None:
        # Links in the tree lead to this machine's own store directory, if it has one.
        stores = [request["store_dir"], request["store"]]
        _if_allowed(lambda: _close_machine(stores, os.path.dirname(request["tree"])))
    os.chdir(request["tree"])
    if root is not None:
        try:
            _become_root()
            root.enter()
        except OSError as error:
            raise _Refused(
                "enableFakechroot needs a user namespace with mounts, which this system does not"
                f" allow ({error.strerror}); allow user namespaces"
            ) from error
    _drop_privileges()
    bash = shutil.which("bash")
    if bash is None:
        raise _Refused("bash is not on PATH; install it")
    for number, fd in descriptors.items():
        os.dup2(fd, number)
    which = request["which"]
    code = _SHELL.format(fakery=_FAKERY if request["imposed"] is not None else "", which=which)
    os.execv(bash, ["bash", "-eo", "pipefail", "-c", code, which])  # noqa: S606


def _run_shell(request: dict[str, Any], root: _Root | None) -> tuple[int, str]:
    """Run the commands. Return the exit status (-n: killed by signal n) and the last line
    that the shell reported: the number of the line that failed. Raises _Refused.
    """
    commands = _memory(request["commands"].encode("utf-8", "surrogateescape"))
    lines = _memory(b"")
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_shell(request, root, {_LINES: lines, _COMMANDS: commands})
        except BaseException as error:  # noqa: BLE001 — this process ends here in any case
            os.write(write_end, str(error).encode("utf-8", "replace"))
        os._exit(127)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as file:
        refused = file.read()
    while True:  # we also inherit orphans, and reap them
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            break
    if refused:
        raise _Refused(refused)
    tail = os.pread(lines, 4096, max(0, os.fstat(lines).st_size - 4096)).decode("ascii", "replace")
    return os.waitstatus_to_exitcode(status), (tail.split() or [""])[-1]


# ---- metadata


def text(data: bytes) -> str:
    """Return bytes as text that JSON can hold."""
    return data.decode("latin-1")


def _impose(tree: bytes, entries: list[list[Any]]) -> None:
    """Set under fakeroot the metadata that the disk cannot hold: [path, mode, uid, gid, major,
    minor, xattrs] of each entry. `mode` includes the type; parents come before children.
    """
    for name, mode, uid, gid, major, minor, xattrs in entries:
        path = tree + b"/" + name.encode("latin-1")
        is_link = stat.S_ISLNK(mode)
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.mknod(path, mode, os.makedev(major, minor))
        for key, value in xattrs.items():
            data = value.encode("latin-1")
            os.setxattr(path, key.encode("latin-1"), data, follow_symlinks=False)
        os.chown(path, uid, gid, follow_symlinks=False)
        if not is_link:
            os.chmod(path, stat.S_IMODE(mode))


def _xattrs(path: bytes, *, fake: bool) -> dict[str, str]:
    """Return the extended attributes: with fakeroot, those set there; else those in the
    `user.` namespace, as others are the system's.
    """
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if fake or name.startswith("user."):
                key = os.fsencode(name)
                found[text(key)] = text(os.getxattr(path, key, follow_symlinks=False))
    return found


def _entries(tree: bytes, omitted: set[bytes], *, fake: bool) -> Iterator[list[Any]]:
    """Yield [path, mode with type, uid, gid, device, inode, size, modification time in ns,
    major, minor, link, xattrs] of every entry of `tree`, parents before children. Files that
    their owner cannot read are made readable on disk. Raises _Refused.
    """
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        path = tree + b"/" + name if name else tree
        if len(path) > MAX_PATH:
            raise _Refused(f"made a path of more than {MAX_PATH} bytes: /{os.fsdecode(name[:60])}…")
        try:
            found = os.lstat(path)
        except OSError as error:
            if name:
                raise
            raise _Refused("removed the directory that they ran in") from error
        mode = found.st_mode
        is_directory = stat.S_ISDIR(mode)
        if not name and not is_directory:
            raise _Refused("replaced the directory that they ran in by another file")
        needed = 0o500 if is_directory else 0o400 if stat.S_ISREG(mode) else 0
        if mode & needed != needed:
            # fakeroot records the mode, and keeps the file on disk readable for us.
            os.chmod(path, stat.S_IMODE(mode) | (0 if fake else needed))
        if is_directory:
            above = name + b"/" if name else b""
            waiting += (above + child for child in os.listdir(path) if above + child not in omitted)
        yield [
            text(name), mode, found.st_uid, found.st_gid, found.st_dev, found.st_ino,
            found.st_size, found.st_mtime_ns, os.major(found.st_rdev), os.minor(found.st_rdev),
            text(os.readlink(path)) if stat.S_ISLNK(mode) else "",
            {} if stat.S_ISLNK(mode) else _xattrs(path, fake=fake),
        ]  # fmt: skip


def _run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the commands of `request`; return the report."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tree, imposed, store_dir = request["tree"], request["imposed"], request["store_dir"]
    fake = imposed is not None
    where = os.fsencode(tree)
    root = None
    omitted = set()
    if fake:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            if "libfakeroot" not in file.read():
                raise _Refused("fakeroot has no effect on this Python")
        # A file that gets an extended attribute under fakeroot is recorded with its real owner:
        # so that should be root.
        if _status("Uid") != "0":
            _if_allowed(_become_root)
        _impose(where, imposed)
    if request["fakechroot"]:
        root = _Root(tree, request["aside"], store_dir, request["store"])
        omitted = {os.fsencode(path.strip("/")) for path in (*BOUND, store_dir)}
    try:
        status, line = _run_shell(request, root)
    finally:
        leftovers = _end_descendants(GRACE)
        if root is not None:
            root.restore()
    if status and line == UNFAKED:
        raise _Refused("fakeroot has no effect on the bash on PATH")
    report: dict[str, Any] = {"status": status, "line": line, "leftovers": leftovers}
    if not status:
        report["uid"], report["gid"] = int(_status("Uid")), int(_status("Gid"))
        report["entries"] = list(_entries(where, omitted, fake=fake))
    return report


def main(argv: list[str]) -> int:
    """Carry out `guard CONTROL COMMAND…` or `run REQUEST REPORT`. REQUEST is a file's name,
    CONTROL and REPORT are descriptors.
    """
    verb, first, *rest = argv
    if verb == "guard":
        return _guard(int(first), rest)
    output = int(rest[0])
    os.set_inheritable(output, False)  # noqa: FBT003 — its only parameter
    with open(first, encoding="utf-8") as file:
        request = json.load(file)
    try:
        report = _run(request)
    except _Refused as refused:
        report = {"refused": str(refused)}
    except OSError as error:
        report = {"refused": f"cannot be run: {error}"}
    with open(output, "w", encoding="ascii") as file:
        json.dump(report, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
