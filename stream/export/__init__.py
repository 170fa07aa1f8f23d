"""The root file system that an image's layers make together, as one tar."""

from stream.archives.flatten import lister
from stream.export.export import Exported, export_archive, export_conf

__all__ = ["Exported", "export_archive", "export_conf", "lister"]
