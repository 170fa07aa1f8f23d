"""The steps that make the tree of the customisation layer from its recipe, in order.

Knows neither archives nor how the tree is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

from stream.model import ImageConf, Recipe
from stream.nix.store_root import Disk
from stream.sources.base.accounts import Accounts
from stream.sources.base.tree import Base
from stream.sources.customisation import permissions
from stream.sources.customisation.join import make_tree
from stream.sources.customisation.redirect import inherit, make_directories, redirect
from stream.sources.customisation.refresh import refresh_bytecode
from stream.sources.customisation.tree import Tree
from stream.sources.customisation.users import add_users, warn_of_lost_users
from stream.values import dataclass, field

if TYPE_CHECKING:
    from stream.sources.base.database import BaseDatabase
    from stream.sources.base.image import BaseImage
    from stream.sources.customisation.rooted import RootedChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """The parts of the base image that matter to a tree above it; `image` is the whole, for
    commands that run in it.
    """

    entries: Base = field(default_factory=dict)
    accounts: Accounts = field(default_factory=dict)
    database: BaseDatabase | None = None
    image: BaseImage | None = None


@contextmanager
def opened_tree(
    recipe: Recipe, conf: ImageConf, *, below: Below, warn: Callable[[str], None]
) -> Iterator[Tree]:
    """Make the tree of `recipe` above `below`; the files that it refers to exist until the
    context ends. `warn` is called with a line for a person. Raises StreamImageError.
    """
    base, disk = below.entries, Disk.of(conf)
    tree = make_tree(recipe, present=base, disk=disk, warn=warn)
    keep = recipe.conflicts != "error"
    redirect(tree, base, first_wins=keep)
    known = inherit(tree, base)
    add_users(tree, recipe, base, below.accounts, disk)
    if recipe.database is not None:
        from stream.sources.customisation.database import add_database

        add_database(
            tree,
            recipe.database,
            disk=disk,
            base=below.database,
            # The base's files stay, so its database's records of them stay valid.
            base_first=conf.base is not None and conf.base.skip_store_paths,
        )
    valid = refresh_bytecode(tree, conf.customisation_mtime)
    with ExitStack() as stack:
        change = None
        if recipe.changes_image and conf.commands != "skipped":
            if recipe.pre_mount:
                tree = stack.enter_context(
                    _after_commands(tree, recipe, conf, warn, before_mount=True)
                )
                redirect(tree, base, first_wins=keep)
                known = inherit(tree, base, known)
            change = stack.enter_context(_as_root(tree, recipe, conf, below.image, warn))
            tree, base = change.tree, change.entries
            known = inherit(tree, base, known)
            valid = refresh_bytecode(tree, conf.customisation_mtime, valid)
        after = stack.enter_context(_after_commands(tree, recipe, conf, warn))
        if after is not tree:
            # Commands may have made a /bin where the base has a link.
            redirect(after, base, first_wins=keep)
            inherit(after, base, known)
            refresh_bytecode(after, conf.customisation_mtime, valid)
        warn_of_lost_users(after, below.accounts, disk, warn)
        permissions.apply(after, recipe, base)
        if change is not None:
            _hide(after, change)
        yield after


def _as_root(
    tree: Tree,
    recipe: Recipe,
    conf: ImageConf,
    image: BaseImage | None,
    warn: Callable[[str], None],
) -> AbstractContextManager[RootedChange]:
    from stream.sources.customisation.rooted import change_as_root

    return change_as_root(
        tree,
        recipe,
        image,
        disk=Disk.of(conf),
        mtime=conf.customisation_mtime,
        warn=warn,
        sandboxed=conf.commands == "sandboxed",
    )


def _hide(tree: Tree, change: RootedChange) -> None:
    """Have `tree` hide what was removed from the base image."""
    from stream.sources.customisation.compare import hidden_paths

    tree.hidden = hidden_paths(change.removed, change.before, tree)
    for path in tree.hidden:
        make_directories(tree, change.entries, path.rpartition(b"/")[0])


def _after_commands(
    tree: Tree,
    recipe: Recipe,
    conf: ImageConf,
    warn: Callable[[str], None],
    *,
    before_mount: bool = False,
) -> AbstractContextManager[Tree]:
    """Run the commands in `tree`; the value is the tree that they leave, `tree` itself if
    there are none.
    """
    if not recipe.has_commands or conf.commands == "skipped":
        return nullcontext(tree)
    from stream.sources.customisation.sandbox import commands

    return commands.run_commands(
        tree,
        recipe,
        steps=commands.before_mount if before_mount else commands.in_layer,
        disk=Disk.of(conf),
        mtime=conf.customisation_mtime,
        warn=warn,
        sandboxed=conf.commands == "sandboxed",
    )
