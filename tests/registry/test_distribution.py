"""The registry that tests push to is one: the cases of the distribution specification's
conformance tests, of which a real registry passes the same.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import distribution
import pytest
from consumers.requirements import require
from distribution import digest_of
from registries import started

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER = b"layer" * 100
ABSENT = digest_of(b"absent")


class Answer(NamedTuple):
    """What a registry answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def codes(self) -> list[str]:
        """Return the codes of its errors."""
        return [error["code"] for error in json.loads(self.body)["errors"]]


class Client:
    """A client that knows HTTP only."""

    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=20)

    def __call__(self, method: str, target: str, body: Any = None, **headers: str) -> Answer:
        parts = urlsplit(target)
        target = parts._replace(scheme="", netloc="").geturl()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, target, body, names)
        with self.connection.getresponse() as answer:
            return Answer(answer.status, answer.headers, answer.read())

    def upload(self, repository: str, data: bytes) -> str:
        """Upload a blob in one PUT, and return its digest."""
        begun = self("POST", f"/v2/{repository}/blobs/uploads/")
        assert begun.status == 202
        digest = digest_of(data)
        place = with_digest(begun.headers["Location"], digest)
        done = self("PUT", place, data, Content_Type="application/octet-stream")
        assert done.status == 201
        return digest

    def push(self, repository: str, *tags: str, **more: Any) -> str:
        """Push an image, and return the digest of its manifest."""
        config, layer = self.upload(repository, CONFIG), self.upload(repository, LAYER)
        data = manifest(config, layer, **more)
        for reference in (digest_of(data), *tags):
            put = self("PUT", f"/v2/{repository}/manifests/{reference}", data, Content_Type=IMAGE)
            assert put.status == 201, put.body
        return digest_of(data)


def manifest(config: str, layer: str, **more: Any) -> bytes:
    """Return the manifest of an image of one layer."""
    layer_type = "application/vnd.oci.image.layer.v1.tar"
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config,
            "size": len(CONFIG),
        },
        "layers": [{"mediaType": layer_type, "digest": layer, "size": len(LAYER)}],
    }
    return json.dumps(document | more).encode()


def with_digest(place: str, digest: str) -> str:
    """Return the URL that ends an upload."""
    return f"{place}{'&' if '?' in place else '?'}digest={digest}"


@pytest.fixture(
    scope="module", params=["ours", pytest.param("docker-registry", marks=pytest.mark.consumers)]
)
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run a registry, ours or the real one."""
    if request.param == "ours":
        with distribution.running() as ours:
            yield ours.address
    else:
        require(["docker-registry"])
        with started(tmp_path_factory.mktemp("registry")) as real:
            yield real.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """Return a client of the registry."""
    client = Client(address)
    yield client
    client.connection.close()


def test_version(client: Client) -> None:
    """The first request of every client: 200, or nothing else is tried."""
    assert client("GET", "/v2/").status == 200


def test_absent(client: Client) -> None:
    """A client that takes an absent blob or manifest for present uploads nothing."""
    client.push("absent", "v1")
    for method in ("GET", "HEAD"):
        assert client(method, f"/v2/absent/blobs/{ABSENT}").status == 404
        assert client(method, f"/v2/absent/manifests/{ABSENT}").status == 404
        assert client(method, "/v2/absent/manifests/none").status == 404
    assert client("GET", "/v2/absent/manifests/none").codes == ["MANIFEST_UNKNOWN"]
    assert client("GET", f"/v2/absent/blobs/{ABSENT}").codes == ["BLOB_UNKNOWN"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_streamed_upload(client: Client, *, is_chunked: bool) -> None:
    """What a push sends: POST, a PATCH of known or unknown size, an empty PUT."""
    begun = client("POST", "/v2/streamed/blobs/uploads/")
    assert begun.status == 202
    body: Any = iter([LAYER[:7], LAYER[7:]]) if is_chunked else LAYER
    sent = client("PATCH", begun.headers["Location"], body, Content_Type="application/octet-stream")
    assert (sent.status, sent.headers["Range"]) == (202, f"0-{len(LAYER) - 1}")
    digest = digest_of(LAYER)
    done = client("PUT", with_digest(sent.headers["Location"], digest), b"")
    assert (done.status, done.headers["Docker-Content-Digest"]) == (201, digest)
    assert digest in done.headers["Location"]
    assert client("GET", f"/v2/streamed/blobs/{digest}").body == LAYER
    found = client("HEAD", f"/v2/streamed/blobs/{digest}")
    assert found.headers["Content-Length"] == str(len(LAYER))


def test_wrong_digest(client: Client) -> None:
    """A registry that stored it would have a blob under another's name."""
    begun = client("POST", "/v2/wrong/blobs/uploads/")
    place = client("PATCH", begun.headers["Location"], LAYER).headers["Location"]
    refused = client("PUT", with_digest(place, ABSENT), b"")
    assert (refused.status, refused.codes) == (400, ["DIGEST_INVALID"])


def test_two_patches(client: Client) -> None:
    """Bytes of a second PATCH are appended: the specification's upload in chunks."""
    place = client("POST", "/v2/chunks/blobs/uploads/").headers["Location"]
    for start, piece in ((0, LAYER[:100]), (100, LAYER[100:])):
        span = f"{start}-{start + len(piece) - 1}"
        sent = client("PATCH", place, piece, Content_Range=span)
        assert sent.status == 202
        place = sent.headers["Location"]
    assert client("PUT", with_digest(place, digest_of(LAYER)), b"").status == 201


def test_status_and_end_of_an_upload(client: Client) -> None:
    """A cancelled upload keeps nothing, and is unknown afterwards."""
    place = client("POST", "/v2/ended/blobs/uploads/").headers["Location"]
    place = client("PATCH", place, LAYER).headers["Location"]
    status = client("GET", place)
    assert (status.status, status.headers["Range"]) == (204, f"0-{len(LAYER) - 1}")
    assert client("DELETE", place).status == 204
    unknown = client("PUT", with_digest(place, digest_of(LAYER)), b"")
    assert (unknown.status, unknown.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


def test_mount(client: Client) -> None:
    """A blob of another repository is there without its bytes, or an upload begins."""
    digest = client.upload("mount/from", LAYER)
    target = f"/v2/mount/to/blobs/uploads/?mount={digest}&from=mount/from"
    mounted = client("POST", target)
    assert mounted.status == 201
    assert digest in mounted.headers["Location"]
    assert client("GET", f"/v2/mount/to/blobs/{digest}").body == LAYER
    begun = client("POST", f"/v2/mount/to/blobs/uploads/?mount={ABSENT}&from=mount/from")
    assert begun.status == 202
    assert client("DELETE", begun.headers["Location"]).status == 204


def test_manifest(client: Client) -> None:
    """The bytes that were put come back by digest and by each tag."""
    digest = client.push("manifest", "v1", "v2")
    for reference in (digest, "v1", "v2"):
        found = client("GET", f"/v2/manifest/manifests/{reference}", Accept=IMAGE)
        assert found.status == 200
        assert digest_of(found.body) == found.headers["Docker-Content-Digest"] == digest
        assert found.headers["Content-Type"] == IMAGE
        head = client("HEAD", f"/v2/manifest/manifests/{reference}", Accept=IMAGE)
        assert head.headers["Docker-Content-Digest"] == digest
        assert (head.headers["Content-Length"], head.body) == (str(len(found.body)), b"")


def test_manifest_that_is_refused(client: Client) -> None:
    """An image with a layer that is not there cannot be pulled."""
    config = client.upload("refused", CONFIG)
    put = client("PUT", "/v2/refused/manifests/v1", manifest(config, ABSENT), Content_Type=IMAGE)
    assert put.status in (400, 404)
    assert "MANIFEST_BLOB_UNKNOWN" in put.codes
    assert client("PUT", "/v2/refused/manifests/v1", b"{", Content_Type=IMAGE).status == 400
    assert client("GET", "/v2/refused/manifests/v1").status == 404


def test_tags() -> None:
    """Tags are listed in order, in pages; the real registry of version 2 has neither."""
    with distribution.running() as registry:
        client = Client(registry.address)
        client.push("tags", "b", "a", "c")
        assert json.loads(client("GET", "/v2/tags/tags/list").body)["tags"] == ["a", "b", "c"]
        page = client("GET", "/v2/tags/tags/list?n=2")
        assert json.loads(page.body)["tags"] == ["a", "b"]
        assert 'rel="next"' in page.headers["Link"]
        rest = client("GET", "/v2/tags/tags/list?n=2&last=b")
        assert json.loads(rest.body)["tags"] == ["c"]
        client.connection.close()


def test_range(client: Client) -> None:
    """A pull that was cut off goes on where it ended."""
    digest = client.upload("range", LAYER)
    found = client("GET", f"/v2/range/blobs/{digest}", Range="bytes=5-9")
    assert (found.status, found.body) == (206, LAYER[5:10])
    assert found.headers["Content-Range"] == f"bytes 5-9/{len(LAYER)}"
    assert client("GET", f"/v2/range/blobs/{digest}", Range="bytes=490-").body == LAYER[490:]


def test_range_beyond_the_end() -> None:
    """A pull that is complete learns that; the real registry's answer is shorter than it says."""
    with distribution.running() as registry:
        client = Client(registry.address)
        digest = client.upload("range", LAYER)
        beyond = client("GET", f"/v2/range/blobs/{digest}", Range="bytes=900-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(LAYER)}")
        client.connection.close()


def test_deletion(client: Client) -> None:
    """What is deleted is not there, for a push that relies on it."""
    digest = client.push("deletion", "v1")
    assert client("DELETE", f"/v2/deletion/manifests/{digest}").status == 202
    assert client("GET", "/v2/deletion/manifests/v1").status == 404
    assert client("DELETE", f"/v2/deletion/blobs/{digest_of(LAYER)}").status == 202
    assert client("HEAD", f"/v2/deletion/blobs/{digest_of(LAYER)}").status == 404


def test_one_put_with_body() -> None:
    """The specification's upload in a single POST, which few registries have."""
    with distribution.running() as registry:
        client = Client(registry.address)
        digest = digest_of(LAYER)
        done = client("POST", f"/v2/single/blobs/uploads/?digest={digest}", LAYER)
        assert done.status == 201
        assert registry.repository("single").blobs == {digest: LAYER}
        client.connection.close()


def test_ranges_out_of_order() -> None:
    """A registry that appended them would make another blob."""
    with distribution.running() as registry:
        client = Client(registry.address)
        place = client("POST", "/v2/order/blobs/uploads/").headers["Location"]
        assert client("PATCH", place, LAYER[:9], Content_Range="0-8").status == 202
        refused = client("PATCH", place, LAYER[20:29], Content_Range="20-28")
        assert (refused.status, refused.headers["Range"]) == (416, "0-8")
        client.connection.close()


@pytest.mark.parametrize("has_api", [True, False])
def test_referrers(*, has_api: bool) -> None:
    """A manifest with a subject is found from it, if the registry says that it has that API."""
    with distribution.running(referrers=has_api) as registry:
        client = Client(registry.address)
        subject = client.push("subject", "v1")
        described = {"mediaType": IMAGE, "digest": subject, "size": 1}
        data = manifest(digest_of(CONFIG), digest_of(LAYER), subject=described, artifactType="a/b")
        put = client("PUT", f"/v2/subject/manifests/{digest_of(data)}", data, Content_Type=IMAGE)
        assert put.headers["OCI-Subject"] == (subject if has_api else None)
        found = client("GET", f"/v2/subject/referrers/{subject}?artifactType=a/b")
        assert found.status == (200 if has_api else 404)
        if has_api:
            (item,) = json.loads(found.body)["manifests"]
            assert (item["digest"], item["artifactType"]) == (digest_of(data), "a/b")
            assert found.headers["OCI-Filters-Applied"] == "artifactType"
        client.connection.close()


def test_faults() -> None:
    """Tests that cut a connection prove nothing if it is not cut there."""
    with distribution.running() as registry:
        registry.faults = [
            distribution.Fault(number=0, status=503, headers={"Retry-After": "1"}),
            distribution.Fault(method="PATCH", cut=10),
            distribution.Fault(number=4, loses_answer=True),
            distribution.Fault(number=5, cut_answer=4),
        ]
        client = Client(registry.address)
        refused = client("POST", "/v2/faults/blobs/uploads/")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        place = client("POST", "/v2/faults/blobs/uploads/").headers["Location"]
        with pytest.raises(OSError):  # noqa: PT011 — closed in one of several ways
            client("PATCH", place, LAYER)
        client.connection.close()
        assert client("PATCH", place, LAYER).status == 202
        with pytest.raises(http.client.RemoteDisconnected):
            client("PUT", with_digest(place, digest_of(LAYER)), b"")
        assert digest_of(LAYER) in registry.repository("faults").blobs
        with pytest.raises(http.client.BadStatusLine):
            client("GET", "/v2/")
        client.connection.close()


def test_tls(tmp_path: Path) -> None:
    """Without TLS in tests, trust would be tested by what happens to be reachable."""
    from registries import make_certificate

    certificate = make_certificate(tmp_path)
    with distribution.running(certificate=certificate) as registry:
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection(registry.address, timeout=20, context=context)
        connection.request("GET", "/v2/")
        with connection.getresponse() as answer:
            assert answer.status == 200
        connection.close()
