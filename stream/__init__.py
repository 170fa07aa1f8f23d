"""Stream container images from store paths, in one pass.

import stream

conf = stream.load_conf("conf.json")
with open("image.tar", "wb") as file:
image = stream.write_image(conf, file)
print(image.image_id, [layer.diff_id for layer in image.layers])
"""

from stream.config import load_conf, parse_conf
from stream.errors import (
    ArchiveError,
    ConfError,
    DigestMismatch,
    OutputError,
    ReaderClosedError,
    SizeMismatch,
    SourceError,
    StreamImageError,
)
from stream.model import (
    BaseReference,
    CustomisationLayer,
    Digest,
    Image,
    ImageConf,
    Layer,
    LayerPlan,
    Owner,
)
from stream.pipeline import Observer, write_image

__version__ = "0.1.0"

__all__ = [
    "ArchiveError",
    "BaseReference",
    "ConfError",
    "CustomisationLayer",
    "Digest",
    "DigestMismatch",
    "Image",
    "ImageConf",
    "Layer",
    "LayerPlan",
    "Observer",
    "OutputError",
    "Owner",
    "ReaderClosedError",
    "SizeMismatch",
    "SourceError",
    "StreamImageError",
    "__version__",
    "load_conf",
    "parse_conf",
    "write_image",
]
