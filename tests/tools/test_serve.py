"""The images of confs, served from a registry: the bytes, files that change, and addresses."""

import gzip
import http.client
import io
import json
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import handmade
import pytest
from handmade import Base, layer_tar, tar_of
from support import MIB, Store, until

import stream
from stream.digests.store import DigestCache
from stream.errors import (
    ArgumentError,
    ConfError,
    ListenError,
)
from stream.observer import Observer
from stream.sources.store import walk
from stream.tools.serve import Served, serve

LARGE = 16 * MIB  # more than the sockets of a connection hold
BASE = Base(layers=[layer_tar({"one": b"1" * 9000}), layer_tar({"two": bytes(300_000)})])


class Log(Observer):
    """What an observer is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.held = 0

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def layer_held(self, number: int, layer: stream.Layer) -> None:
        self.held += 1


class Client:
    """A client of a registry."""

    def __init__(self, served: Served, number: int = 0) -> None:
        address, self.path = served.references[number].split("/", 1)
        assert address == served.address
        self.connection = http.client.HTTPConnection(address, timeout=60)
        self.name, self.tag = self.path.rsplit(":", 1)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def begin(self, kind: str, what: str, **headers: str) -> http.client.HTTPResponse:
        """Ask for a manifest or blob, and return the answer before its body."""
        self.connection.request("GET", f"/v2/{self.name}/{kind}/{what}", headers=headers)
        return self.connection.getresponse()

    def get(self, kind: str, what: str, **headers: str) -> bytes:
        """Return a manifest or blob."""
        answer = self.begin(kind, what, **headers)
        assert answer.status in (200, 206), answer.read()
        return answer.read()

    def pull(self) -> tuple[bytes, dict[str, bytes]]:
        """Pull the image as the specification says, and check every digest. Return its manifest,
        and the blobs by digest: the config first.
        """
        manifest = self.get("manifests", self.tag)
        assert manifest == self.get("manifests", digest(manifest))
        document = json.loads(manifest)
        blobs = {}
        for descriptor in (document["config"], *document["layers"]):
            blob = self.get("blobs", descriptor["digest"])
            assert digest(blob) == descriptor["digest"]
            assert len(blob) == descriptor["size"]
            blobs[descriptor["digest"]] = blob
        return manifest, blobs


def digest(data: bytes) -> str:
    """Return the digest of `data`."""
    return f"sha256:{sha256(data).hexdigest()}"


def load(path: Path) -> stream.ImageConf:
    """Return the conf in a file."""
    return stream.load_conf(path)


@contextmanager
def pulled(path: Path, **options: object) -> Iterator[tuple[bytes, dict[str, bytes]]]:
    """Serve a conf's image, and pull it."""
    with serve([load(path)], **options) as served, closing(Client(served)) as client:  # type: ignore[arg-type]
        yield client.pull()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with some paths."""
    made = Store.below(tmp_path)
    made.file("a/text", b"text")
    made.file("a/large", os.urandom(700_000))
    made.file("b", b"b" * 1000)
    return made


def oci_archive(conf: stream.ImageConf) -> dict[str, bytes]:
    """Return the files of the conf's image as an OCI archive."""
    file = io.BytesIO()
    stream.write_image(conf, file, archive_format="oci-archive")
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            found[member.name] = content.read() if content else b""
        return found


def test_the_image_of_an_archive(store: Store) -> None:
    """Without it a pulled image would be another one than that which is loaded."""
    path = store.conf(["a"], ["b"], annotations={"x": "y"})
    files = oci_archive(load(path))
    index = json.loads(files["index.json"])
    with pulled(path) as (manifest, blobs):
        assert digest(manifest) == index["manifests"][0]["digest"]
        assert {f"blobs/sha256/{name[7:]}" for name in blobs} <= files.keys()
        assert len(blobs) == 3  # the config and two layers


@pytest.mark.parametrize("start", [0, 1, 511, 5000, 650_000])
def test_range_of_a_layer(store: Store, start: int) -> None:
    """Without it a pull that goes on after an interruption would put other bytes together."""
    path = store.conf(["a"])
    with serve([load(path)]) as served, closing(Client(served)) as client:
        _, blobs = client.pull()
        for name, blob in blobs.items():
            if start < len(blob):
                for end in (start, start + 700, len(blob) - 1):
                    found = client.get("blobs", name, Range=f"bytes={start}-{end}")
                    assert found == blob[start : end + 1]


@contextmanager
def _base(directory: Path, kind: str) -> Iterator[dict[str, object]]:
    stored = [gzip.compress(layer, mtime=0) for layer in BASE.layers]
    path = directory / "base"
    match kind:
        case "directory":
            for name, data in BASE.oci_files(stored).items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)
        case "oci":
            path.write_bytes(tar_of([*BASE.oci_files(stored).items()]))
        case "docker-gzip":
            path.write_bytes(BASE.docker_archive(stored=stored))
        case "plain":
            path.write_bytes(BASE.docker_archive())
        case _:
            path.write_bytes(handmade.COMPRESSORS[kind](BASE.docker_archive()))
    yield {"from_image": str(path)}


@pytest.mark.parametrize(
    "kind", ["plain", "docker-gzip", "oci", "directory", "gzip", "bzip2", "zstd-seekable"]
)
def test_base_image(store: Store, tmp_path: Path, kind: str) -> None:
    """Without it a layer of a base image could be sent from the wrong place, when several are
    asked for at once.
    """
    with (
        _base(tmp_path, kind) as more,
        serve([load(store.conf(["a"], **more))]) as served,
    ):
        found: list[dict[str, bytes]] = []

        def pull() -> None:
            with closing(Client(served)) as client:
                found.append(client.pull()[1])

        threads = [threading.Thread(target=pull) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        stored = kind in ("oci", "directory", "docker-gzip")
        below = [*found[0].values()][1:3]
        assert [gzip.decompress(one) if stored else one for one in below] == BASE.layers


def test_layers_of_a_slow_client(store: Store) -> None:
    """Without it a client that takes nothing of the customisation layer would keep it from all
    others.
    """
    store.file("large", LARGE)
    path = store.conf(
        customisation_layer={"directories": {"/tmp": "1777"}},
        customisation_store_paths=[str(store.path("large"))],
    )
    with serve([load(path)]) as served, closing(Client(served)) as slow:
        document = json.loads(slow.get("manifests", slow.tag))
        (layer,) = document["layers"]
        answer = slow.begin("blobs", layer["digest"])
        answer.read(1)
        with closing(Client(served)) as other:
            assert digest(other.get("blobs", layer["digest"])) == layer["digest"]
        answer.read()


@pytest.mark.slow
def test_a_recipe_is_carried_out_once(store: Store) -> None:
    """Without it commands would make another layer for each client than that of the digest."""
    path = store.conf(customisation_layer={"extra_commands": "date +%N > now"})
    with serve([load(path)]) as served:
        pulls = []
        for _ in range(2):
            with closing(Client(served)) as client:
                pulls.append(client.pull())
    assert pulls[0] == pulls[1]


def test_file_that_changed_before(store: Store) -> None:
    """Without it bytes would be sent under the digest of others."""
    log = Log()
    path = store.conf(["a"], ["b"])
    with serve([load(path)], log) as served, closing(Client(served)) as client:
        first, _ = _layers(client)
        client.get("blobs", first)
        store.file("a/text", b"TEXT")
        answer = client.begin("blobs", first)
        assert answer.status == 500
        message = json.loads(answer.read())["errors"][0]["message"]
        assert (
            message == f"{store.path('a')}: changed since its digest was computed; serve it again"
        )
        until(lambda: log.warnings)
        (warning,) = log.warnings
        assert warning.startswith(f"{message}; 127.0.0.1:")


def test_file_that_changes_meanwhile(store: Store) -> None:
    """Without it a client could take what it got for the whole layer."""
    log = Log()
    store.file("large", LARGE)
    with serve([load(store.conf(["large"]))], log) as served, closing(Client(served)) as client:
        (layer,) = _layers(client)
        answer = client.begin("blobs", layer)
        answer.read(MIB)
        store.path("large").touch()
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
        until(lambda: log.warnings)
        assert "large: changed since it was walked" in log.warnings[0]
        answer.close()


def _layers(client: Client) -> list[str]:
    document = json.loads(client.get("manifests", client.tag))
    return [descriptor["digest"] for descriptor in document["layers"]]


def settle(directory: Path) -> None:
    """Make the files look as if nobody changed them lately: the clock of ctimes is the system's,
    so wait until they are.
    """
    newest = max(os.lstat(path).st_ctime_ns for path in [directory, *directory.rglob("*")])
    while time.time_ns() - newest < 2_100_000_000:
        time.sleep(0.05)


@pytest.mark.slow
def test_known_digests(store: Store, tmp_path: Path) -> None:
    """Without it each start would read everything, or believe a record that is wrong: then no
    client would ever get the layer, and nobody know why.
    """
    digests = DigestCache(str(tmp_path / "digests"))
    settle(store.directory)
    path = store.conf(["a"], ["b"])
    with pulled(path, digests=digests) as (manifest, _):
        pass
    log = Log()
    with serve([load(path)], log, digests=digests) as served, closing(Client(served)) as client:
        assert client.pull()[0] == manifest
        assert log.held == 2
    # A record that is wrong, by whatever means.
    first = json.loads(manifest)["layers"][0]["digest"]
    wrong = "sha256:" + "0" * 64
    conf = load(path)
    source = walk(conf, conf.store_layers[0])
    known = digests.lookup(source.keys, "")
    assert known is not None
    assert known.diff_id == first
    blob = stream.Descriptor(media_type="x/y", digest=stream.Digest(wrong), size=source.size)
    layer = stream.Layer(
        archive_name="", diff_id=blob.digest, size=source.size, comment="", descriptor=blob
    )
    digests.forget(source.keys)
    digests.record(source.keys, layer, "")
    with serve([load(path)], log, digests=digests) as served, closing(Client(served)) as client:
        assert _layers(client)[0] == wrong
        assert digest(client.get("blobs", wrong)) == first
        until(lambda: log.warnings)
        assert "was wrong and is removed" in log.warnings[0]
    with pulled(path, digests=digests) as (again, _):
        assert again == manifest


def test_names(store: Store) -> None:
    """Without it an image could not be pulled by its own name, or only one of several."""
    path = store.conf(["a"])
    tags = ("plain:1", "reg.example/team/app:v2", "reg.example:5000/team/app:v3", "user/x:1")
    confs = [stream.load_conf(path, repo_tag=tag) for tag in tags]
    with serve(confs) as served:
        names = [reference.split("/", 1)[1] for reference in served.references]
        assert names == ["plain:1", "team/app:v2", "team/app:v3", "user/x:1"]
        for number in range(4):
            with closing(Client(served, number)) as client:
                client.pull()
        connection = http.client.HTTPConnection(served.address, timeout=20)
        connection.request("GET", "/v2/team/app/tags/list")
        assert json.loads(connection.getresponse().read())["tags"] == ["v2", "v3"]
        connection.close()


def test_two_images_of_one_name(store: Store) -> None:
    """Without it one image would be pulled for another without a word."""
    log = Log()
    confs = [load(store.conf(["a"])), load(store.conf(["b"]))]
    with serve(confs, log) as served, closing(Client(served)) as client:
        assert len(client.pull()[1]) == 2
        assert digest(client.get("manifests", "1")) == served.images[1].manifest.digest  # type: ignore[union-attr]
    assert log.warnings == ["test:1: is the name of several images; the last one wins"]


def test_several_platforms_of_one_name(store: Store) -> None:
    """Without it a machine could get another one's image from a server for both."""
    log = Log()
    one = load(store.conf(["a"], ["b"], annotations={"x": "y"}))
    confs = [replace(one, architecture="amd64"), replace(one, architecture="arm", variant="v6")]
    with serve(confs, log) as served, closing(Client(served)) as client:
        assert len(served.references) == 1
        answer = client.begin("manifests", client.tag)
        assert answer.headers["Content-Type"] == handmade.INDEX_TYPE
        index = answer.read()
        assert index == client.get("manifests", digest(index))
        for conf, image, entry in zip(
            confs, served.images, json.loads(index)["manifests"], strict=True
        ):
            assert entry["platform"]["architecture"] == conf.architecture
            assert entry["platform"].get("variant", "") == conf.variant
            with serve([conf]) as alone:
                assert alone.images[0].manifest == image.manifest
            client.tag = entry["digest"]
            assert client.pull()[0] == client.get("manifests", entry["digest"])
    assert not log.warnings


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", ":5000", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "h:٣"]
)
def test_what_is_not_an_address(store: Store, listen: str) -> None:
    """Without it a typing error could open a port that nobody meant."""
    with (
        pytest.raises(ArgumentError, match="ADDRESS:PORT"),
        serve([load(store.conf())], listen=listen),
    ):
        pass


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_addresses_of_others(store: Store, listen: str) -> None:
    """Without it everybody in the network could read the image."""
    confs = [load(store.conf(["b"]))]
    with pytest.raises(ArgumentError, match="--allow-remote"), serve(confs, listen=listen):
        pass
    if listen.startswith("[") and not socket.has_ipv6:
        return
    with (
        serve(confs, listen=listen, allow_remote=True) as served,
        closing(Client(served)) as client,
    ):
        assert served.address.startswith(("127.0.0.1:", "[::1]:"))
        client.connection.putrequest("GET", "/v2/", skip_host=True)
        client.connection.putheader("Host", "registry.example")
        client.connection.endheaders()
        assert client.connection.getresponse().status == 200


def test_address_in_use(store: Store) -> None:
    """Without it the reason would be a traceback."""
    confs = [load(store.conf(["b"]))]
    with (
        serve(confs) as served,
        pytest.raises(ListenError, match="cannot listen here: Address already in use"),
        serve(confs, listen=served.address),
    ):
        pass
    with pytest.raises(ListenError), serve(confs, listen="no-such-host.invalid:0"):
        pass


def test_pages_of_browsers(store: Store) -> None:
    """Without it a web page could read the image under a name of its own."""
    with serve([load(store.conf(["b"]))]) as served, closing(Client(served)) as client:
        answer = client.begin("manifests", client.tag, Host="rebound.example")
        assert answer.status == 421
        answer.read()


@pytest.mark.parametrize(
    ("confs", "error"),
    [
        ("conf.json", ArgumentError),
        ([None], ArgumentError),
        (
            lambda conf: [conf, stream.parse_conf(b'{"store_layers": []}', need_tag=False)],
            ConfError,
        ),
    ],
)
def test_arguments(
    store: Store,
    confs: object | Callable[[stream.ImageConf], Sequence[object]],
    error: type[Exception],
) -> None:
    """Without it a wrong argument would show only once everything is hashed."""
    given = confs(load(store.conf(["b"]))) if callable(confs) else confs
    with pytest.raises(error), serve(given):  # type: ignore[arg-type]
        pass


def test_the_end(store: Store) -> None:
    """Without it a context that ends would break off a transfer, and one that fails wait for it."""
    store.file("large", LARGE)
    confs = [load(store.conf(["large"]))]
    received: list[bytes] = []
    with serve(confs) as served:
        client = Client(served)
        (layer,) = _layers(client)
        answer = client.begin("blobs", layer)
        thread = threading.Thread(target=lambda: received.append(answer.read()))
        thread.start()
    thread.join()
    assert digest(received[0]) == layer
    client.close()
    with suppress(KeyError), serve(confs) as served:
        client = Client(served)
        answer = client.begin("blobs", layer)
        raise KeyError
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    answer.close()
    client.close()
