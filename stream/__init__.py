"""Stream container images from store paths, in one pass.

    import stream

    conf = stream.load_conf("conf.json")
    with open("image.tar", "wb") as file:
        image = stream.write_image(conf, file)
    print(image.image_id, [layer.diff_id for layer in image.layers])

Failures raise `StreamImageError`. Each name is imported when it is first used: `import stream`
alone costs nothing.
"""

__version__ = "0.1.0"

# typing's constant, without the time that importing typing takes.
TYPE_CHECKING = False

# The public names, each once: type checkers read these imports, and `_homes` reads them too.
if TYPE_CHECKING:
    from stream.archives.files import SizedFile as SizedFile
    from stream.cli.wrapper import wrap as wrap
    from stream.compression import Compression as Compression
    from stream.config import load_conf as load_conf
    from stream.config import parse_conf as parse_conf
    from stream.digests import Digests as Digests
    from stream.digests.store import BadEntry as BadEntry
    from stream.digests.store import CacheExtent as CacheExtent
    from stream.digests.store import DigestCache as DigestCache
    from stream.engines.engine import EngineName as EngineName
    from stream.errors import ArchiveError as ArchiveError
    from stream.errors import ArgumentError as ArgumentError
    from stream.errors import CommandsError as CommandsError
    from stream.errors import ConfError as ConfError
    from stream.errors import ContentConflict as ContentConflict
    from stream.errors import DigestMismatch as DigestMismatch
    from stream.errors import EngineError as EngineError
    from stream.errors import Fault as Fault
    from stream.errors import InstallationError as InstallationError
    from stream.errors import ListenError as ListenError
    from stream.errors import NixError as NixError
    from stream.errors import OutputError as OutputError
    from stream.errors import ReaderClosedError as ReaderClosedError
    from stream.errors import RecipeError as RecipeError
    from stream.errors import RegistryError as RegistryError
    from stream.errors import SizeMismatch as SizeMismatch
    from stream.errors import SourceError as SourceError
    from stream.errors import StaleDigest as StaleDigest
    from stream.errors import StreamImageError as StreamImageError
    from stream.errors import ThreadError as ThreadError
    from stream.model import BaseReference as BaseReference
    from stream.model import Blob as Blob
    from stream.model import Builtin as Builtin
    from stream.model import CustomisationLayer as CustomisationLayer
    from stream.model import Descriptor as Descriptor
    from stream.model import Digest as Digest
    from stream.model import Group as Group
    from stream.model import Image as Image
    from stream.model import ImageConf as ImageConf
    from stream.model import KnownLayer as KnownLayer
    from stream.model import Layer as Layer
    from stream.model import LayerKey as LayerKey
    from stream.model import LayerPlan as LayerPlan
    from stream.model import Loaded as Loaded
    from stream.model import NixDatabase as NixDatabase
    from stream.model import Owner as Owner
    from stream.model import Permission as Permission
    from stream.model import PlacedFile as PlacedFile
    from stream.model import Pushed as Pushed
    from stream.model import Recipe as Recipe
    from stream.model import RecordedLayer as RecordedLayer
    from stream.model import StoreObject as StoreObject
    from stream.model import User as User
    from stream.observer import Observer as Observer
    from stream.oci.platform import Platform as Platform
    from stream.planning.plan import Plan as Plan
    from stream.planning.plan import plan as plan
    from stream.planning.previous import PreviousImage as PreviousImage
    from stream.planning.spec import Spec as Spec
    from stream.planning.spec import parse_spec as parse_spec
    from stream.registry.trust import Access as Access
    from stream.sinks import ArchiveFormat as ArchiveFormat
    from stream.tools.diff import ConfigChange as ConfigChange
    from stream.tools.diff import Difference as Difference
    from stream.tools.diff import FileChange as FileChange
    from stream.tools.diff import diff as diff
    from stream.tools.digests import compute_digests as compute_digests
    from stream.tools.earlier import EarlierImage as EarlierImage
    from stream.tools.earlier import read_earlier as read_earlier
    from stream.tools.existing import Place as Place
    from stream.tools.explain import ExplainedLayer as ExplainedLayer
    from stream.tools.explain import Explanation as Explanation
    from stream.tools.explain import explain as explain
    from stream.tools.export import Exported as Exported
    from stream.tools.export import export as export
    from stream.tools.inspect import Duplicate as Duplicate
    from stream.tools.inspect import InspectedImage as InspectedImage
    from stream.tools.inspect import InspectedLayer as InspectedLayer
    from stream.tools.inspect import Inspection as Inspection
    from stream.tools.inspect import inspect as inspect
    from stream.tools.load import load as load
    from stream.tools.merge import merge as merge
    from stream.tools.previous import find_previous as find_previous
    from stream.tools.pull import pull as pull
    from stream.tools.push import Shared as Shared
    from stream.tools.push import push as push
    from stream.tools.push_all import ImageToPush as ImageToPush
    from stream.tools.push_all import NotPushed as NotPushed
    from stream.tools.push_all import push_all as push_all
    from stream.tools.remembered import RegistryCache as RegistryCache
    from stream.tools.sbom import make_sbom as make_sbom
    from stream.tools.serve import Served as Served
    from stream.tools.serve import serve as serve
    from stream.tools.tarsum import tarsum as tarsum
    from stream.tools.trees import merge_trees as merge_trees
    from stream.tools.verify.documents import CheckedImage as CheckedImage
    from stream.tools.verify.documents import CheckedLayer as CheckedLayer
    from stream.tools.verify.findings import Finding as Finding
    from stream.tools.verify.verify import Verification as Verification
    from stream.tools.verify.verify import verify as verify
    from stream.tools.write import write_image as write_image
    from stream.tools.write import write_index as write_index


_HOMES: dict[str, str] = {}  # the module of each public name; filled when the first is used


def _homes() -> dict[str, str]:
    if not _HOMES:
        import ast

        with open(__file__, "rb") as source:
            tree = ast.parse(source.read())
        blocks = (node for node in tree.body if isinstance(node, ast.If))
        for node in (node for block in blocks for node in block.body):
            if isinstance(node, ast.ImportFrom) and node.module:
                _HOMES.update((alias.name, node.module) for alias in node.names)
    return _HOMES


def __dir__() -> list[str]:
    return sorted([*_homes(), "__version__"])


if not TYPE_CHECKING:  # to a type checker, it would make every name valid

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return __dir__()
        if name.startswith("__") or name not in _homes():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_homes()[name]), name)
        globals()[name] = value
        return value
