"""Owners, modes, extended attributes and capabilities of a tree, set as its recipe says.

Rules are applied in order. One that matches nothing is an error, as it must be a typo. Knows
the tree and the base's links; not where rules are written.
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
    """Give every entry of `tree` the recipe's owner, then apply its permissions, rule by rule.

    A rule's path follows links to directories in `base`, but not in `tree`. A directory that
    is made gets the owner, and otherwise the base's attributes, or mode 0755 if the base does
    not have it. Links have no mode, so that a rule for the path of a link must not set one.
    Raises RecipeError for rules that cannot be applied.
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
    """Yield the entries whose whole path matches. A dot matches any character, even those
    that only occur in names, such as a newline.
    """
    pattern = re.compile(regex, re.DOTALL)
    count = 0
    for path, node in tree.entries():
        if pattern.fullmatch("/" + path.decode("utf-8", "surrogateescape")):
            count += 1
            yield b"/" + path, node
    if not count:
        raise RecipeError(regex, "this regex does not match any path")


def _entry(
    tree: Tree, rule: Permission, base: Base, owner: tuple[int, int] | None
) -> tuple[bytes, Node]:
    """Return the entry at the rule's path, made if the rule asks for it."""
    path = destination(tree, base, rule.path)
    node = tree.find(path)
    if rule.create and (node is None or not node.is_directory):
        try:
            made = make_directories(tree, base, path, origin=_ORIGIN)
        except OccupiedError as error:
            raise RecipeError(
                printable(rule.path),
                f"cannot be made a directory: {_describe(error.path, error.node)}",
            ) from None
        for node in made if owner else ():
            node.uid, node.gid = owner or (0, 0)
        node = made[-1]
    if node is None:
        raise RecipeError(
            printable(rule.path),
            f"no such path in the customisation layer{_why(tree, path)}",
        )
    return rule.path, node


def _why(tree: Tree, path: bytes) -> str:
    """Return a remark if a parent of `path` is not a directory, else nothing."""
    node, parts = tree.root, parts_of(path)
    for depth, part in enumerate(parts, 1):
        found = node.children.get(part)
        if found is None:
            return ""
        if not found.is_directory:
            return f": {_describe(b'/'.join(parts[:depth]), found)}"
        node = found
    return ""


def _describe(path: bytes, node: Node) -> str:
    if node.typeflag == LINK:
        return f"/{printable(path)} is a link to {printable(node.link)}"
    return f"/{printable(path)} is {_KINDS[node.typeflag]}"


def _change(path: bytes, node: Node, rule: Permission) -> None:
    """Apply a rule to the entry at `path`."""
    if rule.mode is not None and node.typeflag != LINK:
        node.mode = rule.mode
    elif rule.mode is not None and not rule.regex:
        raise RecipeError(
            printable(path), f"links have no mode, and this is a link to {printable(node.link)}"
        )
    if rule.uid is not None:
        node.uid = rule.uid
    if rule.gid is not None:
        node.gid = rule.gid
    xattrs = dict(rule.xattrs)
    if node.typeflag not in (FILE, DIRECTORY) and any(name[:5] == b"user." for name in xattrs):
        # xattr(7): the kernel refuses them on others, so the image could not be unpacked
        raise RecipeError(
            printable(path),
            "only files and directories have user attributes: " + _describe(path[1:], node),
        )
    if rule.capabilities:
        if node.typeflag != FILE:
            raise RecipeError(
                printable(path), f"only files have capabilities: {_describe(path[1:], node)}"
            )
        xattrs[ATTRIBUTE] = _capabilities(path, rule.capabilities)
    if xattrs:
        node.xattrs = {**(node.xattrs or {}), **xattrs}


def _capabilities(path: bytes, text: str) -> bytes:
    try:
        return capability_data(text)
    except ValueError as error:
        raise RecipeError(printable(path), f"capabilities: {error}") from None
