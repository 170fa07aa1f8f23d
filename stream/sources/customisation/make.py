"""The tree of the customisation layer, made as its recipe says: the order of things.

Knows neither archives nor what becomes of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from stream.model import ImageConf, Recipe
from stream.nix.store_root import Disk
from stream.sources.base.tree import Base
from stream.sources.customisation import permissions
from stream.sources.customisation.join import make_tree
from stream.sources.customisation.redirect import inherit, redirect
from stream.sources.customisation.tree import Tree

if TYPE_CHECKING:
    from stream.sources.base.database import BaseDatabase


@contextmanager
def made(
    recipe: Recipe,
    conf: ImageConf,
    *,
    base: Base,
    base_database: BaseDatabase | None,
    warn: Callable[[str], None],
) -> Iterator[Tree]:
    """The tree that `recipe` makes above `base`; the files that it names are there until
    the context ends. `warn` is told what a person should know. Raises StreamImageError.
    """
    tree = make_tree(recipe, present=base, disk=Disk.of(conf))
    redirect(tree, base, first_wins=recipe.first_wins)
    known = inherit(tree, base)
    if recipe.database is not None:
        from stream.sources.customisation.database import add_database

        add_database(
            tree,
            recipe.database,
            disk=Disk.of(conf),
            base=base_database,
            # The base's files stay, so what its database says of them holds.
            base_first=conf.base is not None and conf.base.skip_store_paths,
        )
    with _after_commands(tree, recipe, conf, warn) as after:
        if after is not tree:
            # They may have made a /bin where the base has a link.
            redirect(after, base, first_wins=recipe.first_wins)
            inherit(after, base, known)
        permissions.apply(after, recipe, base)
        yield after


def _after_commands(
    tree: Tree, recipe: Recipe, conf: ImageConf, warn: Callable[[str], None]
) -> AbstractContextManager[Tree]:
    """What the commands make of `tree`: the same if there are none."""
    if not recipe.extra_commands and not recipe.fake_root_commands:
        return nullcontext(tree)
    from stream.sources.customisation.sandbox.commands import ran

    return ran(tree, recipe, disk=Disk.of(conf), mtime=conf.mtime, warn=warn)
