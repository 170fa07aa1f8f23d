r"""Read and write the files of a customisation layer in JSON: by their path in the image, where they
come from.

    {"/srv/app": "./app",
     "/srv/site": {"path": "./site", "exclude": ["*.map", "/drafts/"], "uid": 1000, "gid": 1000},
     "/entry.sh": {"text": "#!/bin/sh\nexec httpd -f\n", "mode": "0755"}}

`fault` is called with each fault; the value returned then is not usable. `null` counts as absent.
Must not know what is in the files.
"""

from __future__ import annotations

import json
import os
from typing import Any

from stream.faults import NoteFault, is_text, kind, why_not_normal
from stream.model import PlacedFile
from stream.nix.store_root import Disk, why_not_readable
from stream.schema.exclusions import why_not_pattern
from stream.schema.fields import Fields
from stream.schema.permissions import read_mode, why_not_path

_KEYS = frozenset({"exclude", "gid", "mode", "path", "text", "uid"})
_EXAMPLE = '{"/srv/app": "./app"}'


def start_from(value: Any, directory: str) -> Any:
    """Return `files` as JSON with relative paths on this machine made absolute: they start from
    `directory`. Whatever is faulty stays as it is.
    """
    if not isinstance(value, dict):
        return value
    return {place: _absolute(item, directory) for place, item in value.items()}


def _absolute(item: Any, directory: str) -> Any:
    if isinstance(item, dict):
        return {
            key: _absolute(of, directory) if key == "path" and isinstance(of, str) else of
            for key, of in item.items()
        }
    return (
        os.path.abspath(os.path.join(directory, item)) if item and isinstance(item, str) else item
    )


def read_files(value: object, place: str, fault: NoteFault, disk: Disk) -> tuple[PlacedFile, ...]:
    """Read the files and directories to put into the image, ordered by their path there. `disk`
    locates them.
    """
    if value is None:
        return ()
    if not isinstance(value, dict):
        fault(place, f"must be an object like {_EXAMPLE}, not {kind(value)}")
        return ()
    found = []
    for name, item in sorted(value.items()):
        at = f"{place}[{json.dumps(name, ensure_ascii=False)}]"
        if wrong := why_not_path(name):
            fault(at, wrong)
        elif isinstance(item, str):
            found.append(PlacedFile(path=name.encode(), source=_source(item, at, fault, disk)))
        elif isinstance(item, dict):
            found.append(_read_file(name, Fields(item, at, fault), fault, disk))
        else:
            fault(at, f'must be a path, or an object like {{"text": "…"}}, not {kind(item)}')
    return tuple(found)


def _read_file(name: str, fields: Fields, fault: NoteFault, disk: Disk) -> PlacedFile:
    fields.check_keys(_KEYS)
    if fields.has("path") == fields.has("text"):
        fields.fault("", "needs either path or text")
    source = fields.text("path", nul=True) if fields.has("path") else None
    text = fields.text("text", nul=True) if fields.has("text") else None
    if text is not None and not is_text(text):
        fields.fault("text", "contains an unpaired UTF-16 surrogate")
    if text is not None and fields.has("exclude"):
        fields.fault("exclude", "applies to a directory, but text is a file")
    exclude = fields.texts("exclude")
    for index, pattern in enumerate(exclude):
        if wrong := why_not_pattern(pattern):
            fields.fault(f"exclude[{index}]", wrong)
    mode = fields.get("mode")
    return PlacedFile(
        path=name.encode(),
        source=b"" if source is None else _source(source, fields.at("path"), fault, disk),
        text=text,
        exclude=exclude,
        mode=None if mode is None else read_mode(mode, "mode", fields.fault),
        uid=fields.id("uid"),
        gid=fields.id("gid"),
    )


def _source(path: str, place: str, fault: NoteFault, disk: Disk) -> bytes:
    """Return the path on this machine that is at `place`. A link is followed, as the user named it."""
    if wrong := why_not_normal(path):
        fault(place, f"{path!r} {wrong}")
        return b""
    if wrong := why_not_readable(path, disk):
        fault(place, f"{path}: {wrong}")
    elif not disk.exists(path.encode()):
        fault(place, f"{path}: is a link to nothing")
    return path.encode()


def file_documents(files: tuple[PlacedFile, ...]) -> dict[str, Any]:
    """Return `files` as the member `files` of a recipe."""
    return {item.path.decode(): _document(item) for item in files}


def _document(item: PlacedFile) -> str | dict[str, Any]:
    members: dict[str, Any] = {
        "path": item.source.decode() or None,
        "text": item.text,
        "exclude": [*item.exclude] or None,
        "mode": None if item.mode is None else f"{item.mode:04o}",
        "uid": item.uid,
        "gid": item.gid,
    }
    document = {key: value for key, value in members.items() if value is not None}
    return item.source.decode() if document.keys() == {"path"} else document
