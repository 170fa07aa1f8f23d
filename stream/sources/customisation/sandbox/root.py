"""The tree as the root directory of commands: which mounts it needs, and their mount points.

Tools that the tree lacks are at paths of our own, where they hide nothing and nothing hides
them. Knows what is mounted where; must not mount anything. Nothing runs in the tree meanwhile.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from stream.errors import CommandsError
from stream.sources.customisation.sandbox.isolation import OURS, ROOT, Mount, is_private
from stream.values import dataclass, field

PSEUDO = ("/dev", "/proc", "/sys")
_TEMPORARY = "/tmp"  # noqa: S108 — the tree's own
# Where a file system tree that is not from Nix has its programs.
_PROGRAMS = (
    "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
)  # fmt: skip
_RESOLVER = "/etc/resolv.conf"
# The paths of the dynamic loader and its default directories. Programs that are not from Nix
# look for them only there.
_LIBRARIES = ("/lib64", "/usr/lib64", "/lib/*-linux-*", "/usr/lib/*-linux-*", "/lib/ld-*")
_LINKS, _STORE = f"{OURS}/links", f"{OURS}/store"


@dataclass(slots=True, kw_only=True)
class Root:
    """A tree prepared as a root directory. `mounts` and `links` (target by path) are in ROOT,
    `path` is the commands' PATH, `made` the device and inode of each mount point that the tree
    lacked.
    """

    path: str
    mounts: list[Mount] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    made: set[tuple[int, int]] = field(default_factory=set)


def prepare_root(  # noqa: PLR0913 — what a root directory consists of
    tree: str,
    *,
    which: str,
    path: str,
    store_dir: str,
    store: str,
    owner: tuple[int, int] | None,
    is_system: bool = False,
    network: bool = False,
) -> Root:
    """Make the mount points in `tree` that it lacks, owned by `owner`. The directory `store` of
    this machine will be at `store_dir`; `path` is this machine's PATH. With `is_system`, the
    tree is that of a whole system: its own programs come before those of this machine that are
    not in the store, and it has a /tmp; with `network` as well, it sees this machine's resolver.
    Raises CommandsError, for the commands `which`, if a file of another type is in the way.
    """
    preparation = _Preparation(tree, which, owner, Root(path=path))
    tools = path.split(":")
    for directory in (*PSEUDO, OURS):
        preparation.make_mount_point(directory)
    if is_system:
        preparation.make_temporary()
        stored = [directory for directory in tools if directory.startswith(f"{store_dir}/")]
        preparation.root.path = ":".join([*stored, *_PROGRAMS])
        if network:
            preparation.add_resolver()
    if os.path.isdir(store) and preparation.has_store(store_dir):
        preparation.add_store(store, store_dir)
    elif os.path.isdir(store):
        preparation.mount(store, store_dir)
    preparation.add_tools(tools, store_dir)
    preparation.add_libraries()
    return preparation.root


class _Preparation:
    def __init__(self, tree: str, which: str, owner: tuple[int, int] | None, root: Root) -> None:
        self.root = root
        self._tree = tree
        self._which = which
        self._owner = owner

    def mount(self, source: str, target: str) -> None:
        """Mount `source` read-only at `target` in the tree, where a mount point is made."""
        self.make_mount_point(target, is_file=not os.path.isdir(source))
        self._show(source, target)

    def _show(self, source: str, target: str) -> None:
        self.root.mounts.append(Mount(source=os.path.realpath(source), target=ROOT + target))

    def make_mount_point(self, target: str, *, is_file: bool = False) -> None:
        path = self._tree
        parts = [part for part in target.split("/") if part]
        for depth, part in enumerate(parts, 1):
            path += "/" + part
            want_file = is_file and depth == len(parts)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                self._make(path, is_file=want_file)
                continue
            if not (stat.S_ISREG(mode) if want_file else stat.S_ISDIR(mode)):
                raise CommandsError(
                    self._which,
                    f"/{'/'.join(parts[:depth])} must be a directory: {target} is mounted there",
                )

    def _make(self, path: str, *, is_file: bool) -> None:
        if is_file:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        else:
            os.mkdir(path, 0o755)
        os.chmod(path, 0o644 if is_file else 0o755)
        if self._owner is not None:
            os.chown(path, *self._owner)
        found = os.stat(path)
        self.root.made.add((found.st_dev, found.st_ino))

    def has_store(self, store_dir: str) -> bool:
        """Return True if the tree has store paths."""
        self.make_mount_point(store_dir)
        return bool(os.listdir(self._tree + store_dir))

    def add_store(self, store: str, store_dir: str) -> None:
        """Show the tree's own store paths, and of those in `store` the others, by links: a mount
        for each takes seconds for hundreds.
        """
        directory = self._tree + store_dir
        mode = stat.S_IMODE(os.stat(directory).st_mode)
        os.chmod(directory, mode | 0o700)
        for name in set(os.listdir(store)) - set(os.listdir(directory)):
            os.symlink(f"{_STORE}/{name}", f"{directory}/{name}")
        os.chmod(directory, mode)
        self._show(store, _STORE)
        self._show(directory, store_dir)

    def make_temporary(self) -> None:
        """Make /tmp, if nothing is there."""
        path = self._tree + _TEMPORARY
        if not os.path.lexists(path):
            self._make(path, is_file=False)
            os.chmod(path, 0o1777)  # noqa: S103 — as everywhere

    def add_resolver(self) -> None:
        """Show the file that names this machine's name servers, if a file can be there."""
        if os.path.exists(_RESOLVER):
            with suppress(CommandsError):
                self.mount(_RESOLVER, _RESOLVER)

    def add_tools(self, tools: Sequence[str], store_dir: str) -> None:
        """Add the directories `tools` that are not in the store. They come last in the
        commands' PATH.
        """
        places: dict[str, str] = {}
        for directory in tools:
            real = os.path.realpath(directory)
            if (
                directory.startswith("/")
                and os.path.isdir(real)
                and not is_private(real)
                and not f"{real}/".startswith(f"{store_dir}/")
            ):
                places.setdefault(real, f"{OURS}/{len(places)}")
        for real, place in places.items():
            self._show(real, place)
            with os.scandir(real) as entries:
                links = [entry for entry in entries if entry.is_symlink()]
            for link in links:
                # Absolute links would lead out of the mounted directory.
                if os.readlink(link.path).startswith("/"):
                    there, _, name = os.path.realpath(link.path).rpartition("/")
                    if there in places:
                        self.root.links.setdefault(
                            f"{ROOT}{_LINKS}/{link.name}", f"{places[there]}/{name}"
                        )
        self.root.path = ":".join([self.root.path, _LINKS, *places.values()])

    def add_libraries(self) -> None:
        """Add the paths where the dynamic loader looks, if the tree has nothing there."""
        found = filter(
            os.path.exists, (path for pattern in _LIBRARIES for path in sorted(glob.glob(pattern)))
        )
        hidden = [mount.target for mount in self.root.mounts]
        for path in found:
            if not os.path.lexists(self._tree + path) and not any(
                f"{ROOT}{path}".startswith(f"{above}/") for above in hidden
            ):
                try:
                    self.mount(path, path)
                except CommandsError:  # under a link: the tree has its own
                    continue
                hidden.append(ROOT + path)
