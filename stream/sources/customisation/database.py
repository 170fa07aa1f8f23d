"""The Nix database of an image, which a Nix that runs in it needs to know its store.

Knows what `nix-store --load-db` records of store objects, and where Nix looks for it; neither
SQL nor where the base image comes from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from stream.errors import ArchiveError, RecipeError, SourceError
from stream.model import NixDatabase
from stream.nix import registrations
from stream.nix.hashes import STORE_NAME
from stream.nix.registrations import NAR_HASH, SCHEMA_VERSION, STATE_DIR, Registration
from stream.nix.store_root import Disk
from stream.sources.base.database import BaseDatabase
from stream.sources.customisation import tree as nodes
from stream.sources.customisation.tree import Node, OccupiedError, Tree
from stream.text import printable

_DATABASE = "Nix database"  # in messages
_ORIGIN = b"the Nix database"
_MAX_DERIVATION = 1 << 20  # bytes at its beginning in which a derivation names its outputs

# The beginning of a derivation: its outputs' names, paths, hash algorithms and hashes.
_OUTPUT = rb'\("([^"\\]*)","([^"\\]*)","[^"\\]*","[^"\\]*"\)'
_OUTPUTS = re.compile(
    rb'(?:Derive\(|DrvWithVersion\("[^"\\]*",)\[(' + _OUTPUT + rb"(?:," + _OUTPUT + rb")*)\],"
)


def add_database(
    tree: Tree,
    database: NixDatabase,
    *,
    disk: Disk,
    base: BaseDatabase | None = None,
    base_first: bool = False,
) -> None:
    """Put `database`, merged with that of the base image, and its roots into `tree`.

    If both have a store path, that of `database` is taken or, with `base_first`, that of the
    base. Derivations among the objects are read on `disk` for their outputs. The base's
    realisations are dropped; Nix creates these tables again. Raises RecipeError, ArchiveError
    for a base that cannot be merged, SourceError for a derivation that cannot be read.
    """
    is_store_path = re.compile(f"{re.escape(disk.store_dir.decode())}/{STORE_NAME}").fullmatch
    known: dict[str, Registration] = {}
    if base is not None:
        try:
            known = registrations.read(base.data, is_store_path)
        except registrations.UnusableError as error:
            raise ArchiveError(base.name, f"the Nix database cannot be read: {error}") from None
    ours = _ours(database, is_store_path, disk.store_dir)
    for path, item in ours.items():
        if path not in known or not base_first:
            if path.endswith(".drv"):
                item.outputs = _outputs(path.encode(), disk)
            known[path] = item
    for path, item in known.items():
        for reference in sorted(item.references - known.keys()):
            raise RecipeError(
                f"{_DATABASE}: {path}", f"refers to {reference}, which is not in the database"
            )

    _put(tree, b"db/db.sqlite", nodes.file(registrations.encode(known), origin=_ORIGIN))
    _put(tree, b"db/schema", nodes.file(b"%d" % SCHEMA_VERSION, origin=_ORIGIN))
    if base is not None and base.has_realisations:
        _put(tree, b"db/ca-schema", nodes.file(b"0", origin=_ORIGIN))
    # Nix makes this link only together with the directory.
    profiles = nodes.link(b"/" + STATE_DIR + b"/profiles", origin=_ORIGIN)
    _put(tree, b"gcroots/profiles", profiles)
    for root in dict.fromkeys(database.roots):
        if root not in known:
            raise RecipeError(f"{_DATABASE}: {root}", "is a root that is not in the database")
        target = root.encode()
        name = target.rpartition(b"/")[2]
        _put(tree, b"gcroots/docker/" + name, nodes.link(target, origin=_ORIGIN))


def _ours(
    database: NixDatabase, is_store_path: Callable[[str], object], store_dir: bytes
) -> dict[str, Registration]:
    """Return the records of `database`, by store path."""
    ours: dict[str, Registration] = {}
    for item in database.objects:
        for path in filter(None, (item.path, item.deriver)):
            if not is_store_path(path):
                raise RecipeError(
                    f"{_DATABASE}: {path}", f"is not a store path in {printable(store_dir)}"
                )
        if not NAR_HASH.fullmatch(item.nar_hash):
            raise RecipeError(
                f"{_DATABASE}: {item.path}", "narHash must be sha256: and 64 hex digits"
            )
        if item.path in ours:
            raise RecipeError(f"{_DATABASE}: {item.path}", "is listed twice")
        ours[item.path] = Registration(
            nar_hash=item.nar_hash,
            nar_size=item.nar_size or None,
            deriver=item.deriver or None,
            references=set(item.references),
        )
    return ours


def _outputs(path: bytes, disk: Disk) -> dict[str, str]:
    """Return the outputs of the derivation at `path` whose paths are known before it is built."""
    try:
        with open(disk.follow(path), "rb") as file:
            head = file.read(_MAX_DERIVATION)
    except OSError as error:
        raise SourceError.unreadable(os.fsencode(error.filename or path), error) from error
    found = _OUTPUTS.match(head)
    if found is None:
        raise SourceError(path, "is not a derivation, although its name ends in .drv")
    outputs = re.findall(_OUTPUT, found[1].decode("utf-8", "replace").encode())
    return {output.decode(): path.decode() for output, path in outputs if path}


def _put(tree: Tree, name: bytes, node: Node) -> None:
    """Put `node` at `name` in Nix's state directory."""
    try:
        tree.put(STATE_DIR + b"/" + name, node)
    except OccupiedError as error:
        whose = f", from {printable(error.node.origin)}" if error.node.origin else ""
        raise RecipeError(
            f"{_DATABASE}: /{printable(error.path)}",
            f"something else is there already{whose}; leave it out",
        ) from None
