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

A change of owner is recorded, and succeeds. A device becomes an empty file, and is recorded. The
status of a file that has a record is given with it. All other calls, and those that name no file,
are left to the kernel, which answers as without us. So is a change of mode; only fakeroot is told
of it, which would go on reporting the old one.

What was recorded belongs to a file, not to a number: file systems give the inode number of a removed
file to the next one. The file's generation, or the time of its birth, tells them apart, so that no
descriptor has to be held for each.

The thread has the commands' own privileges, so whatever they make it do they could do themselves.
It opens files only to look at them (O_PATH), each name in a directory of its own: a link leads where
it leads the caller. It changes nothing but this: it makes a device's placeholder, which must be
new, in the directory that was found; it takes set-ID bits from the file that was found, as the
kernel does; and it writes a status to where the caller wants it. Commands must not be able to trace
the process that this is in, nor to take its descriptors, among them the one from which questions are
read: see PR_SET_DUMPABLE of prctl(2).

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
from contextlib import suppress
from typing import NamedTuple, Self

PATIENCE = 5.0  # seconds until we do not wait any more for the last process
_KEEP = 0xFFFFFFFF  # the owner or group -1 of chown(2)

# The numbers of system calls by architecture, as linux/audit.h has these. One kernel can have
# programs of several: x86-64 also those of i386, arm64 those of arm.
_GENERIC = {
    "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "fstat": 80,
    "fstatat": 79, "mknodat": 33, "statx": 291,
}  # fmt: skip
_OLD = {"chmod": 15, "fchmod": 94, "fchmodat2": 452, "mknod": 14}
_OLD |= {"chown16": 182, "fchown16": 95, "lchown16": 16}
_OLD |= {"chown": 212, "fchown": 207, "lchown": 198}
_CALLS = {
    0xC000003E: {  # x86-64
        "chmod": 90, "chown": 92, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "fchown": 93,
        "fchownat": 260, "fstat": 5, "fstatat": 262, "lchown": 94, "lstat": 6, "mknod": 133,
        "mknodat": 259, "stat": 4, "statx": 332,
    },
    0x40000003: {**_OLD, "fchmodat": 306, "fchownat": 298, "mknodat": 297, "statx": 383},  # i386
    0xC00000B7: _GENERIC,  # arm64
    0x40000028: {**_OLD, "fchmodat": 333, "fchownat": 325, "mknodat": 324, "statx": 397},  # arm
    0xC00000F3: _GENERIC,  # riscv64
    0xC0000102: _GENERIC,  # loongarch64
}  # fmt: skip
_NAMES = {
    architecture: {number: name for name, number in calls.items()}
    for architecture, calls in _CALLS.items()
}
# Those that we make ourselves, past fakeroot's preload: seccomp(2), statx(2), newfstatat(2).
_SECCOMP, _STATX, _FSTATAT = {
    "x86_64": (317, 332, 262), "aarch64": (277, 291, 79), "riscv64": (277, 291, 79),
    "loongarch64": (277, 291, 79),
}.get(os.uname().machine, (0, 0, 0))  # fmt: skip
# In struct stat and struct statx, the offsets of mode, uid, gid and device number.
_STAT = (24, 28, 32, 40) if os.uname().machine == "x86_64" else (16, 24, 28, 32)
_STATX_OFFSETS = (28, 20, 24, 128)
_X32 = 1 << 30  # a bit in the numbers of x86-64 for programs with short pointers

# Of linux/bpf_common.h.
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
# Of linux/seccomp.h. WAIT_KILLABLE_RECV keeps a signal from breaking off a call that we answer.
_NUMBER, _ARCHITECTURE, _INSTRUCTION_POINTER, _ARGUMENTS = (
    0,
    4,
    8,
    16,
)  # offsets in struct seccomp_data
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_SET_MODE_FILTER, _NEW_LISTENER, _WAIT_KILLABLE = 1, 1 << 3, 1 << 5
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x80082102
_QUESTION, _ANSWER = struct.Struct("=QIIiIQ6Q"), struct.Struct("=QqiI")
_CONTINUE = 1
_SET_FLAGS, _SYNC_WAKE_UP = 0x40082104, 1

_CAPABILITY_VERSION = 0x20080522
_OPENAT2 = 437
# struct open_how: RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH.
_SHORT_WAY, _SHORT_WAY_TO_LINK = (
    struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC | flag, 0, 2 | 4 | 8)
    for flag in (0, os.O_NOFOLLOW)
)
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000
_STATX_BASIC, _STATX_BTIME = 0x7FF, 0x800
_STATUS = struct.Struct("=I12xIIIHxxQ40xqI44xII4x")  # struct statx, up to the device
_AT_STATX_SYNC_TYPE = 0x6000
_PROC = 0x9FA0  # PROC_SUPER_MAGIC
_PAGE, _PATH_MAX, _LINKS_MAX = 4096, 4096, 40
_HANDLE_MAX = 128
_OWNER_ACCESS = {stat.S_IFDIR: 0o700, stat.S_IFREG: 0o600}

_libc = ctypes.CDLL(None, use_errno=True)


class Record(NamedTuple):
    """What was recorded of a file: its owner and group, if they were changed, and its type and device
    number, if it is a device. A `mode`, with the type, is that of a file made after one that had
    the same inode number: whatever else is known by number is the other one's.
    """

    uid: int | None = None
    gid: int | None = None
    device: tuple[int, int, int] | None = None  # S_IFCHR or S_IFBLK, major, minor
    mode: int | None = None


class _Status(NamedTuple):
    mode: int
    inode: tuple[int, int]  # with its device first
    birth: tuple[int, int]  # seconds and nanoseconds


class _Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Question(NamedTuple):
    """A call that the kernel asks about; `process` is its thread's directory in /proc."""

    number: int
    call: str
    thread: int
    process: str
    arguments: tuple[int, ...]


class _LeaveToTheKernelError(Exception):
    """The kernel's own answer is the right one."""


class Recorder:
    """Records what the commands' processes do. `capabilities` are the numbers of those that the
    commands have. With `faked`, this process runs under fakeroot, which is told of what programs
    without its preload do. fakeroot leaves set-ID bits when a file's owner changes; with
    `clearing`, it is told to take them away, as the kernel does.
    """

    def __init__(
        self,
        *,
        capabilities: list[int] | tuple[int, ...] = (),
        faked: bool,
        clearing: bool = False,
    ) -> None:
        self._capabilities = capabilities
        self._faked = faked
        self._clearing = clearing
        self._records: dict[tuple[int, int], tuple[object, Record]] = {}
        self._places = _Places()
        self._room = bytearray(2 * _PAGE)  # for paths
        room = (ctypes.c_char * len(self._room)).from_buffer(self._room)
        self._room_piece = ctypes.byref(_Piece(ctypes.addressof(room), len(room)))
        self._ours, self._theirs = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._listener = -1

        self._calls = {
            name: getattr(self, f"_{name.removesuffix('16')}")
            for calls in _CALLS.values()
            for name in calls
        }

    # ---- the interface

    def attach(self, *, preloaded: bool = False) -> bool:
        """Have this process, which must not gain privileges any more, asked about. With
        `preloaded`, its programs load fakeroot's preload if they load anything. Return False
        if that is not possible.
        """
        try:
            listener = _install_filter(filter_program(modes=self._faked, preloaded=preloaded))
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
        child could not `attach`, or ended before: then nothing is recorded.
        """
        self._theirs.close()
        with self._ours:
            _, descriptors, _, _ = socket.recv_fds(self._ours, 1, 1)
        if not descriptors:
            self._records.clear()
            return False
        (self._listener,) = descriptors
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        """Wait until the last question is answered: all processes that were asked about have
        ended.
        """
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def note(self, path: bytes, uid: int, gid: int, device: tuple[int, int, int] | None) -> None:
        """Record what the file at `path` is from the beginning; links are not followed."""
        with _File(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            self._records[_status(fd).inode] = _identity(fd), Record(uid, gid, device)

    def find(self, path: bytes, inode: tuple[int, int]) -> Record | None:
        """Return what was recorded of the file at `path`, which has this device and inode number;
        links are not followed. None if there is nothing.
        """
        if inode not in self._records:
            return None
        with _File(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            status = _status(fd)
            if (found := self._records.get(status.inode)) is None:
                return None
            identity, record = found
            return record if identity == _identity(fd) else Record(0, 0, mode=status.mode)

    # ---- questions and answers

    def _serve(self) -> None:
        _set_capabilities(self._capabilities)
        with suppress(OSError):  # since Linux 6.6: who asks and we take turns, on one processor
            fcntl.ioctl(self._listener, _SET_FLAGS, _SYNC_WAKE_UP)
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
            if "stat" in name and not self._records:
                flags = _CONTINUE
            else:
                place = self._places.of(thread)
                question = _Question(number, name, thread, place, tuple(arguments))
                self._calls[name](question)
        except Exception:  # noqa: BLE001 — who waits for an answer must get one
            flags = _CONTINUE
        with suppress(OSError):
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(number, 0, 0, flags))

    def _check(self, question: _Question) -> None:
        """Check that who asked still waits. Otherwise its number may be another process's by now:
        what we read and opened before counts only if this does not raise OSError.
        """
        fcntl.ioctl(self._listener, _IS_VALID, struct.pack("=Q", question.number))

    # ---- calls, by name

    def _chown(self, question: _Question) -> None:
        path, uid, gid, *_ = question.arguments
        with self._find(question, _AT_FDCWD, path, 0) as fd:
            self._change_owner(question, fd, uid, gid)

    def _lchown(self, question: _Question) -> None:
        path, uid, gid, *_ = question.arguments
        with self._find(question, _AT_FDCWD, path, _AT_SYMLINK_NOFOLLOW) as fd:
            self._change_owner(question, fd, uid, gid)

    def _fchown(self, question: _Question) -> None:
        descriptor, uid, gid, *_ = question.arguments
        with self._open(question, descriptor) as fd:
            self._change_owner(question, fd, uid, gid)

    def _fchownat(self, question: _Question) -> None:
        directory, path, uid, gid, flags, *_ = question.arguments
        with self._find(question, directory, path, flags) as fd:
            self._change_owner(question, fd, uid, gid)

    def _mknod(self, question: _Question) -> None:
        path, mode, device, *_ = question.arguments
        self._make_device(question, _AT_FDCWD, path, mode, device)

    def _mknodat(self, question: _Question) -> None:
        directory, path, mode, device, *_ = question.arguments
        self._make_device(question, directory, path, mode, device)

    def _chmod(self, question: _Question) -> None:
        path, mode, *_ = question.arguments
        with self._find(question, _AT_FDCWD, path, 0) as fd:
            self._change_mode(question, fd, mode)

    def _fchmod(self, question: _Question) -> None:
        descriptor, mode, *_ = question.arguments
        with self._open(question, descriptor) as fd:
            self._change_mode(question, fd, mode)

    def _fchmodat(self, question: _Question) -> None:
        directory, path, mode, *_ = question.arguments
        with self._find(question, directory, path, 0) as fd:
            self._change_mode(question, fd, mode)

    def _fchmodat2(self, question: _Question) -> None:
        directory, path, mode, flags, *_ = question.arguments
        with self._find(question, directory, path, flags) as fd:
            self._change_mode(question, fd, mode)

    def _change_owner(self, question: _Question, fd: int, uid: int, gid: int) -> None:
        uid, gid = (self._whole(question, number) for number in (uid, gid))
        if uid == gid == _KEEP:
            raise _LeaveToTheKernelError
        found, identity = _status(fd), _identity(fd)
        self._check(question)
        self._forget_another(fd, found, identity)
        _, before = self._records.get(found.inode, (None, Record()))
        after = before._replace(
            uid=before.uid if uid == _KEEP else uid, gid=before.gid if gid == _KEEP else gid
        )
        self._records[found.inode] = identity, after
        if not stat.S_ISDIR(found.mode) and found.mode & (stat.S_ISUID | stat.S_ISGID):
            # As any change of owner does, this one that changes none takes set-ID bits away.
            _libc.fchownat(fd, b"", -1, -1, _AT_EMPTY_PATH)
        if self._faked:
            with suppress(OSError):
                os.fchown(fd, *(-1 if number == _KEEP else number for number in (uid, gid)))
            if self._clearing:
                _clear(fd)

    def _forget_another(self, fd: int, found: _Status, identity: object) -> None:
        """Forget a file that had the same inode number: this one began as root's."""
        known, _ = self._records.get(found.inode, (identity, None))
        if known != identity:
            self._records[found.inode] = identity, Record(0, 0)
            if self._faked:
                with suppress(OSError):
                    os.fchown(fd, 0, 0)
                with suppress(OSError):  # as in `_change_mode`
                    os.fchmod(fd, stat.S_IMODE(found.mode))

    @staticmethod
    def _whole(question: _Question, number: int) -> int:
        """Return a user's or group's number as 32 bits."""
        if question.call.endswith("16"):
            return _KEEP if number & 0xFFFF == 0xFFFF else number & 0xFFFF
        return number & 0xFFFFFFFF

    def _make_device(
        self, question: _Question, directory: int, path: int, mode: int, device: int
    ) -> None:
        with open(f"{question.process}/status", encoding="utf-8", errors="replace") as file:
            umask = next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
        above, slash, name = self._read_path(question, path).rpartition(b"/")
        if name in (b"", b".", b".."):
            raise _LeaveToTheKernelError
        with self._reach(question, directory, above + slash or b".", follow=True) as parent:
            self._check(question)
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
            with _File(os.open(name, flags, stat.S_IMODE(mode) & ~umask, dir_fd=parent)) as fd:
                number = device & 0xFFFFFFFF
                kind = stat.S_IFMT(mode), os.major(number), os.minor(number)
                self._records[_status(fd).inode] = _identity(fd), Record(0, 0, kind)

    def _change_mode(self, question: _Question, fd: int, mode: int) -> None:
        """Tell fakeroot of a mode, and have the kernel set it."""
        mode = stat.S_IMODE(mode)
        self._check(question)
        self._forget_another(fd, _status(fd), _identity(fd))
        known = os.fstat(fd).st_mode
        # Its preload sets the mode on disk once fakeroot knows it, with access for the owner.
        if stat.S_IMODE(known) | _OWNER_ACCESS.get(stat.S_IFMT(known), 0o600) != mode:
            with suppress(OSError):  # the descriptor is for looking only, after fakeroot knows
                os.fchmod(fd, mode)
        raise _LeaveToTheKernelError

    def _stat(self, question: _Question) -> None:
        path, buffer, *_ = question.arguments
        with self._find(question, _AT_FDCWD, path, 0) as fd:
            self._show(question, fd, buffer)

    def _lstat(self, question: _Question) -> None:
        path, buffer, *_ = question.arguments
        with self._find(question, _AT_FDCWD, path, _AT_SYMLINK_NOFOLLOW) as fd:
            self._show(question, fd, buffer)

    def _fstat(self, question: _Question) -> None:
        descriptor, buffer, *_ = question.arguments
        with self._open(question, descriptor) as fd:
            self._show(question, fd, buffer)

    def _fstatat(self, question: _Question) -> None:
        directory, path, buffer, flags, *_ = question.arguments
        with self._find(question, directory, path, flags) as fd:
            self._show(question, fd, buffer)

    def _statx(self, question: _Question) -> None:
        directory, path, flags, mask, buffer, *_ = question.arguments
        with self._find(question, directory, path, flags) as fd:
            record = self._record_of(fd)
            data = ctypes.create_string_buffer(256)
            how = _AT_EMPTY_PATH | flags & _AT_STATX_SYNC_TYPE
            if _libc.syscall(_STATX, fd, b"", how, mask & 0xFFFFFFFF, data):
                raise _LeaveToTheKernelError
            _put(data, _STATX_OFFSETS, record)
            if record.device:
                struct.pack_into("=II", data, _STATX_OFFSETS[3], *record.device[1:])
            self._write(question, buffer, data)

    def _show(self, question: _Question, fd: int, buffer: int) -> None:
        """Answer with the status of a file that has a record."""
        record = self._record_of(fd)
        data = ctypes.create_string_buffer(144 if _STAT[0] == 24 else 128)
        if _libc.syscall(_FSTATAT, fd, b"", data, _AT_EMPTY_PATH):
            raise _LeaveToTheKernelError
        _put(data, _STAT, record)
        if record.device:
            struct.pack_into("=Q", data, _STAT[3], os.makedev(*record.device[1:]))
        self._write(question, buffer, data)

    def _record_of(self, fd: int) -> Record:
        identity, record = self._records.get(_status(fd).inode, (None, Record()))
        if identity is None or identity != _identity(fd):
            raise _LeaveToTheKernelError
        return record

    # ---- files that calls name

    def _open(self, question: _Question, descriptor: int) -> _File:
        """Open the file of another process's descriptor, to look at it."""
        number = ctypes.c_int32(descriptor & 0xFFFFFFFF).value
        place = "cwd" if number == _AT_FDCWD else f"fd/{number}"
        return _File(os.open(f"{question.process}/{place}", os.O_PATH | os.O_CLOEXEC))

    def _find(self, question: _Question, directory: int, address: int, flags: int) -> _File:
        """Open the file that a call names, to look at it."""
        path = self._read_path(question, address)
        if path:
            return self._reach(question, directory, path, follow=not flags & _AT_SYMLINK_NOFOLLOW)
        if flags & _AT_EMPTY_PATH:
            return self._open(question, directory)
        raise _LeaveToTheKernelError

    def _reach(self, question: _Question, directory: int, path: bytes, *, follow: bool) -> _File:
        """Open the file at `path`, as who asked would reach it."""
        is_absolute = path.startswith(b"/")
        start = self._root(question) if is_absolute else self._open(question, directory)
        with start as fd:
            if (found := _open_below(fd, path, follow=follow)) >= 0:
                return _File(found)
            process = os.path.basename(question.process)
            with self._root(question) as root, _Walk(root, os.dup(fd), path, process) as walk:
                return _File(walk.to_the_end(follow=follow))

    @staticmethod
    def _root(question: _Question) -> _File:
        return _File(os.open(f"{question.process}/root", os.O_PATH | os.O_CLOEXEC))

    def _read_path(self, question: _Question, address: int) -> bytes:
        """Return the text at `address` of who asked."""
        # Page by page, as the next may not be there.
        first = _PAGE - address % _PAGE
        theirs = (_Piece * 2)(_Piece(address, first), _Piece(address + first, _PAGE))
        size = _libc.process_vm_readv(question.thread, self._room_piece, 1, theirs, 2, 0)
        end = self._room.find(b"\0", 0, max(0, size))
        if not 0 <= end < _PATH_MAX:
            raise _LeaveToTheKernelError
        return bytes(self._room[:end])

    def _write(self, question: _Question, address: int, data: ctypes.Array[ctypes.c_char]) -> None:
        """Put `data` at `address` of who asked. Raises OSError."""
        ours, theirs = _Piece(ctypes.addressof(data), len(data)), _Piece(address, len(data))
        self._check(question)
        piece = ctypes.byref(theirs)
        size = _libc.process_vm_writev(question.thread, ctypes.byref(ours), 1, piece, 1, 0)
        if size != len(data):
            raise _LeaveToTheKernelError


class _File:
    """A descriptor, closed at the end of the context whose value it is."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _Places:
    """The directories in /proc of threads, by the numbers that they have for us. Without a sandbox,
    /proc may count as an outer PID namespace does.
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
    root directory. Owns `start` and what it opens, but for the last; `root` stays open.
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
        """Return a descriptor of the file at the end, to be closed. Raises OSError."""
        while self._left:
            name = self._left.pop()
            if name == b".." and _is_same(self._fd, self._root):
                continue
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            is_last = not self._left
            if stat.S_ISLNK(_status(fd).mode) and (
                not is_last or follow or self._must_be_directory
            ):
                with _File(fd):
                    self._follow(fd, name, is_last=is_last)
            else:
                self._move(fd)
        return os.dup(self._fd)

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


def _open_below(start: int, path: bytes, *, follow: bool) -> int:
    """Return a descriptor of the file at `path` to look at, if the way is short: no link, and
    nothing above `start`. Otherwise -1, or where openat2(2) is missing.
    """
    way = _SHORT_WAY if follow else _SHORT_WAY_TO_LINK
    return int(_libc.syscall(_OPENAT2, start, path.lstrip(b"/") or b".", way, len(way)))


def _status(fd: int) -> _Status:
    """Return the status of an open file as the kernel has it, whatever fakeroot says."""
    data = ctypes.create_string_buffer(256)
    if _libc.syscall(_STATX, fd, b"", _AT_EMPTY_PATH, _STATX_BASIC | _STATX_BTIME, data):
        raise OSError(ctypes.get_errno(), "statx")
    mask, _, _, _, mode, inode, *birth, major, minor = _STATUS.unpack_from(data)
    if not mask & _STATX_BTIME:
        birth = [0, 0]
    return _Status(mode, (os.makedev(major, minor), inode), (birth[0], birth[1]))


def _clear(fd: int) -> None:
    """Tell fakeroot that a file has lost its set-ID bits, if it had any."""
    mode = os.fstat(fd).st_mode
    runs_as_group = stat.S_ISGID if mode & stat.S_IXGRP else 0
    cleared = mode & ~(stat.S_ISUID | runs_as_group)
    if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode) and cleared != mode:
        with suppress(OSError):  # as in `_change_mode`
            os.fchmod(fd, stat.S_IMODE(cleared))


def _put(data: ctypes.Array[ctypes.c_char], offsets: tuple[int, ...], record: Record) -> None:
    """Put the owner and the type of a record into a status that the kernel wrote."""
    mode, uid, gid, _ = offsets
    if record.uid is not None:
        struct.pack_into("=I", data, uid, record.uid)
    if record.gid is not None:
        struct.pack_into("=I", data, gid, record.gid)
    if record.device:
        (before,) = struct.unpack_from("=H", data, mode)
        struct.pack_into("=H", data, mode, record.device[0] | stat.S_IMODE(before))


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


def _install_filter(code: bytes) -> int:
    """Return a descriptor for questions about this process. Raises OSError."""
    if not _SECCOMP:
        raise OSError(errno.ENOSYS, "unknown architecture")
    program = _Program(len(code) // 8, code)
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        found = _libc.syscall(_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))
        if found >= 0:
            return int(found)
    raise OSError(ctypes.get_errno(), "seccomp")


def filter_program(*, modes: bool, preloaded: bool) -> bytes:
    """Return the seccomp filter, in the kernel's byte order. With `modes`, changes of mode are
    asked about; for `preloaded`, see `Recorder.attach`.
    """
    program = b""
    for architecture, calls in _CALLS.items():
        body = _instruction(_LOAD, _NUMBER) + _instruction(_AND, ~_X32 & 0xFFFFFFFF)
        for name, number in calls.items():
            if "chmod" in name and not modes:
                continue
            question = _asking(name, preloaded=preloaded)
            body += _instruction(_EQUAL, number, otherwise=len(question) // 8) + question
        body += _instruction(_RETURN, _ALLOW)
        program += _instruction(_LOAD, _ARCHITECTURE)
        program += _instruction(_EQUAL, architecture, otherwise=len(body) // 8) + body
    return program + _instruction(_RETURN, _ALLOW)


def _asking(name: str, *, preloaded: bool) -> bytes:
    """Return the instructions for a call: whether we are asked."""
    ask, allow = _instruction(_RETURN, _NOTIFY), _instruction(_RETURN, _ALLOW)
    if name.startswith("mknod"):
        mode = _ARGUMENTS + 8 * (2 if name == "mknodat" else 1)
        return (
            _instruction(_LOAD, mode)
            + _instruction(_AND, 0o170000)
            + _instruction(_EQUAL, stat.S_IFCHR, then=1)
            + _instruction(_EQUAL, stat.S_IFBLK, otherwise=1)
            + (ask + allow)
        )
    if "stat" in name and preloaded:
        # The preload asks fakeroot instead. A static program's code is in the first 4 GiB, where
        # no library is: so others, which make many of these calls, do not have to wait for us.
        # (One made to run at any address is not recognised, and sees root's files.)
        high = _INSTRUCTION_POINTER + 4
        return _instruction(_LOAD, high) + _instruction(_EQUAL, 0, otherwise=1) + ask + allow
    return ask


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Encode an instruction; `then` and `otherwise` are how many it skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)
