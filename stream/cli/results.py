"""Files that say which image a run has made: `--iidfile`, `--metadata-file`, `--digest-file`.

The names of the first two, and the members of the metadata, are those of `docker buildx build`.
The files appear only on success, as the output does. Must not know where images go.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from stream.cli.output import output_file, write_all
from stream.cli.usage import UsageError
from stream.model import Descriptor, Digest, Image
from stream.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The images that a run has made, and the `names` that they have in their place. `named` is
    the manifest of the only one, or the index of several, if there is one there.
    """

    images: Sequence[Image]
    names: Sequence[str]
    named: Descriptor | None = None

    @property
    def image_id(self) -> Digest:
        """The image ID: the digest of the config, or of the index of several. Raises UsageError."""
        if len(self.images) == 1:
            return self.images[0].image_id
        if self.named is None:
            raise UsageError("--iidfile: several images without an index have no ID in common")
        return self.named.digest

    @property
    def metadata(self) -> dict[str, Any]:
        """The members of buildx's metadata that apply."""
        document: dict[str, Any] = {}
        if len(self.images) == 1:
            document["containerimage.config.digest"] = self.images[0].image_id
        if self.named is not None:
            document["containerimage.descriptor"] = {
                "mediaType": self.named.media_type,
                "digest": self.named.digest,
                "size": self.named.size,
            }
            document["containerimage.digest"] = self.named.digest
        document["image.name"] = ",".join(self.names)
        return document


def _digest(result: Result) -> str:
    assert result.named is not None, "pushed"
    return f"{result.named.digest}\n"


_CONTENTS: dict[str, Callable[[Result], str]] = {
    "digest_file": _digest,
    "iidfile": lambda result: result.image_id,  # without a line break, as elsewhere
    "metadata_file": lambda result: json.dumps(result.metadata, indent=2) + "\n",
}


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--iidfile` and `--metadata-file`."""
    parser.add_argument(
        "--iidfile", metavar="FILE", help="write the image ID, or an index's digest, to FILE"
    )
    parser.add_argument(
        "--metadata-file", metavar="FILE",
        help="write the image's digests and names to FILE, in JSON as buildx does",
    )  # fmt: skip


@contextmanager
def opened_results(
    args: argparse.Namespace, *, rehearse: bool = False
) -> Iterator[Callable[[Result], None]]:
    """Return what to call with the result, which writes the files that the options name. They
    appear when the context ends without an error; in a rehearsal there are none. Raises
    UsageError and OutputError.
    """
    paths = {name: getattr(args, name, None) for name in _CONTENTS}
    with ExitStack() as stack:
        files = {
            name: (stack.enter_context(output_file(path)), path)
            for name, path in paths.items()
            if path is not None and not rehearse
        }

        def write(result: Result) -> None:
            for name, (fd, path) in files.items():
                write_all(fd, _CONTENTS[name](result).encode(), path)

        yield write
