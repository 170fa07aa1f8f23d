"""The order of events, seen by the tests' own source and sink: no tar, no files."""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from stream.errors import DigestMismatch, StaleDigest
from stream.interfaces import LayerSource, LayerWriter, Takes
from stream.model import Descriptor, Digest, Image, ImageDocuments, KnownLayer, Layer, LayerKey
from stream.observer import Observer
from stream.pipeline import write_images


def digest_of(name: str) -> Digest:
    """Return a digest that stands for the layer `name`."""
    return Digest(f"sha256:{name}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A layer for tests. With `known`, its diff_id is known before it is written."""

    fingerprint: str
    known: bool = False
    comment: str = ""
    log: list[str] = field(default_factory=list)
    label: str = ""
    size: int = 1
    entry_count: int = 1
    compression: str | None = None
    digest: Digest | None = None
    keys: tuple[LayerKey, ...] = ()
    repeatable: bool = False

    @property
    def diff_id(self) -> Digest | None:
        """The layer's digest, if it is known."""
        return digest_of(self.fingerprint) if self.known else None

    def write_to(self, writer: LayerWriter) -> None:
        """Write one byte, and log the call."""
        self.log.append(f"write {self.fingerprint}")
        writer.write(b"x")


class Writer:
    """A layer being written. The digest of a `slow` one is known only after a wait."""

    def __init__(self, source: LayerSource, log: list[str], *, slow: bool) -> None:
        self._name = source.fingerprint
        self._source = source
        self._log = log
        self._slow = slow

    def write(self, data: bytes) -> None:
        """Accept bytes."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"{name} is not for these sources")

    def close(self) -> None:
        """End the layer."""
        self._log.append(f"close {self._name}")

    def is_hashed(self) -> bool:
        """Return True if complete() would not wait."""
        return not self._slow

    def abort(self) -> None:
        """Give the layer up."""
        self._log.append(f"abort {self._name}")

    def complete(self) -> Layer:
        """Return the layer's record."""
        self._log.append(f"complete {self._name}")
        return record(self._source)


def record(source: LayerSource) -> Layer:
    """Return the record of a layer."""
    digest = digest_of(source.fingerprint)
    return Layer(
        archive_name=source.fingerprint, diff_id=digest, size=1, comment=source.comment,
        descriptor=Descriptor(media_type="x", digest=digest, size=1),
    )  # fmt: skip


class Sink:
    """A sink that logs its calls and already has the layers in `held`."""

    takes = Takes()
    position = 0
    concurrency = 1

    def __init__(self, *held: str, slow: bool = False) -> None:
        self.log: list[str] = []
        self._held = held
        self._slow = slow

    def holds(self, known: KnownLayer) -> Layer | None:
        """Return the record of the layer if the sink has it."""
        name = known.diff_id.removeprefix("sha256:")
        return record(Source(fingerprint=name)) if name in self._held else None

    def layer_name(self, source: LayerSource) -> str:
        """Its name here."""
        return source.fingerprint

    def begin_layer(self, source: LayerSource, known: KnownLayer | None) -> LayerWriter:
        """Begin a layer."""
        self.log.append(f"begin {source.fingerprint}")
        return Writer(source, self.log, slow=self._slow)  # type: ignore[return-value]

    def add_image(self, documents: ImageDocuments) -> Image:
        """Log an image with its layers."""
        layers = " ".join(layer.archive_name + layer.comment for layer in documents.layers)
        tags = "".join(f" {tag}" for tag in documents.repo_tags)
        self.log.append(f"image {layers}" + (tags and f":{tags}"))
        return Image(
            image_id=digest_of("config"), repo_tags=(), layers=documents.layers, config=b"",
            manifest=None, size=0,
        )  # fmt: skip

    def finish(self) -> int:
        """End the archive."""
        self.log.append("finish")
        return 7


class Sources:
    """An image of these layers."""

    def __init__(self, *sources: Source, tags: Sequence[str] = ()) -> None:
        self._sources = sources
        self._tags = (*tags,)

    def known_layers(self, takes: Takes) -> list[KnownLayer]:
        """Return the known layers."""
        ids = dict.fromkeys(source.diff_id for source in self._sources)
        return [KnownLayer(diff_id=diff_id) for diff_id in ids if diff_id]

    def unknown_sizes(self) -> Iterator[int]:
        """Yield the sizes of the others."""
        return (source.size for source in self._sources if not source.known)

    def unknown_layers(self) -> list[str]:
        """Return the fingerprints of the others."""
        return [source.fingerprint for source in self._sources if not source.known]

    def layers(self, takes: Takes, skip: Collection[Digest]) -> Generator[LayerSource, None, None]:
        """Yield all layers; only sources that are costly to read omit held ones."""
        yield from self._sources

    def documents(
        self, layers: Sequence[Layer], known: Mapping[Digest, Layer]
    ) -> Iterator[ImageDocuments]:
        """Yield the documents of one image."""
        config = " ".join(source.fingerprint + source.comment for source in self._sources)
        yield ImageDocuments(
            config=config.encode(), repo_tags=self._tags, layers=tuple(layers), architecture=""
        )


class Count(Observer):
    """An observer that counts the layers announced, begun and completed."""

    def __init__(self) -> None:
        self.announced = 0
        self.begun: list[int] = []
        self.completed: list[int] = []

    def started(self, layers: int, *_: object) -> None:
        """Record the number announced."""
        self.announced = layers

    def layer_started(self, number: int, *_: object) -> None:
        """Count a layer."""
        self.begun.append(number)

    def layer_completed(self, number: int, layer: Layer) -> None:
        """Count a layer."""
        self.completed.append(number)


@pytest.mark.parametrize("slow", [False, True])
def test_layers_then_documents_then_the_end(*, slow: bool) -> None:
    """Without this order a failed run could leave an image that loads."""
    sink, count = Sink(slow=slow), Count()
    (image,) = write_images(
        [Sources(Source(fingerprint="a"), Source(fingerprint="b"))], sink, count
    )
    late = ["complete a", "complete b"]
    expected = ["begin a", "close a", "begin b", "close b"]
    if slow:
        expected += late
    else:
        expected[2:2], expected[5:] = late[:1], late[1:]
    assert sink.log == [*expected, "image a b", "finish"]
    assert image.size == 7
    assert (count.announced, count.begun, count.completed) == (2, [1, 2], [1, 2])


def test_a_layer_that_the_sink_holds_is_not_read() -> None:
    """Without it every layer could be read and sent again although only one has changed."""
    log: list[str] = []
    sources = [Source(fingerprint=name, known=True, log=log) for name in "ab"]
    sink = Sink("a")
    count = Count()
    write_images([Sources(*sources, Source(fingerprint="c", log=log))], sink, count)
    assert log == ["write b", "write c"]
    assert (count.announced, count.begun) == (2, [1, 2])
    assert sink.log[-2:] == ["image a b c", "finish"]


@pytest.mark.parametrize("slow", [False, True])
def test_a_layer_is_written_once(*, slow: bool) -> None:
    """Without it a layer that two images share, or that one has twice, could be sent twice."""
    sink, count = Sink(slow=slow), Count()
    one = Sources(Source(fingerprint="a", known=True), Source(fingerprint="b"))
    two = Sources(Source(fingerprint="a", known=True, comment="!"), Source(fingerprint="c"))
    write_images([one, two], sink, count)
    assert [line for line in sink.log if line.startswith("begin")] == [
        "begin a",
        "begin b",
        "begin c",
    ]
    assert sink.log[-3:] == ["image a b", "image a! c", "finish"]
    assert (count.announced, count.begun, count.completed) == (3, [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("slow", [False, True])
def test_a_layer_of_unknown_digest_is_written_once(*, slow: bool) -> None:
    """Without it two confs with a store layer in common could have it twice in an archive."""
    sink, count = Sink(slow=slow), Count()
    one = Sources(Source(fingerprint="a"), Source(fingerprint="b"))
    two = Sources(Source(fingerprint="a", comment="!"), Source(fingerprint="c"))
    write_images([one, two], sink, count)
    begun = [line for line in sink.log if line.startswith("begin")]
    assert begun == ["begin a", "begin b", "begin c"]
    assert sink.log[-3:] == ["image a b", "image a! c", "finish"]
    assert (count.announced, count.begun) == (3, [1, 2, 3])


def test_an_image_is_written_once() -> None:
    """Without it an image could be listed twice, or a tag name two images."""
    sink = Sink()
    images = [("a", ["x:1", "y:1"]), ("b", ["y:1", "z:1"]), ("a", ["docker.io/library/z:1"])]
    sources = [Sources(Source(fingerprint=name), tags=tags) for name, tags in images]
    write_images(sources, sink, Observer())
    assert sink.log[-3:] == ["image a: x:1 docker.io/library/z:1", "image b: y:1", "finish"]


def test_a_source_that_fails_ends_it() -> None:
    """Without it a broken image could be loaded."""

    class Failing(Source):
        def write_to(self, writer: LayerWriter) -> None:
            raise ZeroDivisionError

    sink = Sink()
    with pytest.raises(ZeroDivisionError):
        write_images([Sources(Source(fingerprint="a"), Failing(fingerprint="b"))], sink, Observer())
    assert sink.log == ["begin a", "close a", "complete a", "begin b", "abort b"]


@pytest.mark.parametrize("field", ["known", "digest"])
def test_a_layer_that_is_not_what_was_promised_ends_it(field: str) -> None:
    """Without it each sink would have to check, and one that forgot would take anything."""

    class Lying(Source):
        @property
        def diff_id(self) -> Digest | None:
            return digest_of("another") if field == "known" else None

    promised = digest_of("another") if field == "digest" else None
    sink = Sink()
    with pytest.raises(DigestMismatch) as caught:
        write_images([Sources(Lying(fingerprint="a", digest=promised))], sink, Observer())
    assert (caught.value.expected, caught.value.found) == (digest_of("another"), digest_of("a"))
    assert "finish" not in sink.log


class Known:
    """Digests in memory: `diff_ids` by the values of keys."""

    def __init__(self, **diff_ids: str) -> None:
        self.diff_ids = diff_ids
        self.recorded: dict[str, str] = {}
        self.forgotten: list[str] = []

    def lookup(self, keys: Sequence[LayerKey], encoding: str) -> KnownLayer | None:
        """Return the layer of the first key that is known."""
        found = [self.diff_ids[key.value] for key in keys if key.value in self.diff_ids]
        return KnownLayer(diff_id=digest_of(found[0]), size=1) if found else None

    def record(self, keys: Sequence[LayerKey], layer: Layer, encoding: str) -> None:
        """Record the digest of a layer."""
        self.recorded.update((key.value, layer.diff_id) for key in keys)

    def forget(self, keys: Sequence[LayerKey]) -> str | None:
        """Record what is to be forgotten."""
        self.forgotten += [key.value for key in keys]
        return "/cache/entry"


def keyed(name: str, log: list[str] | None = None) -> Source:
    """Return a source with a key of its own."""
    return Source(
        fingerprint=name, comment="!", keys=(LayerKey(value="key-" + name),),
        log=[] if log is None else log,
    )  # fmt: skip


def test_a_known_layer_that_the_sink_holds_is_not_read() -> None:
    """Without it an image that has not changed would be read, hashed and sent again."""
    log: list[str] = []
    sink, digests = Sink("a"), Known(**{"key-a": "a", "key-b": "b"})
    write_images([Sources(keyed("a", log), keyed("b", log))], sink, Observer(), digests)
    assert log == ["write b"]
    assert sink.log[-2:] == ["image a! b!", "finish"]


def test_a_digest_is_recorded_once_the_layer_is_complete() -> None:
    """Without it the next run would hash it again."""
    digests = Known()
    write_images([Sources(keyed("a"))], Sink(), Observer(), digests)
    assert digests.recorded == {"key-a": digest_of("a")}


def test_a_stale_digest_ends_it_and_is_forgotten() -> None:
    """Without it a wrong record would be shipped once, and believed for ever."""
    digests = Known(**{"key-a": "other"})
    sink = Sink()
    with pytest.raises(StaleDigest, match="/cache/entry") as caught:
        write_images([Sources(keyed("a"))], sink, Observer(), digests)
    assert (caught.value.expected, caught.value.found) == (digest_of("other"), digest_of("a"))
    assert caught.value.entry == "/cache/entry"
    assert digests.forgotten == ["key-a"]
    assert "finish" not in sink.log


def test_a_record_with_another_size_is_not_believed() -> None:
    """Without it a record that cannot be right would end the run, or be shipped."""
    digests = Known(**{"key-a": "a"})
    source = replace(keyed("a"), size=2)
    sink = Sink("a")
    write_images([Sources(source)], sink, Observer(), digests)
    assert source.log == ["write a"]
    assert digests.forgotten == ["key-a"]


def test_a_promised_digest_is_checked_although_it_is_known() -> None:
    """Without it a base image that is corrupt could be copied unseen."""
    digests = Known(**{"key-a": "a"})
    passed: list[KnownLayer | None] = []

    class Watching(Sink):
        def begin_layer(self, source: LayerSource, known: KnownLayer | None) -> LayerWriter:
            passed.append(known)
            return super().begin_layer(source, known)

    sources = [replace(keyed("a"), known=True), keyed("b")]
    write_images([Sources(*sources)], Watching(), Observer(), digests)
    assert passed == [None, None]
    write_images([Sources(keyed("a"))], Watching(), Observer(), digests)
    assert passed[-1] == KnownLayer(
        diff_id=digest_of("a"), size=1,
        descriptor=Descriptor(
            media_type="application/vnd.oci.image.layer.v1.tar", digest=digest_of("a"), size=1
        ),
    )  # fmt: skip
