"""Docker's daemon as far as loading needs it, on a Unix socket: with its classic store, which finds
layers by their chains, or with containerd's, which finds blobs by digest and reports success even
if an image lacks some.

Knows docker's API and the archives that it reads; nothing of the package.
"""

import hashlib
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from socket import AF_INET
from socketserver import TCPServer, ThreadingMixIn, UnixStreamServer
from ssl import SSLContext
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

CONTAINERD_STORE: Final = [["driver-type", "io.containerd.snapshotter.v1"]]


def digest(data: bytes) -> str:
    """Return the digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def chains(diff_ids: list[str]) -> list[str]:
    """Return a name for each prefix of a list of diff_ids."""
    return [" ".join(diff_ids[: count + 1]) for count in range(len(diff_ids))]


@dataclass(slots=True, kw_only=True)
class StoredImage:
    """An image: the digests of its manifest and its blobs, its diff_ids and its tags."""

    manifest: str
    blobs: list[str]
    diff_ids: list[str]
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ScriptedDocker:
    """The daemon's state, and what it was asked. `loads` has the names of the members of each archive,
    or None for one that was cut. `before_load` is called when an archive has arrived. Of the
    load of that number, `say` returns an answer without anything being loaded, and `remark`
    another line. One that `loses` keeps no layer. `garble` returns what is answered at a path,
    with `status`. With `names_by_config`, images have the same ID in both stores.
    """

    socket: Path
    containerd: bool = False
    version: str = "1.41"
    images: dict[str, StoredImage] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    loads: list[list[str] | None] = field(default_factory=list)
    before_load: Callable[[], None] = lambda: None
    say: Callable[[int], bytes | None] = lambda _number: None
    remark: Callable[[int], str] = lambda _number: ""
    loses: bool = False
    status: int = 200
    names_by_config: bool = False
    garble: Callable[[str], bytes | None] = lambda _path: None

    @property
    def url(self) -> str:
        """The value of DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def tags(self) -> dict[str, str]:
        """The IDs of tagged images, by tag."""
        return {tag: one for one, image in self.images.items() for tag in image.tags}

    def is_whole(self, image_id: str) -> bool:
        """Return True if all of an image is stored."""
        return self.stored.issuperset(self._needs(self.images[image_id]))

    def remove(self, image_id: str) -> None:
        """Remove an image, and what no other needs."""
        gone = self._needs(self.images.pop(image_id))
        used = {one for image in self.images.values() for one in self._needs(image)}
        self.stored -= set(gone) - used

    def _needs(self, image: StoredImage) -> list[str]:
        return image.blobs if self.containerd else chains(image.diff_ids)

    # ---- loading

    def load(self, data: bytes) -> bytes:
        """Load an archive. Return the lines that docker prints."""
        try:
            with tarfile.open(fileobj=BytesIO(data)) as tar:
                members = {info.name: tar.extractfile(info) for info in tar if not info.isdir()}
                files = {name: file.read() for name, file in members.items() if file}
            manifest = files["manifest.json"]
        except (tarfile.TarError, KeyError) as error:
            self.loads.append(None)
            return _error(f"Error processing tar file: {error}")
        self.loads.append(sorted(files))
        self.before_load()
        said = self.say(len(self.loads))
        if said is not None:
            return said
        answer = (
            self._import(files)
            if self.containerd
            else self._load_classic(files, json.loads(manifest))
        )
        if self.loses:
            self.stored.clear()
        remark = self.remark(len(self.loads))
        return (json.dumps({"stream": remark}).encode() + b"\n" if remark else b"") + answer

    def _load_classic(self, files: dict[str, bytes], items: list[dict[str, Any]]) -> bytes:
        (item,) = items
        config = files[item["Config"]]
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        assert len(diff_ids) == len(item["Layers"])
        for chain, diff_id, name in zip(chains(diff_ids), diff_ids, item["Layers"], strict=True):
            if chain in self.stored:
                continue
            if name not in files:
                return _error(f"open /tmp/docker-import-1/{name}: no such file or directory")
            assert digest(files[name]) == diff_id
            self.stored.add(chain)
        return self._keep(digest(config), "", [], diff_ids, item["RepoTags"])

    def _import(self, files: dict[str, bytes]) -> bytes:
        (entry,) = json.loads(files["index.json"])["manifests"]
        self.stored |= {digest(data) for name, data in files.items() if name.startswith("blobs/")}
        manifest = json.loads(files[_blob(entry["digest"])])
        blobs = [manifest["config"], *manifest["layers"]]
        config = json.loads(files[_blob(manifest["config"]["digest"])])
        names = [entry["annotations"]["io.containerd.image.name"]] if "annotations" in entry else []
        image_id = manifest["config"]["digest"] if self.names_by_config else entry["digest"]
        return self._keep(
            image_id, entry["digest"], [blob["digest"] for blob in blobs],
            config["rootfs"]["diff_ids"], names,
        )  # fmt: skip

    def _keep(
        self, image_id: str, manifest: str, blobs: list[str], diff_ids: list[str], tags: Any
    ) -> bytes:
        image = StoredImage(manifest=manifest, blobs=blobs, diff_ids=diff_ids)
        self.images.setdefault(image_id, image)
        for tag in tags or ():
            self.tag(image_id, tag)
        said = f"Loaded image: {tags[0]}\n" if tags else f"Loaded image ID: {image_id}\n"
        return json.dumps({"stream": said}).encode() + b"\n"

    def tag(self, image_id: str, tag: str) -> None:
        """Give a tag to an image, and take it from any other."""
        for image in self.images.values():
            image.tags = [one for one in image.tags if one != tag]
        self.images[image_id].tags.append(tag)

    # ---- answers

    def listing(self, *, manifests: bool) -> list[dict[str, Any]]:
        """Return the answer to /images/json."""
        return [
            {
                "Id": image_id,
                "RepoTags": image.tags or ["<none>:<none>"],
                **({"Manifests": self._manifests(image_id)} if manifests else {}),
            }
            for image_id, image in self.images.items()
        ]

    def _manifests(self, image_id: str) -> list[dict[str, Any]]:
        manifest = self.images[image_id].manifest
        return [{"ID": manifest, "Kind": "image", "Available": self.is_whole(image_id)}]

    def inspect(self, image_id: str) -> dict[str, Any] | None:
        """Return the answer to /images/ID/json."""
        image = self.images.get(image_id)
        if image is None or not (self.containerd or self.is_whole(image_id)):
            return None
        layers = {"Type": "layers", "Layers": image.diff_ids}
        return {"Id": image_id, "RepoTags": image.tags, "RootFS": layers}


def _blob(name: str) -> str:
    return f"blobs/{name.replace(':', '/')}"


def _error(message: str) -> bytes:
    return json.dumps({"errorDetail": {"message": message}, "error": message}).encode() + b"\n"


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    docker: ScriptedDocker

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients may go."""


class _TcpServer(_Server, TCPServer):
    address_family = AF_INET


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return ""

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        docker, (path, query) = self.server.docker, self._read_path()
        if (data := docker.garble(path)) is not None:
            self._answer(docker.status, data)
        elif path == "/_ping":
            self._answer(200, b"OK")
        elif path == "/version":
            self._answer(200, b'{"Os": "linux", "Arch": "arm64", "Version": "20.10.24"}')
        elif path == "/info":
            status = CONTAINERD_STORE if docker.containerd else [["Supports d_type", "true"]]
            self._answer(200, json.dumps({"ID": "the-daemon", "DriverStatus": status}).encode())
        elif path == "/images/json":
            listing = docker.listing(manifests=query.get("manifests") == ["1"])
            self._answer(200, json.dumps(listing).encode())
        elif (found := docker.inspect(path.split("/")[2])) is not None:
            self._answer(200, json.dumps(found).encode())
        else:
            self._answer(404, b'{"message": "No such image"}')

    def do_POST(self) -> None:
        docker, (path, query) = self.server.docker, self._read_path()
        if (data := docker.garble(path)) is not None:
            self._answer(200, data)
            self.close_connection = True
        elif path == "/images/load":
            self._answer(200, docker.load(self._read_chunks()))
        else:
            (name,), (tag,) = query["repo"], query["tag"]
            docker.tag(path.split("/")[2], f"{name}:{tag}")
            self._answer(201, b"")

    def do_DELETE(self) -> None:
        path, _ = self._read_path()
        self.server.docker.remove(path.split("/")[2])
        self._answer(200, b"[]")

    def _read_path(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        docker = self.server.docker
        path = parts.path.removeprefix(f"/v{docker.version}")
        docker.requests.append(f"{self.command} {path}")
        return path, parse_qs(parts.query)

    def _read_chunks(self) -> bytes:
        body = []
        while size := int(self.rfile.readline() or b"0", 16):
            body.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(body)

    def _answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", self.server.docker.version)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running(docker: ScriptedDocker) -> Iterator[ScriptedDocker]:
    """Serve the daemon's socket."""
    with _Server(str(docker.socket), _Handler) as server, _serving(server, docker):
        yield docker


@contextmanager
def running_on_loopback(docker: ScriptedDocker, context: SSLContext | None) -> Iterator[str]:
    """Serve a port on loopback, with TLS if there is a context. Return the address."""
    with _TcpServer(("127.0.0.1", 0), _Handler) as server:  # type: ignore[arg-type]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        host, port = server.socket.getsockname()
        with _serving(server, docker):
            yield f"{host}:{port}"


@contextmanager
def _serving(server: _Server, docker: ScriptedDocker) -> Iterator[None]:
    server.docker = docker
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield
    server.shutdown()
    thread.join()
