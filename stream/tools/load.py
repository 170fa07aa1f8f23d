"""Load the image of a conf into a container engine, without the layers that it has. Knows neither
argv nor how an engine is reached.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from stream.config import require_tag
from stream.digests import NO_DIGESTS, Digests
from stream.engines.engine import Answer, Engine, EngineName
from stream.engines.opening import opened_engine
from stream.errors import ArgumentError, EngineError
from stream.model import Digest, Image, ImageConf, KnownLayer, Loaded
from stream.observer import Observer
from stream.oci.platform import Platform
from stream.pipeline import write_images
from stream.sinks.daemon import PartialArchive, WholeArchive
from stream.sinks.nowhere import Nowhere
from stream.sources.image import ImageSources
from stream.tools.platforms import check_platforms
from stream.tools.write import opened_sources


def load(  # noqa: PLR0913 — the options of the command, each of its own
    confs: ImageConf | Sequence[ImageConf],
    observer: Observer | None = None,
    *,
    engine: EngineName | None = None,
    host: str | None = None,
    namespace: str | None = None,
    digests: Digests = NO_DIGESTS,
    rehearse: bool = False,
) -> Loaded:
    """Load the image of one of `confs` into `engine` at `host`, or into the first that is there: see
    `stream.engines.opening.opened_engine`. Of several, it is the one for the platform of the engine's
    machine. Layers whose digests are in `digests` are not sent if the
    engine has them. The image gets its tag only after the engine has it with all its layers. With
    `rehearse`, everything is done but changing the engine.

    Raises ArgumentError, or ConfError if one of `confs` has no tag, before anything is read;
    EngineError; and the errors of `write_image`. Then the tag is what it was before.
    """
    several = check_platforms(confs)
    ArgumentError.require("observer", observer, Observer, type(None))
    for one in several:
        require_tag(one)
    observer = observer or Observer()
    with opened_engine(engine, host, namespace=namespace, digests=digests) as opened:
        conf = _chosen(several, opened)
        assert conf.repo_tag is not None, "required"
        loading = _Loading(conf, opened, observer, digests, rehearse=rehearse)
        answer = loading.load(conf.repo_tag)
        if not rehearse:
            if answer.found is None:
                reason = answer.remarks or "does not have the image after loading it"
                raise EngineError(opened.label, reason)
            opened.tag(answer.found, conf.repo_tag)
    loaded = Loaded(
        image=answer.image,
        engine=opened.name,
        name=opened.name_of(conf.repo_tag),
        held=frozenset(loading.held),
        rehearsed=rehearse,
    )
    observer.loaded(loaded)
    return loaded


def _chosen(confs: Sequence[ImageConf], engine: Engine) -> ImageConf:
    """Return the conf that fits the platform of `engine` best. Raises EngineError."""
    if len(confs) == 1:
        return confs[0]
    wanted = engine.platform()
    there = [Platform.of_conf(conf) for conf in confs]
    closest = wanted.closest(there)
    if closest is None:
        names = ", ".join(map(str, there))
        raise EngineError(engine.label, f"is for {wanted}, and the images are for {names}")
    return confs[closest]


class _Loading:
    """One run of `load`."""

    def __init__(
        self,
        conf: ImageConf,
        engine: Engine,
        observer: Observer,
        digests: Digests,
        *,
        rehearse: bool,
    ) -> None:
        self._conf = conf
        self._engine = engine
        self._observer = observer
        self._digests = digests
        self._rehearse = rehearse
        self.held: Collection[Digest] = ()  # the layers left out of the last archive

    def load(self, repo_tag: str) -> Answer:
        """Load what the engine does not have; if its answer leaves anything open, everything."""
        with opened_sources(self._conf, self._observer) as sources:
            for warning in sources.warnings:
                self._observer.warning(warning)
            known = sources.known(self._digests, PartialArchive.takes)
            if (there := self._find(sources, known)) is not None:
                return there
            layers = [None if one is None else one.diff_id for one in known]
            held = self._engine.held(layers, repo_tag)
            if self._rehearse:
                with open(os.devnull, "wb") as nowhere:
                    image = self._write(sources, nowhere.fileno(), held, self._observer)
                return Answer(image=image, found=None)
            try:
                answer = self._send(sources, held, self._observer)
            except EngineError as error:
                if not held:
                    raise
                reason = str(error)
            else:
                if not held or (answer.found is not None and not answer.remarks):
                    return answer
                reason = f"{self._engine.label}: {answer.remarks or 'a layer is missing'}"
        self._observer.warning(f"{reason}; sending every layer")
        # A base image may have passed already, so the sources are opened again.
        with opened_sources(self._conf, Observer()) as sources:
            return self._send(sources, frozenset(), self._observer)

    def _find(self, sources: ImageSources, known: Sequence[KnownLayer | None]) -> Answer | None:
        """Return the answer of an engine that has the image already, if every layer is `known`."""
        layers = [one for one in known if one is not None and one.descriptor is not None]
        if len(layers) < len(known):
            return None
        with Nowhere(PartialArchive.takes) as nowhere:
            image = nowhere.add_image(sources.foreseen(layers))
        found = self._engine.find(image)
        if found is None:
            return None
        self.held = [layer.diff_id for layer in layers]
        return Answer(image=image, found=found)

    def _send(self, sources: ImageSources, held: Collection[Digest], observer: Observer) -> Answer:
        return self._engine.load(lambda fd: self._write(sources, fd, held, observer))

    def _write(
        self, sources: ImageSources, fd: int, held: Collection[Digest], observer: Observer
    ) -> Image:
        mtime = self._conf.mtime
        # Annotations are the OCI manifest's.
        is_whole = self._engine.prefers_docker_archives and not (held or self._conf.annotations)
        sink: PartialArchive | WholeArchive
        with (
            WholeArchive(fd, mtime=mtime)
            if is_whole
            else PartialArchive(fd, mtime=mtime, held=held)
        ) as sink:
            (image,) = write_images([sources], sink, observer, self._digests)
            self.held = sink.left_out
        return image
