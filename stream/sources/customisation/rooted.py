"""`runAsRoot`: commands that run in the image itself, and the change that they leave as a layer.

The base image, with the layer's contents over it, is the commands' root directory; whatever is
different afterwards is the layer. Knows the order of these steps; neither how commands are run
nor how a layer is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stream.model import Recipe
from stream.nix.store_root import Disk
from stream.sources.base.image import BaseImage
from stream.sources.base.tree import Base, BaseEntry
from stream.sources.customisation.compare import Change, compare
from stream.sources.customisation.sandbox.commands import in_image, run_in
from stream.sources.customisation.sandbox.scratch import Scratch
from stream.sources.customisation.tree import Node, Tree
from stream.sources.customisation.unpack import Unpacked, digest_content, unpack
from stream.typeflags import DIRECTORY, FILE, LINK
from stream.values import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class RootedChange(Change):
    """The change that commands made to the tree `before`; `entries` are those of the tree that
    they left.
    """

    before: Tree
    entries: Base


@contextmanager
def change_as_root(  # noqa: PLR0913 — the inputs of a run
    tree: Tree,
    recipe: Recipe,
    image: BaseImage | None,
    *,
    disk: Disk,
    mtime: int,
    warn: Callable[[str], None],
    sandboxed: bool,
) -> Iterator[RootedChange]:
    """Run the commands of `recipe` that run in `image`, with `tree` over it; the value is what has
    changed of `image`. Its files exist until the context ends. See `run_commands`.
    """
    base = Unpacked()

    def make(place: Scratch) -> Tree:
        nonlocal base
        if image is not None:
            base = unpack(image, place.staged)
        return overlay(base.tree, tree)

    def is_same_content(path: bytes, node: Node) -> bool:
        return node.typeflag != FILE or base.digests[path] == digest_content(node)

    with run_in(
        make, recipe, steps=in_image, disk=disk, mtime=mtime, warn=warn, sandboxed=sandboxed
    ) as after:
        found = compare(base.tree, after, is_same_content)
        yield RootedChange(
            tree=found.tree, removed=found.removed, before=base.tree, entries=_entries(after)
        )


def overlay(below: Tree, above: Tree) -> Tree:
    """Return the tree of `below` with `above` over it: directories are merged, with the attributes
    of those above, and any other entry replaces the one below. Shares all other nodes.
    """
    made = Tree()
    made.root = replace(above.root, children={}, mtime_ns=below.root.mtime_ns)
    waiting = [(made.root, below.root, above.root)]
    while waiting:
        target, lower, upper = waiting.pop()
        for name in lower.children | upper.children:
            low, high = lower.children.get(name), upper.children.get(name)
            taken = high or low
            assert taken is not None
            if taken.is_directory:
                nothing = replace(taken, children={})
                taken = replace(taken, children={})
                waiting.append(
                    (
                        taken,
                        low if low is not None and low.is_directory else nothing,
                        high if high is not None else nothing,
                    )
                )
            target.children[name] = taken
    return made


def _entries(tree: Tree) -> dict[bytes, BaseEntry]:
    """Return the entries of `tree` that matter to a tree above it."""
    return {
        path: BaseEntry(
            node.typeflag, node.mode, node.uid, node.gid, node.link, dict(node.xattrs or {})
        )
        for path, node in tree.entries()
        if node.typeflag in (DIRECTORY, LINK)
    }
