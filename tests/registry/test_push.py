"""A whole push to registries as they are, and as they should not be: the image is there, or no tag
is, and the password is nobody else's.
"""

import base64
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from distribution import IDENTITY, PASSWORD, USER, Answer, Connection, Fault, Registry, Request
from distribution import digest_of as digest_of_bytes

from stream.compression import Compression
from stream.config import parse_conf
from stream.errors import RegistryError, StreamImageError
from stream.model import ImageConf
from stream.tools.push import push

Script = Callable[[Request, Connection], Answer | None]
LogIn = Callable[[dict[str, Any]], Path]
GZIP = Compression(codec="gzip", level=1)
SIZES = {"one": 700_000, "two": 90_000, "three": 5_000}


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between tries, and layers of some kilobytes be large."""
    monkeypatch.setattr("stream.retries.BACK_OFF", (0.0, 0.0, 0.0))
    monkeypatch.setattr("stream.sinks.registry._SMALL", 20_000)


@pytest.fixture
def conf(store_dir: bytes) -> ImageConf:
    """Return the conf of an image of three layers, which gzip does not make much smaller."""
    store = os.fsdecode(store_dir)
    for name, size in SIZES.items():
        path = Path(store, name)
        path.write_bytes(os.urandom(size))
        os.utime(path, (1, 1))
    layers = [[f"{store}/{name}"] for name in SIZES]
    document = {"repo_tag": "app:1", "store_dir": store, "store_layers": layers}
    return parse_conf(orjson.dumps(document))


@pytest.fixture
def printed(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Log all that libraries have to say; no secret may be in it, nor in the texts added here."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    yield texts
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    everything = "\n".join(
        [*texts, *(record.getMessage() for record in caplog.get_records("call"))]
    )
    for secret in (PASSWORD, IDENTITY, login, "token-0", "signed"):
        assert secret not in everything


def read_body(
    registry: Registry, request: Request, connection: Connection, change: Callable[[bytes], bytes]
) -> Answer:
    """Let the registry answer a request whose body is another than was sent."""
    data = connection.read_body(request)
    return registry.answer(request, lambda: change(data))


# Registries


def amazon(registry: Registry) -> Script:
    """A password and no token service; a PATCH is answered with 201, and only the first counts."""
    registry.basic = True
    patched: set[str] = set()

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method != "PATCH":
            return None
        is_first = request.path not in patched
        patched.add(request.path)
        answer = read_body(registry, request, connection, lambda data: data if is_first else b"")
        answer.status = 201
        return answer

    return script


def google(registry: Registry) -> Script:
    """Uploads are at another path; ranges are refused; 401 comes without a challenge later."""
    registry.tokens = True

    def script(request: Request, connection: Connection) -> Answer | None:
        if "content-range" in request.headers:
            return Answer(status=400, closes=True)
        if request.target.startswith("/artifacts-uploads/namespaces"):
            request.target = request.target.removeprefix("/artifacts-uploads/namespaces")
            answer = registry.answer(request, lambda: connection.read_body(request))
        elif request.method == "POST" and "/blobs/" in request.path:
            answer = registry.answer(request, lambda: b"")
        else:
            return None
        if place := answer.headers.get("Location"):
            answer.headers["Location"] = f"/artifacts-uploads/namespaces{place}"
        if answer.status == 401 and request.path != "/v2/":
            del answer.headers["WWW-Authenticate"]
        return answer

    return script


def github(registry: Registry) -> Script:
    """A rate limit is a 403; ranges of more than 4 MiB are refused."""
    registry.tokens = True
    limit = b'{"errors":[{"code":"DENIED","message":"You have exceeded a secondary rate limit"}]}'
    registry.faults = [
        Fault(method=method, path=path, status=403, body=limit)
        for method, path in (("POST", "uploads"), ("PATCH", ""), ("PUT", "manifests"))
    ]
    return lambda request, _connection: (
        Answer(status=416, closes=True) if "content-range" in request.headers else None
    )


def azure(registry: Registry) -> Script:
    """Logins are identity tokens; a PUT with a body is refused, and so are too many requests."""
    registry.tokens = True
    registry.faults = [
        Fault(method=method, status=429, headers={"Retry-After": "0"})
        for method in ("GET", "HEAD", "POST", "PATCH", "PUT")
    ]

    def script(request: Request, _connection: Connection) -> Answer | None:
        has_body = request.headers.get("content-length") != "0"
        is_blob = request.method == "PUT" and "/blobs/" in request.path
        return Answer(status=413, closes=True) if is_blob and has_body else None

    return script


def hub(registry: Registry) -> Script:
    """Tokens, also for nobody; an upload's Location is a whole URL with a long query."""
    registry.tokens = True

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method not in ("POST", "PATCH") or "/blobs/" not in request.path:
            return None
        answer = registry.answer(request, lambda: connection.read_body(request))
        if place := answer.headers.get("Location"):
            answer.headers["Location"] = f"http://{registry.address}{place}&more={'signed' * 400}"
        return answer

    return script


def artifactory(registry: Registry) -> Script:
    """An absent manifest is forbidden, mounts are refused, and a manifest needs its history."""
    registry.basic = True

    def script(request: Request, connection: Connection) -> Answer | None:
        if "mount" in request.query:
            return Answer(status=405)
        if "/manifests/" not in request.path or "authorization" not in request.headers:
            return None
        answer = registry.answer(request, lambda: connection.read_body(request))
        if answer.status == 404:
            return Answer(status=403)
        if request.method == "PUT" and answer.status == 201:
            document = json.loads(request.body)
            blobs = registry.repository("team/app").blobs
            config = json.loads(blobs[document["config"]["digest"]])
            assert len(config["history"]) == len(document["layers"])
        return answer

    return script


def quay(registry: Registry) -> Script:
    """A mount has to say from where; a manifest's answer is 202, and names no digest."""
    registry.tokens = True

    def script(request: Request, connection: Connection) -> Answer | None:
        if "mount" in request.query and "from" not in request.query:
            return Answer(status=400)
        if "/manifests/" not in request.path:
            return None
        answer = registry.answer(request, lambda: connection.read_body(request))
        answer.headers.pop("Docker-Content-Digest", None)
        answer.status = 202 if answer.status == 201 else answer.status
        return answer

    return script


def slow_to_finish(registry: Registry) -> Script:
    """The connection is lost while a blob is being finished, which it is."""
    registry.faults = [Fault(method="PUT", path="blobs", loses_answer=True, times=2)]
    return lambda _request, _connection: None


def boastful(registry: Registry) -> Script:
    """Every mount succeeds, also that of a blob which is nowhere."""
    del registry
    return lambda request, _connection: Answer(status=201) if "mount" in request.query else None


@pytest.mark.parametrize(
    "kind", [amazon, google, github, azure, hub, artifactory, quay, slow_to_finish, boastful]
)
def test_registries(
    registry: Registry,
    conf: ImageConf,
    log_in: LogIn,
    printed: list[str],
    kind: Callable[[Registry], Script],
) -> None:
    """Each registry has its own ways, and people have no choice of theirs."""
    registry.script = kind(registry)
    document = registry.credentials()
    if kind is azure:
        document = {"auths": {registry.address: {"identitytoken": IDENTITY}}}
    log_in(document)
    base = registry.repository("team/base")
    name = f"{registry.address}/team/app:v1"
    for tags in (["latest"], ["latest", "third"]):
        pushed = push(conf, name, tags=tags, compression=GZIP, mount_from=["team/base"])
        printed.append(repr(pushed))
        there = registry.repository("team/app")
        assert {there.tags[tag] for tag in ("v1", *tags)} == {pushed.digest}
        kind_of_manifest, data = there.manifests[pushed.digest]
        assert kind_of_manifest == "application/vnd.oci.image.manifest.v1+json"
        for layer in json.loads(data)["layers"]:
            assert len(there.blobs[layer["digest"]]) == layer["size"]
    assert base.blobs == {}
    assert not any("content-range" in request.headers for request in registry.requests)


# What must not end in a tag


def answers(kind: Mapping[str, Answer]) -> Callable[[Registry], Script]:
    """Return what gives each request that matches an expression the same answer."""

    def begin(_registry: Registry) -> Script:
        def script(request: Request, _connection: Connection) -> Answer | None:
            asked = f"{request.method} {request.target}"
            return next((kind[one] for one in kind if re.search(one, asked)), None)

        return script

    return begin


def later(number: int, answer: Answer, method: str = "PATCH") -> Callable[[Registry], Script]:
    """Return what gives the request of a method with this `number`, and all later ones, an answer."""

    def begin(_registry: Registry) -> Script:
        seen = count()

        def script(request: Request, _connection: Connection) -> Answer | None:
            return answer if request.method == method and next(seen) >= number else None

        return script

    return begin


def truncating(registry: Registry) -> Script:
    """The last byte of each layer is dropped."""

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method != "PATCH":
            return None
        return read_body(registry, request, connection, lambda data: data[:-1])

    return script


def revoking(registry: Registry) -> Script:
    """Once the layers are there, the user may not write any more."""
    registry.tokens = True

    def script(request: Request, _connection: Connection) -> Answer | None:
        if request.method == "PUT" and "/manifests/" in request.path:
            registry.issued.clear()
        is_late = any("/manifests/sha256" in line for line in registry.log)
        return Answer(status=403) if request.path == "/token" and is_late else None

    return script


def endless(registry: Registry) -> Script:
    """The answer to a manifest never ends."""
    del registry

    def script(request: Request, connection: Connection) -> Answer | None:
        if request.method == "PUT" and "/manifests/" in request.path:
            connection.sock.sendall(b"HTTP/1.1 201 Created\r\nA: ")
            while True:
                connection.sock.sendall(b"x" * 4096)
        return None

    return script


REFUSAL = b'{"errors":[{"code":"DENIED","message":"no"}]}'
NEIGHBOUR = {"Location": "http://169.254.169.254/u?signed"}
OTHER = {"Docker-Content-Digest": digest_of_bytes(b"other"), "Location": "/x"}
ATTACKS: dict[str, Callable[[Registry], Script]] = {
    "ok to everything": answers({"": Answer(body=b"welcome")}),
    "created to everything": answers({" /v2/.": Answer(status=201, headers={"Location": "/x"})}),
    "accepted to everything": answers({" /v2/.": Answer(status=202, headers={"Location": "/x"})}),
    "every blob is there": answers({"HEAD .*blobs": Answer(raw=b"HTTP/1.1 200 OK\r\n\r\n")}),
    "to a neighbour": answers({"POST": Answer(status=202, headers=NEIGHBOUR)}),
    "later to a neighbour": later(1, Answer(status=202, headers=NEIGHBOUR), "POST"),
    "redirected": later(1, Answer(status=307, headers=NEIGHBOUR), "PUT"),
    "too large": later(1, Answer(status=413, body=REFUSAL)),
    "early success": later(0, Answer(status=202, headers={"Location": "/x"})),
    "lost": later(1, Answer(raw=b"")),
    "no HTTP": later(1, Answer(raw=b"SSH-2.0\r\n"), "PUT"),
    "truncated": truncating,
    "another digest": later(0, Answer(status=201, headers=OTHER), "PUT"),
    "a manifest that is forgotten": answers({"PUT .*manifests/sha256": Answer(status=201)}),
    "another manifest": answers({"HEAD .*manifests": Answer(headers=OTHER)}),
    "denied at the end": answers({"PUT .*manifests": Answer(status=403, body=REFUSAL)}),
    "revoked": revoking,
    "endless": endless,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(
    registry: Registry, conf: ImageConf, log_in: LogIn, printed: list[str], attack: str
) -> None:
    """Whatever a registry answers, no tag names an image that is not there as a whole."""
    registry.basic = attack not in ("ok to everything", "revoked")
    log_in(registry.credentials())
    registry.script = ATTACKS[attack](registry)
    with pytest.raises(StreamImageError) as caught:
        push(conf, f"{registry.address}/team/app:v1", compression=GZIP, mount_from=["team/base"])
    printed += [str(caught.value), repr(caught.value)]
    assert isinstance(caught.value, RegistryError)
    assert "\n" not in str(caught.value)
    tags = registry.repository("team/app").tags
    # The tag is the last request of all: if it is there, so is everything else.
    assert tags == {}
    assert not any(line.endswith("/manifests/v1") for line in registry.log if line[:3] == "PUT")
