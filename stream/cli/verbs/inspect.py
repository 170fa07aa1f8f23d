"""`stream-image inspect`: show the contents of an archive, or the plan of a conf."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stream.archives.files import SizedFile
from stream.cli.options import (
    add_digest_arguments,
    add_run_argument,
    add_tag_argument,
    given_digests,
)
from stream.cli.output import say_json, say_rendered
from stream.cli.progress import Reporter, readable_size
from stream.cli.registries import (
    add_access_arguments,
    add_platform_arguments,
    given_access,
    given_platform,
)
from stream.cli.tables import cut_lines, new_table, path_in_store, render, store_name
from stream.cli.usage import UsageError
from stream.oci.platform import Platform
from stream.text import one_line
from stream.tools.inspect import (
    Duplicate,
    InspectedImage,
    InspectedLayer,
    Inspection,
    inspect,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from stream.tools.registry_image import DescribedLayer, Surroundings

SUMMARY = "show the contents of an archive, or the plan of a conf"
DESCRIPTION = """\
Show the images in an archive: the config, and for each layer its size, compression,
digest, entries and store paths. For a conf, show the planned image without streaming.
--files shows the largest files, --duplicates also the content that several files have."""
EPILOG = """\
Examples: stream-image inspect image.tar.zst
          stream-image inspect --json conf.json
          stream-image inspect --files image.tar
          stream-image inspect docker://registry.example/app:v2
The JSON is described in docs/inspect.md.
"""
HAS_PROGRESS = False

REGISTRY = "docker://"  # before the name of an image in a registry, as for skopeo
MAX_NAMES = 6  # store paths shown for each layer
MAX_LINES = 40  # shown of a config value; --json has all of it
MAX_LINE = 2000  # characters shown of each
MAX_FILES = 30  # shown of the largest; --json has more
MAX_DUPLICATES = 20  # contents shown that several files have
MAX_PLACES = 4  # shown of each
_CONFIG_ORDER = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Labels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "target", metavar="ARCHIVE|CONF|SPEC|docker://NAME",
        help="a docker-archive or OCI layout in any compression, FILE:name:tag for one of its"
        " images, a conf, or a specification; - for any of them on standard input; or docker://NAME:TAG"
        " for an image in a registry, with its SBOMs",
    )  # fmt: skip
    parser.add_argument(
        "--files", action="store_const", const="largest", dest="files", default="none",
        help="show the largest files instead of the layers",
    )  # fmt: skip
    parser.add_argument(
        "--duplicates", action="store_const", const="compared", dest="files",
        help="the same, and read all files to find those with the same content",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    add_tag_argument(parser)
    add_run_argument(parser)
    add_digest_arguments(parser)
    add_access_arguments(parser)
    add_platform_arguments(parser, None)


def run(args: argparse.Namespace, reporter: Reporter) -> None:
    """Inspect and print. Raises StreamImageError."""
    if args.target.startswith(REGISTRY):
        return _run_in_registry(args, reporter)
    inspection = inspect(
        args.target,
        reporter.warning,
        repo_tag=args.repo_tag,
        run_commands=args.run_commands,
        digests=given_digests(args, reporter.warning),
        files=args.files,
    )
    if args.json:
        say_json(_document(inspection, with_files=args.files != "none"))
    else:
        say_rendered(render(_parts(inspection, with_files=args.files != "none")))
    return None


def _run_in_registry(args: argparse.Namespace, reporter: Reporter) -> None:
    from stream.tools.registry_image import look_around

    if args.files != "none":
        raise UsageError("--files: an image in a registry is shown by its documents; pull it first")
    platform = given_platform(args, Platform.of_this_machine())
    found = look_around(args.target.removeprefix(REGISTRY), platform, given_access(args))
    for problem in found.unread:
        reporter.warning(f"{found.reference}: SBOM {problem}")
    if args.json:
        say_json(_registry_document(found))
    else:
        say_rendered(render(_registry_parts(found)))


# ---- for programs


def _document(inspection: Inspection, *, with_files: bool = False) -> dict[str, Any]:
    return {
        "name": inspection.name,
        "kind": inspection.kind,
        "also_oci": inspection.also_oci,
        "compression": inspection.compression,
        "images": [_image_document(image, with_files=with_files) for image in inspection.images],
    }


def _image_document(image: InspectedImage, *, with_files: bool) -> dict[str, Any]:
    document = image.document
    return {
        "image_id": image.image_id,
        "repo_tags": list(image.repo_tags),
        **{key: document.get(key) for key in ("architecture", "variant", "os", "created")},
        "config": image.container_config,
        "size": image.size,
        "entries": image.entries,
        "sboms": [],
        "layers": [
            {
                "name": layer.name,
                "diff_id": layer.diff_id,
                "digest": layer.digest,
                "size": layer.size,
                "stored_size": layer.stored_size,
                "compression": layer.compression,
                "entries": layer.entries,
                "store_paths": list(layer.store_paths),
                "history": layer.history,
                **({"files": [*map(_file_document, layer.files)]} if with_files else {}),
            }
            for layer in image.layers
        ],
        **({} if image.duplicates is None else _duplicates_document(image, image.duplicates)),
    }


def _file_document(file: SizedFile) -> dict[str, Any]:
    return {"path": file.path, "size": file.size}


def _duplicates_document(image: InspectedImage, duplicates: Sequence[Duplicate]) -> dict[str, Any]:
    return {
        "duplicates": [
            {
                "size": one.size,
                "count": one.count,
                "excess": one.excess,
                "places": [{"layer": number, "path": path} for number, path in one.places],
            }
            for one in duplicates
        ],
        "all_compared": image.all_compared,
    }


def _registry_document(found: Surroundings) -> dict[str, Any]:
    image = found.image
    config = image.config
    container_config = config.get("config")
    return {
        "name": found.reference,
        "kind": "registry",
        "also_oci": False,
        "compression": None,
        "images": [
            {
                "image_id": image.image_id,
                "digest": image.digest,
                "repo_tags": [found.reference],
                **{key: config.get(key) for key in ("architecture", "variant", "os", "created")},
                "config": container_config if isinstance(container_config, dict) else {},
                "size": None,
                "entries": None,
                "sboms": [
                    {
                        "digest": sbom.digest,
                        "format": sbom.listed.format,
                        "store_paths": len(sbom.listed.hashes),
                        "unknown": list(sbom.listed.gaps),
                    }
                    for sbom in found.sboms
                ],
                "artifacts": list(found.others),
                "layers": [
                    {
                        "name": layer.digest,
                        "diff_id": layer.diff_id,
                        "digest": layer.digest,
                        "size": None,
                        "stored_size": layer.size,
                        "compression": _compression(layer),
                        "entries": None,
                        "store_paths": list(layer.store_paths),
                        "history": layer.history,
                    }
                    for layer in image.layers
                ],
            }
        ],
    }


def _compression(layer: DescribedLayer) -> str | None:
    """Return the compression that the media type of a layer's blob states, OCI's or Docker's."""
    found = re.search(r"[+.](gzip|zstd)$", layer.media_type)
    return found[1] if found else None


# ---- for people


def _registry_parts(found: Surroundings) -> Iterator[RenderableType]:
    from rich.text import Text

    image = found.image
    get = image.config.get
    title = Text.assemble((one_line(found.reference), "bold"), "  ", ("registry", "dim"))
    yield title.append(f"\n{image.digest}", "cyan").append("\n" + _about(image.config))
    config = get("config")
    if isinstance(config, dict) and config:
        yield Text()
        yield _config_table(config)
    yield Text()
    table = new_table()
    table.add_column("stored as", no_wrap=True)
    table.add_column("diff_id", style="cyan", no_wrap=True)
    table.add_column("holds", overflow="ellipsis")
    for number, layer in enumerate(image.layers, 1):
        size = "?" if layer.size is None else readable_size(layer.size)
        diff_id = one_line((layer.diff_id or "").removeprefix("sha256:")[:12])
        names = _short_names(layer.store_paths) or [one_line(layer.history)]
        table.add_row(str(number), size, _compression(layer) or "plain", diff_id, cut_lines(names))
    yield table
    yield Text()
    for sbom in found.sboms:
        count = len(sbom.listed.hashes)
        paths = f"{count:,} store path{'' if count == 1 else 's'}"
        yield Text.assemble(
            (f"SBOM: {sbom.listed.format}, {paths}", "bold"), f"  {sbom.digest[:19]}"
        )
        for gap in sbom.listed.gaps:
            yield Text(f"  does not know {one_line(gap)}")
    if not found.sboms:
        yield Text("no SBOM in the registry (push with --sbom)", style="bold")
    for kind in found.others:
        yield Text(f"artifact: {one_line(kind)}")


def _parts(inspection: Inspection, *, with_files: bool = False) -> Iterator[RenderableType]:
    from rich.text import Text

    for image in inspection.images:
        yield _title(inspection, image)
        if image.container_config and not with_files:
            yield Text()
            yield _config_table(image.container_config)
        yield Text()
        if with_files:
            yield from _file_parts(image)
        elif image.layers:
            yield _layer_table(image)
            yield Text()
        yield Text(_total(image), style="bold")
        if inspection.kind != "conf":
            yield Text("no SBOM: archives carry none", style="dim")
        yield Text()
    if not inspection.images:
        yield Text(f"{one_line(inspection.name)}: no images")


def _title(inspection: Inspection, image: InspectedImage) -> RenderableType:
    from rich.text import Text

    tags = ", ".join(map(one_line, image.repo_tags)) or "untagged"
    what = {"conf": "plan", "oci": "OCI layout", "dir": "directory of skopeo"}.get(
        inspection.kind, inspection.kind
    )
    if inspection.also_oci:
        what += " and OCI layout"
    if inspection.compression:
        what += f" in {inspection.compression}"
    title = Text.assemble((tags, "bold"), "  ", (what, "dim"), overflow="fold")
    if image.image_id:
        title.append(f"\n{image.image_id}", "cyan")
    return title.append("\n" + _about(image.document))


def _about(config: Mapping[str, Any]) -> str:
    """Return the line on the platform and the time of an image."""
    get = config.get
    variant = f"/{get('variant')}" if get("variant") else ""
    created = get("created") or "at no known time"
    return one_line(f"{get('os')}/{get('architecture')}{variant}, created {created}")


def _config_table(config: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, max_width=20, overflow="ellipsis")
    table.add_column(overflow="fold")
    known = [key for key in _CONFIG_ORDER if key in config]
    for key in known + sorted(config.keys() - set(known)):
        lines = _lines(key, config[key])
        value = "\n".join(_cut(line) for line in lines[:MAX_LINES])
        if len(lines) > MAX_LINES:
            value += f"\nand {len(lines) - MAX_LINES:,} more"
        table.add_row(Text(one_line(key)), Text(value))
    return table


def _lines(key: str, value: Any) -> list[str]:
    """Return the lines that show a config value."""
    if isinstance(value, str) and value:
        return [value]
    if key == "Env" and isinstance(value, list):
        return [item if isinstance(item, str) else json.dumps(item) for item in value]
    if key == "Labels" and isinstance(value, dict):
        return [f"{name}={text}" for name, text in value.items()]
    if isinstance(value, dict) and not any(value.values()):
        return list(value)  # a set in Go's notation: Volumes, ExposedPorts
    return [json.dumps(value, ensure_ascii=False)]


def _cut(line: str) -> str:
    return one_line(line[:MAX_LINE] + "…" * (len(line) > MAX_LINE))


def _layer_table(image: InspectedImage) -> Table:
    packed = any(layer.compression for layer in image.layers)
    digests = any(layer.diff_id for layer in image.layers)
    table = new_table()
    if packed:
        table.add_column("stored as", justify="right", no_wrap=True)
    table.add_column("entries", justify="right", no_wrap=True)
    if digests:
        table.add_column("diff_id", style="cyan", no_wrap=True)
    table.add_column("holds", overflow="ellipsis")  # the only column that may shrink
    for number, layer in enumerate(image.layers, 1):
        cells = [str(number), readable_size(layer.size)]
        if packed:
            stored = f"{layer.compression or 'plain'} {readable_size(layer.stored_size)}"
            cells.append(stored)
        cells.append(f"{layer.entries:,}")
        if digests:
            cells.append((layer.diff_id or "").removeprefix("sha256:")[:12])
        table.add_row(*cells, cut_lines(_holds(layer)))
    return table


def _holds(layer: InspectedLayer) -> list[str]:
    """Return the names of a layer's store paths without their hashes, or its history."""
    return _short_names(layer.store_paths) or [one_line(layer.history)]


def _short_names(store_paths: Sequence[str]) -> list[str]:
    """Return the names of store paths without their hashes, or of the first of many."""
    names = [store_name(path) for path in store_paths]
    if len(names) <= MAX_NAMES:
        return names
    shown = names[: MAX_NAMES - 1]
    return [*shown, f"and {len(names) - len(shown)} more"]


def _file_parts(image: InspectedImage) -> Iterator[RenderableType]:
    """Yield the tables of the largest files, and of those with the same content."""
    from rich.text import Text

    files = [(file, number) for number, layer in enumerate(image.layers, 1) for file in layer.files]
    files.sort(key=lambda item: -item[0].size)  # of equal ones, that of the lowest layer is first
    table = _share_table("layer", "file")
    for file, number in files[:MAX_FILES]:
        share = _share(file.size, image)
        table.add_row(share, readable_size(file.size), str(number), path_in_store(file.path))
    yield table
    yield Text()
    if image.base_layers:
        size = sum(layer.size for layer in image.layers[: image.base_layers])
        layers = "layer 1" if image.base_layers == 1 else f"layers 1 to {image.base_layers}"
        yield Text(f"base image: {layers}, {readable_size(size)}, {_share(size, image)}")
    if image.duplicates is not None:
        yield from _duplicate_parts(image, image.duplicates)


def _duplicate_parts(
    image: InspectedImage, duplicates: Sequence[Duplicate]
) -> Iterator[RenderableType]:
    from rich.text import Text

    excess = sum(one.excess for one in duplicates)
    line = f"files with the same content, without the first: {readable_size(excess)}"
    yield Text(f"{line}, {_share(excess, image)}")
    if not image.all_compared:
        yield Text("there are too many files: not all were compared")
    yield Text()
    if duplicates:
        table = _share_table("copies", "layer: file")
        for one in duplicates[:MAX_DUPLICATES]:
            places = [
                f"{number}: {path_in_store(path)}" for number, path in one.places[:MAX_PLACES]
            ]
            if (more := len(one.places) - MAX_PLACES) > 0:
                places.append(f"and in {more:,} more layers")
            excess = one.excess
            cells = _share(excess, image), readable_size(excess), f"{one.count:,}"
            table.add_row(*cells, "\n".join(places))
        yield table
        yield Text()


def _share_table(third: str, last: str) -> Table:
    """Return a table of parts of an image: share, size, and two more columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in ("share", "size", third):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold")
    return table


def _share(size: int, image: InspectedImage) -> str:
    return f"{100 * size / image.size:.1f}%" if image.size else "0.0%"


def _total(image: InspectedImage) -> str:
    def counted(count: int, one: str, many: str) -> str:
        return f"{count:,} {one if count == 1 else many}"

    paths = sum(len(layer.store_paths) for layer in image.layers)
    return ", ".join(
        (
            counted(len(image.layers), "layer", "layers"),
            readable_size(image.size),
            counted(image.entries, "entry", "entries"),
            counted(paths, "store path", "store paths"),
        )
    )
