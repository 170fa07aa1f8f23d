"""`streamLayeredImage` and `buildLayeredImage`: what dockerTools' users rely on."""

import gzip
import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from support import COMMAND

from .harness import Functions, Image, NixError

pytestmark = [pytest.mark.consumers]

CONTENTS = """
    let
      library = pkgs.writeText "library" "text";
      hello = pkgs.runCommand "hello" { } ''
        mkdir -p $out/bin
        echo ${library} > $out/bin/hello
        chmod +x $out/bin/hello
      '';
    in
"""


def test_same_image_as_from_the_command_line(functions: Functions, tmp_path: Path) -> None:
    """Without it, moving between Nix and the command line would push every layer again."""
    given = 'name = "Hello"; tag = "1"; config.Cmd = [ "/bin/hello" ]; contents = [ hello ];'
    image = functions.image(f"{CONTENTS} streamLayeredImage {{ {given} }}")
    hello = functions.build(f"{CONTENTS} hello")
    spec = {
        "name": "Hello",
        "tag": "1",
        "config": {"Cmd": ["/bin/hello"]},
        "contents": [str(hello).removeprefix(str(functions.nix.root))],
        "conflicts": "first",
        "customisation_mtime": "@315532800",
        "layering": "auto",
        "store_root": str(functions.nix.root),
    }
    conf = tmp_path / "conf.json"
    plan = [*COMMAND, "plan", "-", "-o", str(conf)]
    subprocess.run(plan, check=True, input=json.dumps(spec).encode())
    archive = subprocess.run([*COMMAND, conf], check=True, stdout=subprocess.PIPE).stdout
    assert Image.read(archive).image_id == image.image_id
    assert image.tags == ["hello:1"]
    assert len(image.layers) == 3


def test_commands_run_in_the_build(functions: Functions) -> None:
    """Commands that run again when streaming see other rules, and need programs that are gone."""
    expression = f"""{CONTENTS} streamLayeredImage {{
      name = "made";
      contents = hello;
      extraCommands = "echo $name > data; type mkdir";
      fakeRootCommands = "chown 7:8 data";
    }}"""
    conf = functions.build(f"({expression}).conf")
    layer = json.loads(conf.read_bytes())["customisation_layer"]
    assert {*functions.on_disk(layer).iterdir()} >= {
        functions.on_disk(layer) / name for name in ("layer.tar", "checksum")
    }
    image = functions.image(expression)
    data = image.members()["data"]
    assert (data.uid, data.gid, data.mtime) == (7, 8, 315532800)
    assert functions.references(conf) == sorted(
        ["hello", "library", "made-conf.json", "made-customisation-layer"]
    )


SMALL = 'name = "small"; tag = "1"; contents = [ hello ];'


def test_compressed_archives(functions: Functions) -> None:
    """Whoever loads `./result` gets the same image, compressed or not."""
    archives = {
        compressor: functions.build(
            f'{CONTENTS} buildLayeredImage {{ {SMALL} compressor = "{compressor}"; }}'
        ).read_bytes()
        for compressor in ("none", "gz", "zstd")
    }
    assert archives["gz"][:2] == b"\x1f\x8b"
    assert archives["zstd"][:4] == b"\x28\xb5\x2f\xfd"
    assert gzip.decompress(archives["gz"]) == archives["none"]
    assert (
        zstandard.ZstdDecompressor().decompressobj().decompress(archives["zstd"])
        == (archives["none"])
    )
    streamed = functions.build(f"{CONTENTS} streamLayeredImage {{ {SMALL} }}")
    assert functions.run(functions.name(streamed)) == archives["none"]
    assert functions.run(functions.name(streamed), "--repo_tag", "other:2") != archives["none"]


def test_build_logs(functions: Functions) -> None:
    """To a builder, Nix's log is a terminal: a bar would fill it with escape sequences."""
    layered = 'buildLayeredImage { name = "logged"; contents = [ hello ]; }'
    for image in (layered, 'buildImage { name = "logged"; copyToRoot = [ hello ]; }'):
        log = functions.attempt("nix-build", f"{CONTENTS} {image}", "--no-out-link").stderr
        assert "layer 1/" in log
        assert "\x1b" not in log
        assert "━" not in log


def test_derived_tag(functions: Functions) -> None:
    """Scripts push the tag that they were told at evaluation."""
    expression = f'{CONTENTS} streamLayeredImage {{ name = "Tagged"; contents = hello; }}'
    image = functions.image(expression)
    assert image.tags == [f"tagged:{functions.evaluate(f'({expression}).imageTag')}"]


def test_closure_of_a_streamed_image(functions: Functions) -> None:
    """A store is not filled with what a build only needed: no layer, no specification."""
    stream = functions.build(f"{CONTENTS} streamLayeredImage {{ {SMALL} }}")
    assert functions.references(stream) == ["small-conf.json"]
    assert functions.references(stream, every=True) == sorted(
        ["hello", "library", "small-conf.json", "stream-small"]
    )


def test_links_alone_need_no_layer_in_the_store(functions: Functions) -> None:
    """A copy of each image's links would lie in the store for nothing."""
    conf = json.loads(
        functions.build(f"({CONTENTS} streamLayeredImage {{ {SMALL} }}).conf").read_bytes()
    )
    assert conf["customisation_layer"]["contents"] == [conf["store_layers"][1][0]]


def test_paths_that_nothing_links_to(functions: Functions) -> None:
    """A buildEnv is only links, which lead past it: nixpkgs has no layer for it."""
    conf = functions.build(f"""
        {CONTENTS}
        let
          environment = pkgs.runCommand "environment" {{ }} ''
            mkdir -p $out/bin
            ln -s ${{hello}}/bin/hello $out/bin/hello
          '';
        in
        (streamLayeredImage {{ name = "a"; contents = environment; }}).conf
    """)
    layers = json.loads(conf.read_bytes())["store_layers"]
    assert [path[44:] for (path,) in layers] == ["library", "hello"]


def test_contents_in_a_store_path(functions: Functions) -> None:
    """A content can be one directory of a package."""
    image = functions.image(f"""
        {CONTENTS} streamLayeredImage {{ name = "a"; contents = "${{hello}}/bin"; labels.l = library; }}
    """)
    assert sorted(image.members()) == [".", "hello"]
    assert len(image.layers) == 3


def test_created_and_mtime(functions: Functions) -> None:
    """Flakes pass the date of their last change in forms that only GNU date reads."""
    image = functions.image(f"""
        {CONTENTS} streamLayeredImage {{
          {SMALL}
          created = "20240229";
          mtime = "@1700000000";
        }}
    """)
    assert image.config["created"] == "2024-02-29T00:00:00+00:00"
    assert {member.mtime for member in image.members(0).values()} == {1700000000}
    assert {member.mtime for member in image.members(-1).values()} == {315532800}


def test_owners_without_store_paths_and_config(functions: Functions) -> None:
    """Arguments that change what is written, in the values that users pass."""
    image = functions.image(f"""
        {CONTENTS} streamLayeredImage {{
          {SMALL}
          uid = "1000"; gid = 1001; uname = "user"; gname = "group";
          architecture = "arm64";
          config = null;
        }}
    """)
    owners = {(m.uid, m.gid, m.uname, m.gname) for m in image.members(0).values()}
    assert owners == {(1000, 1001, "user", "group")}
    assert {(m.uid, m.gid) for m in image.members(-1).values()} == {(0, 0)}
    assert image.config["architecture"] == "arm64"
    image = functions.image(
        f"{CONTENTS} streamLayeredImage {{ {SMALL} includeStorePaths = false; }}"
    )
    assert len(image.layers) == 1
    assert sorted(image.members()) == [".", "bin", "bin/hello"]
    assert image.members()["bin/hello"].linkname.endswith("-hello/bin/hello")


def test_commands_with_the_functions_of_stdenv(functions: Functions) -> None:
    """Commands call substituteInPlace and the like, which are functions of stdenv's setup."""
    image = functions.image("""
        let
          pkgs = minimal {
            setup = ''
              substituteInPlace() { sed -i "s/$3/$4/" "$1"; }
              variable=value
            '';
          };
        in
        (functions pkgs).streamLayeredImage {
          name = "a";
          extraCommands = ''
            echo before > file
            substituteInPlace file --replace before "after $variable $name"
            false | true || echo pipefail >> file
            umask > mask
          '';
          fakeRootCommands = "type -t substituteInPlace > type; echo $out $NIX_STORE > out";
        }
    """)
    assert image.content("./file") == b"after value commands\npipefail\n"
    assert image.content("./mask") == b"0022\n"
    assert image.content("./type") == b"function\n"
    assert image.content("./out")[44:] == b"a-customisation-layer /nix/store\n"


def test_fakechroot(functions: Functions) -> None:
    """Absolute paths in fakeRootCommands are those of the image."""
    image = functions.image("""
        streamLayeredImage {
          name = "a";
          contents = fakeNss;
          enableFakechroot = true;
          fakeRootCommands = ''
            mkdir -p /data
            chown 5:6 /data
            cat /etc/passwd > /data/users
          '';
        }
    """)
    members = image.members()
    assert (members["data"].uid, members["data"].gid) == (5, 6)
    assert image.content("./data/users").startswith(b"root:x:0:0:root user:/var/empty:/bin/sh\n")
    assert not members.keys() & {"dev", "proc", "sys", "nix/store"}


def test_commands_without_a_sandbox_of_their_own(functions: Functions) -> None:
    """Where a build cannot make namespaces, Nix's sandbox has to do."""
    image = functions.image("""
        streamLayeredImage { name = "a"; unsandboxed = true; extraCommands = "id -u > user"; }
    """)
    assert image.content("./user") == b"1000\n"


def test_the_layer_of_docker_tools(functions: Functions) -> None:
    """Byte by byte what nixpkgs' builder packs, so that both make the same layer."""
    commands = (
        "extraCommands = ''mkdir -p data/a; echo x > data/x; chmod 0640 data/x; ln data/x b'';"
    )
    fake = "fakeRootCommands = ''chown 7:8 data/x; mknod null c 1 3'';"
    image = functions.image(
        f'{CONTENTS} streamLayeredImage {{ name = "a"; contents = hello; {commands} {fake} }}'
    )
    expected = functions.build(f"""
        {CONTENTS}
        pkgs.runCommand "layer.tar" {{ {commands} {fake} }} ''
          mkdir -p tree/bin
          cd tree
          ln -s ${{hello}}/bin/hello bin/hello
          eval "$extraCommands"
          echo "$fakeRootCommands" > ../commands
          cat >> ../commands << END
          tar --sort=name --numeric-owner --mtime=@315532800 --hard-dereference -cf $out .
          END
          # nixpkgs patches fakeroot: Nix's sandbox forbids other owners with another error.
          FAKEROOTDONTTRYCHOWN=1 fakeroot bash -e ../commands
        ''
    """)
    assert image.layers[-1] == expected.read_bytes()


# A needs B and G, B needs C and E, C needs D and E; D and E need F.
POPULAR = """
    let
      path = name: needed: pkgs.writeText name (toString needed);
      F = path "F" [ ];
      E = path "E" [ F ];
      D = path "D" [ F ];
      C = path "C" [ D E ];
      B = path "B" [ C E ];
      G = path "G" [ ];
      A = path "A" [ B G ];
    in
"""


def test_order_by_popularity(functions: Functions) -> None:
    """The layers of images that were made before this was the default are shared with those."""
    pipeline = '[ [ "popularity_contest" ] ]'
    conf = functions.build(
        f'{POPULAR} (streamLayeredImage {{ name = "a"; config.Cmd = [ A ]; layeringPipeline = {pipeline}; }}).conf'
    )
    layers = json.loads(conf.read_bytes())["store_layers"]
    assert [[path[44:] for path in layer] for layer in layers] == [[name] for name in "FEDCBGA"]


def test_commands_that_fail(functions: Functions) -> None:
    """A build that goes on after an error would be an image without what it was made for."""
    for commands in (
        'extraCommands = "echo x > a\\nfalse; true"',
        'extraCommands = "false # first"',
        'fakeRootCommands = "\\nexit 3"',
    ):
        failure = r"failed at line (2 .*: false; true|1 .*false # first)|failed with exit status 3"
        with pytest.raises(NixError, match=failure):
            functions.build(f'streamLayeredImage {{ name = "failing"; {commands}; }}')
    built = [path.name for path in functions.on_disk("/nix/store").iterdir()]
    rest = (".drv", ".lock", "base.json")
    assert not [name for name in built if "failing-" in name and not name.endswith(rest)]


def test_paths_that_only_commands_name(functions: Functions) -> None:
    """Nix finds them in the layer; the image would lack them otherwise."""
    conf = functions.build(f"""
        {CONTENTS} (streamLayeredImage {{
          name = "a";
          fakeRootCommands = "ln -s ${{hello}}/bin/hello run";
        }}).conf
    """)
    layers = json.loads(conf.read_bytes())["store_layers"]
    assert [path[44:] for (path,) in layers] == ["library", "hello"]


def test_a_database(functions: Functions, tmp_path: Path) -> None:
    """nix-store in a container knows the contents' closure, and keeps it as a garbage root."""
    expression = f"{CONTENTS} streamLayeredImage {{ {SMALL} includeNixDB = true; }}"
    image = functions.image(expression)
    for layer in image.layers:
        # Names begin with a slash, which GNU tar leaves out.
        subprocess.run(["tar", "-x", "-C", tmp_path], input=layer, check=True)
    with closing(sqlite3.connect(tmp_path / "nix/var/nix/db/db.sqlite")) as database:
        rows = database.execute(
            "select substr(path, 45), registrationTime from ValidPaths order by 1"
        ).fetchall()
    assert rows == [("hello", 1), ("library", 1)]
    functions.nix.run("--verify", "--check-contents", store=str(tmp_path))
    (content,) = (path for path in os.listdir(tmp_path / "nix/store") if path.endswith("-hello"))
    needed = functions.nix.run(
        "--query", "--requisites", f"/nix/store/{content}", store=str(tmp_path)
    )
    assert sorted(path[44:] for path in needed.split()) == ["hello", "library"]
    roots = [name for name in image.members() if "/gcroots/docker/" in name]
    assert [name[-6:] for name in roots] == ["-hello"]
    with_database = functions.evaluate(
        f"({CONTENTS} buildLayeredImageWithNixDb {{ {SMALL} }}).stream.outPath"
    )
    assert with_database == functions.evaluate(f"({expression}).outPath")


CHAIN = """
    let
      paths = map (n: pkgs.writeText "path-${toString n}" "${toString n}") (builtins.genList (n: n) 6);
      directory = pkgs.runCommand "all" { } ''
        mkdir $out
        for each in ${toString paths}; do ln -s $each $out/; done
      '';
    in
"""


@pytest.mark.parametrize(("limit", "count"), [(2, 2), (6, 5), (7, 6), (8, 7)])
def test_limit_of_layers(functions: Functions, limit: int, count: int) -> None:
    """The last layer holds what is left; a path that is lost is a program that does not run. As in
    dockerTools, two paths that are not shipped take part in the split.
    """
    image = f'streamLayeredImage {{ name = "a"; contents = directory; maxLayers = {limit}; }}'
    conf = json.loads(functions.build(f"{CHAIN} ({image}).conf").read_bytes())
    layers = conf["store_layers"]
    assert len(layers) + 1 == count
    assert sorted(path[44:] for layer in layers for path in layer) == [
        f"path-{number}" for number in range(6)
    ]


def test_pipelines(functions: Functions) -> None:
    """A program can be written down, in a file, or made by a derivation."""
    program = '[["split_paths", [ "${builtins.head paths}" ]], ["flatten"]]'
    forms = {
        "list": '[ [ "split_paths" [ "${builtins.head paths}" ] ] [ "flatten" ] ]',
        "derivation": f"pkgs.writeText \"program.json\" ''{program}''",
        "string": f"\"${{pkgs.writeText \"program.json\" ''{program}''}}\"",
    }
    found = [
        json.loads(
            functions.build(f"""{CHAIN} (streamLayeredImage {{
              name = "a"; contents = directory; maxLayers = 1; layeringPipeline = {form};
            }}).conf""").read_bytes()
        )["store_layers"]
        for form in forms.values()
    ]
    assert [len(layer) for layer in found[0]] == [1, 5]
    assert found[1:] == found[:1] * 2


def test_base_images(functions: Functions) -> None:
    """A chain of three images: the last layers win, and the first are copied, not built again."""
    expression = f"""
        {CONTENTS}
        let
          first = buildLayeredImage {{
            name = "first";
            extraCommands = "echo 1 > file";
            config.Env = [ "A=1" "B=1" ];
          }};
          second = streamLayeredImage {{
            name = "second";
            fromImage = first;
            contents = hello;
            extraCommands = "echo 2 > file";
            config.Env = [ "B=2" ];
          }};
        in
    """
    first, second = (functions.image(f"{expression} {name}") for name in ("first", "second"))
    third = functions.image(
        f'{expression} streamLayeredImage {{ name = "third"; fromImage = second; config.Env = [ "C=3" ]; }}'
    )
    assert [len(image.layers) for image in (first, second, third)] == [1, 4, 5]
    assert third.layers[:4] == second.layers
    assert second.layers[:1] == first.layers
    assert third.content("./file", 3) == b"2\n"
    assert sorted(third.config["config"]["Env"]) == ["A=1", "B=2", "C=3"]
    with pytest.raises(
        NixError, match="the base image takes 4 and the customisation layer takes 1"
    ):
        functions.build(
            f'{expression} streamLayeredImage {{ name = "f"; fromImage = second; maxLayers = 5; contents = hello; }}'
        )


def test_layers_of_the_previous_build(functions: Functions) -> None:
    """Layers that stay are not pushed again. The file can be checked in, without its store paths."""
    expression = """
        let
          paths = map (
            n: pkgs.runCommand "data-${n}" { } "head -c ${n}00000 /dev/zero > $out; echo ${n} >> $out"
          ) [ "3" "6" "9" ];
        in
        (streamLayeredImage { name = "a"; config.Cmd = paths; maxLayers = 3; %s }).conf
    """
    before = functions.build(expression % 'layering = "stable";')
    layers = json.loads(before.read_bytes())["store_layers"]
    paths = sorted((path for layer in layers for path in layer), key=lambda path: path[44:])
    other = [paths[::2], paths[1::2]]
    assert sorted(map(sorted, layers)) != sorted(map(sorted, other))
    file = f"builtins.toFile \"previous.json\" ''{json.dumps({'store_layers': other})}''"
    after = functions.build(expression % f"previous = {file};")
    assert sorted(json.loads(after.read_bytes())["store_layers"]) == sorted(other)
    assert not [name for name in functions.references(after) if "previous" in name]


def test_digests_in_the_store(functions: Functions) -> None:
    """A machine that substitutes them needs neither the layers nor their store paths."""
    expression = f"({CONTENTS} streamLayeredImage {{ {SMALL} }})"
    digests = functions.build(f"{expression}.layerDigests")
    assert functions.references(digests) == []
    image = functions.image(expression)
    document = json.loads(digests.read_bytes())
    assert document["image_id"] == f"sha256:{image.image_id}"
    assert [layer["diff_id"] for layer in document["layers"]] == image.config["rootfs"]["diff_ids"]
    assert [layer["size"] for layer in document["layers"]] == [len(x) for x in image.layers]
    # The keys are those outside of a build, so digests are known by them there: of store layers, and
    # of the one of links, which follows from names alone.
    assert all(layer["key"] for layer in document["layers"])
    conf = json.loads(functions.build(f"{expression}.conf").read_bytes())
    here = json.dumps({**conf, "store_root": str(functions.nix.root)}).encode()
    command = [*COMMAND, "digests", "-", "--no-digest-cache"]
    printed = subprocess.run(command, check=True, input=here, stdout=subprocess.PIPE).stdout
    assert json.loads(printed) == document


def test_places_of_mistakes(functions: Functions) -> None:
    """In the log of a build with many images, a mistake without its place could be anybody's."""
    arguments = '{ name = "a/wrong"; config.Env = "A=1"; }'
    for function in ("streamLayeredImage", "buildImage"):
        with pytest.raises(NixError, match=r"stream-image: wrong: config\.Env: must be a list"):
            functions.build(f"{function} {arguments}")
        with pytest.raises(NixError, match="'' is not a repository name"):
            functions.build(f'{function} {{ name = ""; }}')
