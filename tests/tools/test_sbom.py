"""`stream-image sbom`: of a specification, of its conf alone, on a base image."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import distribution
import handmade
import pytest
from conftest import Run as Command
from handmade import Base

import stream
from stream.cli.main import main
from stream.cli.tables import render
from stream.cli.verbs import inspect as inspect_verb
from stream.errors import ArgumentError, RegistryError, SourceError
from stream.model import ImageConf
from stream.oci.platform import Platform
from stream.planning.plan import plan
from stream.planning.spec import parse_spec
from stream.registry.trust import Access
from stream.sbom import FORMATS, Format
from stream.sbom.documents import read_sbom
from stream.tools.registry_image import look_around
from stream.tools.sbom import load_sbom, make_sbom
from stream.tools.verify import verify

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
LIBRARY, TOOL, DATA = (
    f"{DIGITS}-lib-1.0",
    f"{DIGITS[::-1]}-tool-2.1",
    f"{DIGITS[5:] + DIGITS[:5]}-data-3",
)


@pytest.fixture
def spec(store_dir: bytes, tmp_path: Path) -> dict[str, Any]:
    """Return a specification of a tool that needs a library, whose hash is known."""
    store = store_dir.decode()
    for name in (LIBRARY, TOOL, DATA):
        Path(store, name).mkdir()
        Path(store, name, name).write_text(name, "utf-8")
    graph = tmp_path / "graph.json"
    graph.write_text(
        json.dumps(
            [
                {
                    "path": f"{store}/{name}",
                    "references": [f"{store}/{other}" for other in others],
                    "narSize": 100,
                    "narHash": f"sha256:{number:064x}",
                }
                for number, (name, others) in enumerate(
                    ((LIBRARY, [LIBRARY]), (TOOL, [LIBRARY]), (DATA, []))
                )
            ]
        )
    )
    return {
        "name": "app",
        "tag": "v1",
        "architecture": "amd64",
        "store_dir": store,
        "references_graph": str(graph),
        "contents": [f"{store}/{TOOL}"],
    }


def planned(spec: dict[str, Any], **more: Any) -> tuple[ImageConf, ImageConf]:
    """Return the conf as it was planned, and as it is read from its document."""
    found = plan(parse_spec(json.dumps(spec | more).encode()))
    return found.conf, stream.parse_conf(json.dumps(found.document).encode())


def test_of_a_specification_and_of_its_conf(spec: dict[str, Any]) -> None:
    """The conf has no references: it must not be taken for an image whose packages need none."""
    store = spec["store_dir"]
    whole, alone = planned(spec)
    said: list[str] = []
    listed = read_sbom(make_sbom(whole, warn=said.append))
    assert (listed.name, listed.version, said) == ("app", "v1", [])
    assert listed.hashes == {
        f"{store}/{LIBRARY}": f"sha256:{0:064x}",
        f"{store}/{TOOL}": f"sha256:{1:064x}",
    }
    assert listed.references == {
        f"{store}/{LIBRARY}": frozenset(),
        f"{store}/{TOOL}": {f"{store}/{LIBRARY}"},
    }
    without = read_sbom(make_sbom(alone, warn=said.append))
    assert without.hashes == listed.hashes
    assert without.references == {}
    assert said == ["the SBOM does not know the references of 2 of 2 store paths"]


def test_what_the_layering_does_not_change(spec: dict[str, Any]) -> None:
    """Packages of an image in one layer, or copied into its root, would be missing."""
    whole, _ = planned(spec)
    single, _ = planned(spec, layering="single")
    assert make_sbom(single) == make_sbom(whole)
    copied, _ = planned(spec, copyToRoot=[f"{spec['store_dir']}/{DATA}"])
    listed = read_sbom(make_sbom(copied))
    assert listed.references[f"{spec['store_dir']}/{DATA}"] == frozenset()


@pytest.mark.parametrize("sbom_format", FORMATS)
def test_what_is_not_shipped(spec: dict[str, Any], sbom_format: Format) -> None:
    """What the host provides is not in the image, but it is not true that nothing is needed."""
    unshipped, _ = planned(spec, unshipped=[f"{spec['store_dir']}/{LIBRARY}"])
    said: list[str] = []
    data = make_sbom(unshipped, sbom_format, said.append)
    assert list(read_sbom(data).hashes) == [f"{spec['store_dir']}/{TOOL}"]
    assert said == ["the SBOM does not know what 1 of 1 store paths refer to outside of the image"]
    assert (b"incomplete" if sbom_format == "cyclonedx" else b"NOASSERTION") in data
    assert b'"NONE"' not in data


def test_on_a_base_image(spec: dict[str, Any], tmp_path: Path) -> None:
    """Without the base's ID nobody could look up what is below."""
    base = Base(layers=[handmade.layer_tar({"bin/sh": b"#"})], tags=["base:7"])
    (tmp_path / "base.tar").write_bytes(base.docker_archive())
    whole, _ = planned(spec, fromImage=str(tmp_path / "base.tar"), skip_base_paths=True)
    said: list[str] = []
    data = make_sbom(whole, "cyclonedx", said.append)
    (found,) = (one for one in json.loads(data)["components"] if one["type"] == "container")
    image_id = handmade.digest(json.dumps(base.document()).encode())
    assert (found["name"], found["version"]) == ("base:7", image_id)
    assert said == ["the SBOM does not know the content of the base image base:7"]


def test_wrong_arguments(spec: dict[str, Any]) -> None:
    """Without it a slip would be a traceback from deep inside."""
    with pytest.raises(ArgumentError, match="not one of spdx, cyclonedx"):
        make_sbom(planned(spec)[0], "swid")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="conf"):
        make_sbom("conf.json")  # type: ignore[arg-type]


def test_the_command(spec: dict[str, Any], tmp_path: Path, stream_image: Command) -> None:
    """The warning must not end up in the document, nor the document be half written."""
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = stream_image("sbom", str(tmp_path / "spec.json"))
    assert (done.returncode, done.stderr) == (0, b"")
    found = plan(parse_spec(json.dumps(spec).encode()))
    assert done.stdout == make_sbom(found.conf)
    conf = tmp_path / "conf.json"
    conf.write_text(json.dumps(found.document))
    words = ["--format", "cyclonedx", "-o", str(tmp_path / "sbom.json"), "--repo-tag", "other:2"]
    done = stream_image("sbom", str(conf), *words)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"does not know the references of 2 of 2 store paths\n" in done.stderr
    renamed = replace(stream.load_conf(conf), repo_tag="other:2")
    assert (tmp_path / "sbom.json").read_bytes() == make_sbom(renamed, "cyclonedx")


def test_one_of_several_platforms(
    spec: dict[str, Any], capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    """Which of the images an SBOM is about must not be left to chance."""
    several = spec | {"platforms": [{"architecture": "amd64"}, {"architecture": "arm64"}]}
    (tmp_path / "spec.json").write_text(json.dumps(several))

    def run(*words: str) -> tuple[int, bytes, bytes]:
        status = main(["sbom", str(tmp_path / "spec.json"), *words])
        return status, *capfdbinary.readouterr()

    arm, _ = planned(spec, architecture="arm64")
    assert run("--arch", "arm64") == (0, make_sbom(arm), b"")
    status, printed, said = run()
    assert (status, printed) == (2, b"")
    assert (
        b"spec.json: has several images (linux/amd64, linux/arm64); choose one with --arch and --variant\n"
        in said
    )
    status, printed, said = run("--arch", "s390x")
    assert (status, printed) == (2, b"")
    assert b"has no image for linux/s390x (it has: linux/amd64, linux/arm64)\n" in said


# ---- verify


def archive_of(conf: ImageConf, path: Path) -> str:
    """Write the image of a conf, and return the path of the archive."""
    with (path / "image.tar").open("wb") as file:
        stream.write_image(conf, file)
    return str(path / "image.tar")


@pytest.mark.parametrize("sbom_format", FORMATS)
def test_an_sbom_of_the_archive(spec: dict[str, Any], tmp_path: Path, sbom_format: Format) -> None:
    """An image whose SBOM is right would be refused, in each way to lay it out."""
    laid_out: tuple[dict[str, Any], ...] = (
        {},
        {"layering": "single"},
        {"copyToRoot": [f"{spec['store_dir']}/{DATA}"]},
        {"references_graph": None},
    )
    for more in laid_out:
        whole, alone = planned(spec, **more)
        archive = archive_of(alone, tmp_path)
        for conf in (whole, alone):
            sbom = make_sbom(conf, sbom_format)
            assert not verify(archive, sboms=[sbom]).faults
            assert not verify(archive, whole, sboms=[sbom]).faults


@pytest.mark.parametrize("sbom_format", FORMATS)
def test_an_sbom_of_something_else(
    spec: dict[str, Any], tmp_path: Path, sbom_format: Format
) -> None:
    """An SBOM that hides a package, or a change of one, would be taken for that of the image."""
    store = spec["store_dir"]
    tool, library, data = (f"{store}/{name}" for name in (TOOL, LIBRARY, DATA))
    whole, _ = planned(spec)
    archive = archive_of(whole, tmp_path)

    def said(conf: ImageConf, *, closure: bool = True) -> list[str]:
        found = verify(archive, whole if closure else None, sboms=[make_sbom(conf, sbom_format)])
        assert {finding.rule for finding in found.findings if finding.fault} <= {"sbom-mismatch"}
        return [finding.message for finding in found.faults]

    less, _ = planned(spec, unshipped=[library])
    missing = [f"the SBOM does not say that {tool} refers to {library}"]
    missing = missing if sbom_format == "cyclonedx" else []  # SPDX says that it is not all
    assert said(less) == [
        f"the SBOM does not list {library}, which is in the closure",
        *missing,
    ]
    more, _ = planned(spec, contents=[tool, data])
    assert said(more, closure=False) == [f"the SBOM lists {data}, which is not in the image"]
    hashes = {**whole.store_path_hashes, tool.encode(): f"sha256:{9:064x}"}
    (message,) = said(replace(whole, store_path_hashes=hashes))
    assert message.startswith(f"the SBOM says that the NAR of {tool} has the hash sha256:{9:064x};")
    none = {path: frozenset[bytes]() for path in whole.store_paths}
    assert said(replace(whole, references=none)) == [
        f"the SBOM does not say that {tool} refers to {library}"
    ]
    both = {path: whole.store_paths - {path} for path in whole.store_paths}
    assert said(replace(whole, references=both)) == [
        f"the SBOM says that {library} refers to {tool}; it does not"
    ]


def test_an_sbom_that_admits_not_to_know(spec: dict[str, Any], tmp_path: Path) -> None:
    """A base image with a store of its own would be a fault of each image on top of it."""
    base = Base(layers=[handmade.layer_tar({f"nix/store/{DATA}": b"#"})])
    (tmp_path / "base.tar").write_bytes(base.docker_archive())
    whole, _ = planned(spec, fromImage=str(tmp_path / "base.tar"))
    archive = archive_of(whole, tmp_path)
    for sbom_format in FORMATS:
        assert not verify(archive, sboms=[make_sbom(whole, sbom_format)]).faults
    without, _ = planned(spec)
    (fault,) = verify(archive, sboms=[make_sbom(without)]).faults
    assert fault.message == f"the SBOM does not list /nix/store/{DATA}, which is in the image"


def test_what_is_not_an_sbom(spec: dict[str, Any], tmp_path: Path) -> None:
    """It would be the SBOM of every image."""
    archive = archive_of(planned(spec)[0], tmp_path)
    (fault,) = verify(archive, sboms=[b"{}"]).faults
    assert (fault.rule, fault.message) == (
        "sbom-mismatch",
        "the SBOM is neither SPDX 2 nor CycloneDX in JSON",
    )
    with pytest.raises(ArgumentError):
        verify(archive, sboms=["sbom.json"])  # type: ignore[list-item]


def test_what_verify_says(
    spec: dict[str, Any], capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    """Without it a mistyped option could pass for a check that was made."""
    whole, _ = planned(spec)
    archive, path = archive_of(whole, tmp_path), tmp_path / "sbom.json"
    path.write_bytes(make_sbom(whole))
    assert main(["verify", archive, "--sbom", str(path)]) == 0
    assert f"{archive}: sound, as {path} says: ".encode() in capfdbinary.readouterr().out
    path.write_bytes(make_sbom(planned(spec, contents=[f"{spec['store_dir']}/{DATA}"])[0]))
    assert main(["verify", archive, "--sbom", str(path)]) == 1
    said = capfdbinary.readouterr().out.decode()
    assert f"the SBOM lists {spec['store_dir']}/{DATA}, which is not in the image" in said


def test_the_file_of_an_sbom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, or is a disk image, would end in a traceback or take all memory."""
    path = tmp_path / "sbom.json"
    with pytest.raises(SourceError, match=r"sbom.json: no such file"):
        load_sbom(str(path))
    path.write_bytes(b"0123456789")
    assert load_sbom(str(path)) == b"0123456789"
    monkeypatch.setattr("stream.tools.sbom.MAX_SBOM", 9)
    with pytest.raises(SourceError, match="too large for an SBOM"):
        load_sbom(str(path))


# ---- in a registry


def test_beside_an_image_in_a_registry(
    spec: dict[str, Any], tmp_path: Path, stream_image: Command
) -> None:
    """Who has only the reference of an image could not tell what is in it."""
    whole, alone = planned(spec)
    archive = archive_of(whole, tmp_path)
    with distribution.running(tokens=True) as registry:
        login = tmp_path / "login.json"
        login.write_text(json.dumps(registry.credentials()))
        name = f"{registry.address}/app:v1"
        access = Access(authfile=str(login))
        pushed = stream.push(whole, name, sbom="spdx", access=access)
        alone = replace(alone, container_config={"Env": ["A=1"]}, references=None)
        stream.push(alone, f"{registry.address}/alone:v1", sbom="cyclonedx", access=access)
        found = look_around(f"{registry.address}/alone:v1")
        shown = render(inspect_verb._registry_parts(found))
        assert "Env  A=1" in shown
        assert "  does not know the references of 2 of 2 store paths" in shown
        asked = len(registry.requests)
        done = stream_image("inspect", "--json", f"docker://{name}")
        assert (done.returncode, done.stderr) == (0, b"")
        document = json.loads(done.stdout)
        (image,) = document["images"]
        assert (document["kind"], image["digest"]) == ("registry", pushed.digest)
        assert image["image_id"] == pushed.image.image_id
        assert [one["diff_id"] for one in image["layers"]] == [
            layer.diff_id for layer in pushed.image.layers
        ]
        assert [one["compression"] for one in image["layers"]] == ["gzip"] * len(image["layers"])
        paths = {path for one in image["layers"] for path in one["store_paths"]}
        assert paths == {path.decode() for path in whole.store_paths}
        (sbom,) = image["sboms"]
        assert sbom == {
            "digest": pushed.sboms[0].digest,
            "format": "spdx",
            "store_paths": 2,
            "unknown": [],
        }
        fetched = [one.path for one in registry.requests[asked:] if "/blobs/" in one.path]
        assert len(fetched) == 2  # the config and the SBOM: no layer
        shown = render(inspect_verb._registry_parts(look_around(name)))
        assert "SBOM: spdx, 2 store paths" in shown
        assert "tool-2.1" in shown
        (attached,) = look_around(name).sboms
        assert attached.data == make_sbom(whole)
        (tmp_path / "sbom.json").write_bytes(attached.data)
        other, _ = planned(spec, unshipped=[f"{spec['store_dir']}/{LIBRARY}"])
        stream.push(other, f"{registry.address}/app:v2", access=access)
        shown = render(inspect_verb._registry_parts(look_around(f"{registry.address}/app:v2")))
        assert "no SBOM in the registry" in shown
        done = stream_image("verify", archive, "--sbom", f"docker://{registry.address}/app:v2")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"app:v2: has no SBOM; push it with --sbom\n" in done.stderr


def test_what_archives_carry(spec: dict[str, Any], tmp_path: Path) -> None:
    """Nothing shown would leave open if it was looked for."""
    inspection = stream.inspect(archive_of(planned(spec)[0], tmp_path))
    assert "no SBOM: archives carry none" in render(inspect_verb._parts(inspection))
    inspection = stream.inspect(planned(spec)[0])
    assert "SBOM" not in render(inspect_verb._parts(inspection))


def test_each_tag_of_a_specification_has_the_same_sbom(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    """An image would get another SBOM with each tag, and none would be that of `sbom`."""
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    with distribution.running() as registry:
        for tag in ("one", "two"):
            name = f"{registry.address}/team/app:{tag}"
            assert main(["push", str(path), name, "--sbom", "spdx", "-q"]) == 0
        (attached,) = look_around(name).sboms
    assert attached.data == make_sbom(planned(spec)[0])


def test_a_variant_in_a_registry(spec: dict[str, Any]) -> None:
    """Images of two variants would look like one for the same machines."""
    conf, _ = planned(spec, architecture="arm", variant="v7")
    with distribution.running() as registry:
        name = f"{registry.address}/app:v1"
        stream.push(conf, name)
        shown = render(inspect_verb._registry_parts(look_around(name, Platform.of_conf(conf))))
    assert "linux/arm/v7, created" in shown


def test_hostile_neighbours(spec: dict[str, Any]) -> None:
    """What anybody may attach would end in a traceback, or hide the other SBOMs."""
    whole, _ = planned(spec)
    with distribution.running(referrers=True) as registry:
        name = f"{registry.address}/app:v1"
        pushed = stream.push(whole, name, sbom="cyclonedx")
        there = registry.repository("app")
        subject = {"mediaType": "a", "digest": pushed.digest, "size": 1}
        empty = {"mediaType": "a", "digest": distribution.digest_of(b"{}"), "size": 2}
        wrong: list[dict[str, Any]] = [
            {"artifactType": "application/spdx+json"},
            {"artifactType": "application/spdx+json", "layers": [{"mediaType": "x"}, 1]},
            {
                "artifactType": "application/spdx+json",
                "layers": [{**empty, "mediaType": "application/spdx+json"}],
            },
            {"artifactType": "a/signature", "layers": []},
        ]
        for one in wrong:
            data = json.dumps({**one, "subject": subject, "config": empty}).encode()
            there.manifests[distribution.digest_of(data)] = ("a/b", data)
        found = look_around(name)
        assert [one.listed.format for one in found.sboms] == ["cyclonedx"]
        assert found.others == ("a/signature",)
        shown = render(inspect_verb._registry_parts(found))
        assert "artifact: a/signature" in shown
        assert sorted(text.partition(": ")[2] for text in found.unread) == [
            "is neither SPDX 2 nor CycloneDX in JSON",
            "is not there",
            "is not there",
        ]
        with pytest.raises(RegistryError, match="has no image for linux/s390x"):
            look_around(f"{registry.address}/other", Platform(os="linux", architecture="s390x"))
    with pytest.raises(ArgumentError, match="reference"):
        look_around("No Name")
