"""Users and groups of a tree: passwd(5), group(5), shadow(5), gshadow(5).

The recipe's users and groups are added to those of the base image and of the tree. Lines of
the base stay as they are. Knows these files; not where the base comes from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from stream.errors import RecipeError, SourceError
from stream.model import Recipe
from stream.nix.store_root import Disk
from stream.sources.base.accounts import GROUP, GSHADOW, MAX_FILE, PASSWD, PATHS, SHADOW, Accounts
from stream.sources.base.tree import Base
from stream.sources.customisation.content import pieces
from stream.sources.customisation.redirect import make_directories
from stream.sources.customisation.tree import Node, OccupiedError, Tree, file
from stream.text import printable
from stream.typeflags import FILE, LINK

MAX_NAMES = 5  # in a message
_BASE = "the base image"
_IDS = {PASSWD: "uid", GROUP: "gid"}  # the third field of each line


class _Line(NamedTuple):
    """A line of one of the files. `number` is its uid or gid; `origin` says where it is from."""

    text: bytes
    origin: str
    number: bytes = b""

    @property
    def name(self) -> bytes:
        """The name of the user or group; empty for other lines."""
        name, colon, _ = self.text.partition(b":")
        return name if colon else b""


def add_users(tree: Tree, recipe: Recipe, base: Base, accounts: Accounts, disk: Disk) -> None:
    """Add the users and groups of `recipe` to `tree`, with those in `accounts`, the files of
    the base image. Files that lead out of the tree are read on `disk`. Raises RecipeError for
    a name or number that is taken, and for files that cannot be merged; SourceError for files
    that cannot be read.
    """
    if not recipe.users and not recipe.groups:
        return
    for path in PATHS:
        ours = list(_ours(recipe, path))
        node = tree.find(path)
        if not ours or (path in {SHADOW, GSHADOW} and node is None and path not in accounts):
            continue
        mode, uid, gid = 0o644, 0, 0
        merged: dict[bytes, list[_Line]] = {}
        if path in accounts:
            kept = accounts[path]
            if kept is None:
                raise RecipeError(
                    f"/{printable(path)}",
                    f"is a link or larger than {MAX_FILE} bytes in the base image, so that users"
                    " cannot be added",
                )
            mode, uid, gid = kept.mode, kept.uid, kept.gid
            _merge(merged, path, _lines(path, kept.content, _BASE), check=False)
        if node is not None:
            if node.typeflag == FILE:
                mode, uid, gid = node.mode, node.uid, node.gid
            content = _read(tree, path, node, disk)
            if content is None:
                raise RecipeError(
                    f"/{printable(path)}", "leads to no file, so that users cannot be added"
                )
            _merge(merged, path, _lines(path, content, printable(node.origin)), check=bool(merged))
        _merge(merged, path, ours, check=True)
        text = b"".join(line.text + b"\n" for lines in merged.values() for line in lines)
        made = file(text, mode, origin=b"users")
        made.uid, made.gid = uid, gid
        _put(tree, base, path, made)


def _put(tree: Tree, base: Base, path: bytes, node: Node) -> None:
    above, _, name = path.rpartition(b"/")
    try:
        make_directories(tree, base, above, origin=b"users")
    except OccupiedError as error:
        raise RecipeError(
            f"/{printable(path)}", f"cannot be made: /{printable(error.path)} is not a directory"
        ) from None
    parent = tree.find(above)
    assert parent is not None
    parent.children[name] = node


def _ours(recipe: Recipe, path: bytes) -> Iterator[_Line]:
    for user in sorted(recipe.users, key=lambda user: user.uid):
        place = f"users.{user.name}"
        if path == PASSWD:
            text = f"{user.name}:x:{user.uid}:{user.gid}:{user.comment}:{user.home}:{user.shell}"
            yield _Line(text.encode(), place, b"%d" % user.uid)
        elif path == SHADOW:
            yield _Line(f"{user.name}:!:::::::".encode(), place)  # no password is valid
    for group in sorted(recipe.groups, key=lambda group: group.gid):
        place, members = f"groups.{group.name}", ",".join(group.members)
        if path == GROUP:
            text = f"{group.name}:x:{group.gid}:{members}"
            yield _Line(text.encode(), place, b"%d" % group.gid)
        elif path == GSHADOW:
            yield _Line(f"{group.name}:!::{members}".encode(), place)


def _lines(path: bytes, content: bytes, origin: str) -> Iterator[_Line]:
    for text in content.split(b"\n"):
        fields = text.split(b":")
        number = fields[2] if path in _IDS and len(fields) > 2 else b""
        if text:
            yield _Line(text, origin, number)


def _merge(
    merged: dict[bytes, list[_Line]], path: bytes, lines: Iterable[_Line], *, check: bool
) -> None:
    """Add `lines` to `merged`, by name. One with the name of another replaces it. With `check`,
    raises RecipeError if it has another number, or its number is that of another name.
    """
    owners = {line.number: line for known in merged.values() for line in known if line.number}
    for line in lines:
        if not check or not line.name:  # a key with a colon is not a name
            merged.setdefault(line.name or b":" + line.text, []).append(line)
            continue
        known = merged.get(line.name, [])
        if line.number:
            for other in (*known, *filter(None, [owners.get(line.number)])):
                if other.number != line.number or other.name != line.name:
                    _refuse(path, line, other)
        merged[line.name] = [line]


def _refuse(path: bytes, line: _Line, other: _Line) -> None:
    what = _IDS[path]
    name, number = printable(line.name), printable(line.number)
    if line.name == other.name:
        wrong = (
            f"{name} has {what} {number}, but {what} {printable(other.number)} in {other.origin}"
        )
    else:
        wrong = f"{name} has {what} {number}, which is that of {printable(other.name)} in {other.origin}"
    ours = line.origin.startswith(("users.", "groups."))
    remedy = f"choose another {what}" if ours else "remove one of them"
    raise RecipeError(line.origin if ours else f"/{printable(path)}", f"{wrong}; {remedy}")


# ---- reading


def find_names(content: bytes) -> set[bytes]:
    """Return the names of the users or groups in `content`."""
    names = {line.name for line in _lines(b"", content, "")}
    return {name for name in names if name and name[:1] not in b"+-"}  # NIS: nsswitch.conf(5)


def _read(tree: Tree, path: bytes, node: Node, disk: Disk) -> bytes | None:
    """Return the content of the file that `node`, at `path`, is or leads to; None if that is
    not a small file.
    """
    if node.typeflag == FILE:
        return b"".join(pieces(node)) if node.size <= MAX_FILE else None
    if node.typeflag != LINK:
        return None
    target = os.path.normpath(os.path.join(b"/" + path, b"..", node.link))
    inside = tree.find(target)
    if inside is not None:
        return _read(tree, path, inside, disk) if inside.typeflag == FILE else None
    if not disk.is_file(target):
        return None
    place = disk.follow(target)
    try:
        with open(place, "rb") as source:
            content = source.read(MAX_FILE + 1)
    except OSError as error:
        raise SourceError.unreadable(place, error) from error
    return content if len(content) <= MAX_FILE else None


def warn_of_lost_users(
    tree: Tree, accounts: Accounts, disk: Disk, warn: Callable[[str], None]
) -> None:
    """Warn of users and groups of the base image that are gone because `tree` has a file of
    its own. Raises SourceError.
    """
    for path, what in ((PASSWD, "users"), (GROUP, "groups")):
        kept, node = accounts.get(path), tree.find(path)
        content = _read(tree, path, node, disk) if kept and node else None
        if kept is None or node is None or content is None:
            continue
        lost = sorted(map(printable, find_names(kept.content) - find_names(content)))
        if lost:
            more = f" and {len(lost) - MAX_NAMES} more" if len(lost) > MAX_NAMES else ""
            warn(
                f"/{printable(path)}: {printable(node.origin) or 'the customisation layer'}"
                f" replaces the base image's, whose {what} are lost: {', '.join(lost[:MAX_NAMES])}"
                f'{more}; use "users" and "groups" instead'
            )
