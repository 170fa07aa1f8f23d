"""`streamImageIndex`: one image for several platforms, of an image for each."""

import io
import json
import tarfile

import pytest

from .harness import Functions, NixError

pytestmark = [pytest.mark.consumers]

# Built on this machine, whatever they are for.
IMAGES = """
  let
    image = architecture: streamLayeredImage {
      inherit architecture;
      name = "alone";
      tag = "other";
      contents = [ (pkgs.runCommand "platform" { } "mkdir $out; echo ${architecture} > $out/platform") ];
    };
    index = streamImageIndex {
      name = "Team/App";
      images = { a = image "amd64"; b = buildLayeredImage {
        name = "archive"; architecture = "arm64"; }; };
    };
  in
"""


def test_one_image_per_system(evaluated: Functions) -> None:
    """Without it an image of a flake's systems would need a specification beside their images."""
    found = evaluated.evaluate("""
        let
          image = system: (functions (minimal { inherit system; })).streamLayeredImage {
            name = "alone";
          };
          arguments = {
            name = "Team/App";
            images = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] image;
          };
          index = streamImageIndex arguments;
          tagged = index.override { tag = "v1"; };
          listed = streamImageIndex (arguments // { images = builtins.attrValues arguments.images; });
        in
        {
          inherit (index) imageName name isExe;
          conf = index.conf.name;
          isTagged = builtins.match "[a-z0-9]{32}" index.imageTag != null;
          tag = tagged.imageTag;
          changes = index.imageTag != (index.override { images = [ (image "x86_64-linux") ]; }).imageTag;
          same = index.outPath == listed.outPath;
          hasContext = builtins.hasContext index.imageTag;
        }
    """)
    assert found == {
        "imageName": "team/app",
        "name": "stream-App",
        "isExe": True,
        "conf": "App-conf.json",
        "isTagged": True,
        "tag": "v1",
        "changes": True,
        "same": True,
        "hasContext": False,
    }
    with pytest.raises(NixError, match="give at least one image"):
        evaluated.evaluate('(streamImageIndex { name = "a"; images = { }; }).drvPath')


def test_built_and_streamed(functions: Functions) -> None:
    """Without it what Nix makes could be refused by the command, or lack the paths of an image."""
    conf = json.loads(functions.build(f"{IMAGES} index.conf").read_bytes())
    tag = functions.evaluate(f"{IMAGES} index.imageTag")
    assert {one["repo_tag"] for one in conf["platforms"]} == {f"team/app:{tag}"}
    stream = functions.build(f"{IMAGES} index")
    references = functions.references(stream, every=True)
    assert "platform" in references
    with tarfile.open(fileobj=io.BytesIO(functions.run(functions.name(stream)))) as tar:
        read = {info.name: tar.extractfile(info).read() for info in tar if not info.isdir()}  # type: ignore[union-attr]
    (top,) = json.loads(read["index.json"])["manifests"]
    assert top["annotations"]["io.containerd.image.name"] == f"docker.io/team/app:{tag}"
    index = json.loads(read[f"blobs/sha256/{top['digest'][7:]}"])
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
