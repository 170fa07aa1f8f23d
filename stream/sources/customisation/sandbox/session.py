"""Runs commands in a tree on disk, as a separate program that needs only Python.

Reads a request from standard input, sets the tree's metadata if it runs under fakeroot, starts
bash, ends the processes that bash left running, and reports the outcome and the metadata that
only fakeroot and `recording` know. Must not trust commands to leave it alone: whoever reads the report checks
it. Knows neither recipes nor layers, nor whether it runs in a sandbox, except for the one way
to end processes that is safe only there. Runs standalone: must not import the rest of the
package. The program `recording` is an argument of this one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from stream.sources.customisation.sandbox.recording import Record, Recorder

# prctl(2) and capabilities(7).
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 24, 36, 38
_LAST_CAP, _CAPABILITY_VERSION = 63, 0x20080522

REPORT = 3  # the descriptor for the report
GRACE = 0.5  # seconds that commands' processes may outlive them: bash does not wait for >(…)
REAPING = 0.2  # seconds between two looks for orphans
PATIENCE = 5.0  # seconds until we give up on processes that do not die
UNFAKED = "fakeroot"
SH = "/bin/sh"
UNTRIED = "FAKEROOTDONTTRYCHOWN"  # set: fakeroot leaves owners on disk as they are

# bash reads the commands from a descriptor, because they may exceed the length of an argument,
# and reports the number of the line that fails. Our code is one line, so that numbers match.
_SHELL = (
    "{fakery}"
    "IFS= read -rd '' -u {commands} \"$0\" || :; exec {commands}<&-; "
    "trap 'echo \"$LINENO\" >&{lines}' ERR; set -E; "
    'eval "${which}"'
)
_FAKERY = (
    f"[[ $(</proc/self/maps) == *libfakeroot* ]] || {{{{ echo {UNFAKED} >&{{lines}}; exit 1; }}}}; "
)
_MAX_TAIL = 4096  # of what the shell reports, in bytes

_libc = ctypes.CDLL(None, use_errno=True)


class _Refused(Exception):
    """Commands that cannot be run; the text is the reason."""


# ---- processes


def _descendants() -> dict[int, str]:
    """Return the running descendants of this process: their names by process ID."""
    children: dict[str, list[str]] = {}
    found: dict[str, tuple[int, str]] = {}
    for number in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            lines = _read(f"/proc/{number}/status").splitlines()
            # /proc may count processes as another namespace does: NSpid ends with our number.
            fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            children.setdefault(fields["PPid"], []).append(number)
            if fields["State"][0] not in "ZX":
                found[number] = int(fields.get("NSpid", number).split()[-1]), fields["Name"]
    waiting = [os.readlink("/proc/self")]
    below: dict[int, str] = {}
    while waiting:
        for child in children.get(waiting.pop(), ()):
            waiting.append(child)
            if child in found:
                pid, name = found[child]
                below[pid] = name
    return below


def _read(path: str) -> str:
    """Return the start of a file, with no call that fakeroot's own process, which may be
    stopped, would have to answer.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16).decode("utf-8", "replace")
    finally:
        os.close(fd)


def _end_descendants(*, alone: bool, grace: float = GRACE) -> list[str]:
    """Kill the descendants still running after `grace` seconds. Return their names.

    With `alone`, this process is in a PID namespace in which all processes are ours: then they
    are stopped first, all at once, so that none can fork a successor unseen. Raises _Refused
    if one does not die.
    """
    killed: dict[int, str] = {}
    begun = time.monotonic()
    while _has_children():
        elapsed = time.monotonic() - begun
        if elapsed >= grace + PATIENCE:
            raise _Refused("left processes running that cannot be killed")
        if elapsed >= grace:
            with _stopped() if alone else nullcontext():
                found = _descendants()
                for pid in found:
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            killed |= found
        time.sleep(0.005)
    return list(killed.values())


@contextmanager
def _stopped() -> Iterator[None]:
    """Stop all other processes in our PID namespace; let those that are left go on at the end:
    fakeroot's own, and the sandbox's.
    """
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGCONT)


def _has_children() -> bool:
    """Return True if any descendant is left. As a subreaper, this process inherits orphans at
    once: so it has no children only if it has no descendants.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _wait(pid: int) -> int:
    """Return the wait status of our child `pid`. Meanwhile reap the orphans that we inherit.
    Raises _Refused if the caller, who holds the other end of standard input, has gone.
    """
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([ended, sys.stdin], [], [], REAPING)
        if sys.stdin in ready and not os.read(0, 1):
            raise _Refused("interrupted")
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == pid:
                    return found[1]


def _is_alone(outside: int) -> bool:
    """Return True if our PID namespace is not `outside`, the inode number of the caller's."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != outside
    except OSError:
        return False


def _drop_privileges(kept: list[int]) -> None:
    """Drop root's privileges from the next program on, except for the capabilities `kept`, so
    that what needs fakeroot for other users needs it for root as well.
    """
    for capability in range(_LAST_CAP + 1):
        if capability not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Those that are inherited, too; ambient ones go with them. Effective, permitted, inheritable.
    bits = sum(1 << capability for capability in kept)
    sets = (ctypes.c_uint32 * 6)(bits, bits, bits)
    if _libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), sets):
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")


# ---- commands


def _memory(data: bytes) -> int:
    fd = os.memfd_create("commands")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _become_shell(
    request: dict[str, Any], lines: int, commands: int, recorder: Recorder | None
) -> NoReturn:
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
        signal.signal(signum, signal.SIG_DFL)
    if request["root"] is None:
        os.chdir(_named(request["tree"], request["name"], request["which"]))
    else:
        if request["imposed"] is not None:
            _carry_fakeroot(request["root"], request["root_environment"])
        os.chroot(request["root"])
        os.chdir("/")
        os.environ |= request["root_environment"]
    _drop_privileges(request["capabilities"])
    bash = shutil.which("bash")
    if bash is None:
        raise _Refused("bash is not on PATH; install it")
    # The shell's own descriptors are so high that they do not collide with those of commands.
    highest = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 255) - 1
    os.dup2(lines, highest)
    os.dup2(commands, highest - 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    fakery = ""
    if recorder is not None:
        preloaded = request["root"] is None or _can_preload()
        # Hooks run programs of the image with chroot(1), and these may not load the preload.
        is_hook = request["root"] is None and request["clearing"]
        if recorder.attach(preloaded=preloaded and not is_hook):
            # So that we are asked about changes that go through fakeroot as well, in their order.
            del os.environ[UNTRIED]
        elif not preloaded:
            raise _Refused(
                "the image's programs cannot load this machine's fakeroot, and the kernel does not"
                " offer seccomp user notification; use Linux 5.5 or later"
            )
        if preloaded:
            fakery = _FAKERY
        else:
            del os.environ["LD_PRELOAD"]
    which = request["which"]
    code = _SHELL.replace("{fakery}", fakery).format(
        which=which, lines=highest, commands=highest - 1
    )
    try:
        os.execv(bash, ["bash", "-eo", "pipefail", "-c", code, which])  # noqa: S606
    except OSError as error:
        wrong = f"{bash} cannot be run: {error.strerror}"
        if error.errno == errno.ENOENT:
            wrong += "; the program that interprets it or loads it is missing"
        raise _Refused(wrong) from None


def _named(tree: str, name: str, which: str) -> str:
    """Return a directory in which `tree` is called `name`; `tree` itself without one."""
    if not name:
        return tree
    directory = f"{os.environ['TMPDIR']}/.{which}"
    for path in (directory, f"{directory}/work"):
        os.mkdir(path)
    os.symlink(tree, f"{directory}/{name}")
    return directory


def _carry_fakeroot(root: str, environment: dict[str, str]) -> None:
    """Copy libfakeroot to the temporary directory that the root directory `root` has, and set
    it in the `environment` there: the directories where it is now may be other ones in `root`.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        library = next(line.split(None, 5)[5].strip() for line in file if "libfakeroot" in line)
    environment["LD_PRELOAD"] = f"{environment['TMPDIR']}/.libfakeroot.so"
    environment["LD_LIBRARY_PATH"] = ""
    shutil.copyfile(library, root + environment["LD_PRELOAD"])


def _can_preload() -> bool:
    """Return False if the shell in our root directory runs only without fakeroot's preload, as it
    has another C library, or an older one than the preload needs.
    """
    plain = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    return _runs(os.environ) or not _runs(plain)


def _runs(environment: Mapping[str, str]) -> bool:
    actions = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    try:
        pid = os.posix_spawn(SH, [SH, "-c", ":"], environment, file_actions=actions)
    except OSError:
        return False
    if not select.select([os.pidfd_open(pid)], [], [], PATIENCE)[0]:
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1] == 0


def _run_shell(request: dict[str, Any], recorder: Recorder | None) -> tuple[int, str]:
    """Run the commands, asked about by `recorder`. Return the exit status (-n: killed by signal
    n), and the last that the shell reported: the number of the line that failed. Raises _Refused.
    """
    commands = _memory(request["commands"].encode("utf-8", "surrogateescape"))
    lines = _memory(b"")
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_shell(request, lines, commands, recorder)
        except BaseException as error:  # noqa: BLE001 — this process ends here in any case
            os.write(write_end, str(error).encode("utf-8", "replace"))
        os._exit(127)
    os.close(write_end)
    if recorder is not None:
        recorder.start()
    with open(read_end, encoding="utf-8") as file:
        refused = file.read()
    status = _wait(pid)
    if refused:
        raise _Refused(refused)
    tail = os.pread(lines, _MAX_TAIL, max(0, os.fstat(lines).st_size - _MAX_TAIL))
    reported = tail.decode("ascii", "replace").split()
    return os.waitstatus_to_exitcode(status), (reported or [""])[-1]


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


def _xattrs(path: bytes) -> dict[str, str]:
    found = {}
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            key = os.fsencode(name)
            found[text(key)] = text(os.getxattr(path, key, follow_symlinks=False))
    return found


def _entries(tree: bytes, recorder: Recorder) -> Iterator[list[Any]]:
    """Yield what fakeroot and `recorder` know of every entry of `tree`: [path, mode with type, uid,
    gid, major, minor, xattrs], parents before children. Files that their owner cannot read are
    made readable on disk. Raises _Refused.

    fakeroot knows owners, modes and attributes, as the recorder tells it of what programs without
    its preload did. The recorder knows their devices, and a file that fakeroot takes for another
    one, now removed, with the same inode number.
    """
    waiting = [b""]
    while waiting:
        name = waiting.pop()
        path = tree + b"/" + name if name else tree
        try:
            found = os.lstat(path)
        except OSError as error:
            # What the path is too long for is reported by those who list the tree.
            if name:
                continue
            raise _Refused("removed the directory that they ran in") from error
        mode = found.st_mode
        is_directory = stat.S_ISDIR(mode)
        needed = 0o500 if is_directory else 0o400 if stat.S_ISREG(mode) else 0
        if mode & needed != needed:
            # fakeroot records the mode, and keeps the file on disk readable.
            os.chmod(path, stat.S_IMODE(mode))
        if is_directory:
            above = name + b"/" if name else b""
            waiting += (above + child for child in os.listdir(path))
        entry = [
            text(name), mode, found.st_uid, found.st_gid, os.major(found.st_rdev),
            os.minor(found.st_rdev), {} if stat.S_ISLNK(mode) else _xattrs(path),
        ]  # fmt: skip
        if record := recorder.find(path, (found.st_dev, found.st_ino)):
            _correct(entry, record)
        yield entry


def _correct(entry: list[Any], record: Record) -> None:
    """Put into `entry` what was recorded of the file."""
    if record.mode is not None:
        entry[1:] = record.mode, record.uid, record.gid, 0, 0, {}
    elif record.device is not None and stat.S_ISREG(entry[1]):
        kind, *entry[4:6] = record.device
        entry[1] = kind | stat.S_IMODE(entry[1])


def _note(tree: bytes, entries: list[list[Any]], recorder: Recorder) -> None:
    """Tell `recorder` of the owners and devices that were imposed."""
    for name, mode, uid, gid, major, minor, _ in entries:
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        device = (stat.S_IFMT(mode), major, minor) if is_device else None
        recorder.note(tree + b"/" + name.encode("latin-1"), uid, gid, device)


def _run(request: dict[str, Any], recording: ModuleType) -> dict[str, Any]:
    """Run the commands of `request`; return the report."""
    recorder = None
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    imposed = request["imposed"]
    tree = os.fsencode(request["tree"])
    if imposed is not None:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            if "libfakeroot" not in file.read():
                raise _Refused("fakeroot has no effect on this Python")
        _impose(tree, imposed)
        recorder = recording.Recorder(
            capabilities=request["capabilities"], faked=True, clearing=request["clearing"]
        )
        _note(tree, imposed, recorder)
    alone = _is_alone(request["outside"])
    try:
        status, line = _run_shell(request, recorder)
    except _Refused:
        _end_descendants(alone=alone, grace=0)
        raise
    leftovers = _end_descendants(alone=alone)
    if status and line == UNFAKED:
        raise _Refused("fakeroot has no effect on the bash on PATH")
    report: dict[str, Any] = {"status": status, "line": line, "leftovers": leftovers}
    if recorder is not None and not status:
        recorder.stop()
        report["entries"] = list(_entries(tree, recorder))
    return report


def _module(name: str, code: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    exec(compile(code, f"<{name}>", "exec"), vars(module))  # noqa: S102 — a program of this package
    return module


def main() -> int:
    """Carry out the request on standard input, a line, whose other end stays open for as long as
    the commands are wanted. It is a JSON object of `which`, `commands`, `tree`,
    `name` (under which commands find it in their working directory, if it is not that itself),
    `root` (the directory to be the commands' root, or null) with `root_environment`,
    `capabilities` (the numbers of those that commands keep), `clearing` (for `Recorder`), `imposed`
    (null without fakeroot)
    and `outside`. Writes a JSON object to descriptor 3: first a space,
    as a sign that this program runs at all. The first argument is the text of `recording`.
    """
    # Nobody may trace us or take our descriptors. This does not affect what execve(2) starts.
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # What else the caller happened to have open would be the commands'.
    os.set_inheritable(REPORT, False)  # noqa: FBT003 — its only parameter
    os.closerange(REPORT + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    os.write(REPORT, b" ")
    request = json.loads(sys.stdin.readline())
    try:
        report = _run(request, _module("recording", sys.argv[1]))
    except _Refused as refused:
        report = {"refused": str(refused)}
    except OSError as error:
        where = f"{text(os.fsencode(error.filename))}: " if error.filename else ""
        report = {"refused": f"{where}{error.strerror}"}
    with open(REPORT, "w", encoding="ascii") as file:
        json.dump(report, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
