"""Serve the images of confs from a registry on this machine.

Digests come first, from a cache or from one pass over the files; then each layer is made from its
files whenever it is asked for, and is staged nowhere. Joins the layers of confs with the server;
knows neither argv nor HTTP.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Collection, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from ipaddress import ip_address

from stream.archives.bytesource import pieces
from stream.archives.sequential import bytes_from
from stream.config import require_tag
from stream.digests import NO_DIGESTS, Digests
from stream.errors import (
    ArgumentError,
    DigestMismatch,
    ListenError,
    OutputError,
    SourceError,
    StaleDigest,
)
from stream.interfaces import LayerSource, Takes
from stream.model import Digest, Image, ImageConf, ImageDocuments, KnownLayer, Layer, LayerKey
from stream.observer import Observer
from stream.oci import documents
from stream.oci.platform import Platform
from stream.oci.reference import Reference, cut_registry
from stream.pipeline import write_images
from stream.pipes import write_all
from stream.registry.server import (
    Answer,
    Blob,
    Manifest,
    Range,
    RegistryServer,
    ServedRepository,
    WriteRange,
    is_local_name,
)
from stream.sinks.nowhere import Nowhere
from stream.sources import image
from stream.sources.layer import ReadableLayer
from stream.tarwriter import HashedContent, write_layer
from stream.threads import starting
from stream.tools.write import opened_sources
from stream.values import dataclass, field, replace

TAKES = Takes(annotations=True, compressed_layers=True, held_layers=True)
LOOPBACK = "127.0.0.1:0"  # a port of the system's choice
_BUFFERS = 4 << 20  # bytes, for each layer on its way that is hashed
_PATIENCE = 1.0  # seconds that transfers may take to notice that they are cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Images that can be pulled from `address`, a host and port. `references` are their names, in
    the order of the confs; several platforms of one image have one name.
    """

    address: str
    references: tuple[str, ...]
    images: tuple[Image, ...]


@contextmanager
def serve(
    confs: Sequence[ImageConf],
    observer: Observer | None = None,
    *,
    listen: str = LOOPBACK,
    allow_remote: bool = False,
    digests: Digests = NO_DIGESTS,
) -> Iterator[Served]:
    """Serve the images of `confs` at `listen`, `ADDRESS:PORT`, while the context is open. Those
    with one name, each for another platform, are an index under it. At the end, running transfers
    are completed, or broken off if it ends with an exception. Recipes are carried out once, at the
    beginning. Whoever can connect can read the images, so addresses that other machines reach need
    `allow_remote`.

    `observer` is told of each request, and warned if a layer cannot be sent; its client then gets
    less than was announced. Raises ArgumentError or ConfError before anything is read, ListenError,
    RecipeError, SourceError, ArchiveError, DigestMismatch or SizeMismatch.
    """
    ArgumentError.require("confs", confs, list, tuple)
    for conf in confs:
        ArgumentError.require("confs", conf, ImageConf)
        require_tag(conf)
    ArgumentError.require("observer", observer, Observer, type(None))
    observer = observer or Observer()
    with ExitStack() as stack:
        listener = stack.enter_context(_listener(listen, allow_remote=allow_remote))
        address = _address_of(listener)
        shelf = _Shelf(observer)
        for conf in confs:
            sources = stack.enter_context(opened_sources(conf, observer))
            for warning in sources.warnings:
                observer.warning(warning)
            watched = _Watched(sources=sources)
            with Nowhere(TAKES) as nowhere:
                (hashed,) = write_images([watched], nowhere, observer, digests)
            shelf.add(hashed, conf, watched, digests)
        shelf.tag_all()
        server = RegistryServer(
            listener,
            shelf.repositories,
            may_ask=lambda host: allow_remote or is_local_name(host),
            answered=partial(_tell, observer),
        )
        with starting():
            threading.Thread(target=server.run, name="registry", daemon=True).start()
        try:
            references = tuple(f"{address}/{name}" for name in shelf.names)
            observer.serving(*references)
            yield Served(address=address, references=references, images=tuple(shelf.images))
            server.close()
            server.wait()
        except BaseException:
            server.close()
            server.cut()
            server.wait(_PATIENCE)
            raise


def _tell(observer: Observer, answer: Answer) -> None:
    request = f"{answer.method} {answer.target}".lstrip()
    observer.answered(answer.client, request, answer.status, answer.sent, answer.seconds)
    if answer.error is not None and not isinstance(answer.error, OutputError):
        observer.warning(f"{answer.error}; {answer.client} did not get all of {answer.target}")


# ---- the address


@contextmanager
def _listener(listen: str, *, allow_remote: bool) -> Iterator[socket.socket]:
    """Open a socket that listens at `listen`. Raises ArgumentError or ListenError."""
    ArgumentError.require("listen", listen, str)
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port[:6]) <= 0xFFFF):
        raise ArgumentError("listen", listen, f"is not ADDRESS:PORT, such as {LOOPBACK}")
    try:
        places = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ListenError(listen, str(reason)) from error
    # docker does not read names that begin with an IPv6 address.
    family, *_, place = min(places, key=lambda place: place[0] != socket.AF_INET)
    if not allow_remote and not ip_address(place[0]).is_loopback:
        raise ArgumentError(
            "listen",
            listen,
            "can be reached by other machines, and who reaches it can read the images; use"
            " 127.0.0.1, or allow that with --allow-remote",
        )
    try:
        listener = socket.create_server(place[:2], family=family, backlog=128)
    except OSError as error:
        raise ListenError(listen, os.strerror(error.errno or 0)) from error
    with listener:
        yield listener


def _address_of(listener: socket.socket) -> str:
    """Return the host and port at which this machine reaches `listener`."""
    host, port = listener.getsockname()[:2]
    address = ip_address(host.partition("%")[0])
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


# ---- the images


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """The layers of an image, of each of which the keys are noted as it passes. See
    `stream.interfaces.ImageSources`.
    """

    sources: image.ImageSources
    keys: list[tuple[LayerKey, ...]] = field(default_factory=list)

    def known_layers(self, takes: Takes) -> Sequence[KnownLayer]:
        """See the interface."""
        return self.sources.known_layers(takes)

    def unknown_layers(self) -> Sequence[Hashable]:
        """See the interface."""
        return self.sources.unknown_layers()

    def unknown_sizes(self) -> Iterator[int]:
        """See the interface."""
        return self.sources.unknown_sizes()

    def layers(self, takes: Takes, skip: Collection[Digest]) -> Generator[LayerSource, None, None]:
        """See the interface."""
        with closing(self.sources.layers(takes, skip)) as each:
            for source in each:
                self.keys.append(source.keys)
                yield source

    def documents(
        self, layers: Sequence[Layer], known: Mapping[Digest, Layer]
    ) -> Iterator[ImageDocuments]:
        """See the interface."""
        return self.sources.documents(layers, known)

    def keys_of(self, index: int, count: int) -> tuple[LayerKey, ...]:
        """Return the keys of the layer at `index` of the image, which has `count`; none for a base
        layer that was held, and so did not pass.
        """
        from_top = count - index
        return self.keys[-from_top] if from_top <= len(self.keys) else ()


class _Shelf:
    """The repositories of all images, and the name of each image in them."""

    def __init__(self, observer: Observer) -> None:
        self.repositories: dict[str, ServedRepository] = {}
        self.names: list[str] = []
        self.images: list[Image] = []
        self._observer = observer
        # By name in the registry and tag: the images, by platform.
        self._tagged: dict[tuple[str, str], dict[Platform, documents.IndexEntry]] = {}

    def tag_all(self) -> None:
        """Give each tag to its image, or to the index of its images."""
        for (path, tag), images in self._tagged.items():
            repository = self.repositories[path]
            (first, *others) = images.values()
            repository.tags[tag] = first.manifest.digest
            if others:
                index = documents.platform_index(images.values())
                digest = repository.tags[tag] = documents.digest(index)
                repository.manifests[digest] = Manifest(media_type=documents.INDEX_TYPE, data=index)

    def add(self, served: Image, conf: ImageConf, watched: _Watched, digests: Digests) -> None:
        """Add the image of `conf`. Of several images with one name, tag and platform, the last one
        keeps them.
        """
        assert conf.repo_tag is not None, "it was checked"
        reference = Reference.parse(conf.repo_tag)
        _, path = cut_registry(reference.name)
        repository = self.repositories.setdefault(path, ServedRepository())
        manifest = documents.oci_manifest(served.config, served.layers, conf.annotations)
        described = documents.describe(documents.MANIFEST_TYPE, manifest)
        image = ImageDocuments(
            config=served.config,
            repo_tags=served.repo_tags,
            layers=served.layers,
            architecture=conf.architecture,
            variant=conf.variant,
            annotations=conf.annotations,
        )
        name, platform = f"{path}:{reference.tag}", Platform.of_conf(conf)
        images = self._tagged.setdefault((path, reference.tag), {})
        if not images or platform in images:
            self.names.append(name)
        if platform in images and images[platform].manifest != described:
            self._observer.warning(f"{name}: is the name of several images; the last one wins")
        images[platform] = documents.IndexEntry(described, image)
        repository.manifests[described.digest] = Manifest(
            media_type=documents.MANIFEST_TYPE, data=manifest
        )
        repository.blobs[served.image_id] = _blob_of(served.config)
        for index, layer in enumerate(served.layers):
            content = _LayerBlob(
                sources=watched.sources,
                index=index,
                layer=layer,
                keys=watched.keys_of(index, len(served.layers)),
                digests=digests,
            )
            blob = Blob(size=layer.descriptor.size, open=content.open)
            repository.blobs.setdefault(layer.descriptor.digest, blob)
        self.images.append(served)


def _blob_of(data: bytes) -> Blob:
    @contextmanager
    def opened() -> Iterator[WriteRange]:
        yield lambda fd, wanted: _send(fd, data[wanted.start : wanted.end])

    return Blob(size=len(data), open=opened)


def _send(fd: int, data: bytes) -> None:
    try:
        write_all(fd, data)
    except OSError as error:
        raise OutputError.unwritable(error, "cannot be sent") from error


@dataclass(slots=True, kw_only=True)
class _LayerBlob:
    """The blob of `layer`, the one at `index` of an image, which had `keys` when its digest was
    found.
    """

    sources: image.ImageSources
    index: int
    layer: Layer
    keys: tuple[LayerKey, ...]
    digests: Digests
    is_confirmed: bool = False  # it was hashed when it was sent

    @contextmanager
    def open(self) -> Iterator[WriteRange]:
        """Open its files. Raises SourceError if they have changed since."""
        carry = self.layer.descriptor.digest != self.layer.diff_id
        with self.sources.opened_layer(self.index, carry_compressed=carry) as source:
            if self._has_changed(source):
                raise SourceError(
                    os.fsencode(source.label),
                    "changed since its digest was computed; serve it again",
                )
            yield partial(self._write, source)

    def _has_changed(self, source: LayerSource) -> bool:
        if source.size != self.layer.descriptor.size:
            return True
        # A promised digest says nothing of the file that is to have it.
        then = {key.value for key in self.keys} if source.diff_id is None else frozenset()
        return bool(then) and not any(key.value in then for key in source.keys)

    def _write(self, source: LayerSource, fd: int, wanted: Range) -> None:
        if wanted == (0, source.size):
            self._write_all(source, fd)
            return
        # Made from its beginning: where a byte is depends on all before it.
        with bytes_from(partial(self._write_all, source), source.label) as content:
            content.skip(wanted.start)
            for piece in pieces(content, wanted.end - wanted.start):
                _send(fd, piece)

    def _write_all(self, source: LayerSource, fd: int) -> None:
        # Hashed once, which costs little: the digest may be from a cache. From then on the keys
        # say that it is the same, unless they stand for a promised digest.
        if self.is_confirmed and isinstance(source, ReadableLayer):
            write_layer(fd, source.size, source.write_to)
            return
        with _BlobWriter(fd, self.layer) as writer:
            source.write_to(writer)
            writer.close()
            found = writer.hashed()
        expected = self.layer.descriptor.digest
        if found != expected and source.diff_id is None and source.keys:
            entry = self.digests.forget(source.keys)
            raise StaleDigest(source.comment, expected, found, entry)
        if found != expected:
            raise DigestMismatch(source.comment, expected, found)
        self.is_confirmed = source.diff_id is None and bool(source.keys)


class _BlobWriter(HashedContent):
    """The writer of a blob whose record is known already. See `stream.interfaces.LayerWriter`."""

    def __init__(self, fd: int, layer: Layer) -> None:
        super().__init__(fd, layer.descriptor.size, name=layer.comment, buffers=_BUFFERS)
        self._layer = layer

    def describe_content(self, diff_id: Digest, size: int) -> None:
        """See the interface."""

    def complete(self) -> Layer:
        """See the interface."""
        return replace(
            self._layer, descriptor=replace(self._layer.descriptor, digest=self.hashed())
        )

    def abort(self) -> None:
        """See the interface."""
