"""The root file system that an image's layers make together, as one tar."""

from stream.export.export import Exported, export_archive, export_conf, lister

__all__ = ["Exported", "export_archive", "export_conf", "lister"]
