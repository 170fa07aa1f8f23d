"""Owner, modes, extended attributes and capabilities of a tree, as a recipe says.

Rules are carried out in their order. One that matches nothing is an error: it is a typo.
Knows the tree and the base's links; not where rules are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stream.errors import RecipeError
from stream.model import Permission, Recipe
from stream.schema.capabilities import ATTRIBUTE, capability_data
from stream.sources.base.tree import Base
from stream.sources.customisation.redirect import destination, make_directories
from stream.sources.customisation.tree import Node, OccupiedError, Tree, parts_of
from stream.text import printable
from stream.typeflags import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, LINK

_KINDS = {
    FILE: "a file",
    DIRECTORY: "a directory",
    CHARACTER_DEVICE: "a device",
    BLOCK_DEVICE: "a device",
    FIFO: "a FIFO",
}
_ORIGIN = b"permissions"


def apply(tree: Tree, recipe: Recipe, base: Base | None = None) -> None:
    """Give every entry of `tree` the recipe's owner, and then, rule by rule, what its
    permissions say.

    A rule's path leads through the `base`'s links to directories, not through ours. A
    directory that is made is the owner's, and else as the base has it; mode 0755 if it
    has none. A mode is for what is no link: a rule with the path of a link must not have
    one. Raises RecipeError for what cannot be.
    """
    if recipe.owner is not None:
        for _, node in tree.entries():
            node.uid, node.gid = recipe.owner
    for rule in recipe.permissions:
        if rule.regex:
            for path, node in _matching(tree, rule.regex):
                _change(path, node, rule)
        else:
            _change(*_entry(tree, rule, base or {}, recipe.owner), rule)


def _matching(tree: Tree, regex: str) -> Iterator[tuple[bytes, Node]]:
    """The entries whose path matches as a whole. A dot is any character, as in names."""
    pattern = re.compile(regex, re.DOTALL)
    count = 0
    for path, node in tree.entries():
        if pattern.fullmatch("/" + path.decode("utf-8", "surrogateescape")):
            count += 1
            yield b"/" + path, node
    if not count:
        raise RecipeError(regex, "this regex matches no path")


def _entry(
    tree: Tree, rule: Permission, base: Base, owner: tuple[int, int] | None
) -> tuple[bytes, Node]:
    """The entry at the rule's path, made if the rule says so."""
    path = destination(tree, base, rule.path)
    node = tree.find(path)
    if rule.create and (node is None or not node.is_directory):
        try:
            made = make_directories(tree, base, path, origin=_ORIGIN)
        except OccupiedError as error:
            raise RecipeError(
                printable(rule.path),
                f"cannot be made a directory: {_shown(error.path, error.node)}",
            ) from None
        for node in made if owner else ():
            node.uid, node.gid = owner or (0, 0)
        node = made[-1]
    if node is None:
        raise RecipeError(
            printable(rule.path),
            f"nothing is there that permissions could be for{_why(tree, path)}",
        )
    return rule.path, node


def _why(tree: Tree, path: bytes) -> str:
    """That something on the way to `path` is no directory, if so."""
    node, parts = tree.root, parts_of(path)
    for depth, part in enumerate(parts, 1):
        found = node.children.get(part)
        if found is None:
            return ""
        if not found.is_directory:
            return f": {_shown(b'/'.join(parts[:depth]), found)}"
        node = found
    return ""


def _shown(path: bytes, node: Node) -> str:
    if node.typeflag == LINK:
        return f"/{printable(path)} is a link to {printable(node.link)}"
    return f"/{printable(path)} is {_KINDS[node.typeflag]}"


def _change(path: bytes, node: Node, rule: Permission) -> None:
    """Let a rule have its way with the entry at `path`."""
    if rule.mode is not None and node.typeflag != LINK:
        node.mode = rule.mode
    elif rule.mode is not None and not rule.regex:
        raise RecipeError(
            printable(path), f"a link has no mode, and this is one to {printable(node.link)}"
        )
    if rule.uid is not None:
        node.uid = rule.uid
    if rule.gid is not None:
        node.gid = rule.gid
    xattrs = dict(rule.xattrs)
    if node.typeflag not in (FILE, DIRECTORY) and any(name[:5] == b"user." for name in xattrs):
        # xattr(7): on others the kernel refuses them, and so the image could not be unpacked
        raise RecipeError(
            printable(path),
            "user attributes are for files and directories: " + _shown(path[1:], node),
        )
    if rule.capabilities:
        if node.typeflag != FILE:
            raise RecipeError(
                printable(path), f"capabilities are for files: {_shown(path[1:], node)}"
            )
        xattrs[ATTRIBUTE] = _capabilities(path, rule.capabilities)
    if xattrs:
        node.xattrs = {**(node.xattrs or {}), **xattrs}


def _capabilities(path: bytes, text: str) -> bytes:
    try:
        return capability_data(text)
    except ValueError as error:
        raise RecipeError(printable(path), f"capabilities: {error}") from None
