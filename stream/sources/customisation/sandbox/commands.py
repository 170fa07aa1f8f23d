"""The commands of a recipe, run in a scratch tree: `extraCommands`, `fakeRootCommands`.

Knows the environment they run in and how to read the tree they leave; not where the tree
comes from, nor how it is used.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stream.errors import CommandsError
from stream.model import Recipe
from stream.nix.store_root import Disk
from stream.sources.customisation.sandbox import session
from stream.sources.customisation.sandbox.scratch import Scratch, opened_scratch, write
from stream.sources.customisation.tree import Identity, Node, Tree
from stream.text import one_line, printable
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, LINK

EXTRA, FAKE_ROOT = "extraCommands", "fakeRootCommands"
MAX_NAMES = 5  # in a message

_TYPES = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFCHR: CHARACTER_DEVICE,
    stat.S_IFBLK: BLOCK_DEVICE,
}
_FORMATS = {typeflag: form for form, typeflag in _TYPES.items()}
_OWNER_READS = {DIRECTORY: 0o500, FILE: 0o400}


@contextmanager
def run_commands(
    tree: Tree,
    recipe: Recipe,
    *,
    disk: Disk,
    mtime: int,
    warn: Callable[[str], None],
) -> Iterator[Tree]:
    """Run the commands of `recipe` in `tree`; the value is the tree that they leave. Its files
    are in a scratch directory, which exists until the context ends.

    Commands have no privileges, even if they run as root; their output goes to standard
    error. Files they make are owned by root in the image unless fakeRootCommands change
    that. `mtime` (seconds) is SOURCE_DATE_EPOCH and the time of all files they find.
    `warn` is called for files left out and processes killed. Raises CommandsError and
    SourceError.
    """
    with opened_scratch() as place:
        write(tree, place, mtime)
        # Attributes that are not on disk, by device and inode: commands may move files.
        hidden = dict(_hidden(tree, place))
        sockets: set[bytes] = set()  # already warned of: they stay on disk
        if recipe.extra_commands:
            run = _Run(EXTRA, recipe.extra_commands, place, disk, mtime, warn)
            tree = run.tree(run.report(), hidden, sockets)
        if recipe.fake_root_commands:
            run = _Run(FAKE_ROOT, recipe.fake_root_commands, place, disk, mtime, warn)
            tree = run.tree(run.report(_imposed(tree), fakechroot=recipe.fakechroot), {}, sockets)
        yield tree


def _hidden(tree: Tree, place: Scratch) -> Iterator[tuple[tuple[int, int], Node]]:
    for path, node in tree.entries():
        if node.uid or node.gid or node.xattrs or node.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE):
            found = os.lstat(place.tree + b"/" + path)
            yield (found.st_dev, found.st_ino), node


def _imposed(tree: Tree) -> list[list[Any]]:
    """Return the metadata of `tree` that fakeroot has to know beforehand, for `session`."""
    return [
        [
            session.text(path), _FORMATS[node.typeflag] | node.mode, node.uid, node.gid, *node.device,
            {session.text(key): session.text(value) for key, value in (node.xattrs or {}).items()},
        ]
        for path, node in tree.entries()
        if node.uid or node.gid or node.xattrs or node.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE)
        # The mode on disk was changed so that we can read the file.
        or ~node.mode & _OWNER_READS.get(node.typeflag, 0)
    ]  # fmt: skip


def _decode(path: bytes) -> str:
    """Return `path` as Python decodes it in the C locale, whatever ours is."""
    return path.decode("utf-8", "surrogateescape")


class _Run:
    """A run of commands in the scratch tree, and the tree that they leave."""

    def __init__(  # noqa: PLR0913, PLR0917 — the inputs of a run
        self,
        which: str,
        commands: str,
        place: Scratch,
        disk: Disk,
        mtime: int,
        warn: Callable[[str], None],
    ) -> None:
        self.which = which
        self.commands = commands
        self.place = place
        self.disk = disk
        self.warn = warn
        self.environment = {
            "HOME": "/homeless-shelter",
            "LC_ALL": "C",
            "PATH": os.environ.get("PATH") or os.defpath,
            "SOURCE_DATE_EPOCH": str(mtime),
            "TMPDIR": os.fsdecode(place.aside + b"/tmp"),
            "TZ": "UTC",
        }

    def _program(self) -> list[str]:
        return [sys.executable, "-I", "-S", session.__file__]

    def report(
        self, imposed: list[list[Any]] | None = None, *, fakechroot: bool = False
    ) -> dict[str, Any]:
        """Run the commands and return their report. They run under fakeroot if `imposed` is
        given, and with the tree as their root directory if `fakechroot` is set. Raises
        CommandsError.
        """
        if "\0" in self.commands:
            raise CommandsError(self.which, "contains a NUL character; remove it")
        prefix = []
        if imposed is not None:
            # No file changes its owner on disk, even if that were allowed.
            self.environment["FAKEROOTDONTTRYCHOWN"] = "1"
            fakeroot = shutil.which("fakeroot", path=self.environment["PATH"])
            if fakeroot is None:
                raise CommandsError(self.which, "fakeroot is not on PATH; install it")
            prefix = [fakeroot, "--"]
        request = self.place.path + b"/" + self.which.encode()
        with open(request, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "which": self.which,
                    "commands": self.commands,
                    "tree": _decode(self.place.tree),
                    "aside": _decode(self.place.aside),
                    "imposed": imposed,
                    "fakechroot": fakechroot,
                    "store_dir": _decode(self.disk.store_dir),
                    "store": _decode(self.disk.at(self.disk.store_dir)),
                },
                file,
            )
        answer = self._read_report([*prefix, *self._program(), "run", os.fsdecode(request)])
        try:
            report: dict[str, Any] = json.loads(answer)
        except ValueError:
            raise CommandsError(self.which, "the command runner was killed") from None
        if "refused" in report:
            raise CommandsError(self.which, report["refused"])
        if leftovers := report["leftovers"]:
            names = ", ".join(leftovers[:MAX_NAMES]) + (", …" if leftovers[MAX_NAMES:] else "")
            self._warn(f"killed processes that were left running: {names}")
        if status := report["status"]:
            raise CommandsError(self.which, _describe_status(status, report["line"]), status)
        return report

    def _warn(self, message: str) -> None:
        self.warn(one_line(f"{self.which}: {message}"))

    def _read_report(self, command: list[str]) -> bytes:
        """Run `command` with the number of a descriptor as a further argument; return what it
        writes to that.

        However this ends, all its processes have ended.
        """
        control, held = os.pipe()
        report, theirs = os.pipe()
        process = None
        try:
            try:
                process = subprocess.Popen(  # noqa: S603 — recipes exist to run commands
                    [*self._program(), "guard", str(control), *command, str(theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=2,
                    pass_fds=(control, theirs),
                    env=self.environment,
                    start_new_session=True,
                    cwd="/",
                )
            except OSError as error:
                raise CommandsError(self.which, f"cannot be run: {error}") from error
            finally:
                os.close(control)
                os.close(theirs)
            with open(report, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(held)  # now the guard kills all processes
            with suppress(OSError), open(report, "rb") as file:
                file.read()  # until the guard exits
            if process is not None:
                process.wait()

    def tree(
        self,
        report: dict[str, Any],
        hidden: dict[tuple[int, int], Node],
        sockets: set[bytes],
    ) -> Tree:
        """Return the tree that `report` describes. `hidden` has the attributes that are not on
        disk, by device and inode; `sockets` were warned of already.
        """
        made = Tree()
        directories = {b"": made.root}
        ours = report["uid"], report["gid"]
        fake = self.which == FAKE_ROOT
        adopted = []
        for name, mode, uid, gid, device, inode, size, mtime, major, minor, link, xattrs in report[
            "entries"
        ]:
            path = name.encode("latin-1")
            typeflag = _TYPES.get(stat.S_IFMT(mode))
            if typeflag is None:
                if path not in sockets:
                    self._warn(f"/{printable(path)}: left out; layers cannot hold sockets")
                sockets.add(path)
                continue
            node = Node(
                typeflag=typeflag,
                mode=stat.S_IMODE(mode),
                link=link.encode("latin-1"),
                xattrs={k.encode("latin-1"): v.encode("latin-1") for k, v in xattrs.items()}
                or None,
                origin=self.which.encode(),
            )
            if typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE):
                node.device = major, minor
            elif typeflag == FILE:
                node.size = size
                node.source = self.place.tree + b"/" + path
                node.identity = Identity(device, inode, size, mtime)
            if fake:
                node.uid, node.gid = uid, gid
                # When an attribute is the first thing that fakeroot records of a file, it
                # also records the owner on disk.
                if xattrs and ours != (0, 0) and (uid, gid) == ours:
                    node.uid = node.gid = 0
                    adopted.append(path)
            if before := hidden.get((device, inode)):
                _unhide(node, before)
            if path:
                above, _, last = path.rpartition(b"/")
                directories[above].children[last] = node
            else:
                made.root = node
            if typeflag == DIRECTORY:
                directories[path] = node
        if adopted:
            self._warn(
                f"/{printable(adopted[0])}: taken to be owned by root; for files with extended"
                f" attributes, fakeroot does not distinguish {ours[0]}:{ours[1]} from root"
                + (f" (and {len(adopted) - 1} more)" if adopted[1:] else "")
            )
        return made


def _unhide(node: Node, before: Node) -> None:
    """Give `node` the attributes of `before`, the same file, that are not on disk."""
    if before.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE) and node.typeflag == FILE:
        node.typeflag, node.device = before.typeflag, before.device
        node.size, node.source, node.identity = 0, b"", None
    node.uid, node.gid = before.uid, before.gid
    node.xattrs = {**(before.xattrs or {}), **(node.xattrs or {})} or None


def _describe_status(status: int, line: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"killed by signal {name}"
    where = f" at line {line}" if line.isdecimal() else ""
    return f"failed{where} with exit status {status}"
