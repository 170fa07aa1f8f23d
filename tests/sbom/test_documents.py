"""SBOMs, checked by the schemas of their formats and by the reader of a scanner."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import lib4sbom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lib4sbom.parser import SBOMParser
from packageurl import PackageURL

from stream.model import (
    CustomisationLayer,
    Digest,
    ImageConf,
    LayerPlan,
    NixDatabase,
    Owner,
    Recipe,
    StoreObject,
)
from stream.sbom import FORMATS, Format
from stream.sbom.documents import read_sbom, write_sbom
from stream.sbom.inventory import BaseImage, take_inventory
from stream.sbom.listing import Malformed

_SCHEMAS = Path(os.path.dirname(lib4sbom.__file__)) / "schemas"
SCHEMAS = {"spdx": "spdx/2.3-schema.json", "cyclonedx": "cyclonedx/bom-1.5.schema.json"}
GLIBC, BASH, HELLO, ODD = (
    f"/nix/store/{digit * 32}-{name}".encode()
    for digit, name in zip(
        "0123", ("glibc-2.38", "bash-5.2p26-man", "hello-2.12.1", "a+b=c?d_1"), strict=True
    )
)
REFERENCES = {
    GLIBC: frozenset({GLIBC}),
    BASH: frozenset({GLIBC}),
    HELLO: frozenset({GLIBC, BASH}),
    ODD: frozenset[bytes](),
}
HASHES = {path: f"sha256:{number:064x}" for number, path in enumerate(REFERENCES)}
BASE = BaseImage(name="debian:12", image_id=Digest(f"sha256:{'a' * 64}"))


def make_conf(**more: Any) -> ImageConf:
    """Return a conf with two store layers."""
    usual: dict[str, Any] = {
        "architecture": "arm64",
        "variant": "v8",
        "container_config": {},
        "store_dir": b"/nix/store",
        "store_layers": (
            LayerPlan(store_paths=(HELLO, GLIBC)),
            LayerPlan(store_paths=(ODD, BASH)),
        ),
        "customisation_layer": None,
        "repo_tag": "registry.example:5000/team/app:v1",
        "created": datetime(2024, 2, 1, 10, 0, 0, 999, UTC),
        "mtime": 1,
        "customisation_mtime": 1,
        "owner": Owner(),
        "store_path_hashes": HASHES,
        "references": REFERENCES,
    }
    return ImageConf(**usual | more)


def document_of(conf: ImageConf, sbom_format: Format, base: BaseImage | None = None) -> Any:
    """Return the SBOM of a conf, which its format's schema accepts."""
    document = json.loads(write_sbom(take_inventory(conf, base), sbom_format))
    check(document, sbom_format)
    return document


def check(document: Any, sbom_format: Format) -> None:
    """Check a document by the schema of its format. That of CycloneDX has parts in other files."""
    schema = json.loads((_SCHEMAS / SCHEMAS[sbom_format]).read_bytes())
    if sbom_format == "cyclonedx":
        schema["definitions"]["signature"] = True  # these documents have neither
        schema["definitions"]["license"] = True
        assert not any("signature" in one or "licenses" in one for one in document["components"])
    jsonschema.Draft7Validator(schema).validate(document)


def written(conf: ImageConf, path: Path, sbom_format: Format) -> SBOMParser:
    """Return the SBOM of a conf as a scanner reads it."""
    file = path / f"sbom.{sbom_format}.json"
    file.write_bytes(write_sbom(take_inventory(conf, BASE), sbom_format))
    parser = SBOMParser()
    parser.parse_file(str(file))
    return parser


@pytest.mark.parametrize("sbom_format", FORMATS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"references": None, "store_path_hashes": {}},
        {"repo_tag": None, "store_layers": (), "references": {}},
        {"customisation_layer": Recipe(extra_commands="true", copy_to_root=(b"/home/app",))},
    ],
)
def test_schemas(sbom_format: Format, more: dict[str, Any]) -> None:
    """A document that its format does not allow is refused by those who have to read it."""
    document_of(make_conf(**more), sbom_format)
    document_of(make_conf(**more), sbom_format, BASE)


def test_schemas_refuse_others() -> None:
    """Without it the check of the schemas could be one that accepts everything."""
    document = document_of(make_conf(), "cyclonedx")
    document["compositions"][0]["aggregate"] = "perhaps"
    with pytest.raises(jsonschema.ValidationError):
        check(document, "cyclonedx")
    document = document_of(make_conf(), "spdx")
    document["relationships"][0]["relationshipType"] = "LIKES"
    with pytest.raises(jsonschema.ValidationError):
        check(document, "spdx")


# The reader leaves files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("sbom_format", FORMATS)
def test_a_scanner_finds_the_packages(tmp_path: Path, sbom_format: Format) -> None:
    """Names and versions are all that a scanner looks up in its database of vulnerabilities."""
    parser = written(make_conf(), tmp_path, sbom_format)
    found = {(one["name"], one.get("version")) for one in parser.get_packages()}
    packages = {("glibc", "2.38"), ("bash", "5.2p26"), ("hello", "2.12.1"), ("a+b=c?d_1", None)}
    assert found - {("registry.example:5000/team/app", "v1")} == packages | {
        ("debian:12", BASE.image_id)
    }
    kinds = {"DEPENDS_ON", "DEPENDENCY_OF"}
    related = {
        (one["source"], one["target"])
        for one in parser.get_relationships()
        if one["type"].replace(" ", "_").upper() in kinds
    }
    assert {("bash", "glibc"), ("hello", "bash"), ("hello", "glibc")} <= related


def test_package_urls() -> None:
    """A name with characters of its own would be another package's, or none's."""
    purls = [
        PackageURL.from_string(one.purl or "") for one in take_inventory(make_conf()).components
    ]
    assert [(one.type, one.namespace, one.name, one.version) for one in purls] == [
        ("nix", None, "glibc", "2.38"),
        ("nix", None, "bash", "5.2p26"),
        ("nix", None, "hello", "2.12.1"),
        ("nix", None, "a+b=c?d_1", None),
    ]
    assert purls[1].qualifiers == {"output": "man", "outputhash": "1" * 32}
    assert [one.to_string() for one in purls] == [
        one.purl for one in take_inventory(make_conf()).components
    ]
    by_hand = make_conf(store_layers=(LayerPlan(store_paths=(b"/store/tool-1",)),), references=None)
    assert [one.purl for one in take_inventory(by_hand).components] == [None]


# ---- what is not known


def test_what_a_conf_alone_does_not_know() -> None:
    """Silence would be read as: these packages need no others."""
    conf = make_conf(references=None, store_path_hashes={GLIBC: HASHES[GLIBC]})
    assert take_inventory(conf).gaps == (
        "the references of 4 of 4 store paths",
        "the hashes of 3 of 4 store paths",
    )
    spdx = document_of(conf, "spdx")
    depends = [
        one["relatedSpdxElement"]
        for one in spdx["relationships"]
        if one["relationshipType"] == "DEPENDS_ON"
    ]
    assert depends == ["NOASSERTION"] * 4
    cyclonedx = document_of(conf, "cyclonedx")
    (unknown,) = (
        one["dependencies"] for one in cyclonedx["compositions"] if one["aggregate"] == "unknown"
    )
    paths = sorted(path.decode() for path in REFERENCES)
    assert unknown == paths
    assert [one["ref"] for one in cyclonedx["dependencies"]] == ["image"]
    assert [one["aggregate"] for one in cyclonedx["compositions"]] == ["complete", "unknown"]


def test_what_is_known_of_a_plan() -> None:
    """Without it a complete document would look as if something might be missing."""
    assert take_inventory(make_conf()).gaps == ()
    spdx = document_of(make_conf(), "spdx")
    assert "comment" not in spdx
    none = [one for one in spdx["relationships"] if one["relatedSpdxElement"] == "NONE"]
    assert len(none) == 2  # glibc refers to itself alone
    assert "NOASSERTION" not in {one["relatedSpdxElement"] for one in spdx["relationships"]}
    cyclonedx = document_of(make_conf(), "cyclonedx")
    assert {one["aggregate"] for one in cyclonedx["compositions"]} == {"complete"}


def test_a_base_image_is_unknown_inside() -> None:
    """A scanner would pass an image whose base has holes."""
    assert take_inventory(make_conf(), BASE).gaps == ("the content of the base image debian:12",)
    spdx = document_of(make_conf(), "spdx", BASE)
    held = [one for one in spdx["relationships"] if one["spdxElementId"] == "SPDXRef-BaseImage"]
    assert [(one["relationshipType"], one["relatedSpdxElement"]) for one in held] == [
        ("CONTAINS", "NOASSERTION")
    ]
    cyclonedx = document_of(make_conf(), "cyclonedx", BASE)
    assert {
        "aggregate": "unknown",
        "assemblies": ["base-image"],
        "dependencies": ["base-image"],
    } in cyclonedx["compositions"]


@pytest.mark.parametrize(
    "layer",
    [
        Recipe(run_as_root="apt-get install curl"),
        Recipe(copy_to_root=(b"/home/app",)),
        CustomisationLayer(path="/nix/store/x", checksum=Digest(f"sha256:{'0' * 64}"), size=1),
    ],
)
def test_what_the_customisation_layer_adds(layer: Any) -> None:
    """Programs that commands install are in no list."""
    conf = make_conf(customisation_layer=layer)
    assert len(take_inventory(conf).unlisted) == 1
    contained = [
        one["relatedSpdxElement"]
        for one in document_of(conf, "spdx")["relationships"]
        if (one["spdxElementId"], one["relationshipType"]) == ("SPDXRef-Image", "CONTAINS")
    ]
    assert contained[-1] == "NOASSERTION"
    assert document_of(conf, "cyclonedx")["compositions"][0]["aggregate"] == "unknown"


def test_copied_store_paths_are_in_the_image() -> None:
    """Their files are, under other names: a scanner has to hear of them."""
    copied = f"/nix/store/{'4' * 32}-static-1".encode()
    conf = make_conf(customisation_layer=Recipe(copy_to_root=(copied + b"/share",)))
    inventory = take_inventory(conf)
    assert copied.decode() in [one.path for one in inventory.components]
    assert inventory.unknown == (
        "the references of 1 of 5 store paths",
        "the hashes of 1 of 5 store paths",
    )


def test_a_nix_database_has_references() -> None:
    """A conf that has them would be said not to."""
    objects = tuple(
        StoreObject(
            path=path.decode(),
            nar_hash=HASHES[path],
            nar_size=1,
            references=tuple(one.decode() for one in sorted(REFERENCES[path])),
        )
        for path in sorted(REFERENCES)
    )
    recipe = Recipe(database=NixDatabase(objects=objects, roots=()))
    conf = make_conf(references=None, store_path_hashes={}, customisation_layer=recipe)
    assert take_inventory(conf) == take_inventory(make_conf())


# ---- bytes


def test_bytes_depend_on_the_image_alone() -> None:
    """Two machines that attach an SBOM to the same image would attach two."""
    shuffled = make_conf(
        store_layers=(LayerPlan(store_paths=tuple(REFERENCES)),),
        references=dict(reversed(REFERENCES.items())),
    )
    for sbom_format in FORMATS:
        data = write_sbom(take_inventory(make_conf(), BASE), sbom_format)
        assert write_sbom(take_inventory(shuffled, BASE), sbom_format) == data
        other = write_sbom(take_inventory(make_conf(), None), sbom_format)
        identity = {"spdx": "documentNamespace", "cyclonedx": "serialNumber"}[sbom_format]
        assert json.loads(other)[identity] != json.loads(data)[identity]


def test_identifiers_of_spdx_are_distinct() -> None:
    """SPDX allows fewer characters than Nix: two paths would become one package."""
    paths = tuple(f"/store/a{char}b".encode() for char in "+_?-")
    conf = make_conf(store_layers=(LayerPlan(store_paths=paths),), references=None)
    ids = [one["SPDXID"] for one in document_of(conf, "spdx")["packages"]]
    assert len(set(ids)) == len(ids) == 5


# ---- reading back


@pytest.mark.parametrize("sbom_format", FORMATS)
@pytest.mark.parametrize("more", [{}, {"references": None, "store_path_hashes": {}}])
def test_what_is_read_is_what_was_written(sbom_format: Format, more: dict[str, Any]) -> None:
    """Verify would compare with something else."""
    conf = make_conf(**more)
    inventory = take_inventory(conf, BASE)
    listed = read_sbom(write_sbom(inventory, sbom_format))
    assert (listed.format, listed.name, listed.version) == (sbom_format, inventory.name, "v1")
    assert listed.hashes == {one.path: one.nar_hash for one in inventory.components}
    assert listed.references == {
        one.path: frozenset(one.references)
        for one in inventory.components
        if one.references is not None
    }
    assert listed.gaps == inventory.gaps


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff", "is not JSON"),
        (b"layer.tar\0\xff", "is not JSON: it is binary"),
        (b"[]", "is neither SPDX 2 nor CycloneDX"),
        (b'{"spdxVersion": "SPDX-3.0"}', "is neither SPDX 2 nor CycloneDX"),
        (
            b'{"spdxVersion": "SPDX-2.3", "packages": [{"packageFileName": "/a"}, {"packageFileName": "/a"}]}',
            "lists /a twice",
        ),
    ],
)
def test_what_is_not_an_sbom(data: bytes, said: str) -> None:
    """What another machine attached would end in a traceback."""
    with pytest.raises(Malformed, match=said):
        read_sbom(data)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
_PLACES = (
    "packages",
    "relationships",
    "components",
    "dependencies",
    "metadata",
    "comment",
    "hashes",
)


@settings(max_examples=40)
@given(st.sampled_from(FORMATS), st.dictionaries(st.sampled_from(_PLACES), _VALUES, max_size=4))
def test_hostile_documents(sbom_format: Format, members: dict[str, Any]) -> None:
    """What another machine attached would end in a traceback."""
    head = {"spdx": {"spdxVersion": "SPDX-2.3"}, "cyclonedx": {"bomFormat": "CycloneDX"}}
    assert read_sbom(json.dumps(head[sbom_format] | members).encode()).format == sbom_format
