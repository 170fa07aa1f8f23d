"""`stream-image sbom`: of a specification, of its conf alone, on a base image."""

import json
from pathlib import Path
from typing import Any

import handmade
import pytest
from conftest import Run as Command
from handmade import Base

import stream
from stream.errors import ArgumentError
from stream.model import ImageConf
from stream.planning.plan import plan
from stream.planning.spec import parse_spec
from stream.sbom.documents import read_sbom
from stream.tools.sbom import make_sbom

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
    unshipped, _ = planned(spec, unshipped=[f"{spec['store_dir']}/{LIBRARY}"])
    assert list(read_sbom(make_sbom(unshipped)).hashes) == [f"{spec['store_dir']}/{TOOL}"]


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
    whole, alone = planned(spec)
    assert done.stdout == make_sbom(whole)
    conf = str(tmp_path / "conf.json")
    assert stream_image("plan", str(tmp_path / "spec.json"), "-o", conf).returncode == 0
    words = ["--format", "cyclonedx", "-o", str(tmp_path / "sbom.json")]
    done = stream_image("sbom", conf, *words)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"does not know the references of 2 of 2 store paths\n" in done.stderr
    assert (tmp_path / "sbom.json").read_bytes() == make_sbom(alone, "cyclonedx")
    renamed = stream_image("sbom", conf, "--repo-tag", "other:2")
    assert read_sbom(renamed.stdout).name == "other"
