"""The commands of a recipe, run in a scratch tree: `runAsRoot` and the hooks around it,
`extraCommands`, `fakeRootCommands`.

Knows the environment they run in, and that they run in a sandbox or without; not how a sandbox
is made, where the tree comes from, nor how it is used.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from stream.errors import CommandsError
from stream.model import Recipe
from stream.nix.store_root import Disk
from stream.sources.customisation.sandbox import isolation, recording, session
from stream.sources.customisation.sandbox.filter import denied_calls
from stream.sources.customisation.sandbox.isolation import Mount, View
from stream.sources.customisation.sandbox.listing import (
    FORMATS,
    Inode,
    Listing,
    unreadable_mode,
)
from stream.sources.customisation.sandbox.report import Metadata, Report, parse_report
from stream.sources.customisation.sandbox.root import PSEUDO, Root, prepare_root
from stream.sources.customisation.sandbox.running import DATA, REPORT, Ended, run
from stream.sources.customisation.sandbox.scratch import SPECIAL, Scratch, opened_scratch, write
from stream.sources.customisation.tree import Node, Tree
from stream.text import one_line, printable
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE
from stream.values import dataclass, field, replace

EXTRA, FAKE_ROOT, AS_ROOT = "extraCommands", "fakeRootCommands", "runAsRoot"
PRE_MOUNT, POST_MOUNT, POST_UMOUNT = "preMount", "postMount", "postUmount"
# Of capabilities(7), for the user's own files only: no mode keeps root from anything.
_ROOTS = {"CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_SYS_CHROOT": 18}
MAX_NAMES = 5  # in a message
MAX_COMMAND = 80  # characters of a command in a message
MAX_FILES = 16384  # fakeroot closes every descriptor up to the limit, which may be a billion
# The sign that the sandbox exists; then the limits, before fakeroot starts.
_LIMITED = f'printf " " >&{REPORT}; umask 022; ulimit -n {MAX_FILES} 2>/dev/null; exec "$@"'
_FORGED = "changed the report of the command runner"
_UNSANDBOXED = ", or accept that the commands can change what you can, with --unsandboxed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Commands to be run in a tree, which messages call `which`. `faked`: under fakeroot; `rooted`:
    with the tree as root directory; `privileged`: as if no mode kept root from anything. `name`
    is that of the tree in the commands' working directory; empty if it is the tree itself.
    """

    which: str
    commands: str
    faked: bool = True
    rooted: bool = False
    privileged: bool = False
    name: str = ""


Steps = Callable[[Recipe], Iterator[Step]]


def before_mount(recipe: Recipe) -> Iterator[Step]:
    """Yield the steps for the layer's tree before the base image is below it."""
    yield Step(which=PRE_MOUNT, commands=recipe.pre_mount, name="layer")


def in_image(recipe: Recipe) -> Iterator[Step]:
    """Yield the steps for the base image with the layer's tree over it."""
    yield Step(which=POST_MOUNT, commands=recipe.post_mount, privileged=True, name="mnt")
    yield Step(which=AS_ROOT, commands=recipe.run_as_root, rooted=True, privileged=True)


def in_layer(recipe: Recipe) -> Iterator[Step]:
    """Yield the steps for the layer's tree."""
    yield Step(which=POST_UMOUNT, commands=recipe.post_umount, name="layer")
    # In dockerTools they run in the virtual machine then, as root.
    yield Step(which=EXTRA, commands=recipe.extra_commands, faked=recipe.changes_image)
    yield Step(which=FAKE_ROOT, commands=recipe.fake_root_commands, rooted=recipe.fakechroot)


@contextmanager
def run_commands(  # noqa: PLR0913 — the inputs of a run
    tree: Tree,
    recipe: Recipe,
    *,
    disk: Disk,
    mtime: int,
    warn: Callable[[str], None],
    sandboxed: bool = True,
    steps: Steps = in_layer,
) -> Iterator[Tree]:
    """Run the commands of `recipe` in `tree`; the value is the tree that they leave, or `tree` if
    there are none. Its files are in a scratch directory, which exists until the context ends.

    Commands have no privileges, even if they run as root, except that modes do not keep those of
    a privileged step from files of the tree; their output goes to standard error.
    In the sandbox they can change nothing but the tree. Files they make are owned by root in
    the image unless fakeRootCommands change that. `mtime` (seconds) is SOURCE_DATE_EPOCH and the
    time of all files they find. `warn` is called for files left out and processes killed.

    Raises CommandsError and SourceError.
    """
    if not any(step.commands for step in steps(recipe)):
        yield tree
        return
    with run_in(
        lambda _: tree,
        recipe,
        steps=steps,
        disk=disk,
        mtime=mtime,
        warn=warn,
        sandboxed=sandboxed,
    ) as after:
        yield after


@contextmanager
def run_in(  # noqa: PLR0913 — the inputs of a run
    make: Callable[[Scratch], Tree],
    recipe: Recipe,
    *,
    steps: Steps,
    disk: Disk,
    mtime: int,
    warn: Callable[[str], None],
    sandboxed: bool = True,
) -> Iterator[Tree]:
    """Do the same in the tree that `make` returns, which may put files into the `staged` directory
    of the scratch directory.
    """
    todo = [step for step in steps(recipe) if step.commands]
    if recipe.changes_image and not sandboxed:
        wrong = "needs the sandbox, which has the image as its root directory"
        raise CommandsError(AS_ROOT, f"{wrong}; leave out --unsandboxed")
    which = todo[0].which if todo else AS_ROOT
    with opened_scratch(_owner(which, recipe) if sandboxed else None) as place:
        tree = make(place)
        if todo:
            write(tree, place, mtime)
        runs = _Runs(
            place=place, recipe=recipe, disk=disk, mtime=mtime, warn=warn, sandboxed=sandboxed
        )
        for step in todo:
            tree = runs.run(step, tree)
        yield tree


def _owner(which: str, recipe: Recipe) -> tuple[int, int] | None:
    try:
        return isolation.owner()
    except isolation.NoSandboxError as error:
        raise _no_sandbox(which, recipe, str(error)) from None


def _no_sandbox(which: str, recipe: Recipe, reason: str) -> CommandsError:
    """Return the error for a machine on which no sandbox can be made."""
    shown = f" ({reason})" if reason else ""
    other = "" if recipe.changes_image else _UNSANDBOXED
    return CommandsError(
        which, f"bubblewrap cannot make a sandbox here{shown}; allow user namespaces{other}"
    )


def _hidden(tree: Tree, place: Scratch) -> Iterator[tuple[Inode, Node]]:
    for path, node in tree.entries():
        if _is_hidden(node):
            found = os.lstat(place.tree + b"/" + path)
            missing = node.mode & SPECIAL & ~found.st_mode
            yield (found.st_dev, found.st_ino), replace(node, mode=missing)


def _is_hidden(node: Node) -> bool:
    """Return True if the disk may lack attributes of `node`."""
    is_device = node.typeflag in (CHARACTER_DEVICE, BLOCK_DEVICE)
    return bool(node.uid or node.gid or node.xattrs or node.mode & SPECIAL or is_device)


def _imposed(tree: Tree) -> list[list[Any]]:
    """Return the metadata of `tree` that fakeroot has to know beforehand, for `session`."""
    distinct: dict[int, tuple[bytes, Node]] = {}  # hard links once
    for path, node in tree.entries():
        distinct.setdefault(id(node), (path, node))
    return [
        [
            session.text(path), FORMATS[node.typeflag] | node.mode, node.uid, node.gid, *node.device,
            {session.text(key): session.text(value) for key, value in (node.xattrs or {}).items()},
        ]
        for path, node in distinct.values()
        if _is_hidden(node)
        # The mode on disk was changed so that we can read the file.
        or unreadable_mode(node)
    ]  # fmt: skip


@dataclass(kw_only=True, slots=True)
class _Runs:
    """The runs of commands in one scratch tree."""

    place: Scratch
    recipe: Recipe
    disk: Disk
    mtime: int
    warn: Callable[[str], None]
    sandboxed: bool
    _sockets: set[bytes] = field(default_factory=set)  # warned of already: they stay on disk

    def run(self, step: Step, tree: Tree) -> Tree:
        """Run `step`; return the tree that it leaves of `tree`, which is on disk. Raises
        CommandsError.
        """
        which, fake = step.which, step.faked
        # Attributes that are not on disk, by device and inode: commands may move files.
        hidden = {} if fake else dict(_hidden(tree, self.place))
        if "\0" in step.commands:
            raise CommandsError(which, "contains a NUL character; remove it")
        if (
            self.sandboxed
            and os.path.isdir(self._store())
            and not isolation.may_show(self._store())
        ):
            raise CommandsError(
                which,
                f"cannot be shown {self._store()}, which has more than a store; move the store",
            )
        path = os.environ.get("PATH") or os.defpath
        needed = {"fakeroot": fake, "bash": True, isolation.BUBBLEWRAP: self.sandboxed}
        for program in (program for program, is_needed in needed.items() if is_needed):
            if shutil.which(program, path=path) is None:
                how = "install it"
                if program == isolation.BUBBLEWRAP:
                    other = "" if self.recipe.changes_image else _UNSANDBOXED
                    how = f"install bubblewrap{other}"
                raise CommandsError(which, f"{program} is not on PATH; {how}")
        root = self._prepare_root(step, path) if step.rooted else None
        request = {
            "which": which,
            "commands": step.commands,
            "name": step.name,
            "imposed": _imposed(tree) if fake else None,
            "tree": isolation.TREE if self.sandboxed else os.fsdecode(self.place.tree),
            "root": None if root is None else isolation.ROOT,
            "root_environment": {
                "PATH": path if root is None else root.path,
                "TMPDIR": isolation.ROOTED_TEMPORARY,
            },
            "capabilities": [*_ROOTS.values()] if step.privileged else [],
            "clearing": step.privileged,
            "outside": os.stat("/proc/self/ns/pid").st_ino,
        }
        report = self._report(step, request, path, root)
        listing = Listing(
            which=which,
            metadata=self._metadata(which, report) if fake else None,
            hidden=hidden,
            omitted=_omitted(root, self.disk),
            mount_points=root.made if root else (),
            hard_links=self.recipe.changes_image,
            socket=lambda path: self._warn_of_socket(which, path),
        )
        found = listing.list(self.place.tree)
        if step.privileged:
            _put_back(tree, found, listing.omitted)
        return found

    def _prepare_root(self, step: Step, path: str) -> Root:
        if not self.sandboxed:
            raise CommandsError(
                step.which,
                "enableFakechroot needs the sandbox; leave out --unsandboxed, or the option",
            )
        return prepare_root(
            os.fsdecode(self.place.tree),
            which=step.which,
            path=path,
            store_dir=self.disk.store_dir.decode(),
            store=self._store(),
            owner=self.place.owner,
            is_system=step.privileged,
            network=self.recipe.network,
        )

    def _store(self) -> str:
        return os.fsdecode(self.disk.at(self.disk.store_dir))

    def _report(self, step: Step, request: dict[str, Any], path: str, root: Root | None) -> Report:
        """Carry out `request`, and return the report of `session`. Raises CommandsError."""
        command = self._command(step, path, root)
        environment = self._environment(path, fake=step.faked)
        try:
            ended = run(command, environment, json.dumps(request), denied_calls())
        except OSError as error:
            raise CommandsError(step.which, f"cannot be run: {error.strerror}") from error
        return self._read(step.which, step.commands, ended)

    def _environment(self, path: str, *, fake: bool) -> dict[str, str]:
        environment = {
            "HOME": "/homeless-shelter",
            "LC_ALL": "C",
            "PATH": path,
            "SOURCE_DATE_EPOCH": str(self.mtime),
            "TMPDIR": isolation.TEMPORARY if self.sandboxed else os.fsdecode(self.place.temporary),
            "TZ": "UTC",
        }
        # No file changes its owner on disk, even if that were allowed.
        return environment | ({"FAKEROOTDONTTRYCHOWN": "1"} if fake else {})

    def _command(self, step: Step, path: str, root: Root | None) -> list[str]:
        """Return the command that runs `session`."""
        program = [
            *("bash", "-c", _LIMITED, "bash"), *(["fakeroot", "--"] if step.faked else ()),
            # As text: the file may be closed to the sandbox's user.
            os.path.realpath(sys.executable), "-I", "-S", "-c", *map(_text, (session, recording)),
        ]  # fmt: skip
        if not self.sandboxed:
            return program
        store_dir = self.disk.store_dir.decode()
        mounts = []
        if os.path.isdir(self._store()):
            mounts.append(Mount(source=self._store(), target=store_dir))
        view = View(
            tree=os.fsdecode(self.place.tree),
            temporary=os.fsdecode(self.place.temporary),
            programs=path.split(":"),
            mounts=[*mounts, *(root.mounts if root else ())],
            links=root.links if root else {},
            rooted=root is not None,
            capabilities=[*_ROOTS] if step.privileged else (),
            network=self.recipe.network,
            owner=self.place.owner,
        )
        return isolation.sandboxed(view, program, denied=DATA)

    def _read(self, which: str, commands: str, ended: Ended) -> Report:
        if not ended.report:
            raise _no_sandbox(which, self.recipe, ended.last_words)
        if not ended.orderly:
            reason = f": {ended.last_words}" if ended.last_words else ""
            raise CommandsError(which, f"the command runner {ended.description}{reason}")
        try:
            report = parse_report(ended.report)
        except ValueError:
            raise CommandsError(which, _FORGED) from None
        if report.refused:
            raise CommandsError(which, one_line(report.refused))
        if leftovers := report.leftovers:
            names = ", ".join(leftovers[:MAX_NAMES]) + (", …" if leftovers[MAX_NAMES:] else "")
            self._warn(which, f"killed processes that were left running: {names}")
        if status := report.status:
            raise CommandsError(which, _describe_failure(commands, status, report.line), status)
        return report

    def _warn(self, which: str, message: str) -> None:
        self.warn(one_line(f"{which}: {message}"))

    def _warn_of_socket(self, which: str, path: bytes) -> None:
        if path not in self._sockets:
            self._warn(which, f"/{printable(path)}: left out; layers cannot hold sockets")
        self._sockets.add(path)

    def _metadata(self, which: str, report: Report) -> Mapping[bytes, Metadata]:
        if (found := report.metadata) is None:
            raise CommandsError(which, _FORGED)
        ours = os.geteuid(), os.getegid()
        if self.sandboxed or ours == (0, 0):
            return found
        # When an attribute is the first thing that fakeroot records of a file, it also records
        # the owner on disk.
        adopted = sorted(
            path for path, entry in found.items() if entry.xattrs and (entry.uid, entry.gid) == ours
        )
        if adopted:
            self._warn(
                which,
                f"/{printable(adopted[0])}: taken to be owned by root; for files with extended"
                f" attributes, fakeroot does not distinguish {ours[0]}:{ours[1]} from root"
                + (f" (and {len(adopted) - 1} more)" if adopted[1:] else ""),
            )
        return {**found, **{path: replace(found[path], uid=0, gid=0) for path in adopted}}


def _text(module: ModuleType) -> str:
    assert module.__file__ is not None
    with open(module.__file__, encoding="utf-8") as file:
        return file.read()


def _omitted(root: Root | None, disk: Disk) -> Collection[bytes]:
    """Return the paths in the tree at which commands saw other files."""
    if root is None:
        return ()
    return {path.strip("/").encode() for path in (*PSEUDO, disk.store_dir.decode())}


def _put_back(before: Tree, after: Tree, paths: Iterable[bytes]) -> None:
    """Put into `after` what `before` has at `paths`, unless the directory above is gone."""
    for path in paths:
        above, _, name = path.rpartition(b"/")
        node, parent = before.find(path), after.find(above)
        if node is not None and parent is not None and parent.is_directory:
            parent.children[name] = node


def _describe_failure(commands: str, status: int, line: int) -> str:
    if status < 0:
        number = -status
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        return f"killed by signal {name}"
    lines = commands.split("\n")
    if not 0 < line <= len(lines):
        return f"failed with exit status {status}"
    command = lines[line - 1].strip()
    if len(command) > MAX_COMMAND:
        # Callers that put a preparation before the commands, as nix/ does, have theirs at the end.
        command = f"{command[: MAX_COMMAND // 2]}…{command[-MAX_COMMAND // 2 :]}"
    return f"failed at line {line} with exit status {status}: {command}"
