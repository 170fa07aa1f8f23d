"""The tree of the customisation layer, made as its recipe says: the order of things.

Knows neither archives nor what becomes of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from stream.customisation import permissions
from stream.customisation.commands import ran
from stream.customisation.database import BaseDatabase, add_database
from stream.customisation.join import make_tree
from stream.customisation.redirect import Base, inherit, redirect
from stream.customisation.tree import Tree
from stream.model import ImageConf, Recipe


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
    tree = make_tree(recipe, present=base)
    redirect(tree, base, first_wins=recipe.first_wins)
    known = inherit(tree, base)
    if recipe.database is not None:
        add_database(
            tree,
            recipe.database,
            store_dir=conf.store_dir,
            base=base_database,
            # The base's files stay, so what its database says of them holds.
            base_first=conf.base is not None and conf.base.skip_store_paths,
        )
    commands = bool(recipe.extra_commands or recipe.fake_root_commands)
    with (
        ran(tree, recipe, store_dir=conf.store_dir, mtime=conf.mtime, warn=warn)
        if commands
        else nullcontext(tree)
    ) as tree:
        if commands:
            # They may have made a /bin where the base has a link.
            redirect(tree, base, first_wins=recipe.first_wins)
            inherit(tree, base, known)
        permissions.apply(tree, recipe, base)
        yield tree
