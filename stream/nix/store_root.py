"""Map an image's paths to files on this machine: paths in the store directory may be below
another root; all others are where they say.

Owns that mapping, and resolving symbolic links under it: a link into the store leads below
the root, wherever the link is. Must not know what the paths are for.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from stream.limits import MAX_LINKS
from stream.model import ImageConf
from stream.text import printable
from stream.values import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Disk:
    """The files of an image whose store paths are in `store_dir`. With `root`, which has no
    trailing slash, `/nix/store/x` is read at `ROOT/nix/store/x`.
    """

    store_dir: bytes = b""
    root: bytes = b""
    # Directories by path: the real path, and the number of links followed to get there.
    _known: dict[bytes, tuple[bytes, int]] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, conf: ImageConf) -> Disk:
        """Return the mapping for the files of `conf`."""
        return cls(conf.store_dir, conf.store_root)

    def remembering(self) -> Disk:
        """Return a copy that caches directories, for many lookups close together in files
        that do not change meanwhile.
        """
        return replace(self, _known={})

    def at(self, path: bytes) -> bytes:
        """Return the path on disk of `path` without following it if it is a link.

        Below a root, raises OSError, with the path on disk, if its directory does not exist.
        """
        if not self.root:
            return path
        if path == self.store_dir:
            return self._placed(path)
        above, _, name = path.rpartition(b"/")
        return self._placed(self.real_path(above).rstrip(b"/") + b"/" + name)

    def follow(self, path: bytes) -> bytes:
        """Return the path on disk of the file that `path` leads to through links.

        Below a root, raises OSError, with the path on disk, if there is none.
        """
        return self._placed(self.real_path(path)) if self.root else path

    def real_path(self, path: bytes) -> bytes:
        """Return the absolute path `path` with links resolved, as a path in the image.

        Below a root, raises OSError, with the path on disk, if it does not exist.
        """
        if not self.root:
            return os.path.realpath(path)
        known = {} if self._known is None else self._known
        above, names = path, []
        while above and above not in known:
            above, _, name = above.rpartition(b"/")
            names.append(name)
        real, followed = known.get(above, (b"", 0))
        while names:
            name = names.pop()
            real, followed, is_directory = self._step(real, followed, name)
            if is_directory:
                above += b"/" + name
                known[above] = real, followed
            elif names:
                raise _error(errno.ENOTDIR, self._placed(real))
        return real or b"/"

    def _step(self, real: bytes, followed: int, name: bytes) -> tuple[bytes, int, bool]:
        """Resolve `name` in the directory `real`, after `followed` links so far. Returns its
        real path, the links followed in all, and True if it is a directory.
        """
        is_directory = True
        todo = [name]
        while todo:
            name = todo.pop()
            if not is_directory:
                raise _error(errno.ENOTDIR, self._placed(real))
            if name in (b"", b"."):
                continue
            if name == b"..":
                real = real.rpartition(b"/")[0]
                continue
            found = real + b"/" + name
            if self._is_above_store(found):  # a directory, regardless of this machine
                real = found
                continue
            place = self._placed(found)
            mode = os.lstat(place).st_mode
            if stat.S_ISLNK(mode):
                if (followed := followed + 1) > MAX_LINKS:
                    raise _error(errno.ELOOP, place)
                target = os.readlink(place)
                if target.startswith(b"/"):
                    real = b""
                todo += target.split(b"/")[::-1]
            else:
                real, is_directory = found, stat.S_ISDIR(mode)
        return real, followed, is_directory

    def lexists(self, path: bytes) -> bool:
        """Return True if anything is at `path`, even a dangling link."""
        return self._test(os.path.lexists, self.at, path)

    def exists(self, path: bytes) -> bool:
        """Return True if `path` is, or leads to, an existing file of any type."""
        return self._test(os.path.exists, self.follow, path)

    def is_file(self, path: bytes) -> bool:
        """Return True if `path` is, or leads to, a regular file."""
        return self._test(os.path.isfile, self.follow, path)

    def is_directory(self, path: bytes) -> bool:
        """Return True if `path` is, or leads to, a directory."""
        return self._test(os.path.isdir, self.follow, path)

    def is_split(self, path: bytes) -> bool:
        """Return True if the directory that `path` leads to should contain the store, and the
        store is below a root instead. Raises OSError as `follow` does.
        """
        if not self.root:
            return False
        real = self.real_path(path).rstrip(b"/")
        return real != self.store_dir and self._is_above_store(real)

    @staticmethod
    def _test(test: Callable[[bytes], bool], place: Callable[[bytes], bytes], path: bytes) -> bool:
        try:
            return test(place(path))
        except OSError:
            return False

    def _is_above_store(self, path: bytes) -> bool:
        return self.store_dir == path or self.store_dir.startswith(path + b"/")

    def _placed(self, path: bytes) -> bytes:
        """Return the path on disk of `path`, whose parents must not be links."""
        store = self.store_dir.rstrip(b"/") + b"/"
        return self.root + path if (path + b"/").startswith(store) else path


def _error(number: int, place: bytes) -> OSError:
    return OSError(number, os.strerror(number), place)


def why_not_readable(path: str, disk: Disk) -> str | None:
    """Return why `path` cannot be read on `disk`, or None if it can. Follows no link."""
    name = path.encode()
    place = name
    try:
        place = disk.at(name)
        mode = os.lstat(place).st_mode
        if stat.S_ISLNK(mode):
            return None
        wanted = os.R_OK | os.X_OK if stat.S_ISDIR(mode) else os.R_OK
        if os.access(place, wanted):
            return None
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
    except OSError as error:
        place = error.filename or place
        elsewhere = place != name
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return "no such file" + (f" ({printable(place)} is missing)" if elsewhere else "")
        return f"cannot be read{f' at {printable(place)}' if elsewhere else ''}: {error.strerror}"
