"""Push many images in one process: each layer is walked, hashed and sent for the first that has it.

An image that fails does not stop the others. Knows neither argv nor how layers are made or sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from stream.compression import Compression
from stream.digests import NO_DIGESTS, Digests
from stream.errors import ArgumentError, StreamImageError
from stream.model import ImageConf, Passage, Pushed
from stream.observer import Observer
from stream.oci.reference import below
from stream.registry.trust import Access
from stream.sbom import Format
from stream.tools.push import (
    DEFAULT_COMPRESSION,
    DEFAULT_JOBS,
    Shared,
    parse_reference,
    push,
)
from stream.tools.remembered import RegistryCache
from stream.values import dataclass

_ANYWHERE = Access()
_PASSAGES: tuple[Passage, ...] = ("sent", "mounted", "held")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageToPush:
    """An image to push. `load` returns its confs, one for each platform; `name` says in messages
    where they are from. Without a `reference`, it is pushed under its own tag.
    """

    name: str
    load: Callable[[], Sequence[ImageConf]]
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPushed:
    """An image that was not pushed, because of `error`."""

    item: ImageToPush
    error: StreamImageError


Outcome: TypeAlias = Pushed | NotPushed


def push_all(  # noqa: PLR0913 — the options of the command, each of its own
    items: Iterable[ImageToPush],
    prefix: str | None = None,
    observer: Observer | None = None,
    *,
    compression: Compression = DEFAULT_COMPRESSION,
    jobs: int = DEFAULT_JOBS,
    mount_from: Sequence[str] = (),
    registry_cache: RegistryCache | None = None,
    access: Access = _ANYWHERE,
    digests: Digests = NO_DIGESTS,
    sbom: Format | None = None,
    rehearse: bool = False,
) -> Iterator[Outcome]:
    """Push the images of `items`, in order, and yield what has become of each. A layer of several
    is read for the first; the repositories of others on the registry mount its blob from there.
    Images that go by their own tags are put below `prefix`, a registry or a part of one, in place
    of the registry that they name. The other arguments are those of `push`.

    Raises what `items` raises.
    """
    observer = observer or Observer()
    shared = Shared()
    taken: set[str] = set()
    passages: dict[Passage, Counter[str]] = {one: Counter() for one in _PASSAGES}
    failed = number = 0
    for number, item in enumerate(items, 1):
        observer.image_started(number, item.name)
        try:
            confs = item.load()
            reference = item.reference
            if reference is None:
                reference = _own_reference(confs, prefix)
            _claim(taken, confs, reference)
            pushed = push(
                confs,
                reference,
                observer,
                compression=compression,
                jobs=jobs,
                mount_from=mount_from,
                registry_cache=registry_cache,
                access=access,
                digests=digests,
                sbom=sbom,
                rehearse=rehearse,
                shared=shared,
            )
        except StreamImageError as error:
            failed += 1
            observer.image_failed(number, item.name, error)
            yield NotPushed(item=item, error=error)
            continue
        for passage, total in passages.items():
            blobs, size = pushed.total(passage)
            total.update(blobs=blobs, size=size)
        yield pushed
    totals = {passage: (total["blobs"], total["size"]) for passage, total in passages.items()}
    observer.all_pushed(number - failed, failed, totals)


def _own_reference(confs: Sequence[ImageConf], prefix: str | None) -> str:
    """Return where an image goes that has no other name than its own."""
    tags = {conf.repo_tag for conf in confs}
    if len(tags) > 1 or None in tags:
        named = ", ".join(sorted(filter(None, tags))) or None
        reason = "names no repository; plan it with a repo_tag, or give it a reference"
        if named:
            reason = "are the names of one image's confs; give it a reference"
        raise ArgumentError("repo_tag", named, reason)
    own = str(tags.pop())
    return own if prefix is None else below(prefix, own)


def _claim(taken: set[str], confs: Sequence[ImageConf], reference: str) -> None:
    """Note what an image is going to be called. Raises ArgumentError if another is already."""
    location, tags = parse_reference(confs, reference, ())
    names = {f"{location.name}:{tag}" for tag in tags}
    if names & taken:
        reason = "is the name of an earlier image of this run; give each a name of its own"
        raise ArgumentError("reference", reference, reason)
    taken |= names
