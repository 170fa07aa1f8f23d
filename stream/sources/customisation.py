"""The customisation layer of a conf, ready or made from a recipe: whichever it means.

Knows that there are these two, and what a base image is read for; neither what is in
them nor where the layer goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stream.customisation.tree import Tree
from stream.model import CustomisationLayer, ImageConf, Recipe
from stream.sources.layer import ListedLayer

if TYPE_CHECKING:
    from stream.customisation.database import BaseDatabase
    from stream.customisation.redirect import Base
    from stream.sources.base import BaseImage

Warn = Callable[[str], None]


@contextmanager
def opened(conf: ImageConf, base: BaseImage | None, warn: Warn) -> Iterator[ListedLayer | None]:
    """The customisation layer's source, None if `conf` has none. What a recipe makes above
    `base`, the conf's base image, is made at once, and what it needs is there until the
    end. `warn` is told what a person should know. Raises StreamImageError.
    """
    means = conf.customisation_layer
    if means is None:
        yield None
    elif isinstance(means, CustomisationLayer):
        from stream.sources.ready import ready_layer

        yield ready_layer(means)
    else:
        from stream.sources.made import made_layer

        with made_tree(conf, means, base, warn) as tree:
            yield made_layer(tree, means, mtime=conf.mtime)


@contextmanager
def made_tree(
    conf: ImageConf, recipe: Recipe, base: BaseImage | None, warn: Warn
) -> Iterator[Tree]:
    """The tree that `recipe` makes: see `opened`. Raises StreamImageError."""
    from stream.customisation.make import made

    entries, database = ({}, None) if base is None else _below(base, conf, recipe)
    with made(recipe, conf, base=entries, base_database=database, warn=warn) as tree:
        yield tree


def _below(base: BaseImage, conf: ImageConf, recipe: Recipe) -> tuple[Base, BaseDatabase | None]:
    """What `recipe` has to know of the base image."""
    from stream.sources.base_tree import base_entries, base_tree

    tree = base_tree(base)
    entries = base_entries(tree, conf)
    if recipe.database is None:
        return entries, None
    from stream.sources.base_database import base_database

    return entries, base_database(tree)
