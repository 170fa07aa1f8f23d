"""Docker, through the HTTP API of its daemon.

With docker's classic store, a layer is found by its chain: the layer and all those under it. An
archive may leave out the layers at the bottom that an image there has in the same order. With
containerd's store, the default since docker 29, a layer is found by its digest. The API does not
say which blobs are there, only which manifests have all of theirs; so we note in which manifest this
docker was given a layer. Docker Engine API, versions 1.41 to 1.48. Must not know tar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from http.client import HTTPException, HTTPResponse
from itertools import takewhile
from operator import eq
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlencode

from stream.digests import NO_DIGESTS, Digests, content_key
from stream.engines.answers import promising, unanswered, understanding
from stream.engines.docker_host import DockerConnection, Endpoint
from stream.engines.engine import Answer, EngineName, Found
from stream.errors import EngineError
from stream.model import Descriptor, Digest, Image
from stream.oci.platform import Platform
from stream.oci.reference import split
from stream.parsing import parse_json
from stream.pipes import Inflow, pipe_to
from stream.text import one_line
from stream.values import replace

_NEWEST = (1, 48)
_WITH_MANIFESTS = (1, 47)  # the first version that says which manifests are complete
_WITH_CONTAINERD = (1, 43)  # the first that may have containerd's store
_SNAPSHOTTER = "io.containerd.snapshotter.v1"
_PIECE = 1 << 20
_MAX_ANSWER = 1 << 26


class Docker:
    """Docker. See `stream.engines.engine.Engine`. `digests` is where manifests are noted."""

    name: ClassVar[EngineName] = "docker"
    prefers_docker_archives: ClassVar[bool] = False

    def __init__(self, endpoint: Endpoint, digests: Digests = NO_DIGESTS) -> None:
        self.label = endpoint.label
        self._endpoint = endpoint
        self._connection = DockerConnection(endpoint)
        self._digests = digests
        self._version = (0, 0)
        self._broken: Sequence[Digest] = ()  # IDs of an image that a load has left incomplete

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for image_id in self._broken:
            with suppress(EngineError):
                self._remove_untagged(image_id)
        self._connection.close()

    def connect(self) -> None:
        """Connect, and agree on a version of the API. Raises EngineError."""
        response = self._respond("GET", "/_ping")
        self._checked(response)
        with understanding(self.label):
            theirs = [int(part) for part in str(response.headers["Api-Version"]).split(".")]
            self._version = min(_NEWEST, (theirs[0], theirs[1]))

    # ---- the engine

    def platform(self) -> Platform:
        """See the interface."""
        version = self._get("/version")
        with understanding(self.label):
            return Platform(os=str(version["Os"]), architecture=str(version["Arch"]))

    def held(self, layers: Sequence[Digest | None], repo_tag: str) -> frozenset[Digest]:
        """See the interface."""
        if not any(layers):
            return frozenset()
        with understanding(self.label):
            if self._has_containerd_store:
                return self._held_by_manifests(layers)
            return self._held_by_chain(layers, repo_tag)

    def find(self, image: Image) -> Found | None:
        """See the interface."""
        for name in self._ids(image):
            document = self._get(f"/images/{name}/json", missing={})
            with understanding(self.label):
                layers = document.get("RootFS", {}).get("Layers") or []
                if not document or layers != [layer.diff_id for layer in image.layers]:
                    continue
                if self._has_containerd_store and self._says_what_is_there:
                    if _manifest_of(image).digest not in self._available():
                        return None
                    self._note(image)
                return Found(name=name, names=frozenset(document.get("RepoTags") or ()))
        return None

    def config(self, repo_tag: str, platform: Platform) -> dict[str, Any] | None:
        """See the interface. The config itself cannot be had. Docker tells of one image for a tag."""
        name = quote(repo_tag, safe="/:@")
        document = self._get(f"/images/{name}/json", missing={})
        if not document:
            return None
        history = self._get(f"/images/{name}/history", missing=[])  # the latest first
        with understanding(self.label):
            stated = {
                key.lower(): document.get(key) or "" for key in ("Os", "Architecture", "Variant")
            }
            layers = document.get("RootFS", {}).get("Layers") or []
            comments = [{"comment": one.get("Comment") or ""} for one in reversed(history)]
        return {**stated, "rootfs": {"diff_ids": layers}, "history": comments}

    def load(self, write: Callable[[int], Image]) -> Answer:
        """See the interface."""
        remarks: list[str] = []
        connection, self._connection = self._connection, DockerConnection(self._endpoint)

        def send(inflow: Inflow) -> None:
            try:
                remarks.extend(self._send(connection, inflow))
                if inflow.read(1):
                    reason = "closed the connection before it had all of the image"
                    raise EngineError(self.label, reason)
            finally:
                connection.close()

        with pipe_to(send, name="docker load", wait=False) as fd:
            image = write(fd)
        self._broken = self._ids(image)
        found = self.find(image)
        if found is not None:
            self._broken = ()
        return Answer(image=image, found=found, remarks=one_line(" ".join(remarks)))

    def tag(self, found: Found, repo_tag: str) -> None:
        """See the interface."""
        if repo_tag not in found.names:
            name, tag = split(repo_tag)
            query = urlencode({"repo": name, "tag": tag})
            self._checked(self._respond("POST", f"/images/{found.name}/tag?{query}"))

    def name_of(self, repo_tag: str) -> str:
        """See the interface."""
        return repo_tag

    def _ids(self, image: Image) -> Sequence[Digest]:
        """Return what may be docker's ID of an image: the digest of its config or, with
        containerd's store, of its manifest.
        """
        if self._has_containerd_store:
            return _manifest_of(image).digest, image.image_id
        return (image.image_id,)

    # ---- what it holds

    @cached_property
    def _info(self) -> dict[str, Any]:
        # It takes longer than any other question, and only newer ones have anything to say.
        return self._get("/info") if self._version >= _WITH_CONTAINERD else {}

    @property
    def _has_containerd_store(self) -> bool:
        with understanding(self.label):
            return any(_SNAPSHOTTER in pair for pair in self._info.get("DriverStatus") or ())

    @property
    def _says_what_is_there(self) -> bool:
        return self._version >= _WITH_MANIFESTS

    @property
    def _place(self) -> str:
        """The name, among encodings, of the form that layers have here: parts of manifests."""
        return f"docker {self._info['ID']}"

    def _held_by_chain(self, layers: Sequence[Digest | None], repo_tag: str) -> frozenset[Digest]:
        listing = self._get("/images/json") if layers[0] else ()
        images = ((str(one["Id"]), one.get("RepoTags") or ()) for one in listing)
        known = list(takewhile(bool, layers))
        longest = 0
        for image_id in promising(images, repo_tag):
            if longest == len(known):
                break
            # It may have been removed meanwhile.
            document = self._get(f"/images/{image_id}/json", missing={})
            theirs = document.get("RootFS", {}).get("Layers") or []
            common = sum(1 for _ in takewhile(bool, map(eq, known, theirs)))
            longest = max(longest, common)
        return frozenset(layer for layer in known[:longest] if layer is not None)

    def _held_by_manifests(self, layers: Sequence[Digest | None]) -> frozenset[Digest]:
        manifests: dict[Digest, Digest] = {}
        for layer in layers if self._says_what_is_there else ():
            noted = layer and self._digests.lookup([content_key(layer)], self._place)
            if layer and noted and noted.diff_id == layer and noted.descriptor:
                manifests[layer] = noted.descriptor.digest
        available = self._available() if manifests else frozenset()
        return frozenset(layer for layer in manifests if manifests[layer] in available)

    def _note(self, image: Image) -> None:
        """Note the manifest of the layers of `image`, which is there."""
        for layer in image.layers:
            noted = replace(layer, descriptor=_manifest_of(image))
            self._digests.record([content_key(layer.diff_id)], noted, self._place)

    def _available(self) -> frozenset[Digest]:
        """Return the digests of the manifests whose blobs are all there."""
        listing = self._get("/images/json?all=1&manifests=1")
        return frozenset(
            Digest(manifest["ID"])
            for image in listing
            for manifest in image.get("Manifests") or ()
            if manifest.get("Available") is True
        )

    def _remove_untagged(self, image_id: Digest) -> None:
        document = self._get(f"/images/{image_id}/json", missing={})
        with understanding(self.label):
            if document and not document.get("RepoTags"):
                self._checked(self._respond("DELETE", f"/images/{image_id}"))

    # ---- requests

    def _get(self, path: str, missing: Any = None) -> Any:
        """Return the document at `path`; `missing` stands for one that is not there, unless it
        is None.
        """
        response = self._respond("GET", path)
        if response.status == 404 and missing is not None:
            response.read(_MAX_ANSWER)
            return missing
        data = self._checked(response)
        with understanding(self.label):
            return parse_json(data)

    def _respond(self, method: str, path: str) -> HTTPResponse:
        version = "/v{}.{}".format(*self._version) if any(self._version) else ""
        try:
            self._connection.request(method, f"{version}{path}")
            return self._connection.getresponse()
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise EngineError(self.label, unanswered(error)) from error

    def _checked(self, response: HTTPResponse) -> bytes:
        """Return the body of an answer. Raises EngineError unless it says that all is well."""
        try:
            data = response.read(_MAX_ANSWER)
        except (OSError, HTTPException) as error:
            raise EngineError(self.label, unanswered(error)) from error
        if response.status >= 300:
            raise EngineError(self.label, _message(data) or f"answered {response.status}")
        return data

    def _send(self, connection: DockerConnection, inflow: Inflow) -> Iterator[str]:
        """Load the archive `inflow`. Yield remarks: what docker says but the image's name."""
        version = "/v{}.{}".format(*self._version)
        headers = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # its answer says why
                connection.request(
                    "POST", f"{version}/images/load?quiet=1", inflow.blocks(_PIECE), headers,
                    encode_chunked=True,
                )  # fmt: skip
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise EngineError(self.label, unanswered(error)) from error
        for line in self._checked(response).splitlines():
            with understanding(self.label):
                message = parse_json(line)
                if "error" in message:
                    raise EngineError(self.label, one_line(str(message["error"])))
                text = str(message.get("stream", "")).strip()
            if text and not text.startswith("Loaded image"):
                yield text


def _manifest_of(image: Image) -> Descriptor:
    assert image.manifest is not None, "of an OCI archive"
    return image.manifest


def _message(data: bytes) -> str:
    """Return the message of an error."""
    try:
        document = parse_json(data)
    except ValueError:
        document = None
    if isinstance(document, dict) and "message" in document:
        return one_line(str(document["message"]))
    return one_line(data[:200].decode(errors="replace"))
