"""The sandbox that commands run in, built by bubblewrap: namespaces, and the files in them.

A program in it sees the tree, which it may change, a private /tmp, and what programs need, all
of that read-only: this machine's /usr and the like, the directories of PATH, the store. Nothing
else is there: no home directory, no socket of a service, no device but /dev/null and its kin,
no process and no network of the machine. `/proc` counts only the sandbox's own processes, which
end with the first of them, or with us.

User 0 of the sandbox is the user running us, or one that has nothing else if that is the
machine's root: what the kernel leaves to root's user ID alone must be out of reach, and the tree
out of reach of other processes.

Owns what is seen where. Must not know commands, nor who reads what they leave.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from stream.values import dataclass, field

NOBODY = 65534
# User IDs that systemd's UIDS-GIDS leaves unused.
_UNUSED = range(0x70000000, 0x7FFE0000)
BUBBLEWRAP = "bwrap"

# Paths in the sandbox.
TREE = "/build"
TEMPORARY = "/tmp"  # noqa: S108 — the sandbox's own
OURS = "/.stream-image"
ROOT = f"{OURS}/root"  # the tree as a root directory, with mounts in it
ROOTED_TEMPORARY = f"{OURS}/tmp"  # noqa: S108 — in ROOT, whose own /tmp belongs to the image
# The machine's directories that hold programs, and what these read.
_PROGRAMS = (
    "/bin", "/etc", "/gnu/store", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/opt",
    "/sbin", "/usr",
)  # fmt: skip
_OF_PROGRAMS = ("bin", "sbin", "libexec")
_OF_LIBRARIES = ("lib", "lib32", "lib64")
_PRIVATE = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp")  # noqa: S108
_OF_THE_SYSTEM = ("/proc", "/run", "/sys")
_KERNEL_SETTINGS = ("bus", "fs", "irq", "sys", "sysrq-trigger")  # in /proc; all are root's
_RESOLVER = "/etc/resolv.conf"
# Of capabilities(7): CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID;
# CAP_NET_ADMIN, CAP_SYS_ADMIN.
_TO_CHANGE_USER, _TO_MAKE_NAMESPACES = (0, 1, 5, 6, 7), (12, 21)
_CAPABILITIES = ("CAP_SETPCAP", "CAP_SYS_CHROOT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or directory of this machine, `source`, seen read-only at `target`."""

    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The files that a sandboxed program sees: the directory `tree` at TREE and `temporary` at /tmp, both
    writable; `programs` are paths that it needs, such as the directories of PATH, and `mounts`
    further files. With `rooted`, the tree is also at ROOT, and has /dev, /proc, /sys and a
    directory of ours there. `links` are symbolic links: the target of each path. `capabilities`
    are those that the program may keep. `owner` is that of the tree, as `owner` returned it.
    """

    tree: str
    temporary: str
    programs: Sequence[str]
    mounts: Sequence[Mount] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    rooted: bool = False
    capabilities: Sequence[str] = ()
    network: bool = False
    owner: tuple[int, int] | None = None


class NoSandboxError(Exception):
    """No sandbox can be made for this user; the text is the reason."""


def owner() -> tuple[int, int] | None:
    """Return the user and group that the sandbox's user 0 is to be, if they are not our own. No
    process but the sandbox's has them, if they are not nobody's for want of others. Raises
    NoSandboxError.
    """
    if not _is_host_root():
        return None
    may_change = _has(_TO_CHANGE_USER)
    for number in (secrets.choice(_UNUSED), NOBODY):
        if may_change and _is_mapped("uid", number) and _is_mapped("gid", number):
            return number, number
    if _is_mapped("uid", NOBODY):
        raise NoSandboxError("root may not become another user")
    return None  # in a user namespace that has only root, such as a sandbox of Nix's


def _is_host_root() -> bool:
    """Return True if our user ID is that of the machine's root, not of a namespace's."""
    try:
        return os.stat("/proc/sys/kernel").st_uid == os.geteuid()
    except OSError:
        return os.geteuid() == 0


def _has(capabilities: Iterable[int]) -> bool:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        (effective,) = (line.split()[1] for line in file if line.startswith("CapEff:"))
    return all(int(effective, 16) >> number & 1 for number in capabilities)


def _is_mapped(kind: str, number: int) -> bool:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= number < first + count for first, _, count in ranges)


def sandboxed(view: View, program: Sequence[str], *, denied: int) -> list[str]:
    """Return the command that runs `program` in a sandbox with `view`. It has to have `denied`, a
    descriptor from which the filter for system calls is read. Raises NoSandboxError.
    """
    user = ["--unshare-user", "--uid", "0", "--gid", "0"]
    kept = (*_CAPABILITIES, *view.capabilities) if view.rooted or view.capabilities else ()
    user += [word for name in kept for word in ("--cap-add", name)]
    apart = ["--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts"]
    apart += ["--hostname", "localhost"]
    if not view.network:
        apart.append("--unshare-net")
    mounted_by_root = view.owner is not None and _has(_TO_MAKE_NAMESPACES)
    by_owner = view.owner is not None and not mounted_by_root
    files = _files(view, by_owner=by_owner)
    apart += ["--die-with-parent", "--new-session", "--seccomp", str(denied), *files]
    apart += ["--chdir", "/", "--remount-ro", "/", "--"]
    commands = [BUBBLEWRAP, *user, "--die-with-parent", "--dev-bind", "/", "/", "--", *program]
    # The first process of the PID namespace stays outside of the commands' user namespace, so
    # that they cannot trace it: it would outlive us if they had it forget its parent. When it
    # has ended, so has all that they started. It is root's if bubblewrap is: a signal to another
    # user's would not be allowed.
    if view.owner is not None and mounted_by_root:
        # Root sees what others do not, such as a Python below /root: so it makes the mounts.
        return [BUBBLEWRAP, *apart, *_as_user(view.owner, _FORKED), *commands]
    outer = [BUBBLEWRAP, "--unshare-user", *apart]
    return [*(() if view.owner is None else _as_user(view.owner)), *outer, *commands]


# Runs what follows in a child, as the first process of a PID namespace; ends as that does.
_FORKED = """
child = os.fork()
while child:
    ended, status = os.wait()
    if ended == child:
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
"""


def _as_user(owner: tuple[int, int], before: str = "") -> list[str]:
    """Return the command that runs the program after it as another user, who has no groups."""
    user, group = owner
    code = (
        f"import os, sys{before or chr(10)}os.setgroups([]); "
        f"os.setresgid({group}, {group}, {group}); os.setresuid({user}, {user}, {user}); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [os.path.realpath(sys.executable), "-I", "-S", "-c", code]


def _files(view: View, *, by_owner: bool) -> Iterator[str]:
    for path in _PROGRAMS:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.exists(path):
            yield from _shown(path, path)
    yield from _pseudo("")
    yield from ("--dir", "/run", "--dir", "/sys")
    for path in (TEMPORARY, "/var/tmp"):  # noqa: S108
        yield from (*_directories_above(path), "--bind", view.temporary, path)
    programs = [*view.programs, *_python()]
    if view.network and os.path.exists(_RESOLVER):
        programs.append(_RESOLVER)
    for path in _needed(programs):
        if by_owner and not _is_open(path):
            continue
        yield from _shown(path, path)
    yield from ("--bind", view.tree, TREE)
    if view.rooted:
        yield from (*_directories_above(ROOT), "--bind", view.tree, ROOT)
        yield from _pseudo(ROOT)
        yield from ("--tmpfs", f"{ROOT}/sys", "--remount-ro", f"{ROOT}/sys")
        yield from ("--tmpfs", ROOT + OURS, "--bind", view.temporary, ROOT + ROOTED_TEMPORARY)
    for mount in view.mounts:
        yield from _shown(mount.source, mount.target)
    for directory in sorted({os.path.dirname(path) for path in view.links}):
        yield from ("--perms", "0755", "--dir", directory)
    for path, target in view.links.items():
        yield from ("--symlink", target, path)
    if view.rooted:
        yield from ("--remount-ro", ROOT + OURS)


def _pseudo(root: str) -> Iterator[str]:
    """Yield the arguments for /dev and /proc below `root`."""
    yield from ("--proc", f"{root}/proc")
    for name in _KERNEL_SETTINGS:
        if os.path.exists(f"/proc/{name}"):
            yield from ("--ro-bind", f"/proc/{name}", f"{root}/proc/{name}")
    shared = f"{root}/dev/shm"  # noqa: S108 — the sandbox's own
    yield from ("--dev", f"{root}/dev", "--perms", "1777", "--tmpfs", shared)
    yield from ("--remount-ro", f"{root}/dev")


def _shown(source: str, target: str) -> Iterator[str]:
    """Yield the arguments that show `source` of this machine at `target`, read-only."""
    yield from (*_directories_above(target), "--ro-bind", source, target)


def _directories_above(target: str) -> Iterator[str]:
    """Yield the arguments that make the directories above `target`, open to everybody:
    bubblewrap's own would be root's alone.
    """
    for above in reversed(Path(target).parents):
        if str(above) != "/" and not _is_below(str(above), (*_PROGRAMS, ROOT)):
            yield from ("--perms", "0755", "--dir", str(above))


# ---- what programs need


def _python() -> list[str]:
    """Return the paths that this Python needs to run, and nothing of what was added to it."""
    return [os.path.realpath(sys.executable), sys.base_prefix, sys.base_exec_prefix]


def _needed(paths: Iterable[str]) -> list[str]:
    """Return the paths to show for the programs in `paths`, besides _PROGRAMS, parents first.

    A directory of programs brings its prefix: PREFIX/bin/x reads PREFIX/lib/x. In a home directory
    that is only where libraries are: ~/.local/share and the like have other programs' data. What
    contains home directories, or everybody's temporary files, is left out.
    """
    wanted: set[str] = set()
    for path in paths:
        for found in (path, os.path.realpath(path)):
            name = "/" + os.path.normpath(found).lstrip("/")
            if not found.startswith("/") or not os.path.exists(found) or is_private(name):
                continue
            prefix = os.path.dirname(name)
            if os.path.basename(name) not in _OF_PROGRAMS or is_private(prefix):
                wanted.add(name)
            elif _is_below(prefix, _homes()):
                beside = (f"{prefix}/{part}" for part in (*_OF_PROGRAMS, *_OF_LIBRARIES))
                wanted |= {name, *filter(os.path.isdir, beside)}
            else:
                wanted.add(prefix)
    shown: list[str] = []
    for path in sorted(wanted):
        if not _is_below(path, (*_PROGRAMS, *shown)):
            shown.append(path)
    return shown


def _is_open(path: str) -> bool:
    """Return True if everybody can reach `path`."""
    return all(above.stat().st_mode & 0o001 for above in Path(path).parents)


def may_show(directory: str) -> bool:
    """Return True if a directory that a conf names may be shown: a read-only mount does not keep
    anybody from connecting to a service's socket.
    """
    real = os.path.realpath(directory)
    return not is_private(real) and not _is_below(real, _OF_THE_SYSTEM)


def is_private(path: str) -> bool:
    """Return True if `path` is, or contains, a directory of private files."""
    return any(_is_below(place, (path,)) for place in (*_homes(), *_PRIVATE, "/var"))


def _homes() -> list[str]:
    """Return the directories that contain home directories, and our own."""
    found = ("/home", "/root", os.path.expanduser("~"), os.environ.get("HOME", ""))
    real = (
        place for path in found if path.startswith("/") for place in (path, os.path.realpath(path))
    )
    return [place for place in real if place != "/"]


def _is_below(path: str, places: Iterable[str]) -> bool:
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)
