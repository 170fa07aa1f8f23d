"""SBOMs beside images: in registries that list what refers to an image, and in those that do not."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import distribution
import orjson
import pytest
from consumers.requirements import require
from distribution import Answer, Connection, Registry, Request, digest_of
from registries import PROGRAMS, started

from stream.compression import Compression
from stream.config import parse_conf
from stream.errors import ArgumentError, RegistryError
from stream.model import Digest, ImageConf, Pushed
from stream.oci.reference import Location
from stream.registry.client import Repository
from stream.registry.referrers import fallback_tag, find_referrers
from stream.tools.push import push
from stream.tools.push_all import ImageToPush, push_all
from stream.tools.sbom import make_sbom

INDEX = "application/vnd.oci.image.index.v1+json"
SPDX = "application/spdx+json"
NONE = Compression(codec="none")
GONE = b"gone"
SUBJECT = Digest(f"sha256:{'5' * 64}")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between tries."""
    monkeypatch.setattr("stream.retries.BACK_OFF", (0.0, 0.0, 0.0))
    monkeypatch.setattr("stream.registry.referrers._PAUSE", (0.0, 0.0))
    monkeypatch.setitem(Repository.__init__.__kwdefaults__, "sleep", lambda _: None)  # type: ignore[arg-type]


@pytest.fixture(params=[True, False], ids=["api", "tag"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    """Run an empty registry that lists what refers to an image, or one that does not."""
    with distribution.running(referrers=request.param) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[Registry]:
    """Run an empty registry without such lists."""
    with distribution.running() as running:
        yield running


@pytest.fixture
def conf(store_dir: bytes) -> ImageConf:
    """Return the conf of an image of one small layer."""
    store = os.fsdecode(store_dir)
    Path(store, "file").write_bytes(b"content")
    document = {
        "repo_tag": "app:1",
        "architecture": "amd64",
        "store_dir": store,
        "store_layers": [[f"{store}/file"]],
    }
    return parse_conf(orjson.dumps(document))


def push_to(registry: Registry, confs: Any, tag: str = "v1", **more: Any) -> Pushed:
    """Push with an SBOM."""
    usual: dict[str, Any] = {"compression": NONE, "sbom": "spdx"}
    return push(confs, f"{registry.address}/app:{tag}", **(usual | more))


def opened(registry: Registry) -> Repository:
    """Return the repository that is pushed to."""
    return Repository(Location(name=f"{registry.address}/app"))


def attached(registry: Registry, subject: Digest) -> list[tuple[str, bytes]]:
    """Return the type and the content of what is kept beside an image, in the listed order."""
    there = registry.repository("app")
    found = []
    for one in find_referrers(opened(registry), subject):
        kind, data = there.manifests[one["digest"]]
        document = json.loads(data)
        assert (kind, len(data)) == (one["mediaType"], one["size"])
        assert document["artifactType"] == one["artifactType"]
        assert document["subject"]["digest"] == subject
        assert len(there.manifests[subject][1]) == document["subject"]["size"]
        assert there.blobs[document["config"]["digest"]] == b"{}"
        assert document["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        (layer,) = document["layers"]
        assert layer["mediaType"] == one["artifactType"]
        found.append((one["artifactType"], there.blobs[layer["digest"]]))
    return found


def test_an_sbom_is_kept_beside_the_image(registry: Registry, conf: ImageConf) -> None:
    """Scanners ask the registry for it: under another type, or unlisted, they find nothing."""
    pushed = push_to(registry, conf)
    assert attached(registry, pushed.digest) == [(SPDX, make_sbom(conf))]
    (sbom,) = pushed.sboms
    assert sbom.digest in registry.repository("app").manifests
    assert registry.repository("app").tags["v1"] == pushed.digest
    without = push_to(registry, conf, "v2", sbom=None)
    assert (without.digest, without.sboms) == (pushed.digest, ())


def test_an_image_that_has_it_gets_no_other(registry: Registry, conf: ImageConf) -> None:
    """Each push would add one, until the list is longer than the image."""
    first = push_to(registry, conf)
    begun = len(registry.requests)
    again = push_to(registry, conf)
    assert (again.digest, again.sboms) == (first.digest, first.sboms)
    methods = [request.method for request in registry.requests[begun:]]
    assert "PUT" not in methods
    assert "POST" not in methods
    assert len(attached(registry, first.digest)) == 1
    push_to(registry, conf, sbom="cyclonedx")
    kinds = [kind for kind, _ in attached(registry, first.digest)]
    assert sorted(kinds) == [SPDX, "application/vnd.cyclonedx+json"]


def test_each_platform_has_its_own(registry: Registry, conf: ImageConf) -> None:
    """Scanners look at the image that they run, not at the index."""
    confs = [conf, replace(conf, architecture="arm64")]
    pushed = push_to(registry, confs)
    assert len(pushed.sboms) == 2
    for one, image in zip(confs, pushed.images, strict=True):
        assert image.manifest is not None
        assert attached(registry, image.manifest.digest) == [(SPDX, make_sbom(one))]


def test_many_images(plain: Registry, conf: ImageConf) -> None:
    """A fleet would be pushed without what was asked for."""
    items = [
        ImageToPush(name=tag, load=lambda: [conf], reference=f"{plain.address}/app:{tag}")
        for tag in ("v1", "v2")
    ]
    outcomes = [*push_all(items, compression=NONE, sbom="spdx")]
    assert [len(one.sboms) for one in outcomes if isinstance(one, Pushed)] == [1, 1]
    digest = Digest(plain.repository("app").tags["v2"])
    assert attached(plain, digest) == [(SPDX, make_sbom(conf))]


def test_an_image_without_a_name_has_the_repository_s(plain: Registry, conf: ImageConf) -> None:
    """Its SBOM would be called like every other."""
    pushed = push_to(plain, replace(conf, repo_tag=None))
    ((_, data),) = attached(plain, pushed.digest)
    assert json.loads(data)["name"] == f"{plain.address}/app"


@pytest.mark.parametrize("status", [403, 413, 500])
@pytest.mark.parametrize(
    "place", ["referrers/", "manifests/sha256:", "manifests/sha256-", "uploads/"]
)
def test_no_tag_without_the_sbom(plain: Registry, conf: ImageConf, place: str, status: int) -> None:
    """A deployment that checks for the SBOM would find the tag without one."""
    seen: list[str] = []

    def refuse(request: Request, _: Connection) -> Answer | None:
        if "referrers/" in request.target:
            seen.append(request.target)
        if not seen or place not in request.target or (status == 403 and request.method == "GET"):
            return None
        return Answer(status=status)

    if place == "referrers/" and status == 403:
        return  # that of a registry without lists
    plain.script = refuse
    with pytest.raises(RegistryError):
        push_to(plain, conf)
    assert "v1" not in plain.repository("app").tags
    plain.script = None
    pushed = push_to(plain, conf)
    assert attached(plain, pushed.digest) == [(SPDX, make_sbom(conf))]


def test_dry_run(registry: Registry, conf: ImageConf) -> None:
    """A rehearsal that attaches something is none."""
    rehearsed = push_to(registry, conf, rehearse=True)
    assert len(rehearsed.sboms) == 1
    assert not any(one.manifests for one in registry.repositories.values())
    assert push_to(registry, conf).sboms == rehearsed.sboms


def test_wrong_format(plain: Registry, conf: ImageConf) -> None:
    """Without it a slip would show after everything was sent."""
    with pytest.raises(ArgumentError, match="sbom: 'swid' is not one of spdx, cyclonedx"):
        push_to(plain, conf, sbom="swid")
    assert not plain.requests


# ---- the list that clients keep


def add_to_list(registry: Registry, subject: str, *artifacts: bytes) -> None:
    """Write a list with these artifacts, as another client does that has not seen ours."""
    manifests = [
        {"mediaType": "a/b", "digest": digest_of(one), "size": 2, "x": 1} for one in artifacts
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
    there = registry.repository("app")
    there.manifests[digest_of(data)] = (INDEX, data)
    there.manifests.update({digest_of(one): ("a/b", one) for one in artifacts if one != GONE})
    there.tags[subject.replace(":", "-")] = digest_of(data)


def listed(registry: Registry, subject: Digest) -> list[str]:
    """Return the digests that the list has."""
    return [one["digest"] for one in find_referrers(opened(registry), subject)]


def test_what_others_attached_stays(plain: Registry, conf: ImageConf) -> None:
    """Signatures would be lost with the first SBOM."""
    pushed = push_to(plain, conf, sbom=None)
    add_to_list(plain, pushed.digest, b"signature")
    (sbom,) = push_to(plain, conf).sboms
    assert listed(plain, pushed.digest) == [digest_of(b"signature"), sbom.digest]
    assert find_referrers(opened(plain), pushed.digest)[0]["x"] == 1


def test_what_was_removed_is_not_listed(plain: Registry, conf: ImageConf) -> None:
    """Registries that check lists would take none any more, and no SBOM with it."""
    pushed = push_to(plain, conf, sbom=None)
    add_to_list(plain, pushed.digest, b"signature", GONE)
    (sbom,) = push_to(plain, conf).sboms
    assert listed(plain, pushed.digest) == [digest_of(b"signature"), sbom.digest]


def test_two_machines_at_once(plain: Registry, conf: ImageConf) -> None:
    """The one that writes the list last would remove what the other has added."""
    pushed = push_to(plain, conf, sbom=None)
    tag = fallback_tag(pushed.digest)
    written: list[bytes] = []

    def replace_list(request: Request, _: Connection) -> Answer | None:
        if request.method == "GET" and request.path.endswith(tag) and written:
            add_to_list(plain, pushed.digest, written.pop())
        elif request.method == "PUT" and request.path.endswith(tag) and not raced:
            raced.append(True)
            written.append(b"theirs")
        return None

    raced: list[bool] = []
    plain.script = replace_list
    (sbom,) = push_to(plain, conf).sboms
    assert raced
    assert listed(plain, pushed.digest) == [digest_of(b"theirs"), sbom.digest]


def test_machines_that_never_stop(plain: Registry, conf: ImageConf) -> None:
    """The push would go on for ever, or tag an image whose SBOM nobody finds."""
    pushed = push_to(plain, conf, "other", sbom=None)
    tag = fallback_tag(pushed.digest)

    def replace_list(request: Request, _: Connection) -> Answer | None:
        if request.method == "GET" and request.path.endswith(tag):
            add_to_list(plain, pushed.digest, b"theirs")
        return None

    plain.script = replace_list
    with pytest.raises(RegistryError, match=f"keep replacing tag {tag}"):
        push_to(plain, conf)
    assert "v1" not in plain.repository("app").tags


def test_pushes_at_the_same_time(
    registry: Registry, conf: ImageConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two formats of one image, from two machines: one would be missing."""
    monkeypatch.setattr("stream.registry.referrers._PAUSE", (0.05, 0.1))
    errors: list[BaseException] = []

    def run(sbom: str) -> None:
        try:
            push_to(registry, conf, sbom=sbom)
        except BaseException as error:  # noqa: BLE001 — of another thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=[one]) for one in ("spdx", "cyclonedx")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    digest = Digest(registry.repository("app").tags["v1"])
    assert len(attached(registry, digest)) == 2


# ---- lists as they should not be


def test_pages() -> None:
    """The SBOM may be on the second page."""
    with distribution.running(referrers=True) as registry:

        def page(request: Request, _: Connection) -> Answer | None:
            if "referrers/" not in request.target:
                return None
            number = int(request.query.get("page", ["1"])[0])
            item = {"digest": f"number {number}"}
            body = json.dumps({"schemaVersion": 2, "manifests": [item, "?"]}).encode()
            link = f'</v2/app/referrers/{SUBJECT}?page={number + 1}>; rel="next"'
            headers = {"Content-Type": f"{INDEX}; charset=utf-8"}
            more = number < most
            return Answer(headers=headers | ({"Link": link} if more else {}), body=body)

        registry.script = page
        most = 3
        assert listed(registry, SUBJECT) == ["number 1", "number 2", "number 3"]
        most = 1000
        with pytest.raises(RegistryError, match="more than 50 pages"):
            listed(registry, SUBJECT)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(headers={"Content-Type": INDEX}, body=b"{"), "is not JSON"),
        (Answer(headers={"Content-Type": INDEX}, body=b"[]"), "is not a list"),
        (Answer(headers={"Content-Type": INDEX}, body=b'{"manifests": {}}'), "is not a list"),
        (
            Answer(
                headers={"Content-Type": INDEX, "Link": '<http://169.254.0.1/>; rel="next"'},
                body=b'{"manifests": []}',
            ),
            "GET referrers of .* the Link of its answer",
        ),
    ],
)
def test_lists_that_are_none(plain: Registry, answer: Answer, said: str) -> None:
    """What a registry says would end in a traceback, or our requests elsewhere."""
    plain.script = lambda request, _: answer if "referrers/" in request.target else None
    with pytest.raises(RegistryError, match=said):
        listed(plain, SUBJECT)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=400),
        Answer(status=403),
        Answer(status=405),
        Answer(status=501),
        Answer(headers={"Content-Type": "text/html"}, body=b"<html>Welcome"),
    ],
)
def test_registries_without_lists(plain: Registry, answer: Answer) -> None:
    """Each says in its own way that it has none, and the list that clients keep would be missed."""
    add_to_list(plain, SUBJECT, b"theirs")
    plain.script = lambda request, _: answer if "referrers/" in request.target else None
    assert listed(plain, SUBJECT) == [digest_of(b"theirs")]


def test_a_tag_that_is_no_list(plain: Registry, conf: ImageConf) -> None:
    """An image that somebody tagged so would be replaced by a list."""
    pushed = push_to(plain, conf, sbom=None)
    there = plain.repository("app")
    there.tags[fallback_tag(pushed.digest)] = pushed.digest
    with pytest.raises(RegistryError, match="is not a list of what refers to an image"):
        push_to(plain, conf)
    assert there.tags[fallback_tag(pushed.digest)] == pushed.digest


@pytest.mark.consumers
def test_a_real_registry(tmp_path: Path, conf: ImageConf) -> None:
    """Debian's registry has no lists, and checks what manifests refer to. Skopeo reads the artifact."""
    require(PROGRAMS)
    (tmp_path / "registry").mkdir()
    with started(tmp_path / "registry") as running:
        name = f"{running.address}/app"
        pushed = push(conf, f"{name}:v1", compression=NONE, sbom="cyclonedx")
        again = push(conf, f"{name}:v1", compression=NONE, sbom="cyclonedx")
        assert again.sboms == pushed.sboms

        def inspect(reference: str) -> Any:
            words = ["inspect", "--raw", "--tls-verify=false", f"docker://{name}{reference}"]
            return json.loads(subprocess.check_output(["skopeo", *words]))

        index = inspect(f":{fallback_tag(pushed.digest)}")
        (item,) = index["manifests"]
        assert item["digest"] == pushed.sboms[0].digest
        artifact = inspect(f"@{item['digest']}")
        assert artifact["subject"]["digest"] == pushed.digest
        blob = running.blob_file(artifact["layers"][0]["digest"]).read_bytes()
        assert blob == make_sbom(conf, "cyclonedx")
