"""The table of which consumer reads which output, proved by test_table.py, and docs/consumers.md.

Data, and the page generated from it; must not know how a consumer is started or what an image holds.

    python -m tests.consumers.table > docs/consumers.md
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

FORMATS: Final = ("docker-archive", "oci-archive")
COMPRESSIONS: Final = ("none", "store", "gzip", "zstd", "zstd-seekable")
PIPE: Final = "pipe"
FILE: Final = "`< file`"

VERSIONS: Final[Mapping[str, str]] = {
    "docker": "20.10",
    "podman": "4.3",
    "containerd": "1.6",
    "skopeo": "1.9",
    "buildah": "1.28",
    "umoci": "0.4",
}
"""The consumers, in Debian 12's versions."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a consumer does not read an output."""

    says: str
    """Part of its error message."""
    reason: str


UNKNOWN: Final = Refusal(
    "archive/tar: invalid tar header",
    "it does not know the compression and treats the file as a plain tar.",
)
READ_TWICE: Final = Refusal(
    "archive/tar: invalid tar header",
    "it opens its input twice, which fails on a pipe. Compressed input is first copied to a file, "
    "so `--compress store` works, at the cost of that copy.",
)
GZIP: Final = Refusal(
    "archive/tar: invalid tar header",
    "Debian's build does not read a docker-archive compressed with gzip.",
)
NO_PIPE: Final = Refusal("lstat /proc/", "the transport accepts regular files only.")
NO_LAYOUT: Final = Refusal(
    "index.json: no such file or directory",
    "a docker-archive is not an OCI image layout; write one with `--format oci-archive`.",
)
NOT_UNPACKED: Final = Refusal(
    "invalid image detected", "likewise, a docker-archive is not an OCI image layout."
)
TAR: Final = Refusal(
    "Archive is compressed",
    "tar does not detect compression on standard input; use `tar -x --gzip`, or `tar -x --zstd` for the "
    "others.",
)
REFUSALS: Final = (UNKNOWN, READ_TWICE, GZIP, NO_PIPE, NO_LAYOUT, NOT_UNPACKED, TAR)
"""The refusals, in the order of the page's notes."""

Cells = Mapping[str, Mapping[str, Refusal]]
"""The refusals by format and compression. An output without one is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A way to load an archive with a consumer."""

    consumer: str
    command: str
    way: str
    fixtures: Mapping[str, str]
    """The test's fixture for each format."""
    refusals: Cells

    def refusal(self, archive_format: str, compression: str) -> Refusal | None:
        """Return why the consumer does not read that output, or None if it does."""
        return self.refusals.get(archive_format, {}).get(compression)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The largest number of layers that a consumer has been shown to run."""

    consumer: str
    layers: int
    beyond: str | None
    """The result for an image with one more: `refused`, or `loads` but does not run. None: no limit found."""


def _both(fixture: str) -> Mapping[str, str]:
    return dict.fromkeys(FORMATS, fixture)


def _each(refusal: Refusal, *compressions: str) -> Mapping[str, Refusal]:
    return dict.fromkeys(compressions, refusal)


_COMPRESSED: Final = COMPRESSIONS[1:]
_UNKNOWN_TO_DOCKER: Final = _each(UNKNOWN, "store", "zstd", "zstd-seekable")
_FROM_A_PIPE: Final = {"none": READ_TWICE, "gzip": GZIP}
_FROM_A_FILE: Final = {"gzip": GZIP}
_ALL_NEED_A_FILE: Final = _each(NO_PIPE, *COMPRESSIONS)
_ALL_ARE_NO_LAYOUT: Final = _each(NO_LAYOUT, *COMPRESSIONS)


def _rows(
    consumer: str, command: str, fixtures: Mapping[str, str], refusals: Cells
) -> Sequence[Row]:
    """Return the rows of a consumer that treats a pipe and a file alike."""
    return [
        Row(consumer=consumer, command=command, way=way, fixtures=fixtures, refusals=refusals)
        for way in (PIPE, FILE)
    ]


def _transports(consumer: str, command: str) -> Sequence[Row]:
    """Return the rows of skopeo or buildah, which must be given the format."""
    return [
        Row(
            consumer=consumer,
            command=f"{command} {transport}:/dev/stdin",
            way=way,
            fixtures=_both(fixture),
            refusals=refusals,
        )
        for transport, fixture, way, refusals in (
            ("docker-archive", consumer, PIPE, dict.fromkeys(FORMATS, _FROM_A_PIPE)),
            ("docker-archive", consumer, FILE, dict.fromkeys(FORMATS, _FROM_A_FILE)),
            ("oci-archive", f"oci_{consumer}", PIPE, dict.fromkeys(FORMATS, _ALL_NEED_A_FILE)),
            ("oci-archive", f"oci_{consumer}", FILE, {"docker-archive": _ALL_ARE_NO_LAYOUT}),
        )
    ]


ROWS: Final[Sequence[Row]] = (
    *_rows("docker", "docker load", _both("docker"), dict.fromkeys(FORMATS, _UNKNOWN_TO_DOCKER)),
    *_rows(
        "podman",
        "podman load",
        # It gives the image a different name in each.
        {"docker-archive": "podman", "oci-archive": "oci_podman"},
        {"docker-archive": {"gzip": GZIP}},
    ),
    *_rows(
        "containerd",
        "ctr images import -",
        _both("containerd"),
        dict.fromkeys(FORMATS, _each(UNKNOWN, *_COMPRESSED)),
    ),
    *_transports("skopeo", "skopeo copy"),
    *_transports("buildah", "buildah pull"),
    *_rows(
        "umoci",
        "tar -x; umoci unpack",
        _both("umoci"),
        {
            "docker-archive": {"none": NOT_UNPACKED, **_each(TAR, *_COMPRESSED)},
            "oci-archive": _each(TAR, *_COMPRESSED),
        },
    ),
)

LIMITS: Final[Sequence[Limit]] = (
    Limit(consumer="docker", layers=125, beyond="refused"),
    Limit(consumer="podman", layers=128, beyond="loads"),
    Limit(consumer="containerd", layers=200, beyond=None),
    Limit(consumer="buildah", layers=128, beyond="loads"),
)

_BEYOND: Final[Mapping[str | None, str]] = {
    "refused": "refused: `max depth exceeded`",
    "loads": "loads but does not run: `max depth exceeded`",
    None: "not tried",
}

_PAGE: Final = """\
# Which consumer reads which output

The consumers are those of Debian 12: {versions}.
`yes`: loaded into an empty image store, with the announced image ID, and a container printed
the expected output (skopeo does not run containers). A number: the image was refused
with the message in that note, and nothing usable was left behind.

Each cell is a test in `tests/consumers/test_table.py`. This page is generated from the same
data by `python -m tests.consumers.table`.

{table}

{notes}

## Names

An image that the conf calls `hello:latest` is `hello:latest` in docker and, like every short
name, `docker.io/library/hello:latest` in containerd. podman calls it `localhost/hello:latest`
if it was loaded from a docker-archive, and `docker.io/library/hello:latest` if from an OCI
archive; so does buildah, depending on the transport. In an OCI layout, as umoci reads it, it
is `latest`.

## Layers

{limits}

Each layer is a directory of the container's overlay file system. The limits are tested in
`tests/consumers/test_layer_limits.py`.
"""


def page() -> str:
    """Return docs/consumers.md."""
    return _PAGE.format(
        versions=", ".join(f"{name} {version}" for name, version in VERSIONS.items()),
        table=_table(),
        notes="\n".join(
            f"{number}. `{refusal.says}`: {refusal.reason}"
            for number, refusal in enumerate(REFUSALS, 1)
        ),
        limits=_lines(
            ("consumer", "maximum layers", "one more"),
            [(limit.consumer, str(limit.layers), _BEYOND[limit.beyond]) for limit in LIMITS],
        ),
    )


def _table() -> str:
    cells = [(form, compression) for form in FORMATS for compression in COMPRESSIONS]
    return _lines(
        ("command", "from", *("<br>".join(cell) for cell in cells)),
        [
            (f"`{row.command}`", row.way, *(_shown(row.refusal(*cell)) for cell in cells))
            for row in ROWS
        ],
    )


def _shown(refusal: Refusal | None) -> str:
    return "yes" if refusal is None else str(REFUSALS.index(refusal) + 1)


def _lines(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


if __name__ == "__main__":
    print(page(), end="")
