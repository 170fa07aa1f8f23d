"""The customisation layer of a conf, ready or made from a recipe: whichever it means.

Knows that there are these two; neither what is in them nor where the layer goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stream.model import CustomisationLayer, ImageConf
from stream.sources.layer import ListedLayer


@contextmanager
def opened(conf: ImageConf) -> Iterator[ListedLayer | None]:
    """The customisation layer's source, None if `conf` has none. What a recipe makes is
    made at once, and what it needs is there until the end. Raises StreamImageError.
    """
    means = conf.customisation_layer
    if means is None:
        yield None
    elif isinstance(means, CustomisationLayer):
        from stream.sources.ready import ready_layer

        yield ready_layer(means)
    else:
        from stream.customisation.make import made
        from stream.sources.made import made_layer

        with made(means, conf) as tree:
            yield made_layer(tree, means, mtime=conf.mtime)
