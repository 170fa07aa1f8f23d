"""Push the image of a conf, or an index of several, to a registry. Knows neither argv nor how
layers are made or sent.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from stream.compression import LAYER_CODECS, Compression
from stream.digests import NO_DIGESTS, Digests
from stream.digests.memory import Learnt, RunDigests
from stream.errors import ArgumentError, RegistryError
from stream.model import Digest, Image, ImageConf, Pushed
from stream.observer import Observer
from stream.oci.documents import CONFIG_TYPE, describe
from stream.oci.platform import Platform
from stream.oci.reference import BadReference, Location, check_name, check_tag, qualified, split
from stream.pipeline import write_images
from stream.recent import Recent
from stream.registry.trust import Access
from stream.sbom import FORMATS, Format
from stream.sinks import registry
from stream.sinks.registry import Attachment, RegistrySink, manifests_at
from stream.sources import store
from stream.sources.image import ImageSources
from stream.sources.walked import Walks
from stream.tools.platforms import check_platforms
from stream.tools.remembered import Memory, RegistryCache, annotated_digests
from stream.tools.write import opened_sources
from stream.values import replace

if TYPE_CHECKING:
    from stream.registry.client import Repository

DEFAULT_COMPRESSION = Compression(codec="gzip")
DEFAULT_JOBS = 4
_ANYWHERE = Access()
_MOST_BLOBS = 20_000  # of each registry, some 5 MB
_DOCKER_HUB = "docker.io"
# A registry's codes for a manifest that lists what it does not have: OCI Distribution
# Specification, error codes.
_LACKING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"})


class Shared:
    """What the pushes of one run have found out: layers of the store, their digests, and which
    repository of each registry has which blob. It is bounded: the oldest is forgotten.
    """

    def __init__(self) -> None:
        self.walks = Walks()
        self.learnt = Learnt()
        self._homes: dict[str, Recent[Digest, str]] = {}

    def homes(self, domain: str) -> MutableMapping[Digest, str]:
        """Return the blobs that were confirmed on a registry, each with the path of the repository
        that got it last.
        """
        return self._homes.setdefault(domain, Recent(_MOST_BLOBS))


def push(  # noqa: PLR0913 — the options of the command, each of its own
    confs: ImageConf | Sequence[ImageConf],
    reference: str,
    observer: Observer | None = None,
    *,
    tags: Sequence[str] = (),
    compression: Compression = DEFAULT_COMPRESSION,
    jobs: int = DEFAULT_JOBS,
    mount_from: Sequence[str] = (),
    registry_cache: RegistryCache | None = None,
    access: Access = _ANYWHERE,
    digests: Digests = NO_DIGESTS,
    sbom: Format | None = None,
    rehearse: bool = False,
    shared: Shared | None = None,
) -> Pushed:
    """Push the image of one of `confs` to the registry as `reference`, `name:tag` or `name` (the tag
    is then the conf's, or `latest`), and as each of `tags`. Several, each for another platform, are
    pushed as one index, in their order. Layers are compressed one by one with
    `compression` (gzip, zstd or none), at most `jobs` at a time; blobs that the repository lacks
    are mounted from the repositories `mount_from` of the same registry if these have them.
    Layers whose digests are among `digests` are not read if the registry has them. With
    `rehearse`, everything is done but changing the registry. With a `registry_cache`, the registry
    remembers the layers for machines that have never seen the image. An SBOM in the format `sbom`
    is kept beside each image, and no tag names an image without it; it goes by the conf's own name
    and tag. `shared` is what earlier
    pushes have found out, and what this one adds to that.

    Raises ArgumentError before anything is read; RecipeError, SourceError, ArchiveError,
    DigestMismatch, SizeMismatch or RegistryError: then no tag has changed.
    """
    confs = check_platforms(confs)
    ArgumentError.require("observer", observer, Observer, type(None))
    target, names = parse_reference(confs, reference, tags)
    domain, own_path = _domain_and_path(target.name)
    others = [_remembering(target, one) for one in (registry_cache or RegistryCache()).read_from]
    mounts = [_path_on(target, one) for one in mount_from]
    mounts += [one for one in dict.fromkeys(map(_path, others)) if one not in (own_path, *mounts)]
    _check_manner(compression, jobs, sbom)
    observer = observer or Observer()
    homes = (shared or Shared()).homes(domain)
    if shared is not None:
        digests = RunDigests(digests, shared.learnt)

    def repository_at(path: str, pull_from: Sequence[str] = ()) -> Repository:
        # The client takes a while to import, and is not needed at once.
        from stream.registry.client import Repository

        repository = Repository(
            Location(name=f"{domain}/{path}"), access, pull_from, only_pulls=path != own_path
        )
        connections.callback(repository.close)
        return repository

    def connect() -> registry.Repository:
        repository = repository_at(own_path, mounts)
        if not rehearse:
            return repository
        from stream.registry.rehearsal import Rehearsal

        froms = {one: repository_at(one) for one in mounts}
        return Rehearsal(repository, froms, frozenset(homes))

    def memories(sink: RegistrySink) -> Iterator[Memory]:
        yield f"{target.name}:{names[0]}", sink.manifests
        for one in others:
            path, reference = _path(one), one.digest or one.tag or "latest"
            if path == own_path:
                yield str(one), partial(sink.manifests, reference)
            else:
                yield str(one), partial(manifests_at, repository_at(path), reference)

    def attempt(sources: Sequence[ImageSources], *, trusting: bool) -> Pushed:
        annotated = None
        if registry_cache is not None:
            annotated = annotated_digests(
                digests, lambda: memories(sink), compression=compression,
                secret=registry_cache.secret, warn=observer.warning,
            )  # fmt: skip
            # Whoever may write the tag can name blobs that are not there, or of another size.
            trusting = trusting and bool(registry_cache.secret)
        with RegistrySink(
            connect, target.name, names, compression=compression, jobs=jobs,
            mount_from=mounts, homes=homes, path=own_path, trusting=trusting,
            confirmed=observer.blob_confirmed,
            annotate=annotated.annotations if annotated else None, attachments=attachments,
        ) as sink:  # fmt: skip
            images = write_images(sources, sink, observer, annotated or digests)
            distinct = dict.fromkeys(chain.from_iterable(map(_blobs_of, images)))
            return Pushed(
                images=tuple(images),
                platforms=tuple(str(Platform.of_conf(conf)) for conf in confs),
                name=target.name,
                named=sink.named,
                tags=names,
                blobs=tuple(sink.blobs[digest] for digest in distinct),
                sboms=sink.attached,
                rehearsed=rehearse,
            )

    walk = store.walk if shared is None else shared.walks
    with ExitStack() as connections, ExitStack() as opened:
        sources = [opened.enter_context(opened_sources(conf, observer, walk)) for conf in confs]
        for warning in chain.from_iterable(one.warnings for one in sources):
            observer.warning(warning)
        attachments = [*_attachments(confs, sources, sbom, target.name, observer)]
        try:
            pushed = attempt(sources, trusting=True)
        except RegistryError as error:
            if error.code not in _LACKING:
                raise
            # The registry has removed blobs of a manifest that it still has.
            pushed = attempt(sources, trusting=False)
    observer.pushed(pushed)
    return pushed


def _attachments(
    confs: Sequence[ImageConf],
    sources: Sequence[ImageSources],
    sbom: Format | None,
    name: str,
    observer: Observer,
) -> Iterator[Attachment]:
    """Yield the SBOM of each image that is pushed to the repository `name`, if they are asked for."""
    if sbom is None:
        return
    from stream.sbom.documents import MEDIA_TYPES
    from stream.tools.sbom import sbom_of

    for conf, one in zip(confs, sources, strict=True):
        data = sbom_of(conf, one.base, sbom, observer.warning, name=name)
        yield Attachment(media_type=MEDIA_TYPES[sbom], data=data)


def _blobs_of(image: Image) -> list[Digest]:
    layers = [layer.descriptor.digest for layer in image.layers]
    return [*layers, describe(CONFIG_TYPE, image.config).digest]


def _check_manner(compression: object, jobs: object, sbom: object) -> None:
    """Raise ArgumentError for options that no image can be pushed with."""
    ArgumentError.require("compression", compression, Compression)
    assert isinstance(compression, Compression)
    if compression.codec not in LAYER_CODECS:
        raise ArgumentError.not_one_of("compression", compression.codec, LAYER_CODECS)
    if type(jobs) is not int or jobs < 1:
        raise ArgumentError("jobs", jobs, "is not a positive whole number")
    if sbom not in (None, *FORMATS):
        raise ArgumentError.not_one_of("sbom", str(sbom), FORMATS)


def parse_reference(
    confs: Sequence[ImageConf], reference: str, tags: Sequence[str]
) -> tuple[Location, tuple[str, ...]]:
    """Return the repository, and the tags in the order in which they are set. Raises
    ArgumentError.
    """
    ArgumentError.require("reference", reference, str)
    try:
        location = Location.parse(reference)
    except BadReference as wrong:
        raise ArgumentError("reference", reference, wrong.within(reference)) from None
    if location.digest is not None:
        reason = "has a digest, which follows from the image; write name:tag"
        raise ArgumentError("reference", reference, reason)
    own = {split(conf.repo_tag)[1] if conf.repo_tag else "latest" for conf in confs}
    if location.tag is None and len(own) > 1:
        reason = f"has no tag, and the images have several: {', '.join(sorted(own))}"
        raise ArgumentError("reference", reference, reason)
    names = dict.fromkeys([location.tag or own.pop(), *tags])
    for tag in names:
        ArgumentError.require("tags", tag, str)
        try:
            check_tag(tag)
        except BadReference as wrong:
            raise ArgumentError("tags", tag, wrong.within(tag)) from None
    return Location(name=location.name), tuple(names)


def _remembering(target: Location, reference: str) -> Location:
    """Return the image on the registry of `target` that `reference` names, `:tag` in the same
    repository.
    """
    ArgumentError.require("read_from", reference, str)
    text = f"{target.name}{reference}" if reference.startswith(":") else reference
    try:
        location = Location.parse(text)
    except BadReference as wrong:
        raise ArgumentError("read_from", reference, f"is not an image: {wrong}") from None
    domain = _domain_and_path(target.name)[0]
    path = _path_on(target, location.name, "read_from")
    return replace(location, name=f"{domain}/{path}")


def _path_on(target: Location, repository: str, argument: str = "mount_from") -> str:
    """Return the path of a repository on the registry of `target`, whose name may be left out."""
    ArgumentError.require(argument, repository, str)
    try:
        check_name(repository)
    except BadReference as wrong:
        raise ArgumentError(argument, repository, wrong.within(repository)) from None
    domain = _domain_and_path(target.name)[0]
    own, path = _domain_and_path(repository)
    if own == domain:
        return path
    if own != _DOCKER_HUB or repository.startswith(f"{_DOCKER_HUB}/"):
        reason = f"is on another registry; blobs are mounted only within one, here {domain}"
        raise ArgumentError(argument, repository, reason)
    return repository


def _path(location: Location) -> str:
    return _domain_and_path(location.name)[1]


def _domain_and_path(name: str) -> tuple[str, str]:
    domain, _, path = split(qualified(name))[0].partition("/")
    return domain, path
