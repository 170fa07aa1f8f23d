"""Root file systems as tars, read with CPython's tarfile; and layers flattened the slow
way, path by path. Must not know the package.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A path of a root file system; `same` are all paths of the same file."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    uname: str
    gname: str
    mtime: float
    link: str
    device: tuple[int, int]
    content: bytes
    xattrs: tuple[tuple[str, str], ...]
    same: tuple[str, ...]


def _attributes(info: tarfile.TarInfo, content: bytes) -> dict[str, Any]:
    kind = tarfile.REGTYPE if info.isreg() else info.type
    return {
        "kind": kind,
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
        "uname": info.uname,
        "gname": info.gname,
        "mtime": info.mtime,
        "link": info.linkname if info.issym() else "",
        "device": (info.devmajor, info.devminor) if info.ischr() or info.isblk() else (0, 0),
        "content": content,
        "xattrs": tuple(
            sorted(item for item in info.pax_headers.items() if item[0].startswith("SCHILY.xattr."))
        ),
    }


def _members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), errorlevel=2) as tar:
        return [
            (info, tar.extractfile(info).read() if info.isreg() else b"")  # type: ignore[union-attr]
            for info in tar
        ]


def _grouped(found: dict[str, Any]) -> dict[str, Node]:
    """Return the nodes by path; those of the same file list all its paths."""
    groups: dict[int, list[str]] = {}
    for path in sorted(found):
        groups.setdefault(id(found[path]), []).append(path)
    return {
        path: Node(**value, same=tuple(groups[id(value)]) if value["kind"] != b"5" else ())
        for path, value in found.items()
    }


def read_root(data: bytes) -> dict[str, Node]:
    """Return the contents of a tar of a root file system. Checks that no path occurs twice,
    that directories come before their entries, and hard links after their targets.
    """
    assert not data[-1024:].strip(b"\0")
    assert len(data) % 10240 == 0
    found: dict[str, Any] = {}
    for info, content in _members(data):
        path = "" if info.name == "." else info.name
        assert path not in found
        assert not path.startswith(("/", "./"))
        parent = path.rpartition("/")[0]
        assert not parent or found[parent]["kind"] == tarfile.DIRTYPE
        if info.islnk():
            found[path] = found[info.linkname]
        else:
            found[path] = _attributes(info, content)
    return _grouped(found)


def flattened(layers: Sequence[bytes]) -> dict[str, Node]:
    """Return the contents after extracting layers one after the other, entry by entry. Works
    for names without links in them.
    """
    found: dict[str, Any] = {}

    def remove_below(path: str) -> None:
        for known in [known for known in found if known.startswith(f"{path}/" if path else "")]:
            if known:
                del found[known]

    for layer in layers:
        entries = [(_normal(info.name), info, data) for info, data in _members(layer)]
        for path, _, _ in entries:
            parent, _, name = path.rpartition("/")
            if name == OPAQUE:
                if found.get(parent, {"kind": b"5"})["kind"] == b"5":
                    remove_below(parent)
            elif name.startswith(WHITEOUT):
                hidden = f"{parent}/{name[4:]}".lstrip("/")
                remove_below(hidden)
                found.pop(hidden, None)
        for path, info, data in entries:
            if path.rpartition("/")[2].startswith(WHITEOUT):
                continue
            for at in [at for at, char in enumerate(path) if char == "/"]:
                if found.get(path[:at], {"kind": b""})["kind"] != b"5":
                    found[path[:at]] = _attributes(_implied(), b"")
            if info.islnk():
                target = found[_normal(info.linkname)]
                remove_below(path)
                found[path] = target
                continue
            if not (info.isdir() and (not path or found.get(path, {"kind": b""})["kind"] == b"5")):
                remove_below(path)
            found[path] = _attributes(info, data)
    return _grouped(found)


def _normal(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _implied() -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info
