"""Where layers come from: each module makes sources of known size, bytes to come."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.model import ImageConf
    from stream.sources.base.image import BaseImage


def opened_base(
    conf: ImageConf, *, entries: bool = False
) -> AbstractContextManager[BaseImage | None]:
    """The base image of `conf`, read once for all that a run has to know of it; None if
    there is none. See `stream.sources.base.image.open_base_image`.
    """
    if conf.base is None:
        return nullcontext()
    from stream.sources.base.image import open_base_image

    return open_base_image(conf.base, conf, entries=entries)
