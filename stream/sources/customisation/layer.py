"""The customisation layer of a conf, whether ready-made or made from a recipe.

Knows that there are these two kinds, and what a recipe needs from a base image; neither what
is in them nor where the layer goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream.model import CustomisationLayer, ImageConf, Recipe
from stream.text import printable
from stream.values import replace

if TYPE_CHECKING:
    from stream.sources.base.image import BaseImage
    from stream.sources.base.tree import Base
    from stream.sources.customisation.make import Below
    from stream.sources.customisation.tree import Tree
    from stream.sources.layer import ListedLayer

Warn = Callable[[str], None]


@contextmanager
def opened_customisation_layer(
    conf: ImageConf, base: BaseImage | None, warn: Warn
) -> Iterator[ListedLayer | None]:
    """Open the customisation layer of `conf`; None if it has none. A recipe is carried out
    immediately, above `base`, the conf's base image; its files exist until the context ends.
    `warn` is called with a line for a person. Raises StreamImageError.
    """
    with _opened_own(conf, base, warn) as own:
        if own is None or not conf.customisation_store_paths:
            yield own
            return
        from stream.sources.customisation.closure import with_store_paths

        yield with_store_paths(own, conf, base.store_ancestors() if base else ())


@contextmanager
def _opened_own(
    conf: ImageConf, base: BaseImage | None, warn: Warn
) -> Iterator[ListedLayer | None]:
    """Open the customisation layer without the store paths that belong into it."""
    means = conf.customisation_layer
    if means is None:
        yield None
    elif isinstance(means, CustomisationLayer):
        from stream.sources.customisation.ready import ready_layer

        yield ready_layer(means)
    else:
        from stream.sources.customisation.made import made_layer

        began_ns = time.time_ns()
        with _opened_tree(conf, means, base, warn) as (tree, below):
            _warn_of_lost_links(tree, conf, below.entries, warn)
            skipped = means.has_commands and conf.commands == "skipped"
            if skipped:
                warn(
                    "the customisation layer is made by commands, and is shown without what they"
                    " make; run them with --run-commands"
                )
            yield made_layer(
                tree,
                means,
                mtime=conf.customisation_mtime,
                began_ns=began_ns,
                complete=not skipped,
                above=base.image.image_id if base and means.changes_image else "",
            )


@contextmanager
def _opened_tree(
    conf: ImageConf, recipe: Recipe, base: BaseImage | None, warn: Warn
) -> Iterator[tuple[Tree, Below]]:
    """Make the tree of `recipe`; the value is the tree and what is below it."""
    from stream.sources.customisation.make import Below, opened_tree

    below = Below() if base is None else _below(base, conf, recipe)
    with opened_tree(recipe, conf, below=below, warn=warn) as tree:
        yield tree, below


def _below(base: BaseImage, conf: ImageConf, recipe: Recipe) -> Below:
    """Return what `recipe` needs from the base image."""
    from stream.sources.base.accounts import base_accounts
    from stream.sources.base.tree import base_entries
    from stream.sources.customisation.builtin import SHADOW_PATHS
    from stream.sources.customisation.make import Below

    tree = base.tree()
    entries = base_entries(tree, conf, SHADOW_PATHS)
    accounts = base_accounts(tree)
    below = Below(entries=entries, accounts=accounts, image=base)
    if recipe.database is None:
        return below
    from stream.sources.base.database import base_database

    return replace(below, database=base_database(tree))


def _warn_of_lost_links(tree: Tree, conf: ImageConf, base: Base, warn: Warn) -> None:
    known = conf.store_paths
    if not known:
        return  # the image relies on a store mounted where it runs
    from stream.sources.customisation.links import lost_links

    lost = {
        into: path
        for into, path in lost_links(tree, conf.store_dir, known).items()
        if into.lstrip(b"/") not in base
    }
    if lost:
        into, path = next(iter(lost.items()))
        more = f" (and {len(lost) - 1} more like it)" if len(lost) > 1 else ""
        warn(
            f"/{printable(path)}: links into {printable(into)}, which is not in any layer{more};"
            " add it to store_layers, or mount the store where the image runs"
        )
