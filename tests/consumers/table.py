"""Which consumer reads which output: what test_table.py proves and docs/consumers.md shows.

It is data, and a page made of it; it must not know how a consumer is started or what is in an image.

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
"""The consumers, in the versions that Debian 12 has."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a consumer does not read an output."""

    says: str
    """A part of its error message."""
    reason: str


UNKNOWN: Final = Refusal(
    "archive/tar: invalid tar header", "it does not know the compression and takes it for a tar."
)
READ_TWICE: Final = Refusal(
    "archive/tar: invalid tar header",
    "it opens its input twice, which a pipe does not survive. What is compressed it copies to a "
    "file first: `--compress store` costs no more than that copy.",
)
GZIP: Final = Refusal(
    "archive/tar: invalid tar header",
    "Debian's build reads no docker-archive that is compressed with gzip.",
)
NO_PIPE: Final = Refusal("lstat /proc/", "the transport takes regular files only.")
NO_LAYOUT: Final = Refusal(
    "index.json: no such file or directory",
    "a docker-archive is no OCI image layout; write one with `--format oci-archive`.",
)
NOT_UNPACKED: Final = Refusal("invalid image detected", "the same, in umoci's words.")
TAR: Final = Refusal(
    "Archive is compressed",
    "tar reads standard input only if it is told: `tar -x --gzip`, or `tar -x --zstd` for the others.",
)
REFUSALS: Final = (UNKNOWN, READ_TWICE, GZIP, NO_PIPE, NO_LAYOUT, NOT_UNPACKED, TAR)
"""In the order of the page's notes."""

Cells = Mapping[str, Mapping[str, Refusal]]
"""The refusals by format and compression. What has none is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way into one consumer."""

    consumer: str
    command: str
    way: str
    fixtures: Mapping[str, str]
    """The test's fixture for each format."""
    refusals: Cells

    def refusal(self, archive_format: str, compression: str) -> Refusal | None:
        """Return why it does not read that output, or None where it does."""
        return self.refusals.get(archive_format, {}).get(compression)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The most layers that a consumer was shown to run."""

    consumer: str
    layers: int
    beyond: str | None
    """What happens to an image with one more: `refused`, or `loads` without running. None: no limit was met."""


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
    """Describe a consumer to which a pipe and a file are the same."""
    return [
        Row(consumer=consumer, command=command, way=way, fixtures=fixtures, refusals=refusals)
        for way in (PIPE, FILE)
    ]


def _transports(consumer: str, command: str) -> Sequence[Row]:
    """Describe skopeo or buildah, which are told the format."""
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
        # It calls the image by another name in each.
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
    "loads": "loads, but does not run: `max depth exceeded`",
    None: "not tried",
}

_PAGE: Final = """\
# Who reads what

The consumers are those of Debian 12: {versions}.
`yes`: a store that had never seen the image took it under the image ID that was
announced, and a container printed what it should (skopeo runs none). A number: it was
refused with the message of that note, and nothing usable was left.

Each cell is a test in `tests/consumers/test_table.py`. This page is made from the same
data by `python -m tests.consumers.table`.

{table}

{notes}

## Names

What the conf calls `hello:latest` is `hello:latest` in docker and, as every short name,
`docker.io/library/hello:latest` in containerd. podman calls it
`localhost/hello:latest` if it came as a docker-archive, and
`docker.io/library/hello:latest` if it came as an OCI archive; so does buildah, by the
transport. In an OCI layout, which umoci reads, it is `latest`.

## Layers

{limits}

Each layer is a directory of the container's overlay file system. Tested in
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
            ("consumer", "runs an image of", "with one layer more"),
            [(limit.consumer, f"{limit.layers} layers", _BEYOND[limit.beyond]) for limit in LIMITS],
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
