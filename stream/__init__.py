"""Stream container images from store paths, in one pass.

    import stream

    conf = stream.load_conf("conf.json")
    with open("image.tar", "wb") as file:
        image = stream.write_image(conf, file)
    print(image.image_id, [layer.diff_id for layer in image.layers])

Each name is imported when it is first used: `import stream` costs nothing.
"""

# Not typing's: importing that takes longer than the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from stream.compression import Compression
    from stream.config import load_conf, parse_conf
    from stream.errors import (
        ArchiveError,
        ArgumentError,
        CommandsError,
        ConfError,
        ContentConflict,
        DigestMismatch,
        InstallationError,
        NixError,
        OutputError,
        ReaderClosedError,
        RecipeError,
        SizeMismatch,
        SourceError,
        StreamImageError,
    )
    from stream.model import (
        BaseReference,
        CustomisationLayer,
        Descriptor,
        Digest,
        Image,
        ImageConf,
        Layer,
        LayerPlan,
        Owner,
        Recipe,
    )
    from stream.observer import Observer
    from stream.pipeline import write_image
    from stream.planning.plan import plan
    from stream.planning.spec import Spec, parse_spec

__version__ = "0.1.0"

_MODULES = {
    "compression": ("Compression",),
    "config": ("load_conf", "parse_conf"),
    "errors": (
        "ArchiveError", "ArgumentError", "CommandsError", "ConfError", "ContentConflict",
        "DigestMismatch", "InstallationError", "NixError",
        "OutputError", "ReaderClosedError", "RecipeError", "SizeMismatch", "SourceError",
        "StreamImageError",
    ),
    "model": (
        "BaseReference", "CustomisationLayer", "Descriptor", "Digest", "Image", "ImageConf",
        "Layer", "LayerPlan", "Owner", "Recipe",
    ),
    "observer": ("Observer",),
    "pipeline": ("write_image",),
    "planning.plan": ("plan",),
    "planning.spec": ("Spec", "parse_spec"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ArchiveError",
    "ArgumentError",
    "BaseReference",
    "CommandsError",
    "Compression",
    "ConfError",
    "ContentConflict",
    "CustomisationLayer",
    "Descriptor",
    "Digest",
    "DigestMismatch",
    "Image",
    "ImageConf",
    "InstallationError",
    "Layer",
    "LayerPlan",
    "NixError",
    "Observer",
    "OutputError",
    "Owner",
    "ReaderClosedError",
    "Recipe",
    "RecipeError",
    "SizeMismatch",
    "SourceError",
    "Spec",
    "StreamImageError",
    "__version__",
    "load_conf",
    "parse_conf",
    "parse_spec",
    "plan",
    "write_image",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
