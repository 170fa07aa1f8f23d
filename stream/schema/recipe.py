"""The recipe of a customisation layer in JSON: its keys, and what can be known wrong
with them. They are those of a specification, and of `customisation_layer` in a conf.

The names are nixpkgs' `dockerTools`' where it has them. Makes nothing of a recipe.
"""

from __future__ import annotations

import os
from typing import Any

from stream.faults import NoteFault, kind, meant, not_normal
from stream.limits import MAX_FAULTS, MAX_SIZE
from stream.model import Builtin, NixDatabase, Recipe, StoreObject
from stream.nix.store_root import Disk, not_readable
from stream.schema.fields import Fields
from stream.schema.permissions import read_directories, read_owner, read_permissions

KEYS = frozenset(
    {
        "conflicts", "contents", "copyToRoot", "directories", "enableFakechroot", "extraCommands",
        "fakeRootCommands", "keepContentsDirlinks", "nix_database", "owner", "perms",
    }
)  # fmt: skip

_NEEDS_PATH = {
    "binSh": "the store path that has bin/bash or bin/sh",
    "caCertificates": "the store path that has etc/ssl/certs/ca-bundle.crt",
    "usrBinEnv": "the store path that has bin/env",
}
_BUILTINS = frozenset({"fakeNss", "shadowSetup", *_NEEDS_PATH})
_FAKE_NSS = frozenset({"extraPasswdLines", "extraGroupLines"})
_OBJECT = frozenset({"deriver", "narHash", "narSize", "path", "references"})
_CONFLICTS = ("error", "first")


def read_recipe(document: dict[str, Any], place: str, fault: NoteFault, disk: Disk) -> Recipe:
    """The recipe that the keys of `document` are, others than KEYS left alone; `null` is
    a key's absence. `place` is where the document is (`customisation_layer`, or empty),
    `fault` is told what is wrong; what is returned then is of no use. `disk` is where the
    files are.
    """
    reader = _Reader(document, place, fault, disk)
    return Recipe(
        contents=reader.contents("contents", linked=True),
        copy_to_root=reader.contents("copyToRoot", linked=False),
        keep_dirlinks=reader.boolean("keepContentsDirlinks"),
        first_wins=reader.choice("conflicts", _CONFLICTS) == "first",
        database=reader.database(),
        extra_commands=reader.commands("extraCommands"),
        fake_root_commands=reader.commands("fakeRootCommands"),
        fakechroot=reader.fakechroot(),
        owner=read_owner(reader.get("owner"), reader.at("owner"), fault),
        permissions=(
            *read_directories(reader.get("directories"), reader.at("directories"), fault),
            *read_permissions(reader.get("perms"), reader.at("perms"), fault),
        ),
    )


class _Reader(Fields):
    """Reads what only a recipe has."""

    def __init__(self, document: dict[str, Any], place: str, fault: NoteFault, disk: Disk) -> None:
        super().__init__(document, place, fault)
        self._disk = disk
        self._store_dir = disk.store_dir.decode()

    # ---- commands

    def fakechroot(self) -> bool:
        value = self.boolean("enableFakechroot")
        if value and self._store_dir == "/":
            self.fault("enableFakechroot", "the store directory is /, and so cannot be in the tree")
        return value

    def commands(self, key: str) -> str:
        value = self.text(key, nul=True)
        if "\0" in value:
            self.fault(key, "has a NUL character")
        return value

    # ---- contents

    def contents(self, key: str, *, linked: bool) -> tuple[bytes | Builtin, ...]:
        """A path, a built-in content, or a list of them."""
        value, place = self.get(key), self.at(key)
        if isinstance(value, list):
            items = [(f"{place}[{index}]", item) for index, item in enumerate(value)]
        else:
            items = [(place, value)] if value is not None else []
        found = [self._content(at, item, linked=linked) for at, item in items]
        return tuple(content for content in found if content is not None)

    def _content(self, place: str, item: object, *, linked: bool) -> bytes | Builtin | None:
        if isinstance(item, str) and "/" not in item:
            return self._builtin(place, item, None)
        if isinstance(item, str):
            return self._path(place, item, linked=linked)
        if isinstance(item, dict) and len(item) == 1:
            ((name, argument),) = item.items()
            return self._builtin(place, name, argument)
        wanted = 'must be a path or a built-in content like "fakeNss" or {"binSh": PATH}'
        self._fault(place, f"{wanted}, not {kind(item)}")
        return None

    def _path(
        self,
        place: str,
        path: str,
        *,
        linked: bool,
        way_out: str = "use copyToRoot, or set store_dir",
    ) -> bytes | None:
        if wrong := not_normal(path) or not_readable(path, self._disk):
            self._fault(place, f"{path} {wrong}")
        elif linked and not path.startswith(f"{self._store_dir}/"):
            root = self._disk.root.decode()
            if root and path.startswith(f"{root}{self._store_dir}/"):
                way_out = f"write {path.removeprefix(root)}"
            elif (target := os.path.realpath(path)).startswith(f"{self._store_dir}/"):
                way_out = f"write {target}, which it is a link to"  # as nix-build makes one
            dangling = (
                f"is not in the store directory {self._store_dir}, and links to it would dangle"
            )
            self._fault(place, f"{path} {dangling}: {way_out}")
        else:
            return path.encode()
        return None

    def _builtin(self, place: str, name: str, argument: object) -> Builtin | None:
        if name not in _BUILTINS:
            names = ", ".join(sorted(_BUILTINS))
            hint = meant(name, _BUILTINS)
            self._fault(
                place, f"{name!r} is neither a path, which has a slash, nor one of {names}{hint}"
            )
        elif name == "fakeNss":
            return self._fake_nss(place, argument)
        elif argument is None and name in _NEEDS_PATH:
            self._fault(place, f'needs a path: write {{"{name}": PATH}}, {_NEEDS_PATH[name]}')
        elif argument is None:
            return Builtin(name=name)
        elif not isinstance(argument, str):
            self._fault(f"{place}.{name}", f"must be a path, not {kind(argument)}")
        elif path := self._path(f"{place}.{name}", argument, linked=True, way_out="set store_dir"):
            return Builtin(name=name, path=path)
        return None

    def _fake_nss(self, place: str, argument: object) -> Builtin | None:
        place = f"{place}.fakeNss"
        if argument is not None and not isinstance(argument, dict):
            self._fault(place, f"must be an object, not {kind(argument)}")
            return None
        options = Fields(argument or {}, place, self._fault)
        options.check_keys(_FAKE_NSS)
        return Builtin(
            name="fakeNss",
            extra_passwd_lines=options.texts("extraPasswdLines"),
            extra_group_lines=options.texts("extraGroupLines"),
        )

    # ---- the Nix database

    def database(self) -> NixDatabase | None:
        if not self.has("nix_database"):
            return None
        fields = Fields(self.object("nix_database"), self.at("nix_database"), self._fault)
        objects = []
        wrong = 0
        for index, item in enumerate(fields.list("objects")):
            found = self._store_object(item)
            if isinstance(found, StoreObject):
                objects.append(found)
            elif (wrong := wrong + 1) <= MAX_FAULTS:
                fields.fault(f"objects[{index}]", found)
        return NixDatabase(objects=tuple(objects), roots=fields.texts("roots"))

    def _store_object(self, item: object) -> StoreObject | str:
        """What is described, or what is wrong."""
        if not isinstance(item, dict) or item.keys() - _OBJECT:
            return f"must be an object with {', '.join(sorted(_OBJECT))}"
        path, nar_hash, deriver = (item.get(key) for key in ("path", "narHash", "deriver"))
        size, references = item.get("narSize"), item.get("references", [])
        if not isinstance(path, str) or not isinstance(nar_hash, str):
            return "path and narHash must be strings"
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            return "narSize must be a number of bytes"
        if not isinstance(references, list) or not all(isinstance(x, str) for x in references):
            return "references must be a list of store paths"
        if not isinstance(deriver, (str, type(None))):
            return "deriver must be a store path"
        return StoreObject(
            path=path,
            nar_hash=nar_hash,
            nar_size=size,
            references=tuple(references),
            deriver=deriver or "",
        )


def database_document(database: NixDatabase) -> dict[str, Any]:
    """`database` as `nix_database` is read."""
    return {
        "objects": [
            {
                "path": item.path,
                "narHash": item.nar_hash,
                "narSize": item.nar_size,
                "references": list(item.references),
                **({"deriver": item.deriver} if item.deriver else {}),
            }
            for item in database.objects
        ],
        "roots": list(database.roots),
    }
