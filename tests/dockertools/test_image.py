"""`buildImage`: one new layer, on a base image or none."""

import io
import json
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from handmade import Base, layer_tar, link, tar_of
from support import COMMAND, unpack

from .harness import Functions, Image, NixError

pytestmark = [pytest.mark.consumers]

CONTENTS = """
    let
      library = pkgs.writeText "library" "text";
      hello = pkgs.runCommand "hello" { } ''
        mkdir -p $out/bin $out/share
        echo ${library} > $out/bin/hello
        chmod +x $out/bin/hello
        ln -s share $out/doc
      '';
      other = pkgs.runCommand "other" { } ''
        mkdir -p $out/bin $out/doc
        echo other > $out/bin/hello
        echo doc > $out/doc/other
      '';
    in
"""


def named(image: Image, layer: int = -1) -> list[str]:
    """Return the names in a layer in order, as they are in its tar, without hashes."""
    with tarfile.open(fileobj=io.BytesIO(image.layers[layer])) as tar:
        return [without_hash(member.name) for member in tar]


def without_hash(name: str) -> str:
    """Return a path in the image without the hash of a store path in it."""
    before, store, rest = name.partition("nix/store/")
    return before + store + rest[33:] if rest else name


def test_attributes(evaluated: Functions) -> None:
    """Users read these to push an image, or to build on its layer, before anything is built."""
    found = evaluated.evaluate("""
      let
        image = buildImage { name = "Registry.example/A"; };
        named = image.override { tag = "X"; compressor = "none"; };
        byFunction = named.override (old: { name = "${old.name}/b"; compressor = "zstd"; });
      in {
        inherit (image) imageName imageTag buildArgs;
        hash = lib.hasPrefix "${builtins.storeDir}/${image.imageTag}-docker-image-A.tar.gz" image.outPath;
        names = map (each: "${each.name} ${each.imageName}:${each.imageTag}") [ named byFunction ];
        layer = image.layer.name;
        database = (buildImageWithNixDb { name = "A"; }).buildArgs.includeNixDB;
        arguments = builtins.attrNames (lib.functionArgs buildImage);
      }
    """)
    assert found == {
        "imageName": "registry.example/a",
        "imageTag": found["imageTag"],
        "buildArgs": {"name": "Registry.example/A"},
        "hash": True,
        "names": [
            "docker-image-A.tar registry.example/a:X",
            "docker-image-b.tar.zst registry.example/a/b:X",
        ],
        "layer": "docker-layer-A",
        "database": True,
        "arguments": [
            "architecture",
            "buildVMMemorySize",
            "compressor",
            "config",
            "contents",
            "copyToRoot",
            "created",
            "diskSize",
            "extraCommands",
            "fromImage",
            "fromImageName",
            "fromImageTag",
            "gid",
            "includeNixDB",
            "keepContentsDirlinks",
            "name",
            "runAsRoot",
            "tag",
            "uid",
        ],
    }


def test_contents_is_deprecated(evaluated: Functions) -> None:
    """Old expressions go on working, and their users learn what to write."""
    image = 'buildImage {{ name = "old"; contents = {}; {} }}'
    warning = evaluated.warnings(f"({image.format('[ ]', '')}).outPath")
    assert "in docker image old: The contents parameter is deprecated" in warning
    new = evaluated.warnings('(buildImage { name = "old"; copyToRoot = [ ]; }).outPath')
    assert "deprecated" not in new
    with pytest.raises(NixError, match="You can not specify both contents and copyToRoot"):
        evaluated.evaluate(f"({image.format('[ ]', 'copyToRoot = [ ];')}).outPath")
    with pytest.raises(NixError, match=r"compressor must be one of: \[gz none zstd\]"):
        evaluated.evaluate('(buildImage { name = "x"; compressor = "xz"; }).outPath')


def test_layer(functions: Functions, tmp_path: Path) -> None:
    """The one layer has what dockerTools puts there, in that order, and equals that of the command
    line.
    """
    image = functions.image(f"""{CONTENTS} buildImage {{
      name = "Hello";
      tag = "1";
      copyToRoot = [ hello other ];
      extraCommands = "echo hello > data";
      config.Cmd = [ "${{library}}" ];
      uid = 5;
      gid = "6";
      compressor = "none";
    }}""")
    assert named(image) == [
        ".", "./bin", "./bin/hello", "./data", "./doc", "./doc/other", "./share",
        "./nix", "./nix/store", "nix/store/library",
    ]  # fmt: skip
    assert image.content("./bin/hello") == b"other\n"
    members = image.members()
    assert {(member.uid, member.gid) for name, member in members.items() if "nix" not in name} == {
        (5, 6)
    }
    assert {(member.uid, member.gid) for name, member in members.items() if "nix" in name} == {
        (0, 0)
    }
    assert {members[name].mode for name in ("nix", "nix/store")} == {0o555}
    assert {member.mtime for member in members.values()} == {315532800}
    assert image.tags == ["hello:1"]
    hello, other, library = (
        str(functions.build(f"{CONTENTS} {name}")).removeprefix(str(functions.nix.root))
        for name in ("hello", "other", "library")
    )
    spec: dict[str, Any] = {
        "name": "Hello",
        "tag": "1",
        "copyToRoot": [hello, other],
        "conflicts": "last",
        "extraCommands": "echo hello > data",
        "config": {"Cmd": [library]},
        "owner": {"uid": 5, "gid": 6},
        "customisation_mtime": "@315532800",
        "layering": "single",
        "store_root": str(functions.nix.root),
    }
    assert streamed(spec, tmp_path).image_id == image.image_id


def streamed(spec: dict[str, Any], directory: Path) -> Image:
    """Return the image of a specification, made by the command line."""
    conf = directory / "conf.json"
    plan = [*COMMAND, "plan", "-", "-o", str(conf)]
    subprocess.run(plan, check=True, input=json.dumps(spec).encode())
    return Image.read(subprocess.run([*COMMAND, conf], check=True, stdout=subprocess.PIPE).stdout)


def test_links_to_directories(functions: Functions) -> None:
    """With keepContentsDirlinks, a content keeps the link and a later one is merged into its
    target.
    """
    image = f"""{CONTENTS} buildImage {{
      name = "links"; copyToRoot = [ hello other ]; compressor = "none"; keepContentsDirlinks = true;
    }}"""
    members = functions.image(image).members()
    assert members["doc"].issym()
    assert members["share/other"].isfile()


def test_contents_in_a_store_path(functions: Functions) -> None:
    """A content can be one directory of a package."""
    image = functions.image(f"""{CONTENTS} buildImageWithNixDb {{
      name = "in"; copyToRoot = "${{hello}}/bin"; compressor = "none";
    }}""")
    assert "hello" in {name.removeprefix("./") for name in image.members()}


def base_image(functions: Functions, archive: bytes, name: str) -> str:
    """Put an archive into the store; return an expression for it."""
    path = functions.nix.root / name
    path.write_bytes(archive)
    return f'(builtins.path {{ path = {path}; name = "{name}"; }})'


def test_chooses_the_base(functions: Functions) -> None:
    """The image that fromImageName and fromImageTag choose is built on, as documented, and its
    variables come before the new ones, which win.
    """
    archives = []
    for number in (1, 2):
        config = {"Env": [f"A={number}", "B=base"], "Cmd": ["/x"]}
        base = Base(layers=[layer_tar({f"f{number}": b""})], config=config, tags=[f"b:{number}"])
        archives.append(base)
    members, items = [], []
    for number, base in enumerate(archives):
        found, item = base.docker_members(names=[f"{number}/layer.tar"])
        members += found
        items.append(item)
    archive = tar_of([*members, ("manifest.json", json.dumps(items).encode())])
    image = functions.image(f"""buildImage {{
      name = "top";
      fromImage = {base_image(functions, archive, "two.tar")};
      fromImageName = null;
      fromImageTag = "2";
      config.Env = [ "B=ours" ];
    }}""")
    assert [named(image, layer) for layer in (0, 1)] == [["f2"], ["."]]
    assert image.config["config"] == {"Env": ["A=2", "B=ours"]}
    assert len(image.config["history"]) == 2


def test_chain(functions: Functions) -> None:
    """Images build on each other: nothing is shipped twice, layers stay as they are, and a base with
    130 layers, of which some are links to one file or occur twice, is read.
    """
    layer = layer_tar({"first": b"1"})
    more = [layer_tar({f"f{number}": b""}) for number in range(128)]
    base = Base(layers=[layer, layer, *more])
    names = [f"{number}/layer.tar" for number in range(130)]
    members, item = base.docker_members(names=names)
    members[1] = (names[1], link("../0/layer.tar"))
    archive = tar_of([*members, ("manifest.json", json.dumps([item]).encode())])
    chain = f"""
      base = {base_image(functions, archive, "links.tar")};
      first = streamLayeredImage {{
        name = "first"; fromImage = base; contents = hello; maxLayers = 150;
      }};
      second = buildImage {{
        name = "second"; fromImage = first; copyToRoot = other; config.Cmd = [ "${{library}}" ];
      }};
      third = buildImage {{
        name = "third"; fromImage = second; runAsRoot = "rm /first; cat /bin/hello > /third";
      }};
      fourth = buildLayeredImage {{
        name = "fourth"; fromImage = third; contents = other; maxLayers = 150;
      }};
      merged = mergeImages [ first third fourth ];
      exported = exportImage {{ fromImage = merged; fromImageName = "third"; }};
    in"""
    start = CONTENTS.rstrip().removesuffix("in")
    images = [
        functions.image(f"{start}{chain} {name}") for name in ("first", "second", "third", "fourth")
    ]
    for lower, upper in pairwise(images):
        assert upper.layers[: len(lower.layers)] == lower.layers
    assert images[0].layers[:2] == [layer, layer]
    # /doc is a link in the base: what is copied there goes to its target.
    assert named(images[1]) == [".", "./bin", "./bin/hello", "./share", "./share/other"]
    assert named(images[2]) == [".", "./.wh.first", "./third"]
    assert images[2].content("./third") == b"other\n"
    with tarfile.open(functions.build(f"{start}{chain} merged")) as tar:
        repositories = tar.extractfile("repositories")
        assert repositories is not None
        assert {*json.load(repositories)} == {"first", "third", "fourth"}
        assert sum(name.endswith("/layer.tar") for name in tar.getnames()) >= 135
    with tarfile.open(functions.build(f"{start}{chain} exported")) as tar:
        found = {member.name.removeprefix("./") for member in tar}
        assert "first" not in found
        assert found >= {"third", "f0", "f127", "bin/hello", "share/other"}


def test_database(functions: Functions, tmp_path: Path) -> None:
    """Nix in the container knows the store paths that were copied, and the image holds them unchanged."""
    image = functions.image(
        f'{CONTENTS} buildImageWithNixDb {{ name = "db"; copyToRoot = hello; compressor = "none"; }}'
    )
    names = [without_hash(name) for name in image.members()]
    assert {"nix/var/nix/db/db.sqlite", "nix/store/hello/bin/hello", "nix/store/library"} <= {
        *names
    }
    assert [name for name in names if "gcroots/docker/" in name]
    root = tmp_path / "root"
    with tarfile.open(fileobj=io.BytesIO(image.layers[0])) as tar:
        unpack(tar, root)
    functions.nix.run("--verify", "--check-contents", store=str(root))
    (hello,) = (root / "nix" / "store").glob("*-hello")
    path = f"/{hello.relative_to(root)}"
    needed = functions.nix.run("--query", "--requisites", path, store=str(root)).split()
    assert [without_hash(name[1:]) for name in needed] == ["nix/store/library", "nix/store/hello"]


def test_failing_commands(functions: Functions) -> None:
    """A command that fails leaves no image, and its line is shown."""
    with pytest.raises(NixError, match="status 3"):
        functions.build('buildImage { name = "fails"; extraCommands = "(exit 3)\\ntrue"; }')


BASE = layer_tar({"etc/base": b"base", "etc/gone": b"gone", "bin/sh": b"#!"})


def test_run_as_root(functions: Functions) -> None:
    """Commands see the image as their root directory, and own files as root does, inside of Nix's
    sandbox.
    """
    base = base_image(functions, Base(layers=[BASE]).docker_archive(), "base.tar")
    image = functions.image(f"""{CONTENTS} buildImage {{
      name = "rooted";
      fromImage = {base};
      copyToRoot = hello;
      runAsRoot = ''
        #!/bin/sh
        cat /etc/base > /etc/copied
        rm /etc/gone
        chown 7:8 /etc/base /bin/hello
        mkdir -p /data
      '';
      extraCommands = "echo more > data/more";
      uid = 5;
      diskSize = 2048;
    }}""")
    members = image.members()
    assert {"data/more", "etc/copied", "etc/.wh.gone", "etc/base", "bin/hello"} <= members.keys()
    assert (members["etc/base"].uid, members["etc/base"].gid) == (7, 8)
    assert members["etc/copied"].uid == 0
    assert image.content("./etc/copied") == b"base"
    assert not any(name.startswith(("dev", "proc", "sys")) for name in members)


def test_layers_alone(functions: Functions) -> None:
    """Expressions that assemble images from mkPureLayer and mkRootLayer get the layers of
    buildImage.
    """
    both = """{ name = "x"; extraCommands = "touch y"; %s }"""
    for function, given in (
        ("mkPureLayer", 'uid = "7";'),
        ("mkRootLayer", 'runAsRoot = "touch z";'),
    ):
        alone = functions.build(f"{function} {both % given}")
        within = functions.build(f"(buildImage {both % given}).layer")
        assert (alone / "layer.tar").read_bytes() == (within / "layer.tar").read_bytes()


def test_hooks(functions: Functions) -> None:
    """The hooks of runWithOverlay see the layer, then the image with the layer over it, then what has
    changed.
    """
    base = base_image(functions, Base(layers=[BASE]).docker_archive(), "base.tar")
    layer = functions.build(f"""runWithOverlay {{
      name = "changes";
      fromImage = {base};
      preMount = "ls -A layer > layer/before";
      postMount = "cp mnt/etc/base mnt/copied; rm mnt/etc/gone";
      postUmount = "(cd layer; find | LC_ALL=C sort) > listing; mv listing layer";
    }}""")
    with tarfile.open(layer / "layer.tar") as tar:
        names = {member.name for member in tar}
        listing = tar.extractfile("./listing")
        assert listing is not None
        assert listing.read().decode().split() == [".", "./before", "./copied", "./etc"]
    assert names >= {"./before", "./copied", "./etc/.wh.gone", "./listing"}
    assert layer.name.endswith("-changes")
