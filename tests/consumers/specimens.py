"""Small archives, each odd or broken in one way, for consumers and for `verify` to judge.

Every specimen has a layer and a tag of its own, so that consumers can load them one after another
into one store without an earlier one hiding the faults of a later one. Knows formats; must not
know the package or which consumers there are.
"""

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyzstd
from handmade import (
    CONFIG_TYPE,
    LAYER_TYPE,
    Base,
    Entry,
    Layout,
    artifacts,
    digest,
    layer_tar,
    link,
    named,
    tar_of,
)

Members = list[Entry]
Item = dict[str, Any]
Change = Callable[[Members, Item], object]

_BLOCK = 512
_ZSTD = b"\x28\xb5\x2f\xfd"
_HARD = tarfile.LNKTYPE


@dataclass(frozen=True, slots=True)
class Specimen:
    """An archive. `tag` is that of its image, `name:tag`; `image_id` is that of an image whose
    config is not changed.
    """

    tag: str
    image_id: str
    data: bytes

    @property
    def transport(self) -> str:
        """What skopeo and buildah have to be told to read from standard input."""
        data = pyzstd.decompress(self.data) if self.data[:4] == _ZSTD else self.data
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                files = {info.name: tar.extractfile(info) for info in tar if info.isreg()}
                if "index.json" not in files or "manifest.json" in files:
                    return "docker-archive:/dev/stdin"
                index = json.loads(files["index.json"].read())  # type: ignore[union-attr]
        except (tarfile.TarError, EOFError, OSError):
            return "docker-archive:/dev/stdin"
        # Of several, one has to be named.
        reference = ":one" if len(index["manifests"]) > 1 else ""
        return f"oci-archive:/dev/stdin{reference}"


def specimens() -> dict[str, Specimen]:
    """Return all specimens by name."""
    found = {}
    for number, (name, make) in enumerate(_MAKERS.items()):
        given = _Given(name, f"specimen-{number}:one")
        config = json.dumps(given.base.document()).encode()
        found[name] = Specimen(_TAGS.get(name, given.tag), digest(config), make(given))
    return found


_TAGS = {"reference without a tag": "specimen-untagged:latest"}  # as consumers complete it


class _Given:
    """What a specimen is made of: a layer that no other one has, and a tag."""

    def __init__(self, name: str, tag: str) -> None:
        self.tag = tag
        self.layers = [layer_tar({"own": name.encode()}), layer_tar({"etc/a": name.encode()})]
        self.base = Base(layers=self.layers, tags=[tag])

    def on(self, *layers: bytes) -> Base:
        """Return an image with more layers."""
        return Base(layers=[self.layers[0], *layers], tags=[self.tag])


_Make = Callable[[_Given], bytes]


def _docker(change: Change) -> _Make:
    """Make docker-archives with their members and their manifest's item changed."""

    def make(given: _Given) -> bytes:
        members, item = given.base.docker_members()
        change(members, item)
        return tar_of([*members, ("manifest.json", json.dumps([item]).encode())])

    return make


def _configured(**more: Any) -> _Make:
    """Make docker-archives with a changed config; None removes a key."""
    return lambda given: _with_config(given.base, given.base.document() | more)


def _with_config(base: Base, document: Mapping[str, Any]) -> bytes:
    kept = {key: value for key, value in document.items() if value is not None}
    config = json.dumps(kept).encode()
    members, item = base.docker_members()
    members[-1] = (f"{digest(config)[7:]}.json", config)
    item["Config"] = members[-1][0]
    return tar_of([*members, ("manifest.json", json.dumps([item]).encode())])


def _layered(*layers: bytes | Sequence[Entry]) -> _Make:
    """Make archives with these layers, or layers of these entries, on top. They are in both
    forms, so that all consumers read them.
    """
    tars = [layer if isinstance(layer, bytes) else tar_of(layer) for layer in layers]
    return lambda given: _both(given.on(*tars), given.tag, lambda _, __: None)


def _oci(change: Callable[[Layout, dict[str, Any]], object] = lambda _, __: None) -> _Make:
    """Make OCI layouts, changed with the descriptor of their only image."""

    def make(given: _Given) -> bytes:
        layout = Layout()
        image = named(layout.image(given.base, os="linux", architecture="amd64"), given.tag)
        layout.top = [image]
        change(layout, image)
        return layout.tar()

    return make


def _hybrid(change: Callable[[Layout, Item], object] = lambda _, __: None) -> _Make:
    """Make OCI layouts that are docker-archives as well."""
    return lambda given: _both(given.base, given.tag, change)


def _both(base: Base, tag: str, change: Callable[[Layout, Item], object]) -> bytes:
    layout = Layout()
    image = layout.image(base, os="linux", architecture="amd64")
    layout.top = [named(image, tag)]
    config = json.loads(layout.blobs[f"blobs/sha256/{image['digest'][7:]}"])["config"]
    item = {
        "Config": f"blobs/sha256/{config['digest'][7:]}",
        "RepoTags": [tag],
        "Layers": [f"blobs/sha256/{digest(layer)[7:]}" for layer in base.layers],
    }
    change(layout, item)
    manifest = json.dumps([item]).encode()
    return tar_of([*layout.files().items(), ("manifest.json", manifest)])


def _oci_layers(stored: Callable[[bytes], bytes], media_type: str) -> _Make:
    """Make OCI layouts whose layers are stored in some way."""

    def make(given: _Given) -> bytes:
        layout = Layout()
        config = layout.blob(json.dumps(given.base.document()).encode(), CONFIG_TYPE)
        layers = [layout.blob(stored(layer), media_type) for layer in given.base.layers]
        layout.top = [named(layout.manifest(config, layers), given.tag)]
        return layout.tar()

    return make


def _entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **more: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    for key, value in more.items():
        setattr(info, key, value)
    return (name, info)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)


def _ustar(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return an entry without padding."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content


def _sparse(records: Mapping[str, str], content: bytes) -> bytes:
    """Return a layer with a file that has records of GNU's sparse files."""
    info = tarfile.TarInfo("sparse")
    info.pax_headers = {f"GNU.sparse.{key}": value for key, value in records.items()}
    info.size = len(content)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


_SPARSE = {"major": "0", "minor": "1", "size": "9", "numblocks": "2", "map": "0,1,8,1"}
_STORED_MAP = _padded(b"2\n0\n1\n8\n1\n") + b"ab"
_NEW_SPARSE = {"major": "1", "minor": "0", "realsize": "9", "name": "renamed"}


def _rename_config(members: Members, item: Item) -> None:
    item["Config"] = "0" * 64 + ".json"
    members[-1] = (item["Config"], members[-1][1])


def _link_first(members: Members, target: str, kept: str, kind: bytes = tarfile.SYMTYPE) -> None:
    """Make the first layer a link to a member that the manifest does not list."""
    name, content = members[0]
    members[0:1] = [(kept, content), (name, link(target, kind))]


def _several_platforms(*, left_out: bool, first: str = "linux") -> _Make:
    def make(given: _Given) -> bytes:
        layout = Layout()
        other = Base(layers=[layer_tar({"other": given.tag.encode()})])
        platforms = ["linux", "windows"] if first == "linux" else ["windows", "linux"]
        images = [
            layout.image(given.base if os == "linux" else other, os=os, architecture="amd64")
            for os in platforms
        ]
        if left_out:
            gone = images[platforms.index("windows")]
            layout.blobs.pop(f"blobs/sha256/{gone['digest'][7:]}")
        layout.top = [named(layout.index(images), given.tag)]
        return layout.tar()

    return make


def _beside(kind: str, *, hybrid: bool = False) -> _Make:
    """Make archives with an artifact beside the image."""
    return (_hybrid if hybrid else _oci)(
        lambda layout, _: layout.top.append(artifacts(layout)[kind])
    )


def _only(kind: str) -> _Make:
    def make(given: _Given) -> bytes:
        layout = Layout()
        layout.top = [named(artifacts(layout)[kind], given.tag)]
        return layout.tar()

    return make


def _oci_config(rootfs: Callable[[_Given], dict[str, Any]]) -> _Make:
    """Make layouts whose config has another `rootfs`."""

    def make(given: _Given) -> bytes:
        layout = Layout()
        document = given.base.document() | {"rootfs": rootfs(given)}
        layout.top = [named(layout.image(given.base, json.dumps(document).encode()), given.tag)]
        return layout.tar()

    return make


def _sized(key: str) -> _Make:
    """Make layouts whose manifest states a wrong size of the config or of layers."""

    def make(given: _Given) -> bytes:
        layout = Layout()
        config = layout.blob(json.dumps(given.base.document()).encode(), CONFIG_TYPE)
        layers = [layout.blob(layer, LAYER_TYPE) for layer in given.layers]
        for wrong in [config] if key == "config" else layers:
            wrong["size"] += 1
        layout.top = [named(layout.manifest(config, layers), given.tag)]
        return layout.tar()

    return make


def _left_out(layout: Layout, _: Item) -> None:
    gone = {**layout.top[0], "digest": "sha256:" + "a" * 64}
    own = {key: value for key, value in layout.top[0].items() if key != "annotations"}
    gone.pop("annotations")
    gone["platform"] = {"os": "linux", "architecture": "arm64"}
    index = layout.index([own, gone])
    layout.top = [{**layout.top[0], **index}]
    layout.top[0].pop("platform")


def _layer_blob(layout: Layout) -> str:
    return next(name for name, data in layout.blobs.items() if b"etc/a" in data)


def _change_blob(change: Callable[[bytes], bytes]) -> Callable[[Layout, Item], None]:
    def changed(layout: Layout, _: Item) -> None:
        name = _layer_blob(layout)
        layout.blobs[name] = change(layout.blobs[name])

    return changed


def _whole(compress: Callable[[bytes], bytes], make: _Make) -> _Make:
    return lambda given: compress(make(given))


def _plain(given: _Given) -> bytes:
    return given.base.docker_archive()


def _stored(compress: Callable[[bytes], bytes]) -> _Make:
    return lambda given: given.base.docker_archive(stored=[*map(compress, given.layers)])


def _tags(tags: object) -> _Make:
    return _docker(lambda _, item: item.update(RepoTags=tags))


def _without_trailer(given: _Given) -> bytes:
    return _padded(given.base.docker_archive().rstrip(b"\0"))


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


_MAKERS: dict[str, _Make] = {
    # docker-archives
    "sound": _plain,
    "sound, in OCI form": _oci(),
    "sound, in both forms": _hybrid(),
    "gzip": _whole(_gzip, _plain),
    "zstd": _whole(pyzstd.compress, _plain),
    "bzip2": _whole(bz2.compress, _plain),
    "xz": _whole(lzma.compress, _plain),
    "gzip layers": _stored(_gzip),
    "zstd layers": _stored(pyzstd.compress),
    "untagged": _tags(None),
    "reference without a tag": _tags(["specimen-untagged"]),
    "tag in capitals": _tags(["Specimen:one"]),
    "tag with a slash": _tags(["specimen:a/b"]),
    "tags that are not a list": _tags("specimen:one"),
    "names with a dot": _docker(
        lambda _, item: item.update(Layers=[f"./{name}" for name in item["Layers"]])
    ),
    "layer is a link to no layer": _docker(lambda m, _: _link_first(m, "kept", "0/kept")),
    "layer is an absolute link": _docker(lambda m, _: _link_first(m, "/kept", "kept")),
    "layer is a hard link": _docker(lambda m, _: _link_first(m, "kept", "kept", _HARD)),
    "layer is a dangling link": _docker(lambda m, _: m.__setitem__(0, (m[0][0], link("nowhere")))),
    "layer missing": _docker(lambda m, _: m.pop(0)),
    "config missing": _docker(lambda m, _: m.pop()),
    "config named by another digest": _docker(_rename_config),
    "link to a missing member": _docker(lambda m, _: m.append(("x", link("nowhere")))),
    "layers exchanged": _docker(lambda _, item: item["Layers"].reverse()),
    "layer of other content": _docker(
        lambda m, _: m.__setitem__(1, (m[1][0], layer_tar({"other": b""})))
    ),
    "layer not listed": _docker(lambda _, item: item["Layers"].pop(0)),
    "equal layer twice": _docker(lambda m, _: m.append(m[0])),
    "equal config twice": _docker(lambda m, _: m.append(m[-1])),
    "different layer first": _docker(lambda m, _: m.insert(0, (m[0][0], layer_tar({"b": b""})))),
    "different layer last": _docker(lambda m, _: m.append((m[0][0], layer_tar({"b": b""})))),
    "member outside": _docker(lambda m, _: m.append(("../x", b""))),
    "absolute member": _docker(lambda m, _: m.append(("/x", b""))),
    "link out of the archive": _docker(lambda m, _: m.append(("x/y", link("../../z")))),
    "no trailer": _without_trailer,
    "bytes after the trailer": lambda given: given.base.docker_archive() + b"x" * 700,
    "cut in a layer": lambda given: given.base.docker_archive()[:700],
    "cut in the manifest": lambda given: given.base.docker_archive().rstrip(b"\0")[:-20],
    "cut gzip": lambda given: _gzip(given.base.docker_archive())[:-9],
    "empty": lambda _: b"",
    "no tar": lambda _: b"no tar\n" * 300,
    "no documents": lambda given: tar_of([("x", given.layers[0])]),
    "manifest without images": lambda _: tar_of([("manifest.json", b"[]")]),
    "manifest that is an object": lambda _: tar_of([("manifest.json", b"{}")]),
    "manifest that is not JSON": lambda _: tar_of([("manifest.json", b"[")]),
    "manifest without a config": _docker(lambda _, item: item.pop("Config")),
    "manifest without layers": _docker(lambda _, item: item.pop("Layers")),
    # configs
    "no architecture": _configured(architecture=None),
    "no os": _configured(os=None),
    "no rootfs": _configured(rootfs=None),
    "rootfs without a type": lambda given: _with_config(
        given.base,
        given.base.document() | {"rootfs": {"diff_ids": [*map(digest, given.layers)]}},
    ),
    "rootfs of another type": lambda given: _with_config(
        given.base,
        given.base.document() | {"rootfs": {"type": "x", "diff_ids": [*map(digest, given.layers)]}},
    ),
    "too few diff_ids": lambda given: _with_config(
        given.base,
        given.base.document()
        | {"rootfs": {"type": "layers", "diff_ids": [digest(given.layers[0])]}},
    ),
    "history too long": _configured(history=[{"comment": "x"}] * 3),
    "history too short": _configured(history=[{"comment": "x"}]),
    "history that is not a list": _configured(history={"a": 1}),
    "keys in another case": lambda given: _plain(given).replace(b'"RepoTags"', b'"repotags"'),
    # layers
    "layer without padding": _layered(_padded(_ustar("opt", b"x")) + _ustar("x", b"hi\n")),
    "layer without a trailer": _layered(_padded(_ustar("opt", b"x"))),
    "layer without a byte": _layered(b""),
    "layer of zeros": _layered(bytes(1024)),
    "layer cut in content": _layered(_ustar("x", b"x" * 900)[:-200]),
    "layer cut in a header": _layered(_padded(_ustar("x", b"x")) + bytes(384)),
    "layer goes on after zeros": _layered(
        _padded(_ustar("x", b"x")) + bytes(512) + _padded(_ustar("y", b"x")) + bytes(1024)
    ),
    "layer that is JSON": _layered(b'{"a": 1}'),
    "layer that is JSON of a block": _layered(b'{"a": "' + b"b" * 600 + b'"}'),
    "layer with a bad checksum": _layered(_padded(_ustar("x", b"x")).replace(b"ustar", b"utsar")),
    "sparse file": _layered(_sparse(_SPARSE, b"ab")),
    "sparse file with its map": _layered(_sparse(_NEW_SPARSE, _STORED_MAP)),
    "sparse file with a bad map": _layered(_sparse({**_SPARSE, "map": "8,1,0,1"}, b"ab")),
    "sparse file in the old format": _layered(_padded(_ustar("x", b"", b"S")) + bytes(1024)),
    "entry of an unknown type": _layered(_padded(_ustar("x", b"", b"Z")) + bytes(1024)),
    "owner of -2": _layered([_entry("a", uid=-2)]),
    "path twice": _layered([("a", b"1"), ("a", b"2")]),
    "directory twice": _layered([_entry("d", tarfile.DIRTYPE), _entry("d", tarfile.DIRTYPE)]),
    "path twice, once with a slash": _layered([("a", b"1"), ("/a", b"2")]),
    "path upwards": _layered([("../a", b"1")]),
    "path with dots inside": _layered([("d/../a", b"1")]),
    "path with two slashes": _layered([("d//a", b"1")]),
    "path with a dot inside": _layered([("d/./a", b"1")]),
    "path through a link": _layered(
        [_entry("d", tarfile.DIRTYPE), _entry("l", tarfile.SYMTYPE, "d"), ("l/a", b"1")]
    ),
    "path through a link to an implied directory": _layered(
        [("d/b", b"1"), _entry("l", tarfile.SYMTYPE, "/d"), ("l/a", b"1")]
    ),
    "path through a link to a lower layer": _layered(
        [("etc/x", b"")], [_entry("l", tarfile.SYMTYPE, "etc"), ("l/b", b"1")]
    ),
    "path through a link to nothing": _layered(
        [_entry("l", tarfile.SYMTYPE, "nothing"), ("l/b", b"1")]
    ),
    "path below a file": _layered([("f", b"1"), ("f/a", b"1")]),
    "file in place of a directory": _layered([("f/a", b"1"), ("f", b"1")]),
    "hard link before its target": _layered([_entry("h", _HARD, "t"), ("t", b"1")]),
    "hard link to a lower layer": _layered([_entry("h", _HARD, "own")]),
    "hard link to nothing": _layered([_entry("h", _HARD, "nothing")]),
    "hard link to a directory": _layered([_entry("d", tarfile.DIRTYPE), _entry("h", _HARD, "d")]),
    # OCI layouts
    "OCI: no image name": _oci(
        lambda _, image: image["annotations"].pop("io.containerd.image.name")
    ),
    "OCI: no ref.name": _oci(
        lambda _, image: image["annotations"].pop("org.opencontainers.image.ref.name")
    ),
    "OCI: gzip layers": _oci_layers(_gzip, LAYER_TYPE + "+gzip"),
    "OCI: zstd layers": _oci_layers(pyzstd.compress, LAYER_TYPE + "+zstd"),
    "OCI: gzip layers called plain": _oci_layers(_gzip, LAYER_TYPE),
    "OCI: plain layers called gzip": _oci_layers(bytes, LAYER_TYPE + "+gzip"),
    "OCI: gzip": _whole(_gzip, _oci()),
    "OCI: zstd": _whole(pyzstd.compress, _oci()),
    "OCI: no trailer": _whole(lambda data: _padded(data.rstrip(b"\0")), _oci()),
    "OCI: layer changed": _oci(_change_blob(lambda data: data[:-1] + b"x")),
    "OCI: layer too long": _oci(_change_blob(lambda data: data + b"x")),
    "OCI: layer missing": _oci(lambda layout, _: layout.blobs.pop(_layer_blob(layout))),
    "OCI: manifest missing": _oci(
        lambda layout, image: layout.blobs.pop(f"blobs/sha256/{image['digest'][7:]}")
    ),
    "OCI: damaged gzip layers": _oci_layers(lambda data: _gzip(data)[:-9], LAYER_TYPE + "+gzip"),
    "OCI: diff_ids exchanged": _oci_config(
        lambda given: {"type": "layers", "diff_ids": [*map(digest, given.layers[::-1])]}
    ),
    "OCI: too few diff_ids": _oci_config(
        lambda given: {"type": "layers", "diff_ids": [digest(given.layers[0])]}
    ),
    "OCI: wrong size of the config": _sized("config"),
    "OCI: wrong size of a layer": _sized("layers"),
    "OCI: wrong size of the manifest": _oci(lambda _, image: image.update(size=image["size"] + 1)),
    "OCI: index without images": _oci(lambda layout, _: layout.top.clear()),
    "OCI: platforms": _several_platforms(left_out=False),
    "OCI: platforms, windows first": _several_platforms(left_out=False, first="windows"),
    "OCI: platform left out": _several_platforms(left_out=True),
    **{f"OCI: {kind} beside": _beside(kind) for kind in artifacts(Layout())},
    "OCI: only an SBOM": _only("SBOM"),
    "OCI: only a signature": _only("signature"),
    # both
    "both: SBOM beside": _beside("SBOM", hybrid=True),
    "both: signature beside": _beside("signature", hybrid=True),
    "both: platform left out": _hybrid(_left_out),
    "both: manifest without a layer": _hybrid(
        lambda _, item: item.update(Layers=[*item["Layers"][:-1], "nowhere"])
    ),
    "both: index without images": _hybrid(lambda layout, _: layout.top.clear()),
    "both: another config in the manifest": _hybrid(
        lambda layout, item: item.update(Config=_add_config(layout, item, author="another"))
    ),
}


def _add_config(layout: Layout, item: Item, **more: str) -> str:
    config = json.dumps(json.loads(layout.blobs[item["Config"]]) | more).encode()
    return f"blobs/sha256/{layout.blob(config, CONFIG_TYPE)['digest'][7:]}"
