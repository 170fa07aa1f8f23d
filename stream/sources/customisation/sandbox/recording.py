"""Owners and devices that commands set, recorded by the kernel's seccomp user notification.

A user namespace with one user can give files to nobody else, and make no device. fakeroot's
preload pretends that in each program that loads it; a static program, one with another C library
and Go's make their system calls themselves. Here the kernel asks us about each such call, whatever
makes it:

- `Recorder.attach`, in the child that becomes the commands: from here on, they and all that they
  start are asked about.
- `Recorder.start`, in the parent: receives the kernel's questions, and answers them in a thread.
  Returns False where the kernel, or what is around us, does not have this; then nothing is asked.
- `Recorder.stop`: waits until the last of the commands' processes has ended.
- `Recorder.note`, before, and `Recorder.find`, at the end: the record of a file.

A change of owner is recorded, and succeeds. A device becomes an empty file, and is recorded. All
other calls, and those that name no file, are left to the kernel, which answers as without us. So
is a change of mode; only fakeroot is told of it, which would go on reporting the old one.

What was recorded belongs to a file, not to a number: file systems give the inode number of a removed
file to the next one. The file's generation, or the time of its birth, tells them apart, so that no
descriptor has to be held for each.

The thread has the commands' own privileges, so whatever they make it do they could do themselves.
It opens files only to look at them (O_PATH), each name in a directory of its own: a link leads where
it leads the caller. It changes nothing but in one place: a device's placeholder is made in the
directory that was found, and must be new. Nobody may trace the process that this is in, or take its
descriptors, among them the one from which questions are read.

Of the filters of several sandboxes the strictest answer counts: what Nix's refuses (modes with set-ID
bits, extended attributes) never comes here. Only fakeroot's preload helps there.

Runs standalone: must not import the rest of the package. See seccomp_unotify(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Self

KEEP = 0xFFFFFFFF  # the owner or group -1 of chown(2)

# The numbers of system calls by architecture, as linux/audit.h has these. One kernel can have
# programs of several: x86-64 also those of i386, arm64 those of arm.
_GENERIC = {
    "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "mknodat": 33,
}  # fmt: skip
_OLD = {"chmod": 15, "fchmod": 94, "fchmodat2": 452, "mknod": 14}
_OLD |= {"chown16": 182, "fchown16": 95, "lchown16": 16}
_OLD |= {"chown": 212, "fchown": 207, "lchown": 198}
_CALLS = {
    0xC000003E: {  # x86-64
        "chmod": 90, "chown": 92, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "fchown": 93,
        "fchownat": 260, "lchown": 94, "mknod": 133, "mknodat": 259,
    },
    0x40000003: {**_OLD, "fchmodat": 306, "fchownat": 298, "mknodat": 297},  # i386
    0xC00000B7: _GENERIC,  # arm64
    0x40000028: {**_OLD, "fchmodat": 333, "fchownat": 325, "mknodat": 324},  # arm
    0xC00000F3: _GENERIC,  # riscv64
    0xC0000102: _GENERIC,  # loongarch64
}  # fmt: skip
_NAMES = {
    architecture: {number: name for name, number in calls.items()}
    for architecture, calls in _CALLS.items()
}
# Those that we make ourselves, past fakeroot's preload: seccomp(2), statx(2).
_SECCOMP, _STATX = {
    "x86_64": (317, 332), "aarch64": (277, 291), "riscv64": (277, 291), "loongarch64": (277, 291),
}.get(os.uname().machine, (0, 0))  # fmt: skip
_X32 = 1 << 30  # a bit in the numbers of x86-64 for programs with short pointers

# Of linux/bpf_common.h.
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
# Of linux/seccomp.h. WAIT_KILLABLE_RECV keeps a signal from breaking off a call that we answer.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x80082102
_QUESTION, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1

_PR_SET_DUMPABLE = 4
_CAPABILITY_VERSION = 0x20080522
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000
_STATX_BASIC, _STATX_BTIME = 0x7FF, 0x800
_STATUS = struct.Struct("=I12xIIIHxxQ40xqI44xII4x")  # struct statx, up to the device
_PROC = 0x9FA0  # PROC_SUPER_MAGIC
_PATH_MAX, _LINKS_MAX = 4096, 40
_HANDLE_MAX = 128
_OWNER_ACCESS = {stat.S_IFDIR: 0o700, stat.S_IFREG: 0o600}

_libc = ctypes.CDLL(None, use_errno=True)


class Record(NamedTuple):
    """What was recorded of a file: its owner and group (KEEP: not changed), and its type and device
    number, if it is a device. A `mode`, with the type, is that of a file made after one that had
    the same inode number: whatever else is known by number is the other one's.
    """

    uid: int = KEEP
    gid: int = KEEP
    device: tuple[int, int, int] | None = None  # S_IFCHR or S_IFBLK, major, minor
    mode: int | None = None


class _Status(NamedTuple):
    mode: int
    inode: tuple[int, int]  # with its device first
    birth: tuple[int, int]  # seconds and nanoseconds


class _Question(NamedTuple):
    """A call that the kernel asks about; `process` is its thread's directory in /proc."""

    number: int
    call: str
    process: str
    arguments: tuple[int, ...]


class _LeaveToTheKernelError(Exception):
    """The kernel's own answer is the right one."""


class Recorder:
    """Records what the commands' processes do. `capabilities` are the numbers of those that the
    commands have. With `faked`, this process runs under fakeroot, which is told of what programs
    without its preload do.
    """

    def __init__(self, *, capabilities: list[int] | tuple[int, ...] = (), faked: bool) -> None:
        self._capabilities = capabilities
        self._faked = faked
        self._records: dict[tuple[int, int], tuple[object, Record]] = {}
        self._places = _Places()
        self._ours, self._theirs = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._listener = -1

    # ---- the interface

    def attach(self) -> bool:
        """Have this process, which must not gain privileges any more, asked about. Return False
        if that is not possible.
        """
        try:
            listener = _install_filter(modes=self._faked)
        except OSError:
            self._theirs.send(b"-")
            return False
        socket.send_fds(self._theirs, [b"+"], [listener])
        os.close(listener)
        self._theirs.close()
        self._ours.close()
        return True

    def start(self) -> bool:
        """Answer the kernel's questions from now on. Return False if it has none, because the
        child could not `attach`, or ended before.
        """
        self._theirs.close()
        with self._ours:
            _, descriptors, _, _ = socket.recv_fds(self._ours, 1, 1)
        if not descriptors:
            return False
        (self._listener,) = descriptors
        # From others of our user. What execve(2) starts is not affected.
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """Wait until all processes that were asked about have ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def note(self, path: bytes, uid: int, gid: int) -> None:
        """Record the owner that a file has from the beginning."""
        with _closing(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            self._records[_status(fd).inode] = _identity(fd), Record(uid, gid)

    def find(self, path: bytes) -> Record | None:
        """Return what was recorded of the file at `path`; links are not followed. None if there
        is nothing.
        """
        with _closing(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            status = _status(fd)
            if (found := self._records.get(status.inode)) is None:
                return None
            identity, record = found
            return record if identity == _identity(fd) else Record(0, 0, mode=status.mode)

    # ---- questions and answers

    def _serve(self) -> None:
        _set_capabilities(self._capabilities)
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        try:
            while True:
                for _, events in poll.poll():
                    if events & select.POLLIN:
                        self._answer_next()
                    else:  # the last process has ended
                        return
        finally:
            os.close(self._listener)

    def _answer_next(self) -> None:
        data = bytearray(_QUESTION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, data)
        except OSError:  # who asked has ended, or was interrupted
            return
        number, thread, _, call, architecture, _, *arguments = _QUESTION.unpack(data)
        name = _NAMES.get(architecture, {}).get(call & ~_X32, "")
        flags = 0
        try:
            question = _Question(number, name, self._places.of(thread), tuple(arguments))
            getattr(self, f"_{name.removesuffix('16')}")(question)
        except Exception:  # noqa: BLE001 — who waits for an answer must get one
            flags = _CONTINUE
        with suppress(OSError):
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(number, 0, 0, flags))

    def _check(self, question: _Question) -> None:
        """Check that who asked still waits. Otherwise its number may be another process's by
        now: what we opened in /proc before counts only if this does not raise OSError.
        """
        fcntl.ioctl(self._listener, _IS_VALID, struct.pack("=Q", question.number))

    # ---- calls, by name

    def _chown(self, question: _Question) -> None:
        path, uid, gid, *_ = question.arguments
        with self._found(question, _AT_FDCWD, path, 0) as fd:
            self._change_owner(question, fd, uid, gid)

    def _lchown(self, question: _Question) -> None:
        path, uid, gid, *_ = question.arguments
        with self._found(question, _AT_FDCWD, path, _AT_SYMLINK_NOFOLLOW) as fd:
            self._change_owner(question, fd, uid, gid)

    def _fchown(self, question: _Question) -> None:
        descriptor, uid, gid, *_ = question.arguments
        with self._opened(question, descriptor) as fd:
            self._change_owner(question, fd, uid, gid)

    def _fchownat(self, question: _Question) -> None:
        directory, path, uid, gid, flags, *_ = question.arguments
        with self._found(question, directory, path, flags) as fd:
            self._change_owner(question, fd, uid, gid)

    def _mknod(self, question: _Question) -> None:
        path, mode, device, *_ = question.arguments
        self._make_device(question, _AT_FDCWD, path, mode, device)

    def _mknodat(self, question: _Question) -> None:
        directory, path, mode, device, *_ = question.arguments
        self._make_device(question, directory, path, mode, device)

    def _chmod(self, question: _Question) -> None:
        path, mode, *_ = question.arguments
        with self._found(question, _AT_FDCWD, path, 0) as fd:
            self._change_mode(question, fd, mode)

    def _fchmod(self, question: _Question) -> None:
        descriptor, mode, *_ = question.arguments
        with self._opened(question, descriptor) as fd:
            self._change_mode(question, fd, mode)

    def _fchmodat(self, question: _Question) -> None:
        directory, path, mode, *_ = question.arguments
        with self._found(question, directory, path, 0) as fd:
            self._change_mode(question, fd, mode)

    def _fchmodat2(self, question: _Question) -> None:
        directory, path, mode, flags, *_ = question.arguments
        with self._found(question, directory, path, flags) as fd:
            self._change_mode(question, fd, mode)

    def _change_owner(self, question: _Question, fd: int, uid: int, gid: int) -> None:
        uid, gid = (self._whole(question, number) for number in (uid, gid))
        if uid == gid == KEEP:
            raise _LeaveToTheKernelError
        found, identity = _status(fd), _identity(fd)
        self._check(question)
        self._forget_another(found, identity)
        _, before = self._records.get(found.inode, (None, Record()))
        after = before._replace(
            uid=before.uid if uid == KEEP else uid, gid=before.gid if gid == KEEP else gid
        )
        self._records[found.inode] = identity, after
        if not stat.S_ISDIR(found.mode) and found.mode & (stat.S_ISUID | stat.S_ISGID):
            # As any change of owner does, this one that changes none takes set-ID bits away.
            _libc.fchownat(fd, b"", -1, -1, _AT_EMPTY_PATH)
        if self._faked:
            with suppress(OSError):
                os.fchown(fd, *(-1 if number == KEEP else number for number in (uid, gid)))

    def _forget_another(self, found: _Status, identity: object) -> None:
        """Forget a file that had the same inode number: this one began as root's."""
        known, _ = self._records.get(found.inode, (identity, None))
        if known != identity:
            self._records[found.inode] = identity, Record(0, 0)

    @staticmethod
    def _whole(question: _Question, number: int) -> int:
        """Return a user's or group's number as 32 bits."""
        if question.call.endswith("16"):
            return KEEP if number & 0xFFFF == 0xFFFF else number & 0xFFFF
        return number & 0xFFFFFFFF

    def _make_device(
        self, question: _Question, directory: int, path: int, mode: int, device: int
    ) -> None:
        with open(f"{question.process}/status", encoding="utf-8", errors="replace") as file:
            umask = next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
        with self._directory_of(question, directory, path) as (above, name):
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
            with _closing(os.open(name, flags, stat.S_IMODE(mode) & ~umask, dir_fd=above)) as fd:
                number = device & 0xFFFFFFFF
                kind = stat.S_IFMT(mode), os.major(number), os.minor(number)
                self._records[_status(fd).inode] = _identity(fd), Record(0, 0, kind)

    def _change_mode(self, question: _Question, fd: int, mode: int) -> None:
        """Tell fakeroot of a mode, and have the kernel set it."""
        mode = stat.S_IMODE(mode)
        self._check(question)
        self._forget_another(_status(fd), _identity(fd))
        known = os.fstat(fd).st_mode
        # Its preload sets the mode on disk once fakeroot knows it, with access for the owner.
        if stat.S_IMODE(known) | _OWNER_ACCESS.get(stat.S_IFMT(known), 0o600) != mode:
            with suppress(OSError):  # the descriptor is for looking only, after fakeroot knows
                os.fchmod(fd, mode)
        raise _LeaveToTheKernelError

    # ---- files that calls name

    @contextmanager
    def _opened(self, question: _Question, descriptor: int) -> Iterator[int]:
        """Open the file of another process's descriptor, to look at it."""
        number = ctypes.c_int32(descriptor & 0xFFFFFFFF).value
        place = "cwd" if number == _AT_FDCWD else f"fd/{number}"
        with _closing(os.open(f"{question.process}/{place}", os.O_PATH | os.O_CLOEXEC)) as fd:
            self._check(question)
            yield fd

    @contextmanager
    def _found(
        self, question: _Question, directory: int, address: int, flags: int
    ) -> Iterator[int]:
        """Open the file that a call names, to look at it."""
        path = self._read_path(question, address)
        if not path:
            if not flags & _AT_EMPTY_PATH:
                raise _LeaveToTheKernelError
            with self._opened(question, directory) as fd:
                yield fd
            return
        follow = not flags & _AT_SYMLINK_NOFOLLOW
        with self._walk(question, directory, path) as walk:
            yield walk.to_the_end(follow=follow)

    @contextmanager
    def _directory_of(
        self, question: _Question, directory: int, address: int
    ) -> Iterator[tuple[int, bytes]]:
        """Open the directory for a new file that a call names. The value has the name, too."""
        above, slash, name = self._read_path(question, address).rpartition(b"/")
        if name in (b"", b".", b".."):
            raise _LeaveToTheKernelError
        with self._walk(question, directory, above + slash) as walk:
            yield walk.to_the_end(follow=True), name

    @contextmanager
    def _walk(self, question: _Question, directory: int, path: bytes) -> Iterator[_Walk]:
        with _closing(
            os.open(f"{question.process}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        ) as root:
            self._check(question)
            if path.startswith(b"/"):
                start = os.dup(root)
            else:
                with self._opened(question, directory) as fd:
                    start = os.dup(fd)
            walk = _Walk(root, start, path, os.path.basename(question.process))
            with walk:
                yield walk

    def _read_path(self, question: _Question, address: int) -> bytes:
        """Return the text at `address` of who asked."""
        with _closing(os.open(f"{question.process}/mem", os.O_RDONLY | os.O_CLOEXEC)) as memory:
            self._check(question)
            found = b""
            while b"\0" not in found:
                if len(found) >= _PATH_MAX:
                    raise _LeaveToTheKernelError
                # Up to the end of the page, as the next may not be there.
                size = 4096 - (address + len(found)) % 4096
                piece = os.pread(memory, size, address + len(found))
                if not piece:
                    raise _LeaveToTheKernelError
                found += piece
        path, _, _ = found.partition(b"\0")
        if len(path) >= _PATH_MAX:
            raise _LeaveToTheKernelError
        return path


class _Places:
    """The directories in /proc of threads, by the numbers that they have for us. Where a container
    forbids a new /proc, it counts as an outer PID namespace does.
    """

    def __init__(self) -> None:
        self._is_ours = os.readlink("/proc/self") == str(os.getpid())
        self._level = len(_numbers("/proc/self")) - 1
        self._known: dict[int, str] = {}

    def of(self, thread: int) -> str:
        """Return the directory of `thread`. Raises OSError, also if it has ended."""
        if self._is_ours:
            return f"/proc/{thread}"
        if self._number(self._known.get(thread, "")) != thread:
            self._known = {self._number(place): place for place in self._all()}
        if thread not in self._known:
            raise ProcessLookupError(thread)
        return self._known[thread]

    def _all(self) -> Iterator[str]:
        for process in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{process}/task"):
                    yield f"/proc/{process}/task/{thread}"

    def _number(self, place: str) -> int:
        with suppress(OSError, LookupError):
            return _numbers(place)[self._level]
        return -1


def _numbers(place: str) -> list[int]:
    """Return the numbers that a thread has in each PID namespace from that of /proc on."""
    with open(f"{place}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return [int(os.path.basename(os.path.realpath(place)))]


class _Walk:
    """The way along a path, as another process would go: one name at a time, with that process's
    root directory. Owns `start` and what it opens; `root` stays open.
    """

    def __init__(self, root: int, start: int, path: bytes, process: str) -> None:
        self._root = root
        self._fd = start
        self._process = process
        self._must_be_directory = path.endswith(b"/")
        self._left = _split(path)
        self._links = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def to_the_end(self, *, follow: bool) -> int:
        """Return a descriptor of the file at the end, valid as long as this walk. Raises OSError."""
        while self._left:
            name = self._left.pop()
            if name == b".." and _is_same(self._fd, self._root):
                continue
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            is_last = not self._left
            if stat.S_ISLNK(_status(fd).mode) and (
                not is_last or follow or self._must_be_directory
            ):
                with _closing(fd):
                    self._follow(fd, name, is_last=is_last)
            else:
                self._move(fd)
        return self._fd

    def _move(self, fd: int) -> None:
        os.close(self._fd)
        self._fd = fd

    def _follow(self, link: int, name: bytes, *, is_last: bool) -> None:
        self._links += 1
        if self._links > _LINKS_MAX:
            raise OSError(errno.ELOOP, "too many links")
        target = os.readlink(b"", dir_fd=link)
        if _is_in_proc(link):
            if name in (b"self", b"thread-self"):  # those would be ours
                target = self._process.encode()
            elif is_last:  # leads to an open file, whatever its text is
                self._move(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd))
                return
            elif target.startswith(b"/") or b":" in target:
                raise _LeaveToTheKernelError
        if target.startswith(b"/"):
            self._move(os.dup(self._root))
        self._left += _split(target)


def _split(path: bytes) -> list[bytes]:
    """Return the names in a path, the first one last."""
    return [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]


# ---- files


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _status(fd: int) -> _Status:
    """Return the status of an open file as the kernel has it, whatever fakeroot says."""
    data = ctypes.create_string_buffer(256)
    if _libc.syscall(_STATX, fd, b"", _AT_EMPTY_PATH, _STATX_BASIC | _STATX_BTIME, data):
        raise OSError(ctypes.get_errno(), "statx")
    mask, _, _, _, mode, inode, *birth, major, minor = _STATUS.unpack_from(data)
    if not mask & _STATX_BTIME:
        birth = [0, 0]
    return _Status(mode, (os.makedev(major, minor), inode), (birth[0], birth[1]))


def _is_same(fd: int, other: int) -> bool:
    return _status(fd).inode == _status(other).inode


def _is_in_proc(fd: int) -> bool:
    data = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, data):
        raise OSError(ctypes.get_errno(), "fstatfs")
    (kind,) = struct.unpack_from("@l", data)
    return bool(kind == _PROC)


def _identity(fd: int) -> object:
    """Return a value that no file after this one has, even with the same inode number: the file
    handle has the inode's generation.
    """
    handle = ctypes.create_string_buffer(8 + _HANDLE_MAX)
    struct.pack_into("=I", handle, 0, _HANDLE_MAX)
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(fd, b"", handle, ctypes.byref(mount), _AT_EMPTY_PATH):
        return _status(fd).birth
    size, _ = struct.unpack_from("=Ii", handle)
    return handle.raw[: 8 + size]


# ---- the kernel's side


def _set_capabilities(kept: list[int] | tuple[int, ...]) -> None:
    """Have no other capabilities than `kept`, in this thread."""
    bits = sum(1 << capability for capability in kept)
    halves = (bits & 0xFFFFFFFF, bits >> 32)
    sets = (ctypes.c_uint32 * 6)(*(half for half in halves for _ in range(3)))
    if _libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), sets):
        raise OSError(ctypes.get_errno(), "capset")


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _install_filter(*, modes: bool) -> int:
    """Return a descriptor for questions about this process. Raises OSError."""
    if not _SECCOMP:
        raise OSError(errno.ENOSYS, "unknown architecture")
    code = filter_program(modes=modes)
    program = _Program(len(code) // 8, code)
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        found = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))
        if found >= 0:
            return int(found)
    raise OSError(ctypes.get_errno(), "seccomp")


def filter_program(*, modes: bool) -> bytes:
    """Return the seccomp filter, in the kernel's byte order. With `modes`, changes of mode are
    asked about.
    """
    program = b""
    for architecture, calls in _CALLS.items():
        body = _instruction(_LOAD, _NUMBER) + _instruction(_AND, ~_X32 & 0xFFFFFFFF)
        for name, number in calls.items():
            if "chmod" in name and not modes:
                continue
            question = _question(name)
            body += _instruction(_EQUAL, number, otherwise=len(question) // 8) + question
        body += _instruction(_RETURN, _ALLOW)
        program += _instruction(_LOAD, _ARCHITECTURE)
        program += _instruction(_EQUAL, architecture, otherwise=len(body) // 8) + body
    return program + _instruction(_RETURN, _ALLOW)


def _question(name: str) -> bytes:
    """Return the instructions for a call: whether we are asked."""
    ask = _instruction(_RETURN, _NOTIFY)
    if not name.startswith("mknod"):
        return ask
    mode = _ARGUMENTS + 8 * (2 if name == "mknodat" else 1)
    return (
        _instruction(_LOAD, mode)
        + _instruction(_AND, 0o170000)
        + _instruction(_EQUAL, stat.S_IFCHR, then=1)
        + _instruction(_EQUAL, stat.S_IFBLK, otherwise=1)
        + ask
        + _instruction(_RETURN, _ALLOW)
    )


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Encode an instruction; `then` and `otherwise` are how many it skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)
