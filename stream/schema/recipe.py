"""Read and write the recipe of a customisation layer in JSON, and report its faults.

In a conf, the keys are those of `customisation_layer`, in snake_case like all others. In a
specification, and in older confs, they have dockerTools' spelling, such as `copyToRoot`.
Built-in contents have dockerTools' names everywhere. Must not carry out a recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, cast, get_args

from stream.faults import NoteFault, kind, measure_depth, suggest, why_not_normal
from stream.limits import MAX_DEPTH, MAX_SIZE
from stream.model import Builtin, Conflicts, NixDatabase, PlacedFile, Recipe, StoreObject
from stream.nix.store_root import Disk, why_not_readable
from stream.schema.fields import Fields, NoteFormer
from stream.schema.permissions import (
    permission_documents,
    read_directories,
    read_owner,
    read_permissions,
)
from stream.schema.users import read_groups, read_users, user_documents

KEYS = frozenset(
    {
        "conflicts", "contents", "copy_to_root", "directories", "enable_fakechroot",
        "extra_commands", "fake_root_commands", "files", "groups", "keep_contents_dirlinks", "network",
        "nix_database", "owner", "perms", "post_mount", "post_umount", "pre_mount", "run_as_root",
        "users",
    }
)  # fmt: skip

_NEEDS_PATH = {
    "binSh": "the store path that has bin/bash or bin/sh",
    "caCertificates": "the store path that has etc/ssl/certs/ca-bundle.crt",
    "usrBinEnv": "the store path that has bin/env",
}
_BUILTINS = frozenset({"fakeNss", "shadowSetup", *_NEEDS_PATH})
_FAKE_NSS = frozenset({"extra_group_lines", "extra_passwd_lines"})
_DATABASE = frozenset({"objects", "roots"})
_OBJECT = frozenset({"deriver", "nar_hash", "nar_size", "path", "references"})


def camel_case(key: str) -> str:
    """Return `key` in dockerTools' spelling."""
    return re.sub("_([a-z])", lambda match: match[1].upper(), key)


# A specification has no database: it does not know the closure that the database describes.
SPEC_KEYS = frozenset(map(camel_case, KEYS - {"nix_database"}))
# Current spellings, by the former spelling in confs.
_FORMER = {former: key for key in KEYS | _FAKE_NSS | _OBJECT if (former := camel_case(key)) != key}


def read_recipe(
    document: dict[str, Any],
    place: str,
    fault: NoteFault,
    disk: Disk,
    former: NoteFormer | None = None,
) -> Recipe:
    """Read the recipe among the members of `document`; `null` counts as absent. `place` is the
    place of the document (`customisation_layer`, or empty). `fault` is called with each fault;
    the recipe returned then is not usable. `disk` locates the files.

    With `former`, the document belongs to a conf and its keys are checked; `former` is called
    with the place and the current spelling of each key in dockerTools' spelling. Without, the
    document is a specification, whose other keys are ignored.
    """
    reader = _Reader(document, place, fault, disk, former)
    if former is not None:
        reader.check_keys(KEYS)
    return Recipe(
        contents=reader.contents("contents", linked=True),
        copy_to_root=reader.contents("copy_to_root", linked=False),
        files=reader.files(),
        keep_dirlinks=reader.boolean("keep_contents_dirlinks"),
        conflicts=cast(Conflicts, reader.choice("conflicts", get_args(Conflicts))),
        users=read_users(reader.get("users"), reader.at("users"), fault),
        groups=read_groups(reader.get("groups"), reader.at("groups"), fault),
        database=reader.database(),
        pre_mount=reader.rooted_commands("pre_mount"),
        post_mount=reader.rooted_commands("post_mount"),
        run_as_root=reader.rooted_commands("run_as_root"),
        post_umount=reader.rooted_commands("post_umount"),
        extra_commands=reader.commands("extra_commands"),
        fake_root_commands=reader.commands("fake_root_commands"),
        fakechroot=reader.fakechroot(),
        network=reader.boolean("network"),
        owner=read_owner(reader.get("owner"), reader.at("owner"), fault),
        permissions=(
            *read_directories(reader.get("directories"), reader.at("directories"), fault),
            *read_permissions(reader.get("perms"), reader.at("perms"), fault),
        ),
    )


def _flat(place: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the items of nested lists in order, each with its place; `value` itself if it is not
    a list.
    """
    if not isinstance(value, list):
        yield place, value
        return
    for index, item in enumerate(value):
        yield from _flat(f"{place}[{index}]", item)


class _Members(Fields):
    """Members of a recipe, or of an object in it, in the spelling of its document."""

    def __init__(
        self, document: dict[str, Any], place: str, fault: NoteFault, former: NoteFormer | None
    ) -> None:
        super().__init__(document, place, fault)
        self._former = former

    def spelled(self, key: str) -> str:
        camel = camel_case(key)
        is_former = camel in self.document and key not in self.document
        return camel if self._former is None or is_former else key

    def check_keys(self, known: frozenset[str]) -> None:
        former = {camel: key for key in known if (camel := camel_case(key)) != key}
        if self._former is None:
            super().check_keys(frozenset(map(camel_case, known)))
            return
        for camel in sorted(self.document.keys() & former):
            key = former[camel]
            if key in self.document:
                self._fault(self._within(camel), f"is also given as {key}; keep only that")
            else:
                self._former(self._within(camel), key)
        for key in sorted(self.document.keys() - known - former.keys()):
            self._fault(self._within(key), f"unknown key{suggest(key, known)}")


class _Reader(_Members):
    """A reader of the members that only a recipe has."""

    def __init__(
        self,
        document: dict[str, Any],
        place: str,
        fault: NoteFault,
        disk: Disk,
        former: NoteFormer | None,
    ) -> None:
        super().__init__(document, place, fault, former)
        self._disk = disk
        self._store_dir = disk.store_dir.decode()

    # ---- commands

    def fakechroot(self) -> bool:
        value = self.boolean("enable_fakechroot")
        if value:
            self._check_store_dir("enable_fakechroot")
        return value

    def rooted_commands(self, key: str) -> str:
        value = self.commands(key)
        if value:
            self._check_store_dir(key)
        return value

    def _check_store_dir(self, key: str) -> None:
        if self._store_dir == "/":
            self.fault(key, "needs a store directory inside the tree, and it is /")

    def commands(self, key: str) -> str:
        value = self.text(key, nul=True)
        if "\0" in value:
            self.fault(key, "contains a NUL character")
        return value

    # ---- contents

    def contents(self, key: str, *, linked: bool) -> tuple[bytes | Builtin, ...]:
        """Read a path, a built-in content, or a list of these, whose nested lists are flattened as
        Nix does.
        """
        if not self.has(key):
            return ()
        value, place = self.get(key), self.at(key)
        if isinstance(value, list) and (depth := measure_depth(value)) > MAX_DEPTH:
            wrong = f"is nested {depth} deep; at most {MAX_DEPTH} levels are allowed"
            self._fault(place, wrong)
            return ()
        found = [self._content(at, item, linked=linked) for at, item in _flat(place, value)]
        return tuple(content for content in found if content is not None)

    def _content(self, place: str, item: object, *, linked: bool) -> bytes | Builtin | None:
        if isinstance(item, str) and "/" not in item:
            return self._builtin(place, item, None)
        if isinstance(item, str):
            return self._path(place, item, linked=linked)
        if isinstance(item, dict) and len(item) == 1:
            ((name, argument),) = item.items()
            return self._builtin(place, name, argument)
        wanted = 'must be a path or a built-in content such as "fakeNss" or {"binSh": PATH}'
        self._fault(place, f"{wanted}, not {kind(item)}")
        return None

    def _path(
        self,
        place: str,
        path: str,
        *,
        linked: bool,
        remedy: str = "",
    ) -> bytes | None:
        remedy = remedy or f"use {self.spelled('copy_to_root')}, or set store_dir"
        if wrong := why_not_normal(path):
            self._fault(place, f"{path} {wrong}")
        elif wrong := why_not_readable(path, self._disk):
            self._fault(place, f"{path}: {wrong}")
        elif linked and not path.startswith(f"{self._store_dir}/"):
            root = self._disk.root.decode()
            if root and path.startswith(f"{root}{self._store_dir}/"):
                remedy = f"write {path.removeprefix(root)}"
            elif (target := os.path.realpath(path)).startswith(f"{self._store_dir}/"):
                remedy = f"write {target}, which it links to"  # such as the `result` of nix-build
            dangling = (
                f"is not in the store directory {self._store_dir}, so links to it would dangle"
            )
            self._fault(place, f"{path} {dangling}; {remedy}")
        else:
            return path.encode()
        return None

    def _builtin(self, place: str, name: str, argument: object) -> Builtin | None:
        if name not in _BUILTINS:
            names = ", ".join(sorted(_BUILTINS))
            hint = suggest(name, _BUILTINS)
            self._fault(
                place, f"{name!r} is neither a path (it has no slash) nor one of {names}{hint}"
            )
        elif name == "fakeNss":
            return self._fake_nss(place, argument)
        elif argument is None and name in _NEEDS_PATH:
            self._fault(place, f'needs a path; write {{"{name}": PATH}} with {_NEEDS_PATH[name]}')
        elif argument is None:
            return Builtin(name=name)
        elif not isinstance(argument, str):
            self._fault(f"{place}.{name}", f"must be a path, not {kind(argument)}")
        elif path := self._path(f"{place}.{name}", argument, linked=True, remedy="set store_dir"):
            return Builtin(name=name, path=path)
        return None

    def _fake_nss(self, place: str, argument: object) -> Builtin | None:
        place = f"{place}.fakeNss"
        if argument is not None and not isinstance(argument, dict):
            self._fault(place, f"must be an object, not {kind(argument)}")
            return None
        options = _Members(argument or {}, place, self._fault, self._former)
        options.check_keys(_FAKE_NSS)
        return Builtin(
            name="fakeNss",
            extra_passwd_lines=options.texts("extra_passwd_lines"),
            extra_group_lines=options.texts("extra_group_lines"),
        )

    # ---- files

    def files(self) -> tuple[PlacedFile, ...]:
        if not self.has("files"):
            return ()
        from stream.schema.files import read_files

        files = read_files(self.get("files"), self.at("files"), self._fault, self._disk)
        if self.has("owner") and any((item.uid, item.gid) != (None, None) for item in files):
            self.fault("owner", "would replace the owners that files have; set them with perms")
        return files

    # ---- the Nix database

    def database(self) -> NixDatabase | None:
        if not self.has("nix_database"):
            return None
        fields = Fields(self.object("nix_database"), self.at("nix_database"), self._fault)
        objects = []
        for index, item in enumerate(fields.list("objects")):
            place = fields.at(f"objects[{index}]")
            found = self._store_object(self._in_current_spelling(place, item))
            if isinstance(found, StoreObject):
                objects.append(found)
            else:
                fields.fault(f"objects[{index}]", found)
        return NixDatabase(objects=tuple(objects), roots=fields.texts("roots"))

    def _in_current_spelling(self, place: str, item: object) -> object:
        """Return `item` in the current spelling. A key that is given in both spellings stays, and
        is reported as unknown.
        """
        former = item.keys() & _FORMER.keys() if isinstance(item, dict) else ()
        if not former or self._former is None:
            return item
        if not isinstance(item, dict) or any(_FORMER[key] in item for key in former):
            return item
        for key in sorted(former):
            self._former(f"{place}.{key}", _FORMER[key])
        return _respell_keys(item)

    @staticmethod
    def _store_object(item: object) -> StoreObject | str:
        """Return the store object that `item` describes, or a message about what is wrong."""
        if not isinstance(item, dict) or item.keys() - _OBJECT:
            return f"must be an object with {', '.join(sorted(_OBJECT))}"
        path, nar_hash, deriver = (item.get(key) for key in ("path", "nar_hash", "deriver"))
        size, references = item.get("nar_size"), item.get("references", [])
        if not isinstance(path, str) or not isinstance(nar_hash, str):
            return "path and nar_hash must be strings"
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            return "nar_size must be a number of bytes"
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


# ---- writing


def respell(document: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe `document` of a conf with former spellings replaced by current ones, so
    that two confs can be compared. Nothing is checked.
    """
    found = _respell_keys(document)
    for key in ("contents", "copy_to_root"):
        if isinstance(found.get(key), list):
            found[key] = [
                {
                    name: _respell_keys(of) if isinstance(of, dict) else of
                    for name, of in item.items()
                }
                if isinstance(item, dict)
                else item
                for item in found[key]
            ]
    database = found.get("nix_database")
    if isinstance(database, dict) and isinstance(database.get("objects"), list):
        objects = [
            _respell_keys(item) if isinstance(item, dict) else item for item in database["objects"]
        ]
        found["nix_database"] = {**database, "objects": objects}
    return found


def _respell_keys(document: dict[str, Any]) -> dict[str, Any]:
    return {_FORMER.get(key, key): value for key, value in document.items()}


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """Return `recipe` as `customisation_layer` in a conf, ordered by key. Defaults are omitted."""
    from stream.schema.files import file_documents

    uid, gid = recipe.owner or (None, None)
    members = {
        "conflicts": None if recipe.conflicts == "error" else recipe.conflicts,
        "contents": [*map(_content_document, recipe.contents)],
        "copy_to_root": [*map(_content_document, recipe.copy_to_root)],
        "enable_fakechroot": recipe.fakechroot,
        "network": recipe.network,
        "extra_commands": recipe.extra_commands,
        "fake_root_commands": recipe.fake_root_commands,
        "files": file_documents(recipe.files) if recipe.files else None,
        "keep_contents_dirlinks": recipe.keep_dirlinks,
        "nix_database": recipe.database and database_document(recipe.database),
        "owner": recipe.owner and {"uid": uid, "gid": gid},
        "post_mount": recipe.post_mount,
        "post_umount": recipe.post_umount,
        "pre_mount": recipe.pre_mount,
        "run_as_root": recipe.run_as_root,
        **permission_documents(recipe.permissions),
        **user_documents(recipe.users, recipe.groups),
    }
    return {key: members[key] for key in sorted(members) if members[key]}


def _content_document(content: bytes | Builtin) -> str | dict[str, Any]:
    if isinstance(content, bytes):
        return content.decode()
    lines = {
        "extra_passwd_lines": [*content.extra_passwd_lines],
        "extra_group_lines": [*content.extra_group_lines],
    }
    argument = content.path.decode() or {key: value for key, value in lines.items() if value}
    return {content.name: argument} if argument else content.name


def database_document(database: NixDatabase) -> dict[str, Any]:
    """Return `database` as the member `nix_database` of a recipe."""
    return {
        "objects": [
            {
                "path": item.path,
                "nar_hash": item.nar_hash,
                "nar_size": item.nar_size,
                "references": list(item.references),
                **({"deriver": item.deriver} if item.deriver else {}),
            }
            for item in database.objects
        ],
        "roots": list(database.roots),
    }
