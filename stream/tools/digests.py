"""The digests of an image that is not written. Knows neither argv nor how layers are made."""

from __future__ import annotations

from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError
from stream.model import Image, ImageConf
from stream.observer import Observer
from stream.pipeline import write_images
from stream.sinks.nowhere import Nowhere
from stream.tools.write import opened_sources


def compute_digests(
    conf: ImageConf, digests: Digests = NO_DIGESTS, observer: Observer | None = None
) -> Image:
    """Return the record of the image of `conf`: the bytes of its config, its layers, and the
    descriptor of its OCI manifest, whose layers are uncompressed. Only layers whose digests are
    not known are read; `digests` has those that are, and gets the others. A base image's are
    believed.

    Raises ArgumentError, RecipeError, SourceError, ArchiveError, DigestMismatch or SizeMismatch.
    """
    ArgumentError.require("conf", conf, ImageConf)
    observer = observer or Observer()
    with opened_sources(conf, observer) as sources, Nowhere() as sink:
        for warning in sources.warnings:
            observer.warning(warning)
        (image,) = write_images([sources], sink, observer, digests)
    observer.finished(image)
    return image
