"""What is known without a build: attributes, arguments, assertions, warnings."""

import json
import time

import pytest

from .harness import Functions, NixError

pytestmark = [pytest.mark.consumers]

ARGUMENTS = {
    "name", "tag", "fromImage", "contents", "config", "architecture", "created", "mtime", "uid",
    "gid", "uname", "gname", "maxLayers", "extraCommands", "fakeRootCommands", "enableFakechroot",
    "includeStorePaths", "includeNixDB", "layeringPipeline", "passthru", "debug",
}  # fmt: skip


@pytest.mark.parametrize("function", ["streamLayeredImage", "buildLayeredImage"])
def test_attributes(evaluated: Functions, function: str) -> None:
    """Scripts read these to name what they load and push, before anything is built."""
    found = evaluated.evaluate(f"""
        let
          image = {function} {{ name = "Registry.example/a/Hello"; }};
          given = {function} {{ name = "hello"; tag = "V1"; passthru.mine = 5; passthru.isExe = 0; }};
          conf = (image.stream or image).conf;
        in
        {{
          inherit (image) imageName imageTag name;
          hash = builtins.substring 0 32 (baseNameOf conf.outPath);
          givenTag = given.imageTag;
          emptyTag = ({function} {{ name = "a"; tag = ""; }}).imageTag != "";
          mine = given.mine or null;
          stream = {{ inherit (image.stream or image) isExe streamScript; }};
          context = builtins.hasContext image.imageTag;
        }}
    """)
    layered = function == "buildLayeredImage"
    assert found == {
        "imageName": "registry.example/a/hello",
        "imageTag": found["hash"],
        "name": "Hello.tar.gz" if layered else "stream-Hello",
        "hash": found["hash"],
        "givenTag": "V1",
        "emptyTag": True,  # which is derived, as the one in the image
        "mine": 5,
        "stream": {"isExe": True, "streamScript": f"{evaluated.stream_image}/bin/stream-image"},
        "context": False,
    }


def test_names_of_derivations(evaluated: Functions) -> None:
    """Build logs and closures name an image by the base of its name."""
    assert evaluated.evaluate("""
        map (compressor: (buildLayeredImage { name = "a/Hello"; inherit compressor; }).name)
          [ "none" "gz" "zstd" ]
        ++ [ (streamLayeredImage { name = "a/Hello"; }).conf.name ]
    """) == ["Hello.tar", "Hello.tar.gz", "Hello.tar.zst", "Hello-conf.json"]


def test_arguments_of_docker_tools(evaluated: Functions) -> None:
    """`callPackage` and others ask a function for its arguments."""
    found = evaluated.evaluate("lib.functionArgs streamLayeredImage")
    assert found.keys() >= ARGUMENTS
    assert [name for name, optional in found.items() if not optional] == ["name"]


def test_override(evaluated: Functions) -> None:
    """Users take an image of others and change one argument, by a set or from the old ones."""
    assert evaluated.evaluate("""
        let image = streamLayeredImage { name = "a"; tag = "1"; };
        in map (image: "${image.imageName}:${image.imageTag}") [
          (image.override { tag = "2"; })
          (image.override (old: { tag = old.tag + "0"; }))
          ((image.override { name = "b"; }).override { tag = "3"; })
          ((buildLayeredImage { name = "c"; tag = "4"; }).override { tag = "5"; })
        ]
    """) == ["a:2", "a:10", "b:3", "c:5"]
    assert (
        evaluated.evaluate("""
        ((streamLayeredImage { name = "a"; }).overrideAttrs (old: { name = old.name + "-b"; })).name
    """)
        == "stream-a-b"
    )
    assert (
        evaluated.evaluate("""
        (fakeNss.override { extraGroupLines = [ "a:x:1:" ]; }).group
    """)
        == "root:x:0:\na:x:1:\nnobody:x:65534:\n"
    )


def test_forms_of_arguments(evaluated: Functions) -> None:
    """Whatever dockerTools takes: one content or nested lists, paths, numbers as text, nulls."""
    groups = evaluated.evaluate(f"""
        map (map (arguments: (streamLayeredImage ({{ name = "a"; }} // arguments)).conf.outPath)) [
          [
            {{ contents = binSh; }}
            {{ contents = [ binSh ]; }}
            {{ contents = [ [ [ binSh ] ] [ ] ]; }}
            {{ contents = [ null binSh [ null ] ]; }}
            {{ contents = "${{binSh}}"; }}
          ]
          [
            {{ }}
            {{ config = {{ }}; contents = [ ]; tag = null; fromImage = null; debug = true; }}
            {{ contents = null; extraCommands = null; fakeRootCommands = null; }}
          ]
          [ {{ uid = 1; }} {{ uid = "1"; }} ]
          [ {{ config = null; }} {{ config.Env = null; }} {{ contents = {evaluated.stream_image}; }} ]
        ]
    """)
    assert [len({*group}) for group in groups] == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('streamLayeredImage { name = "a"; maxLayers = 1; }', "maxLayers argument .*current value: 1"),
        ('buildLayeredImage { name = "a"; maxLayers = 0; }', "maxLayers argument .*current value: 0"),
        ('streamLayeredImage { name = "a"; copyToroot = [ ]; }', "unexpected argument 'copyToroot'"),
        ("streamLayeredImage { }", "without required argument 'name'"),
        (
            'buildLayeredImage { name = "A/b"; compressor = "xz"; }',
            r"in docker image A/b: compressor must be one of: \[gz none zstd\]",
        ),
    ],
)  # fmt: skip
def test_wrong_arguments(evaluated: Functions, expression: str, message: str) -> None:
    """A wrong argument is refused while evaluating, before hours of building."""
    with pytest.raises(NixError, match=message):
        evaluated.evaluate(f"({expression}).drvPath")


def test_no_limit_with_a_pipeline(evaluated: Functions) -> None:
    """A pipeline is not limited by maxLayers, as in nixpkgs."""
    pipeline = "layeringPipeline = [ ]; maxLayers = 1;"
    evaluated.evaluate(f'(streamLayeredImage {{ name = "a"; {pipeline} }}).drvPath')


@pytest.mark.parametrize(
    ("system", "architecture"),
    [("aarch64-linux", "arm64"), ("i686-linux", "386"), ("x86_64-linux", "amd64"), ("riscv64-linux", "riscv64")],
)  # fmt: skip
def test_architecture(evaluated: Functions, system: str, architecture: str) -> None:
    """An image is for the platform that its packages are for."""
    functions = f'functions (minimal {{ system = "{system}"; }})'
    spec = evaluated.evaluate(f'(({functions}).streamLayeredImage {{ name = "a"; }}).conf.spec')
    assert json.loads(spec)["architecture"] == architecture


def test_cross_compilation(evaluated: Functions) -> None:
    """Builds run on the machine that one has, with its programs; the image is for another."""
    found = evaluated.evaluate("""
        let
          host = minimal { system = "aarch64-linux"; };
          build = minimal { system = "x86_64-linux"; };
          cross = host // { buildPackages = build; pkgsBuildBuild = build; };
          image = (functions cross).streamLayeredImage { name = "a"; extraCommands = "x"; };
        in
        [ image.system image.conf.system image.conf.spec ]
    """)
    assert found[:2] == ["x86_64-linux", "x86_64-linux"]
    assert json.loads(found[2])["architecture"] == "arm64"


def test_fakechroot_is_refused_on_darwin(evaluated: Functions) -> None:
    """It needs namespaces of Linux; on Darwin the build would fail after an hour."""
    functions = '(functions (minimal { system = "aarch64-darwin"; }))'
    arguments = '{ name = "a"; enableFakechroot = true; }'
    with pytest.raises(NixError, match="enableFakechroot because it is not portable to Darwin"):
        evaluated.evaluate(f"({functions}.streamLayeredImage {arguments}).drvPath")


def test_many_images_evaluate_fast_and_without_builds(evaluated: Functions) -> None:
    """A repository of images is evaluated at each change; an import from a derivation would build."""
    start = time.monotonic()
    found = evaluated.evaluate(
        """
        map (number:
          let image = streamLayeredImage {
            name = "image-${toString number}";
            contents = [ fakeNss binSh ];
            config.Cmd = [ "${binSh}/bin/sh" ];
            extraCommands = lib.optionalString (number > 100) "mkdir tmp";
          };
          in { inherit (image) imageTag drvPath; }
        ) (builtins.genList (number: number) 200)
        """,
        *("--option", "allow-import-from-derivation", "false"),
    )
    assert time.monotonic() - start < 6  # bench/ has the figure; here two suites share the machine
    assert len({image["imageTag"] for image in found}) == 200


def test_main_program(evaluated: Functions) -> None:
    """`lib.getExe` finds the executable, which is not in a bin/ itself."""
    assert evaluated.evaluate("""
        let image = streamLayeredImage { name = "a/Hello"; };
        in { inherit (image.meta) mainProgram; isBin = lib.getExe image == "${image.bin}/bin/stream-Hello"; }
    """) == {"mainProgram": "stream-Hello", "isBin": True}
