"""Commands of a recipe, run in a scratch tree: `extraCommands`, `fakeRootCommands`.

Knows what they are given and how what they left is read; not where the tree comes from, nor
what becomes of it.
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
from stream.sources.customisation.sandbox.scratch import Scratch, scratch, write
from stream.sources.customisation.tree import Node, Tree
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
def ran(
    tree: Tree,
    recipe: Recipe,
    *,
    disk: Disk,
    mtime: int,
    warn: Callable[[str], None],
) -> Iterator[Tree]:
    """What `tree` is after the commands of `recipe`. Its files are in a scratch directory,
    which is there until the context ends.

    Commands have root's place but no privileges, whoever runs us; their output goes to
    standard error. Files they make are root's unless fakeRootCommands say otherwise.
    `mtime` (seconds) is SOURCE_DATE_EPOCH and the time of all files they find. `warn` is
    told of what is left out or was ended. Raises CommandsError and SourceError.
    """
    with scratch() as place:
        write(tree, place, mtime)
        # What the disk does not show, by the file it belongs to: commands may move it.
        hidden = dict(_hidden(tree, place))
        sockets: set[bytes] = set()  # that were told of: they stay on disk
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
    """What fakeroot has to be told of `tree` beforehand, as `session` takes it."""
    return [
        [
            session.text(path), _FORMATS[node.typeflag] | node.mode, node.uid, node.gid, *node.device,
            {session.text(key): session.text(value) for key, value in (node.xattrs or {}).items()},
        ]
        for path, node in tree.entries()
        if node.uid or node.gid or node.xattrs or node.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE)
        # The disk's mode was changed for us to read it.
        or ~node.mode & _OWNER_READS.get(node.typeflag, 0)
    ]  # fmt: skip


def _named(path: bytes) -> str:
    """`path` as Python has it in the C locale, whatever ours is."""
    return path.decode("utf-8", "surrogateescape")


class _Run:
    """Commands to be run in the scratch tree, and what they leave."""

    def __init__(  # noqa: PLR0913, PLR0917 — what a run is given
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
        """Run them, under fakeroot if `imposed` is given, with the tree as their root
        directory with `fakechroot`; how it went. Raises CommandsError.
        """
        if "\0" in self.commands:
            raise CommandsError(self.which, "a NUL character is in them: remove it")
        prefix = []
        if imposed is not None:
            # Nothing changes its owner on disk, even if that were allowed.
            self.environment["FAKEROOTDONTTRYCHOWN"] = "1"
            fakeroot = shutil.which("fakeroot", path=self.environment["PATH"])
            if fakeroot is None:
                raise CommandsError(self.which, "there is no fakeroot on PATH: install it")
            prefix = [fakeroot, "--"]
        request = self.place.path + b"/" + self.which.encode()
        with open(request, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "which": self.which,
                    "commands": self.commands,
                    "tree": _named(self.place.tree),
                    "aside": _named(self.place.aside),
                    "imposed": imposed,
                    "fakechroot": fakechroot,
                    "store_dir": _named(self.disk.store_dir),
                    "store": _named(self.disk.at(self.disk.store_dir)),
                },
                file,
            )
        said = self._said([*prefix, *self._program(), "run", os.fsdecode(request)])
        try:
            report: dict[str, Any] = json.loads(said)
        except ValueError:
            raise CommandsError(self.which, "what runs them was ended from outside") from None
        if "refused" in report:
            raise CommandsError(self.which, report["refused"])
        if leftovers := report["leftovers"]:
            names = ", ".join(leftovers[:MAX_NAMES]) + (", …" if leftovers[MAX_NAMES:] else "")
            self._warn(f"left running, and killed: {names}")
        if status := report["status"]:
            raise CommandsError(self.which, _ended(status, report["line"]), status)
        return report

    def _warn(self, message: str) -> None:
        self.warn(one_line(f"{self.which}: {message}"))

    def _said(self, command: list[str]) -> bytes:
        """What `command`, whose last argument a descriptor follows, writes to it.

        However this ends, all processes of it have ended then.
        """
        control, held = os.pipe()
        report, theirs = os.pipe()
        process = None
        try:
            try:
                process = subprocess.Popen(  # noqa: S603 — that is what a recipe is for
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
            os.close(held)  # the guard ends all
            with suppress(OSError), open(report, "rb") as file:
                file.read()  # to its end, which is the guard's
            if process is not None:
                process.wait()

    def tree(
        self,
        report: dict[str, Any],
        hidden: dict[tuple[int, int], Node],
        sockets: set[bytes],
    ) -> Tree:
        """The tree that `report` tells of. `hidden` has what the disk does not show; a person
        knows of `sockets` already.
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
                    self._warn(f"/{printable(path)} is a socket, which no layer holds: left out")
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
                node.identity = device, inode, size, mtime
            if fake:
                node.uid, node.gid = uid, gid
                # fakeroot's memory of a file begins with the owner on disk where an
                # attribute is the first thing that it hears of it.
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
                f"/{printable(adopted[0])} has extended attributes, and fakeroot does not tell"
                f" its owner {ours[0]}:{ours[1]} from root: taken to be root's"
                + (f" (and {len(adopted) - 1} more)" if adopted[1:] else "")
            )
        return made


def _unhide(node: Node, before: Node) -> None:
    """Give `node` what `before`, the same file, had and the disk does not show."""
    if before.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE) and node.typeflag == FILE:
        node.typeflag, node.device = before.typeflag, before.device
        node.size, node.source, node.identity = 0, b"", None
    node.uid, node.gid = before.uid, before.gid
    node.xattrs = {**(before.xattrs or {}), **(node.xattrs or {})} or None


def _ended(status: int, line: str) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"ended by signal {name}"
    where = f" at line {line}" if line.isdecimal() else ""
    return f"failed{where} with exit status {status}"
