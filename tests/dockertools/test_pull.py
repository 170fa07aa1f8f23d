"""`pullImage`, and `stream-image prefetch`, which tells it the hash."""

import base64
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from consumers.requirements import require
from handmade import Base, Layout, layer_tar
from registries import PROGRAMS, HttpRegistry, add_image, make_certificate, started
from support import COMMAND

from .harness import REPOSITORY, Functions, Image, NixError

pytestmark = [pytest.mark.consumers]

BASE = Base(layers=[layer_tar({"one": b"1" * 9000})], tags=None)
ZERO = "0" * 64
DIGEST = f"sha256:{ZERO}"
SRI = f"sha256-{'A' * 43}="
NONE = '"/none"'
GIVEN = f'imageName = "registry.example/app"; imageDigest = "{DIGEST}";'


def function(certificates: Path | str) -> str:
    """Return the expression of pullImage, with Debian's skopeo and these certificates."""
    packages = f'{{ skopeo = "/usr"; cacert = "${{{certificates}}}"; }}'
    pkgs = f"import {REPOSITORY}/nix/minimal.nix {{ inherit (pkgs) stream-image; packages = {packages}; }}"
    return f"(import {REPOSITORY}/nix {{ pkgs = {pkgs}; }}).pullImage"


def pull_image(arguments: str, certificates: Path | str = NONE) -> str:
    """Return the expression of a call."""
    return f"({function(certificates)} {{ {arguments} }})"


def test_attributes(evaluated: Functions) -> None:
    """Without them other functions could not name the image, nor find what prefetch has fetched."""
    attributes = "{ inherit (image) name imageName imageTag imageDigest outputHashMode; }"
    for more, name, tag in (
        ("", "registry.example/app", "latest"),
        ('finalImageName = "a:1/b"; finalImageTag = "2";', "a:1/b", "2"),
    ):
        call = pull_image(f'{GIVEN} {more} hash = "{SRI}";')
        assert evaluated.evaluate(f"let image = {call}; in {attributes}") == {
            "name": f"docker-image-{name}-{tag}.tar".replace("/", "-").replace(":", "-"),
            "imageName": name,
            "imageTag": tag,
            "imageDigest": DIGEST,
            "outputHashMode": "flat",
        }


def test_notations_of_the_hash(evaluated: Functions) -> None:
    """Without it an existing call would have to be changed."""
    found = {
        evaluated.evaluate(f"{pull_image(f'{GIVEN} {given};')}.outPath")
        for given in (
            f'hash = "{SRI}"',
            f'sha256 = "{SRI}"',
            f'sha256 = "{ZERO}"',
            f'sha256 = "{"0" * 52}"',
            f'hash = "sha256:{ZERO}"',
            'hash = ""',
            'sha256 = ""',
        )
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "give one of hash and sha256"),
        (f'hash = "{SRI}"; sha256 = "{ZERO}";', "give one of hash and sha256"),
        (f'hash = "{SRI}"; authFile = ./auth.json;', "authFile must be a string"),
        (f'hash = "{SRI}"; authFile = "${{pkgs.writeText "a" "b"}}";', "authFile must be a string"),
    ],
)
def test_bad_arguments(evaluated: Functions, given: str, reason: str) -> None:
    """Without it there would be a hash too many, or credentials for everybody to read."""
    with pytest.raises(NixError, match=reason):
        evaluated.evaluate(f"{pull_image(f'{GIVEN} {given}')}.drvPath")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A private registry with an index of two images. `certificates` is a package like cacert."""

    registry: HttpRegistry
    index: dict[str, Any]
    images: list[dict[str, Any]]
    certificates: Path
    auth_file: Path

    @property
    def name(self) -> str:
        """The repository."""
        return f"{self.registry.address}/team/app"


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    """Start a registry, with a certificate of its own."""
    require([*PROGRAMS, "openssl"])
    directory = tmp_path_factory.mktemp("registry")
    certificate = make_certificate(directory)
    bundle = directory / "cacert/etc/ssl/certs/ca-bundle.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_bytes(certificate.read_bytes())
    layout = Layout()
    images = [add_image(layout, BASE, architecture=arch, os="linux") for arch in ("amd64", "arm64")]
    index = layout.index(images)
    with started(directory, private=True, certificate=certificate) as registry:
        registry.push("team/app", layout, [*images, index], "1")
        auth_file = directory / "auth.json"
        auth_file.write_text(registry.credentials, "utf-8")
        yield Remote(
            registry=registry,
            index=index,
            images=images,
            certificates=directory / "cacert",
            auth_file=auth_file,
        )


def outside(functions: Functions, remote: Remote, *words: str) -> bytes:
    """Run stream-image outside of Nix, with Nix's store, and return its output."""
    variables = {
        **{key: value for key, value in os.environ.items() if not key.startswith("NIX_")},
        **functions.nix.environment,
        "NIX_REMOTE": str(functions.nix.root),
        "SSL_CERT_FILE": str(remote.certificates / "etc/ssl/certs/ca-bundle.crt"),
        "REGISTRY_AUTH_FILE": str(remote.auth_file),
    }
    return subprocess.run(
        [*COMMAND, *words], check=True, env=variables, stdout=subprocess.PIPE
    ).stdout


def test_built_in_the_sandbox(functions: Functions, remote: Remote) -> None:
    """Without it an image could be fetched only outside of Nix, or have another hash there."""
    name, digest = remote.name, remote.index["digest"]
    tag = "name:mine"
    expected = outside(
        functions, remote, "pull", f"{name}@{digest}", "--arch", "arm64", "-t", tag, "-q"
    )
    hashed = base64.b64encode(hashlib.sha256(expected).digest()).decode()
    arguments = (
        f'imageName = "{name}"; imageDigest = "{digest}"; arch = "arm64";'
        f' finalImageName = "name"; finalImageTag = "mine"; authFile = "{remote.auth_file}";'
    )
    config = functions.nix.environment["NIX_CONFIG"]
    seen = ["--option", "extra-sandbox-paths", str(remote.auth_file)]
    assert "sandbox = true" in config
    with pytest.raises(NixError, match=f"sha256-{hashed.replace('+', '[+]')}"):
        functions.build(pull_image(f'{arguments} hash = "{SRI}";', remote.certificates), *seen)
    call = pull_image(f'{arguments} hash = "sha256-{hashed}";', remote.certificates)
    built = functions.build(call, *seen)
    assert built.read_bytes() == expected
    image = Image.read(expected)
    assert (image.tags, image.config["architecture"]) == ([tag], "arm64")
    unknown = pull_image(f'{arguments} sha256 = "{"1" * 64}"; tlsVerify = true;')
    with pytest.raises(NixError, match="certificate"):
        functions.build(unknown, *seen)


def test_prefetched_images_need_no_network(functions: Functions, remote: Remote) -> None:
    """Without it each machine would fetch an image twice, and a build need the credentials."""
    words = ["prefetch", remote.name, "1", "--quiet"]
    printed = outside(functions, remote, *words).decode()
    as_json = outside(functions, remote, *words, "--json", "--final-image-tag", "2").decode()
    for given, tag in ((printed, "1"), (f"(builtins.fromJSON ''{as_json}'')", "2")):
        # Without certificates and credentials, a build would fail.
        built = functions.build(f"{function(NONE)} {given}")
        image = Image.read(built.read_bytes())
        assert (image.tags, image.config["architecture"]) == ([f"{remote.name}:{tag}"], "amd64")
        assert remote.images[0]["digest"] in given
