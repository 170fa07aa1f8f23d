"""A registry: layers become blobs while they are read, and an image is visible once all of its
blobs are confirmed. OCI Distribution Specification, push. Several images, of a platform each, become
one index.

A layer is hashed, compressed and sent as it is written; nothing is stored in between, except
a small layer, which is made in memory first: the registry may have it. Several layers can be
written at once, each in a thread of its caller's. Knows blobs, manifests and tags; not HTTP, nor
where the layers' bytes come from.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import chain, islice
from typing import Any, Protocol, Self, TypeVar

from stream.compression import NONE, Compression, layer_encoder
from stream.compression.pump import Encoder
from stream.errors import RegistryError, ThreadError
from stream.interfaces import LayerSource, LayerWriter, Takes
from stream.model import (
    Blob,
    Descriptor,
    Digest,
    Image,
    ImageDocuments,
    KnownLayer,
    Layer,
    Passage,
)
from stream.oci import documents
from stream.oci.documents import Annotate
from stream.oci.manifests import is_index
from stream.oci.reference import BadReference, parse_digest
from stream.parsing import parse_json
from stream.pipes import Abandoned, Inflow, pipe_to
from stream.retries import Retries
from stream.tarwriter import Entries, HashedContent
from stream.threads import starting
from stream.values import dataclass

# Bytes of a layer's tar, up to which it is made in memory when its digest is not known.
_SMALL = 4 << 20
_PIECE = 256 << 10  # bytes, sent at once
_BUFFERS = 2 << 20  # bytes between writing and hashing, for each layer in flight
MAX_PLATFORMS = 16  # images of an index that are looked at
_FAREWELL = 1.0  # seconds that a failed push waits for its uploads to be cancelled


_Item = TypeVar("_Item")


class Upload(Protocol):
    """An upload of one blob. See `stream.registry.client.Upload`."""

    def send(self, pieces: Iterable[bytes | memoryview], size: int | None = None) -> None: ...
    def commit(self, digest: Digest) -> None: ...
    def cancel(self) -> None: ...


class Manifest(Protocol):
    """A manifest in a registry. See `stream.registry.client.Manifest`."""

    @property
    def data(self) -> bytes: ...
    @property
    def digest(self) -> Digest: ...


class Repository(Protocol):
    """What a push needs of a repository. See `stream.registry.client.Repository`."""

    def manifest(self, reference: str) -> Manifest | None: ...
    def put_manifest(self, data: bytes, media_type: str, reference: str) -> bool: ...
    def referrers(self, digest: Digest) -> list[bytes] | None: ...
    def has_blob(self, digest: Digest, size: int | None = None) -> bool: ...
    def mount(self, digest: Digest, repository: str) -> Upload | None: ...
    def begin_upload(self) -> Upload: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """An artifact to be kept beside an image: one document, of a type that says what it is."""

    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """A repository, and what its tag names now: the digest of the manifest or index, None if there
    is none, the documents that are there because of it, parsed, by digest, and the blobs that these
    list.
    """

    repository: Repository
    digest: Digest | None
    manifests: Mapping[Digest, Mapping[str, Any]]
    blobs: frozenset[str]


class _Look:
    """A look at the repository that `connect` returns, and at what `tag` names there. It is taken
    in a thread, so that an answer is there, if possible, by the time that it is needed.
    """

    def __init__(self, connect: Callable[[], Repository], tag: str) -> None:
        self._connect = connect
        self._tag = tag
        self._done = threading.Event()
        self._found: _Target | BaseException
        try:
            with starting():
                threading.Thread(target=self._take, name="look", daemon=True).start()
        except ThreadError:
            self._take()

    def _take(self) -> None:
        try:
            repository = self._connect()
            manifests = manifests_at(repository, self._tag)
            self._found = _Target(
                repository=repository,
                digest=next(iter(manifests), None),
                manifests=manifests,
                blobs=frozenset(chain.from_iterable(map(_blobs_of, manifests.values()))),
            )
        except BaseException as error:  # noqa: BLE001 — raised again in `target`
            self._found = error
        self._done.set()

    @property
    def target(self) -> _Target:
        """What was found. Raises RegistryError."""
        self._done.wait()
        if isinstance(self._found, BaseException):
            raise self._found
        return self._found


class RegistrySink:
    """The images that are pushed to the repository that `connect` returns, called `name` in
    messages, under `tags`: one image, or an index of several. See `stream.interfaces.Sink`. A
    context manager: when its body fails, uploads are cancelled.

    Layers are stored with `compression`, unless they come compressed; at most `jobs` of them have
    bytes in flight. A blob that the repository lacks is mounted from one of `mount_from` if that
    has it. What the manifest of the first tag lists is there, unless `trusting` is false: some
    registries remove blobs below a manifest. `homes` are the blobs that earlier pushes of this run
    have confirmed on the registry, each with the path there of a repository that has it: this one,
    whose path is `path`, or one to mount it from. This push adds its own. `annotate` returns the
    annotations of a layer. `attachments` are artifacts to be kept beside the images, one for each: a
    tag names no image that lacks its own. `confirmed` is called with every blob, once, in any thread.
    """

    def __init__(  # noqa: PLR0913 — the options of a push, each of its own
        self,
        connect: Callable[[], Repository],
        name: str,
        tags: Sequence[str],
        *,
        compression: Compression,
        jobs: int,
        mount_from: Sequence[str] = (),
        homes: MutableMapping[Digest, str] | None = None,
        path: str = "",
        trusting: bool = True,
        annotate: Annotate | None = None,
        attachments: Sequence[Attachment] = (),
        confirmed: Callable[[Blob], None] = lambda _blob: None,
    ) -> None:
        self.takes = Takes(
            annotations=True,
            compressed_layers=True,
            held_layers=True,
            indexes=True,
            encoding=compression.encoding,
        )
        self.concurrency = jobs
        self._look = _Look(connect, tags[0])
        self._name = name
        self._tags = tags
        self._compression = compression
        self._mount_from = mount_from
        self._homes = {} if homes is None else homes
        self._path = path
        self._trusting = trusting
        self._annotate = annotate
        self._attachments = attachments
        self._report = confirmed
        self._lock = threading.Lock()  # for what follows
        self._blobs: dict[Digest, Blob] = {}  # confirmed
        self._sessions: set[Upload] = set()
        self._opened: dict[Digest, Upload] = {}  # instead of a mount
        self._writers: set[_BlobWriter] = set()
        self._named: Descriptor | None = None
        self.attached: tuple[Descriptor, ...] = ()  # the manifests of the artifacts
        self._written = 0  # bytes of layers, besides those that are being written
        self._images: list[tuple[documents.IndexEntry, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Cancel what is not committed, without waiting long for a registry that hangs."""
        with self._lock:
            uploads = [*self._sessions]
        threads = [
            threading.Thread(target=upload.cancel, name="cancel", daemon=True) for upload in uploads
        ]
        with suppress(ThreadError):
            for thread in threads:
                with starting():
                    thread.start()
        deadline = time.monotonic() + _FAREWELL
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def position(self) -> int:
        """See the interface: the bytes of layers, as tars."""
        with self._lock:
            return self._written + sum(writer.written for writer in self._writers)

    # ---- what is there

    def manifests(self, reference: str | None = None) -> Mapping[Digest, Mapping[str, Any]]:
        """Return the documents that the first tag names, or another tag or a digest of the
        repository: see `manifests_at`. Raises RegistryError or DigestMismatch.
        """
        target = self._look.target
        if reference is None:
            return target.manifests
        return manifests_at(target.repository, reference)

    def holds(self, known: KnownLayer) -> Layer | None:
        """See the interface. A layer is looked for if its blob is known."""
        blob = known.descriptor
        if blob is None or not self._is_there(blob):
            return None
        return Layer(
            archive_name=blob.digest,
            diff_id=known.diff_id,
            # Nobody measured the tar of a base image's layer that is carried compressed.
            size=blob.size if known.size is None else known.size,
            comment="",
            descriptor=blob,
        )

    def _is_there(self, blob: Descriptor) -> bool:
        """Return True if the repository has `blob`, or can mount it."""
        with self._lock:
            if blob.digest in self._blobs:
                return True
        target = self._look.target
        home = self._homes.get(blob.digest)
        if self._trusting and (blob.digest in target.blobs or home == self._path):
            self._confirm(blob, "held")
            return True
        # Whoever has it elsewhere seldom has it here: a mount, which does no harm, saves a question.
        if home not in (None, self._path) and self._mount(blob, home):
            return True
        if target.repository.has_blob(blob.digest, blob.size):
            self._confirm(blob, "held")
            return True
        return any(self._mount(blob, one) for one in self._mount_from if one != home)

    def _mount(self, blob: Descriptor, repository: str) -> bool:
        """Mount a blob from another repository of the registry. Return False if it did not."""
        there = self._look.target.repository
        upload = there.mount(blob.digest, repository)
        if upload is not None:
            self._keep_session(blob.digest, upload)
            return False
        if not self._trusting and not there.has_blob(blob.digest, blob.size):
            return False
        self._confirm(blob, "mounted")
        return True

    def _confirm(self, blob: Descriptor, passage: Passage) -> None:
        confirmed = Blob(descriptor=blob, passage=passage)
        with self._lock:
            if self._blobs.setdefault(blob.digest, confirmed) is not confirmed:
                return
            self._homes[blob.digest] = self._path
            self._report(confirmed)

    # ---- layers

    def layer_name(self, source: LayerSource) -> str:
        """See the interface. A blob is named by its digest, which is not known yet."""
        return source.fingerprint

    def begin_layer(self, source: LayerSource, known: KnownLayer | None = None) -> LayerWriter:
        """See the interface. Its upload is opened with the layer's first byte."""
        blob = known.descriptor if known else None
        writer = _BlobWriter(self, source, self._compression, blob.digest if blob else None)
        with self._lock:
            self._writers.add(writer)
        return writer

    def end_layer(self, writer: _BlobWriter, *, complete: bool) -> None:
        """Forget a layer that is written, or given up."""
        with self._lock:
            self._writers.discard(writer)
            self._written += writer.size if complete else 0

    # ---- uploads

    def _keep_session(self, digest: Digest, upload: Upload) -> None:
        """Keep a session that was opened instead of a mount, for the upload that follows."""
        with self._lock:
            self._sessions.add(upload)
            self._opened[digest] = upload

    def session(self, digest: Digest | None) -> Upload:
        """Return a new upload, for the blob with this digest if that is known. Raises
        RegistryError.
        """
        with self._lock:
            if digest is not None and (opened := self._opened.pop(digest, None)) is not None:
                return opened
        upload = self._look.target.repository.begin_upload()
        with self._lock:
            self._sessions.add(upload)
        return upload

    def commit(self, upload: Upload, blob: Descriptor) -> None:
        """End `upload`, all bytes of which are sent. Raises RegistryError."""
        upload.commit(blob.digest)
        with self._lock:
            self._sessions.discard(upload)
        self._confirm(blob, "sent")

    def store(self, blob: Descriptor, pieces: Sequence[bytes]) -> None:
        """Store a blob whose bytes are in memory, unless it is there. Raises RegistryError."""
        if self._is_there(blob):
            return
        upload = self.session(blob.digest)
        upload.send(pieces, blob.size)
        self.commit(upload, blob)

    # ---- documents

    def add_image(self, image: ImageDocuments) -> Image:
        """See the interface. The config becomes a blob, unless it is there."""
        self._store_document(documents.describe(documents.CONFIG_TYPE, image.config), image.config)
        data = documents.oci_manifest(image.config, image.layers, image.annotations, self._annotate)
        manifest = documents.describe(documents.MANIFEST_TYPE, data)
        self._images.append((documents.IndexEntry(manifest, image), data))
        return Image(
            image_id=documents.digest(image.config),
            repo_tags=tuple(f"{self._name}:{tag}" for tag in self._tags),
            layers=image.layers,
            config=image.config,
            manifest=manifest,
            size=0,
        )

    def _store_document(self, blob: Descriptor, data: bytes) -> None:
        """Store a document as a blob. As with a layer, the upload is repeated as a whole."""
        retries = Retries()
        while True:
            try:
                return self.store(blob, [data])
            except RegistryError as error:
                pause = retries.pause_after(error)
                if pause is None:
                    raise
            time.sleep(pause)

    def finish(self) -> int:
        """See the interface: the manifests by digest, the index, then the tags. Return the number
        of bytes sent. Raises RegistryError.
        """
        target = self._look.target
        manifests = [(entry.manifest, data) for entry, data in self._images]
        if len(manifests) > 1:
            index = documents.platform_index(entry for entry, _ in self._images)
            manifests.append((documents.describe(documents.INDEX_TYPE, index), index))
        for manifest, data in manifests:
            if manifest.digest not in target.manifests:
                target.repository.put_manifest(data, manifest.media_type, manifest.digest)
        self.attached = tuple(
            self._attach(attachment, entry.manifest)
            for (entry, _), attachment in zip(self._images, self._attachments, strict=False)
        )
        manifest, data = manifests[-1]
        for tag in self._tags[manifest.digest == target.digest :]:
            target.repository.put_manifest(data, manifest.media_type, tag)
        self._named = manifest
        return sum(blob.descriptor.size for blob in self._blobs.values() if blob.passage == "sent")

    def _attach(self, attachment: Attachment, subject: Descriptor) -> Descriptor:
        """Keep an artifact beside the image with the manifest `subject`, and return the descriptor
        of its own. Raises RegistryError.
        """
        from stream.registry.referrers import attach

        blob = documents.describe(attachment.media_type, attachment.data)
        empty = documents.describe(documents.EMPTY_TYPE, documents.EMPTY)
        artifact = documents.artifact_manifest(attachment.media_type, blob, subject)

        def store_blobs() -> None:
            self._store_document(blob, attachment.data)
            self._store_document(empty, documents.EMPTY)

        repository = self._look.target.repository
        return attach(repository, artifact, attachment.media_type, subject.digest, store_blobs)

    @property
    def named(self) -> Descriptor:
        """The descriptor of what the tags name, once that is finished: the image's manifest, or the
        index of several.
        """
        assert self._named is not None, "finished"
        return self._named

    @property
    def blobs(self) -> Mapping[Digest, Blob]:
        """The blobs that the registry has confirmed."""
        return self._blobs


def manifests_at(repository: Repository, reference: str) -> dict[Digest, dict[str, Any]]:
    """Return the document that `reference` names in a repository, empty if it is not one, by its
    digest; then those of the images that it lists, if it is an index. Raises RegistryError or
    DigestMismatch.
    """
    return dict(_found(repository, reference))


def _found(
    repository: Repository, reference: str, depth: int = 1
) -> Iterator[tuple[Digest, dict[str, Any]]]:
    """Yield the digest of what `reference` names, and the document, empty if it is not one; then
    those of the images that it lists, if it is an index.
    """
    manifest = repository.manifest(reference)
    if manifest is None:
        return
    document = _parsed(manifest.data)
    yield manifest.digest, document
    if depth and is_index({}, document):
        for digest in islice(_digests_of(document.get("manifests")), MAX_PLATFORMS):
            with suppress(BadReference):
                yield from _found(repository, parse_digest(digest), depth - 1)


def _parsed(manifest: bytes) -> dict[str, Any]:
    try:
        document = parse_json(manifest)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _blobs_of(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the digests that an image's manifest lists; none for what is not one."""
    yield from _digests_of([manifest.get("config")])
    yield from _digests_of(manifest.get("layers"))


def _digests_of(descriptors: object) -> Iterator[str]:
    for one in descriptors if isinstance(descriptors, list) else ():
        digest = one.get("digest") if isinstance(one, dict) else None
        if isinstance(digest, str):
            yield digest


class _BlobWriter:
    """A layer on its way to a registry. See `stream.interfaces.LayerWriter`. Its bytes pass
    through a pipe to a thread that compresses and sends them. A small one whose blob's `digest`
    is not known is kept there until it is.
    """

    def __init__(
        self,
        sink: RegistrySink,
        source: LayerSource,
        compression: Compression,
        digest: Digest | None,
    ) -> None:
        self.size = source.size
        self._sink = sink
        self._source = source
        self._digest = digest or source.digest
        self._codec = source.compression
        self._encode: Encoder | None = None  # None: the bytes are stored as they are written
        if self._codec is None and compression.codec != NONE:
            self._codec = compression.codec
            cores = len(os.sched_getaffinity(0))
            self._encode = layer_encoder(compression, source.size, threads=cores)
        self._encoded = hashlib.sha256()
        self._encoded_size = 0
        self._kept: list[bytes] = []
        self._upload: Upload | None = None
        self._tar: tuple[Digest, int] | None = None
        self._hashed: Digest | None = None  # of the bytes as they are written
        self._content: HashedContent | None = None
        self._aborted = False
        self._in_use = threading.Lock()  # held by the thread that writes while it does
        self._open = ExitStack()

    # ---- in the thread that reads the pipe

    def _drain(self, inflow: Inflow) -> None:
        pieces = self._pieces(inflow)
        if self._upload is None:
            self._kept = [bytes(piece) for piece in pieces]
        else:
            self._upload.send(pieces, None if self._encode else self.size)

    def _pieces(self, inflow: Inflow) -> Iterator[memoryview]:
        """Yield the bytes to be stored, each piece valid until the next. Raises Abandoned."""
        if self._encode is None:
            yield from self._while_wanted(inflow.blocks(_PIECE))
            return
        with closing(self._encode(inflow.blocks)) as batches:
            for buffers in self._while_wanted(batches):
                for piece in filter(len, buffers):
                    self._encoded.update(piece)
                    self._encoded_size += len(piece)
                    yield memoryview(piece)

    def _while_wanted(self, items: Iterable[_Item]) -> Iterator[_Item]:
        for item in items:
            if self._aborted:
                raise Abandoned
            yield item

    # ---- in the thread that writes

    @contextmanager
    def _writing(self) -> Iterator[HashedContent]:
        """The content, for one call. Raises the error of the other thread in place of the closed
        pipe that it causes here.
        """
        with self._in_use:
            if self._aborted:
                raise Abandoned
            try:
                yield self._content or self._begin()
            except BaseException:
                self._sink.end_layer(self, complete=False)
                with self._open.pop_all():
                    raise

    def _begin(self) -> HashedContent:
        """Open the upload, and the pipe to it."""
        if self._digest is not None or self.size > _SMALL:
            self._upload = self._sink.session(self._digest)
        fd = self._open.enter_context(pipe_to(self._drain, name="send", wait=False))
        self._content = self._open.enter_context(
            HashedContent(fd, self.size, name=self._source.label, buffers=_BUFFERS)
        )
        return self._content

    def write(self, data: bytes) -> None:
        """See the interface."""
        with self._writing() as content:
            content.write(data)

    def copy(self, fd: int, count: int, path: bytes, offset: int = -1) -> None:
        """See the interface."""
        with self._writing() as content:
            content.copy(fd, count, path, offset)

    def write_entries(self, entries: Entries) -> None:
        """See the interface."""
        with self._writing() as content:
            content.write_entries(entries)

    def pad(self) -> None:
        """See the interface."""
        with self._writing() as content:
            content.pad()

    def write_trailer(self) -> None:
        """See the interface."""
        with self._writing() as content:
            content.write_trailer()

    def describe_content(self, diff_id: Digest, size: int) -> None:
        """See the interface."""
        self._tar = diff_id, size

    def close(self) -> None:
        """See the interface. Waits until everything is sent."""
        with self._writing() as content:
            content.close()
            self._hashed = content.hashed()
            self._open.close()

    def is_hashed(self) -> bool:
        """See the interface."""
        return self._hashed is not None

    def complete(self) -> Layer:
        """See the interface. The registry confirms the blob. Raises RegistryError."""
        assert self._hashed is not None, "the layer is closed"
        diff_id, size = self._tar or (self._hashed, self.size)
        digest, stored_size = self._hashed, self.size
        if self._encode:
            digest = Digest(f"sha256:{self._encoded.hexdigest()}")
            stored_size = self._encoded_size
        suffix = f"+{self._codec}" if self._codec else ""
        blob = Descriptor(media_type=documents.LAYER_TYPE + suffix, digest=digest, size=stored_size)
        with self._in_use:
            if self._upload is None:
                self._sink.store(blob, self._kept)
            else:
                self._sink.commit(self._upload, blob)
        self._sink.end_layer(self, complete=True)
        return Layer(
            archive_name=digest,
            diff_id=diff_id,
            size=size,
            comment=self._source.comment,
            descriptor=blob,
        )

    # ---- in any thread

    @property
    def written(self) -> int:
        """The number of bytes written so far."""
        content = self._content
        return 0 if content is None else content.written

    def abort(self) -> None:
        """See the interface. The upload is cancelled at the end of the push."""
        self._aborted = True
        # Whoever writes meanwhile finds the pipe closed.
        if self._in_use.acquire(blocking=False):
            try:
                self._sink.end_layer(self, complete=False)
                with suppress(Abandoned), self._open.pop_all():
                    raise Abandoned
            finally:
                self._in_use.release()
