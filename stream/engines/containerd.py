"""Containerd, through ctr, on this host or, by ssh, on another.

Its content store has blobs by their digests, so an archive may leave out each blob that is there.
An import names the image before it is unpacked, and the name stays if that fails; so the import
gives a name of ours, which is removed at the end. Must not know tar.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

from stream.engines.answers import unanswered, understanding
from stream.engines.engine import Answer, EngineName, Found
from stream.engines.programs import Program
from stream.engines.ssh import SCHEME, SshHost
from stream.errors import EngineError
from stream.limits import MAX_INDEXES
from stream.model import Digest, Image
from stream.oci.manifests import is_index
from stream.oci.platform import Platform
from stream.oci.reference import parse_digest, qualified
from stream.parsing import parse_json

# Where ctr looks by default.
_VARIABLE, _USUAL_SOCKET = "CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"
_OURS = "stream-image.invalid/"  # before names that only we give; RFC 2606 reserves the domain


class Containerd:
    """Containerd. See `stream.engines.engine.Engine`. `host` is `ssh://…`, where ctr is run, or the URL
    or path of containerd's socket. Without `namespace`, it is ctr's own default.
    """

    name: ClassVar[EngineName] = "containerd"
    prefers_docker_archives: ClassVar[bool] = False

    def __init__(self, host: str | None, namespace: str | None) -> None:
        words, remote = ["ctr"], None
        if host is not None and host.startswith(SCHEME):
            remote = SshHost.parse(host)
            address = remote.path
        else:
            address = (host or "").removeprefix("unix://")
        # None: on another host, where ctr asks.
        self._socket = None if remote else address or os.environ.get(_VARIABLE) or _USUAL_SOCKET
        if address:
            words.append(f"--address={address}")
        if namespace is not None:
            words.append(f"--namespace={namespace}")
        self._ctr = Program(words=tuple(words), host=remote)
        self.label = self._ctr.label
        self._base = f"{_OURS}{os.urandom(8).hex()}"
        self._given: str | None = None  # our name, once an import may have made it

    def __enter__(self) -> Self:
        """Raises EngineError if nothing listens at the socket: ctr would wait for it for 10 s."""
        if self._socket is not None and self._ctr.is_installed():
            with socket.socket(socket.AF_UNIX) as connection:
                try:
                    connection.connect(self._socket)
                except OSError as error:
                    reason = unanswered(error)
                    raise EngineError(f"containerd at {self._socket}", reason) from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._given is not None:
            with suppress(EngineError):
                self._ctr.output("images", "rm", self._given)

    def platform(self) -> Platform:
        """See the interface: that of a plugin which unpacks layers."""
        table = self._ctr.output("plugins", "ls", "type==io.containerd.snapshotter.v1")
        # A heading, then: type, ID, platforms, status. What is not stated is a dash.
        stated = (row.split()[2] for row in table.splitlines()[1:])
        with understanding(self.label):
            system, architecture, *variant = next(one for one in stated if "/" in one).split("/")
            return Platform(os=system, architecture=architecture, variant="".join(variant))

    def held(self, layers: Sequence[Digest | None], repo_tag: str) -> frozenset[Digest]:
        """See the interface."""
        wanted = {layer for layer in layers if layer is not None}
        if not wanted:
            return frozenset()
        there = set(self._ctr.output("content", "ls", "--quiet").split())
        return frozenset(layer for layer in wanted if layer in there)

    def find(self, image: Image) -> Found | None:
        """See the interface: with all blobs, and unpacked."""
        assert image.manifest is not None, "of an OCI archive"
        table = self._ctr.output("images", "check", f"target.digest=={image.manifest.digest}")
        # A heading, then: reference, media type, digest, "complete (61/61)", sizes, unpacked.
        rows = [line.split() for line in table.splitlines()[1:]]
        with understanding(self.label):
            whole = [row[0] for row in rows if row[3] == "complete" and row[-1] == "true"]
        # Names of other runs like this one may be gone at any time.
        names = [name for name in whole if name == self._given or not name.startswith(_OURS)]
        return Found(name=names[0], names=frozenset(names)) if names else None

    def config(self, repo_tag: str, platform: Platform) -> dict[str, Any] | None:
        """See the interface."""
        table = self._ctr.output("images", "ls", f"name=={qualified(repo_tag)}")
        # A heading, then: reference, media type, digest, …
        rows = [line.split() for line in table.splitlines()[1:]]
        if not rows:
            return None
        with understanding(self.label):
            found = self._content(rows[0][2])
            for _ in range(MAX_INDEXES):
                if found is None or not is_index({}, found):
                    break
                entries = found["manifests"]
                number = platform.closest(
                    Platform.parse(one.get("platform") or {}) for one in entries
                )
                found = None if number is None else self._content(entries[number]["digest"])
            return None if found is None else self._content(found["config"]["digest"])

    def _content(self, digest: str) -> dict[str, Any] | None:
        """Return a document; None if it is not there, as those of other platforms often are."""
        data = self._ctr.output("content", "get", parse_digest(digest), partial=True).encode()
        document = parse_json(data) if data else None
        if data and not isinstance(document, dict):
            raise TypeError(digest)
        return document

    def load(self, write: Callable[[int], Image]) -> Answer:
        """See the interface."""

        def write_and_note(fd: int) -> Image:
            image = write(fd)
            assert image.manifest is not None, "of an OCI archive"
            self._given = f"{self._base}@{image.manifest.digest}"
            return image

        options = ("--digests", f"--base-name={self._base}")
        image = self._ctr.feed(write_and_note, "images", "import", *options, "-")
        return Answer(image=image, found=self.find(image))

    def tag(self, found: Found, repo_tag: str) -> None:
        """See the interface."""
        name = self.name_of(repo_tag)
        if name not in found.names:
            self._ctr.output("images", "tag", "--force", found.name, name)

    def name_of(self, repo_tag: str) -> str:
        """See the interface. Containerd's names are whole, with a domain."""
        return qualified(repo_tag)
